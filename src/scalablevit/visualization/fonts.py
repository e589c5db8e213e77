"""Fonts of drawn text: DejaVu Sans, and for scripts that it lacks a font of this machine."""

import logging
import shutil
import subprocess
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

log = logging.getLogger(__name__)

_INSTALL = (
    "install one, such as Noto Sans (on Debian and Ubuntu the packages fonts-noto-cjk for Chinese, Japanese and "
    "Korean, fonts-noto-core for other scripts)"
)
_FC_LIST_SECONDS = 10
# Emoji in colours are images of one size, which Pillow cannot scale; regular weights read best.
_LEAST_WANTED = ("color", "emoji", "bold", "black", "thin", "light", "italic", "oblique", "mono", "serif")


@lru_cache(maxsize=128)
def load_font(size: int, text: str = "") -> ImageFont.FreeTypeFont:
    """Load a font that has the characters of a text.

    It is DejaVu Sans, which matplotlib brings (Pillow's own font knows ASCII only), unless that lacks a character; then
    a font of this machine that has them all, else the one that has most. Where characters are left that no font has,
    and so are drawn as empty boxes, a warning is logged, once for each of them.

    Args:
        size: height in pixels, at least 1.
        text: that is to be drawn; empty: any text in Latin, Greek or Cyrillic letters.
    """
    path = _DEJAVU if (missing := _missing(text)) == frozenset() else _font_with(missing)
    return ImageFont.truetype(str(path or _DEJAVU), size)


class NameFont:
    """Draws one line of text in any scripts: each character with a font that has it.

    One font serves nearly every name. Two are needed where scripts are mixed, or where a script's font has no Latin
    letters and digits.

    Args:
        size: height in pixels, at least 1.
        text: whose scripts decide on the main font.
    """

    def __init__(self, size: int, text: str) -> None:
        self.size = size
        self.main = load_font(size, text)

    def getlength(self, text: str) -> float:
        """Width of a text in pixels."""
        return sum(font.getlength(part) for font, part in self._runs(text))

    def getmetrics(self) -> tuple[int, int]:
        """Pixels above and below the baseline."""
        return self.main.getmetrics()

    def draw(self, on: ImageDraw.ImageDraw, place: tuple[float, float], text: str, *, fill: str) -> None:
        """Draw a text whose left upper corner is at a place, in pixels."""
        runs = self._runs(text)
        if len(runs) == 1:
            on.text(place, text, font=runs[0][0], fill=fill)
            return
        x, baseline = place[0], place[1] + self.getmetrics()[0]
        for font, part in runs:
            on.text((x, baseline), part, font=font, fill=fill, anchor="ls")
            x += font.getlength(part)

    def _runs(self, text: str) -> list[tuple[ImageFont.FreeTypeFont, str]]:
        """Cut a text where its font changes."""
        main = Path(str(self.main.path))
        runs: list[tuple[Path, str]] = []
        for character in text:
            # what is drawn onto its neighbour, or not at all, stays with it
            joins = bool(runs) and unicodedata.category(character)[0] in "CMZ"
            if joins:
                path = runs[-1][0]
            elif character in _characters(main):
                path = main
            elif character in _characters(_DEJAVU):
                path = _DEJAVU
            else:
                path = _font_with(_missing(character)) or main
            if runs and runs[-1][0] == path:
                runs[-1] = (path, runs[-1][1] + character)
            else:
                runs.append((path, character))
        fonts = {path: ImageFont.truetype(str(path), self.size) for path, _ in runs if path != main}
        return [(fonts.get(path, self.main), part) for path, part in runs] or [(self.main, text)]


@contextmanager
def label_fonts(texts: Iterable[str]) -> Iterator[None]:
    """In a `with` block, let matplotlib draw texts in DejaVu Sans and the fonts that have what it lacks.

    Args:
        texts: that will be drawn, such as class names.
    """
    families = list(matplotlib.rcParams["font.family"])
    paths = {_font_with(missing) for text in texts if (missing := _missing(text))}
    for path in sorted(path for path in paths if path is not None):
        font_manager.fontManager.addfont(path)
        families.append(font_manager.get_font(path).family_name)
    with matplotlib.rc_context({"font.family": list(dict.fromkeys(families))}):
        yield


_DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
_warned: set[str] = set()


@cache
def _characters(path: Path) -> frozenset[str]:
    """The characters that a font file has; none where it cannot be read."""
    try:
        return frozenset(map(chr, FT2Font(str(path)).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()


def _missing(text: str) -> frozenset[str]:
    """The characters of a text that DejaVu Sans lacks; those without a shape of their own do not count."""
    lacking = set(text) - _characters(_DEJAVU)
    return frozenset(c for c in lacking if unicodedata.category(c)[0] not in "CZ" and not "\ufe00" <= c <= "\ufe0f")


@cache
def _font_with(missing: frozenset[str]) -> Path | None:
    """Find a font of this machine that has characters; None where none has any of them."""
    best: Path | None = None
    found: frozenset[str] = frozenset()
    for path in _candidates(missing):
        there = missing & _characters(path)
        if len(there) > len(found) and _is_scalable(path):
            best, found = path, there
        if found == missing:
            break
    left = sorted(character for character in missing - found - _warned if not _has_a_font(character))
    if left:
        _warned.update(left)
        shown = "".join(left[:20]) + ("…" if len(left) > 20 else "")
        log.warning(
            "no font on this machine has the characters %s, which are drawn as empty boxes; %s", shown, _INSTALL
        )
    return best


def _has_a_font(character: str) -> bool:
    """Whether some font has a character, though none has it together with the others of its text."""
    return any(character in _characters(path) for path in _candidates(frozenset(character)))


def _candidates(missing: frozenset[str]) -> Iterator[Path]:
    """Fonts that may have the characters, likeliest first: what fontconfig names, then all that are installed."""
    named = _from_fontconfig(missing)
    yield from named
    others = (Path(path) for path in font_manager.findSystemFonts())
    yield from sorted((path for path in others if path not in set(named)), key=_rank)


def _from_fontconfig(missing: frozenset[str]) -> list[Path]:
    """What fontconfig's list has for the characters; empty where it is not installed."""
    program = shutil.which("fc-list")
    if program is None:
        return []
    charset = " ".join(f"{ord(character):x}" for character in sorted(missing))
    command = [program, f":charset={charset}", "--format", "%{file}\n"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FC_LIST_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return []
    paths = {Path(line) for line in done.stdout.splitlines() if line.lower().endswith((".ttf", ".otf", ".ttc", ".otc"))}
    return sorted(paths, key=_rank)


def _rank(path: Path) -> tuple[int, str]:
    name = path.stem.lower().replace("sans", "")
    return sum(word in name for word in _LEAST_WANTED), str(path)


def _is_scalable(path: Path) -> bool:
    try:
        ImageFont.truetype(str(path), 13)
    except OSError:
        return False
    return True
