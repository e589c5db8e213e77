"""Match images with masks by their names.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

# Data sets that name masks for their images do it with one of these.
MASK_ENDINGS = ("_mask", "-mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt", "_L")


@dataclass
class Matches:
    """Images and masks of two folders, or of one, matched by name.

    Args:
        pairs: (image, mask), in the order of the images.
        lone_images: name -> image that has no mask.
        lone_masks: name -> mask that has no image.
        repeated_images: (image that is left out, image of the same name that is used).
        repeated_masks: (mask that is left out, mask for the same image that is used).
    """

    pairs: list[tuple[str, str]] = field(default_factory=list)
    lone_images: dict[str, str] = field(default_factory=dict)
    lone_masks: dict[str, str] = field(default_factory=dict)
    repeated_images: list[tuple[str, str]] = field(default_factory=list)
    repeated_masks: list[tuple[str, str]] = field(default_factory=list)


class NamePattern:
    """How files are called, such as `{name}_mask.png`.

    Args:
        pattern: `{name}` stands for what images and masks share, `*` for anything; without an ending, files of any
            ending fit. Case counts, but not in the ending.
        argument: name of the setting, for the error.

    Raises:
        ValueError: it has no `{name}`, or several, or a folder.
    """

    def __init__(self, pattern: str, argument: str) -> None:
        if pattern.count("{name}") != 1 or "/" in pattern or "\\" in pattern:
            raise ValueError(
                f"{argument} must have {{name}} once and no folders, such as {{name}}_mask.png, got {pattern!r}"
            )
        self.has_ending = "." in pattern.partition("{name}")[2]
        stem, ending = os.path.splitext(pattern) if self.has_ending else (pattern, "")
        parts = (re.escape(part).replace(r"\*", "[^/]*") for part in (*stem.split("{name}"), ending))
        before, behind, ending = parts
        self._regex = re.compile(f"{before}(?P<name>.+){behind}(?i:{ending})")

    def name_of(self, file: str) -> str | None:
        """What images and masks share in a relative path, its folders included; None where the pattern does not fit."""
        folder, base = os.path.split(file)
        found = self._regex.fullmatch(base if self.has_ending else os.path.splitext(base)[0])
        return None if found is None else os.path.join(folder, found["name"])


def match_names(images: Iterable[str], masks: Iterable[str]) -> Matches:
    """Match relative paths by name: a mask is named as its image, but for the ending and a suffix such as `_mask`.

    A mask may also have the image's whole file name in its own (`a.jpg` and `a.jpg.png`), and differ in how accents
    are stored, in case, and in percent codes, as long as a single image fits.
    """
    found = Matches()
    image_files = list(images)
    by_name = _by_name(image_files, _stem, found.repeated_images)
    # Of doubled stems (a.jpg and a.png) masks may name the whole file.
    by_file = {file: name for name, file in by_name.items()}
    by_file |= {file: file for file, _ in found.repeated_images}
    alike: dict[str, list[str]] = defaultdict(list)
    for name in by_name:
        alike[_normalised(name)].append(name)

    def image_of(mask: str) -> tuple[int, str] | None:
        """How well the best image fits (0: its very name), and that image; None without one."""
        names = [mask, *(mask.removesuffix(ending) for ending in MASK_ENDINGS if mask.endswith(ending))]
        for rank, name in enumerate(names):
            if name in by_name:
                return min(rank, 1), by_name[name]
            if name in by_file:
                return min(rank, 1), name
        candidates = [alike[_normalised(name)] for name in names if len(alike.get(_normalised(name), ())) == 1]
        return (2, by_name[candidates[0][0]]) if candidates else None

    mask_of: dict[str, tuple[int, str]] = {}
    for name, mask in _by_name(masks, _stem, found.repeated_masks).items():
        best = image_of(name)
        if best is None:
            found.lone_masks[name] = mask
            continue
        rank, image = best
        if image not in mask_of:
            mask_of[image] = rank, mask
        elif rank < mask_of[image][0]:
            found.repeated_masks.append((mask_of[image][1], mask))
            mask_of[image] = rank, mask
        else:
            found.repeated_masks.append((mask, mask_of[image][1]))
    found.repeated_images = [pair for pair in found.repeated_images if pair[0] not in mask_of]
    left_out = {file for file, _ in found.repeated_images}
    for image in image_files:
        if image in mask_of:
            found.pairs.append((image, mask_of[image][1]))
        elif image not in left_out:
            found.lone_images[_stem(image)] = image
    return found


def match_patterns(
    images: Iterable[str], masks: Iterable[str], *, image_pattern: NamePattern | None, mask_pattern: NamePattern | None
) -> Matches:
    """Match relative paths by patterns; files that fit none are left alone. A file that fits both is a mask.

    Args:
        images: files of the folder of images.
        masks: files of the folder of masks; may be the same files.
        image_pattern: of images; None: `{name}`, with any ending.
        mask_pattern: of masks, likewise.
    """
    found = Matches()
    mask_files = list(masks)
    mask_name: Callable[[str], str | None] = _stem if mask_pattern is None else mask_pattern.name_of
    by_mask = _by_name(mask_files, mask_name, found.repeated_masks)
    are_masks = set() if mask_pattern is None else {file for file in mask_files if mask_name(file) is not None}
    image_files = [file for file in images if file not in are_masks]
    image_name: Callable[[str], str | None] = _stem if image_pattern is None else image_pattern.name_of
    by_image = _by_name(image_files, image_name, found.repeated_images)
    alike: dict[str, list[str]] = defaultdict(list)
    for name in by_mask:
        alike[_normalised(name)].append(name)
    used = set()
    for name, image in by_image.items():
        close = alike.get(_normalised(name), [])
        key = name if name in by_mask else close[0] if len(close) == 1 else None
        if key is None or key in used:
            found.lone_images[name] = image
        else:
            used.add(key)
            found.pairs.append((image, by_mask[key]))
    found.lone_masks = {name: mask for name, mask in by_mask.items() if name not in used}
    return found


def _by_name(
    files: Iterable[str], name_of: Callable[[str], str | None], repeated: list[tuple[str, str]]
) -> dict[str, str]:
    """Name -> file; files of one name but the first go into `repeated`, with that one."""
    by_name: dict[str, str] = {}
    for file in files:
        name = name_of(file)
        if name is None:
            continue
        first = by_name.setdefault(name, file)
        if first != file:
            repeated.append((file, first))
    return by_name


def _stem(file: str) -> str:
    return os.path.splitext(file)[0]


def _normalised(name: str) -> str:
    """Equal for names that differ in how accents are stored, in case, in percent codes and in the separator."""
    return unicodedata.normalize("NFC", unquote(name, errors="surrogateescape")).casefold().replace("\\", "/")
