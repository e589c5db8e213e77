"""Overlays, raw label maps and the sheet of predictions."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalablevit.segmentation import draw
from scalablevit.segmentation.draw import draw_labels, draw_overlay
from scalablevit.segmentation.prediction_sheet import draw_predictions
from scalablevit.visualization.palette import class_colours

NAMES = ["water", "grün", "a name that is far too long for any legend of an image"]
PALETTE = class_colours(3)


def halves(height: int, width: int) -> np.ndarray:
    """Left half class 0, right half class 2."""
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[:, width // 2 :] = 2
    return labels


def test_overlay_blends_colours_and_draws_a_line_between_classes() -> None:
    gray = Image.new("RGB", (400, 350), (100, 100, 100))
    sheet = np.asarray(draw_overlay(gray, halves(350, 400), class_names=NAMES, palette=PALETTE, opacity=0.5))
    left = (sheet.shape[1] - 400) // 2
    for x, k in ((50, 0), (350, 2)):
        assert np.abs(sheet[100, left + x].astype(int) - (100 + np.array(PALETTE[k])) / 2).max() <= 1
    assert (sheet[:350, left + 199] == 255).all(), "the line"
    assert not (sheet[:350, left + 197] == 255).all()
    assert sheet.shape[0] > 350, "the legend is below"
    colours = {tuple(pixel) for pixel in sheet[350:].reshape(-1, 3).tolist()}
    assert {PALETTE[0], PALETTE[2]} <= colours
    assert PALETTE[1] not in colours, "a class that is not there"


def test_opacity_reaches_the_image() -> None:
    gray = Image.new("RGB", (400, 350), (100, 100, 100))
    plain = np.asarray(draw_overlay(gray, halves(350, 400), class_names=NAMES, palette=PALETTE, opacity=0.0))
    left = (plain.shape[1] - 400) // 2
    assert (plain[100, left + 50] == 100).all()


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (40, 3), (33, 57)], ids=str)
def test_small_images_are_enlarged(size: tuple[int, int]) -> None:
    width, height = size
    image = Image.new("RGB", size, "gray")
    labels = np.full((height, width), 2, dtype=np.uint8)
    sheet = draw_overlay(image, labels, class_names=NAMES, palette=PALETTE)
    assert max(sheet.size) >= 320
    assert sheet.mode == "RGB"


def test_a_huge_image_is_drawn_in_bands_that_nobody_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (80, 60, 3), dtype=np.uint8))
    labels = rng.integers(0, 3, (80, 60)).astype(np.uint8)
    whole = draw_overlay(image, labels, class_names=NAMES, palette=PALETTE)
    monkeypatch.setattr(draw, "_BAND_PIXELS", 2500)
    banded = draw_overlay(image, labels, class_names=NAMES, palette=PALETTE)
    assert np.array_equal(np.asarray(whole), np.asarray(banded))


def test_the_legend_of_many_classes_ends_with_how_many_more() -> None:
    labels = np.arange(100 * 100).reshape(100, 100) // 50  # 200 classes
    image = Image.new("RGB", (100, 100))
    names = [f"class {k}" for k in range(200)]
    many = draw_overlay(image, labels, class_names=names, palette=class_colours(200))
    few = draw_overlay(image, labels // 7, class_names=names, palette=class_colours(200))  # 29 classes
    assert many.height <= 1.2 * few.height


def test_overlay_refuses_labels_of_another_size() -> None:
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(5, 4\)"):
        draw_overlay(Image.new("RGB", (4, 5)), np.zeros((4, 5), np.uint8), class_names=NAMES, palette=PALETTE)


@pytest.mark.parametrize(("num_classes", "mode"), [(2, "P"), (150, "P"), (255, "P"), (256, "I;16"), (1000, "I;16")])
def test_raw_labels_survive_a_png(num_classes: int, mode: str) -> None:
    labels = np.random.default_rng(0).integers(0, num_classes, (20, 30))
    labels[0, 0] = num_classes - 1
    palette = class_colours(num_classes)
    file = io.BytesIO()
    draw_labels(labels, num_classes=num_classes, palette=palette).save(file, format="PNG")
    read = Image.open(file)
    assert read.mode == mode
    assert np.array_equal(np.asarray(read), labels)
    if mode == "P":
        assert read.convert("RGB").getpixel((0, 0)) == palette[num_classes - 1]


@pytest.mark.parametrize("count", [1, 5])
def test_sheet_of_predictions(count: int, tmp_path: Path) -> None:
    image = Image.new("RGB", (50, 30), "gray")
    mask = halves(30, 50).astype(np.int64)
    mask[:5] = 255
    examples = [(image, mask, halves(30, 50), "97 % of $pixels$")] * count
    path = tmp_path / "predictions.png"
    draw_predictions(examples, path, class_names=["_hidden", "$", "x"], palette=PALETTE)
    sheet = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for colour in (PALETTE[0], PALETTE[2], (128, 128, 128)):
        assert (sheet == colour).all(1).sum() > 500 * count
    assert not (sheet == PALETTE[1]).all(1).any()
