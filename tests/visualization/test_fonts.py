"""Names in any script are drawn with a font that has them; where there is none, a warning says so."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from scalablevit.classification.annotate import annotate
from scalablevit.classification.draw import draw_confusion
from scalablevit.visualization import fonts
from scalablevit.visualization.fonts import NameFont, label_fonts, load_font

CHINESE = ["猫", "狗"]


def glyph(width: int) -> object:
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for point in ((width, 0), (width, 700), (0, 700)):
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def font_with(path: Path, characters: str, family: str) -> Path:
    names = [".notdef", *(f"glyph{i}" for i in range(len(characters)))]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): names[1 + i] for i, c in enumerate(characters)})
    builder.setupGlyf({name: glyph(100 + 120 * i) for i, name in enumerate(names)})
    builder.setupHorizontalMetrics(dict.fromkeys(names, (900, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A machine without any font of its own."""

    def forget() -> None:
        for cached in (fonts.load_font, fonts._font_with, fonts._characters):
            cached.cache_clear()
        fonts._warned.clear()

    forget()
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", lambda: [])
    yield monkeypatch
    forget()


def drawn(line: str) -> np.ndarray:
    return np.asarray(annotate(Image.new("RGB", (64, 64)), [line]))


def test_what_dejavu_has_needs_no_other_font(no_fonts, caplog):
    for text in ("cat", "кот", "γάτα", "a\u200bb", "naïve ✓"):
        assert Path(load_font(20, text).path).name == "DejaVuSans.ttf"
    assert not np.array_equal(drawn("кот"), drawn("пёс"))
    assert caplog.text == ""


def test_without_a_font_one_warning_names_the_characters_and_the_remedy(no_fonts, caplog):
    for text in (*CHINESE, "猫  50%", "猫狗"):
        load_font(20, text)
    assert caplog.text.count("猫") == 1
    assert "drawn as empty boxes; install one, such as Noto Sans" in caplog.text


def test_names_are_drawn_with_the_font_that_has_them(no_fonts, tmp_path, caplog):
    hindi, chinese = font_with(tmp_path / "h.ttf", "नमस्ते", "Hindi"), font_with(tmp_path / "c.ttf", "猫狗", "Chinese")
    no_fonts.setattr(fonts.font_manager, "findSystemFonts", lambda: [str(hindi), str(chinese)])
    assert load_font(20, "नमस्ते").path == str(hindi)
    assert load_font(20, "猫  50%").path == str(chinese)
    assert not np.array_equal(drawn(CHINESE[0]), drawn(CHINESE[1]))
    assert caplog.text == ""


def test_each_character_is_drawn_with_a_font_that_has_it(no_fonts, tmp_path, caplog):
    thai, chinese = font_with(tmp_path / "t.ttf", "ไทย", "Thai"), font_with(tmp_path / "c.ttf", "猫狗", "Chinese")
    no_fonts.setattr(fonts.font_manager, "findSystemFonts", lambda: [str(thai), str(chinese)])
    for one, other in (("ไทย猫", "ไทย狗"), ("猫ไ", "猫ท"), ("ไทย cat", "ไทย dog"), ("猫 50%", "猫 60%"), ("猫", "猫a")):
        assert not np.array_equal(drawn(one), drawn(other)), one
    assert caplog.text == ""
    assert [part for _, part in NameFont(20, "ไทย")._runs("ไทย 5猫")] == ["ไทย ", "5", "猫"]


def test_one_font_draws_as_it_always_did(no_fonts):
    image, again = Image.new("RGB", (200, 40)), Image.new("RGB", (200, 40))
    NameFont(20, "näive cat").draw(ImageDraw.Draw(image), (3, 4), "näive cat", fill="white")
    ImageDraw.Draw(again).text((3, 4), "näive cat", font=load_font(20), fill="white")
    assert np.array_equal(image, again)
    assert NameFont(20, "").getlength("") == 0


def test_fontconfig_is_asked_for_the_characters(no_fonts, tmp_path):
    path = font_with(tmp_path / "c.ttf", "猫狗", "Chinese")
    asked: list[list[str]] = []

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, stdout=f"{tmp_path / 'bitmap.pcf'}\n{path}\n")

    no_fonts.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    no_fonts.setattr(subprocess, "run", run)
    assert load_font(20, "猫").path == str(path)
    assert asked[0][1] == ":charset=732b"


def test_a_file_that_is_no_font_is_passed_over(no_fonts, tmp_path, caplog):
    (tmp_path / "a.ttf").write_bytes(b"no font")
    no_fonts.setattr(fonts.font_manager, "findSystemFonts", lambda: [str(tmp_path / "a.ttf")])
    assert Path(load_font(20, "猫").path).name == "DejaVuSans.ttf"
    assert "no font" in caplog.text


@pytest.mark.filterwarnings("error:Glyph")
def test_figures_take_the_same_fonts(no_fonts, tmp_path):
    path = font_with(tmp_path / "c.ttf", "猫狗", "Chinese of a test")
    no_fonts.setattr(fonts.font_manager, "findSystemFonts", lambda: [str(path)])
    with label_fonts(CHINESE):
        assert matplotlib.rcParams["font.family"][-1] == "Chinese of a test"
    assert "Chinese of a test" not in matplotlib.rcParams["font.family"]
    confusion = torch.tensor([[3, 1], [0, 2]])
    draw_confusion(confusion, CHINESE, tmp_path / "a.png")
    draw_confusion(confusion, CHINESE[::-1], tmp_path / "b.png")
    assert not np.array_equal(*(np.asarray(Image.open(tmp_path / name)) for name in ("a.png", "b.png")))


@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_with_line_breaks_controls_and_dollars_are_drawn(tmp_path):
    names = ["two\nlines", "$x_1$ and $", "\x1b[31mred", "\ttab", "a\u202eb", "😀"]
    draw_confusion(torch.eye(6, dtype=torch.int64), names, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    for name in names:
        assert annotate(Image.new("RGB", (64, 64)), [name]).height < 400
