"""Annotated images: boxes and masks where they belong, labels within the image, at any size."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalablevit.data.images import read_image
from scalablevit.detection.annotate import annotate
from scalablevit.detection.data import CocoData
from scalablevit.detection.draw import draw_sheet
from scalablevit.detection.predict import Detection, encode_mask
from scalablevit.visualization.palette import class_colours

COLOURS = class_colours(8)


def rectangle(size: tuple[int, int], box: tuple[int, int, int, int]) -> dict[str, Any]:
    """Code of a mask of (width, height) pixels that fills the box."""
    mask = np.zeros((size[1], size[0]), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return encode_mask(mask)


def coloured(image: Image.Image, label: int) -> np.ndarray:
    """(H, W): where an image has exactly the colour of a class."""
    return (np.asarray(image) == COLOURS[label]).all(-1)


def test_a_box_is_drawn_on_its_pixels() -> None:
    image = Image.new("RGB", (600, 400), "gray")
    sheet = annotate(image, [Detection(1, "cat", 0.9, (200.0, 150.0, 420.0, 300.0))])
    assert sheet.size == image.size
    assert image.getextrema() == ((128, 128),) * 3, "the caller's image is as it was"
    drawn = coloured(sheet, 1)
    rows, columns = drawn.any(1).nonzero()[0], drawn.any(0).nonzero()[0]
    assert (columns[0], columns[-1], rows[-1]) == (200, 419, 299)
    assert 150 - 30 < rows[0] < 150, "the label stands above"
    assert drawn[150:300, [200, 419]].all()
    assert drawn[[150, 299], 200:420].all()
    assert not drawn[155:295, 205:415].any(), "nothing within"
    assert not np.array_equal(drawn, coloured(annotate(image, []), 1))


def test_a_mask_tints_its_pixels_only() -> None:
    image = Image.new("RGB", (600, 400), "black")
    mask = rectangle(image.size, (250, 200, 300, 280))
    pixels = np.asarray(annotate(image, [Detection(2, "", 0.5, (200.0, 150.0, 420.0, 300.0), mask)])).astype(int)
    inside = pixels[205:275, 255:295]
    assert (inside == inside[0, 0]).all()
    assert 0 < inside[0, 0].max() < max(COLOURS[2]), "half transparent"
    assert (pixels[200, 250:300] == COLOURS[2]).all(), "the rim is not"
    outside = pixels[155:295, 205:415].copy()
    outside[200 - 155 : 280 - 155, 250 - 205 : 300 - 205] = 0
    assert (outside == 0).all()


def test_small_images_are_enlarged_and_their_boxes_too() -> None:
    image = Image.new("RGB", (64, 48), "black")
    mask = rectangle(image.size, (20, 20, 30, 30))
    sheet = annotate(image, [Detection(0, "", 0.5, (10.0, 16.0, 40.0, 40.0), mask)])
    assert sheet.size == (512, 384)
    drawn = coloured(sheet, 0)
    columns = drawn[300:].any(0).nonzero()[0]
    assert (columns[0], columns[-1]) == (80, 319)
    tinted = np.asarray(sheet)[200, :, 2] > 0
    assert tinted[160:240].all()
    assert not tinted[90:160].any()
    assert annotate(image, [], side=300).size == (300, 225)
    assert annotate(Image.new("RGB", (3000, 1500)), [], side=300).size == (300, 150)


@pytest.mark.parametrize("size", [(1, 1), (3, 700), (700, 3), (64, 64), (512, 512), (4000, 600)])
def test_labels_stay_within_the_image_whatever_the_box(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "black")
    w, h = size
    boxes = [(0, 0, w, h), (-5, -5, w + 5, h + 5), (w - 0.5, 0, w, 0.5), (0, h - 0.5, w, h), (w, h, w, h)]
    plain = annotate(image, [])
    for i, box in enumerate(boxes):
        detection = Detection(i, "a" * (90 * (i % 2) + 1), 0.5, tuple(map(float, box)))
        sheet = annotate(image, [detection])
        assert sheet.size == plain.size
        label = coloured(sheet, i)
        if min(sheet.size) >= 512:
            rows = label.any(1).nonzero()[0]
            assert len(rows) >= 15, "the whole label is there"
            assert label.sum() > 400
        else:
            assert label.any()


@pytest.mark.parametrize("side", [256, 512, 4000])
def test_text_grows_with_the_image(side: int) -> None:
    """The label's height, by the rows of the class's colour above the box."""
    sheet = annotate(
        Image.new("RGB", (side, side), "black"), [Detection(0, "x", 0.5, (0.0, side / 2, 5.0, side / 1.5))]
    )
    shown = sheet.size[0]
    rows = coloured(sheet, 0)[: shown // 2].any(1).sum()
    assert max(15, shown / 60) <= rows <= max(22, shown / 30)


def test_labels_avoid_each_other() -> None:
    image = Image.new("RGB", (600, 400), "black")
    box = (200.0, 150.0, 420.0, 300.0)
    detections = [Detection(i, "somewhat long", 0.9 - 0.1 * i, box) for i in range(4)]
    sheet = annotate(image, detections)
    for i in range(4):
        assert coloured(sheet, i).sum() > 1000, f"label {i} is covered"


def test_the_surest_is_on_top_and_scores_can_be_left_out() -> None:
    image = Image.new("RGB", (600, 400), "black")
    box = (200.0, 150.0, 420.0, 300.0)
    sheet = annotate(image, [Detection(0, "", 0.2, box), Detection(1, "", 0.9, box), Detection(2, "", 0.5, box)])
    assert coloured(sheet, 1)[200:250, 200].all()
    detection = Detection(0, "cat", 0.5, box)
    assert annotate(image, [detection]).tobytes() != annotate(image, [detection], with_scores=False).tobytes()


class Blind:
    """Finds nothing."""

    def detect(self, images: list[Image.Image]) -> list[list[Detection]]:
        assert {image.mode for image in images} == {"RGB"}
        return [[] for _ in images]


def test_the_sheet_shows_validation_images_in_their_colours(tmp_path: Path) -> None:
    colours = [(200, 30, 60), (10, 120, 250)]
    for i, colour in enumerate(colours):
        Image.new("RGB", (60, 40), colour).save(tmp_path / f"{i}.png")
    images = [{"id": i, "file_name": f"{i}.png", "width": 60, "height": 40} for i in range(2)]
    boxes = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [5, 5, 9, 9]} for i in range(2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "ant"}]}
    (tmp_path / "all.json").write_text(json.dumps(content))
    file = {"train_annotations": "all.json", "val_annotations": "all.json"}
    data = CocoData(tmp_path, **file, train_images=".", val_images=".", num_workers=0)
    draw_sheet(Blind(), data.val_dataset, data.val_annotations, tmp_path / "sheet.png")  # type: ignore[arg-type]
    sheet = np.asarray(read_image(tmp_path / "sheet.png"))
    for colour in colours:
        assert (sheet == colour).all(-1).sum() > 480 * 320, "annotated, and found"


def test_letters_beyond_ascii_have_glyphs(tmp_path: Path) -> None:
    image = Image.new("RGB", (600, 400), "black")
    drawn = [annotate(image, [Detection(0, name, 0.5, (9.0, 99.0, 99.0, 200.0))]).tobytes() for name in "üж"]
    assert drawn[0] != drawn[1]


@pytest.mark.slow
def test_thousands_of_objects_are_labelled_at_once() -> None:
    places = np.random.default_rng(0).uniform(0, 500, (3000, 2)).tolist()
    found = [Detection(0, "cell", 1.0, (x, y, x + 12, y + 12)) for x, y in places]
    start = time.process_time()
    annotate(Image.new("RGB", (704, 520)), found)
    assert time.process_time() - start < 6


@pytest.mark.parametrize("name", ["box\n", "a\rb\tc", "\x1b[31mred", "x" * 100_000, "\ud800", ""])
def test_any_name_is_drawn_in_one_line(name: str) -> None:
    drawn = annotate(Image.new("RGB", (60, 40)), [Detection(0, name, 0.5, (5.0, 15.0, 30.0, 35.0))])
    assert drawn.size == (540, 360)
