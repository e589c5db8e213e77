"""Tile by tile: whatever lies across the edges of tiles is found once, in its place, with its mask."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_detection_predict import make, noise

from scalablevit.cli import main
from scalablevit.detection.predict import Detection, decode_mask, encode_mask
from scalablevit.detection.sliced import Slicing, detect_sliced

Rectangle = tuple[int, int, int, int]


def painted(rectangles: list[Rectangle], size: tuple[int, int]) -> Image.Image:
    """A black image (width, height) with an object of its own colour in each rectangle."""
    pixels = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    for i, (left, top, right, bottom) in enumerate(rectangles):
        pixels[top:bottom, left:right] = (i + 1, 0, 0)
    return Image.fromarray(pixels)


def perfect(images: list[Image.Image], *, masks: bool = True) -> list[list[Detection]]:
    """A detector that sees every colour, and no further than the image goes. The class is the colour's parity."""
    found = []
    for image in images:
        values = np.asarray(image)[:, :, 0]
        objects = []
        for value in range(1, int(values.max()) + 1):
            rows, columns = np.nonzero(values == value)
            if not len(rows):
                continue
            box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
            mask = encode_mask(values == value) if masks else None
            objects.append(Detection(value % 2, "ab"[value % 2], round(0.5 + value / 1000, 3), box, mask))
        found.append(objects)
    return found


def blind_to(side: int) -> Callable[[list[Image.Image]], list[list[Detection]]]:
    """A perfect detector but for images with a side above `side`: it sees no object in a large image."""
    return lambda images: [[] if max(image.size) > side else perfect([image])[0] for image in images]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[list[Rectangle], tuple[int, int]]:
    """Rectangles apart from each other, one in each cell of a grid, and the image's size."""
    columns, rows, cell = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.sampled_from([40, 61, 90]))
    rectangles = []
    for row in range(rows):
        for column in range(columns):
            if not draw(st.booleans()):
                continue
            left, top = draw(st.integers(0, cell - 12)), draw(st.integers(0, cell - 12))
            width, height = draw(st.integers(8, cell - left - 3)), draw(st.integers(8, cell - top - 3))
            x, y = column * cell + left, row * cell + top
            rectangles.append((x, y, x + width, y + height))
    return rectangles, (columns * cell, rows * cell)


@settings(max_examples=60, deadline=None)
@given(
    scene=scenes(),
    tile=st.integers(32, 150),
    overlap=st.sampled_from([0.2, 0.25, 0.5]),
    batch_size=st.sampled_from([1, 3]),
    sees_large=st.booleans(),
)
def test_every_object_is_found_once_wherever_the_tiles_cut_it(
    scene: tuple[list[Rectangle], tuple[int, int]], tile: int, overlap: float, batch_size: int, sees_large: bool
) -> None:
    rectangles, size = scene
    image = painted(rectangles, size)
    detect = perfect if sees_large else blind_to(tile)
    found = detect_sliced(detect, image, Slicing(tile, overlap=overlap, batch_size=batch_size))
    assert sorted(tuple(map(int, thing.box_xyxy)) for thing in found) == sorted(rectangles)
    assert [thing.score for thing in found] == sorted((thing.score for thing in found), reverse=True)
    values = np.asarray(image)[:, :, 0]
    for thing in found:
        value = rectangles.index(tuple(map(int, thing.box_xyxy))) + 1  # type: ignore[arg-type]
        assert thing.label == value % 2
        assert thing.mask is not None
        assert np.array_equal(decode_mask(thing.mask), values == value)


@pytest.mark.parametrize("shape", [(30, 400), (400, 30), (300, 300)])
def test_an_object_larger_than_many_tiles_is_joined(shape: tuple[int, int]) -> None:
    width, height = shape
    rectangle = (20, 10, 20 + width, 10 + height)
    image = painted([rectangle], (width + 50, height + 40))
    (found,) = detect_sliced(blind_to(64), image, Slicing(64))
    assert found.box_xyxy == rectangle
    assert found.mask is not None
    assert decode_mask(found.mask).sum() == width * height


def test_neighbours_of_one_class_stay_two() -> None:
    rectangles = [(10, 10, 70, 40), (10, 44, 70, 74), (80, 10, 140, 40), (80, 44, 140, 74)]
    image = painted([r for pair in zip(rectangles, [(0, 0, 1, 1)] * 4, strict=True) for r in pair], (150, 100))
    found = detect_sliced(blind_to(64), image, Slicing(64))
    assert sorted(thing.box_xyxy for thing in found if thing.label == 1) == sorted(rectangles)


def test_classes_suppress_each_other_on_wish_alone() -> None:
    def two(images: list[Image.Image]) -> list[list[Detection]]:
        """Every object is found twice, as the one and as the other class."""
        return [
            [t for d in found for t in (d, Detection(1 - d.label, "x", 0.4, d.box_xyxy))]
            for found in map_perfect(images)
        ]

    def map_perfect(images: list[Image.Image]) -> list[list[Detection]]:
        return perfect(images, masks=False)

    rectangles = [(50, 20, 90, 60), (5, 5, 25, 25)]
    image = painted(rectangles, (150, 90))
    assert len(detect_sliced(two, image, Slicing(64))) == 4
    found = detect_sliced(two, image, Slicing(64, class_agnostic=True))
    assert sorted(thing.box_xyxy for thing in found) == sorted(rectangles)
    assert all(thing.score > 0.4 for thing in found)


def test_tiles_cover_the_image_and_are_of_one_size() -> None:
    for width, height in ((64, 64), (65, 200), (333, 97)):
        slicing = Slicing(64, overlap=0.3)
        covered = np.zeros((height, width), bool)
        for left, top, right, bottom in slicing.tiles(width, height):
            assert (right - left, bottom - top) == (64, 64)
            covered[top:bottom, left:right] = True
        assert covered.all()
    assert Slicing(64).tiles(50, 20) == [(0, 0, 50, 20)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 31}, "tile must be at least 32"),
        ({"tile": 64, "overlap": 0.0}, "overlap must lie in"),
        ({"tile": 64, "overlap": 1.0}, "overlap must lie in"),
        ({"overlap": 0.5}, "overlap 0.5 is for tiles: set tile too"),
        ({"nms_iou": 0.0}, "nms_iou must lie in"),
        ({"nms_iou": 1.5}, "nms_iou must lie in"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        next(make("retinanet").predict(noise(tmp_path / "a.png", (90, 40)), **options))


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_a_network_in_tiles_gives_boxes_and_masks_of_the_image(kind: str, tmp_path: Path) -> None:
    detector = make(kind)
    path = noise(tmp_path / "a.png", (150, 90))
    before = detector.nms_iou
    (whole,) = detector.predict(path, threshold=0.001)
    (tiled,) = detector.predict(path, threshold=0.001, tile=64, batch_size=4)
    assert detector.nms_iou == before
    assert tiled.detections != whole.detections
    for thing in tiled.detections:
        left, top, right, bottom = thing.box_xyxy
        assert 0 <= left <= right <= 150
        assert 0 <= top <= bottom <= 90
        assert (thing.mask is None) == (kind == "retinanet")
        if thing.mask is not None:
            assert decode_mask(thing.mask).shape == (90, 150)
    (same,) = detector.predict(path, threshold=0.001, tile=150)
    assert same.detections == whole.detections


def test_suppression_can_be_set_for_a_prediction(tmp_path: Path) -> None:
    detector = make("retinanet", detections_per_image=5000)
    path = noise(tmp_path / "a.png", (90, 60))
    counts = [len(next(detector.predict(path, threshold=0.001, nms_iou=iou)).detections) for iou in (0.1, 0.5, 0.9)]
    assert counts == sorted(counts)
    assert counts[0] < counts[2]
    (agnostic,) = detector.predict(path, threshold=0.001, class_agnostic=True)
    boxes = [thing.box_xyxy for thing in agnostic.detections]
    assert len(boxes) < counts[1]
    assert all(overlap(a, b) <= 0.5 for i, a in enumerate(boxes) for b in boxes[:i])


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """IoU, with a little room for boxes that were rounded."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, width) * max(0.0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both + 1e-9) - 1e-3


def test_the_command_has_the_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from test_detection_predict import metadata

    from scalablevit.weights import save_network

    save_network(make("retinanet").network, tmp_path / "run", metadata=metadata("retinanet"))
    path = noise(tmp_path / "a.png", (150, 90))
    words = ["predict", str(path), "--weights", str(tmp_path / "run"), "--device", "cpu", "--json"]
    words += ["--threshold", "0.001", "--tile", "64", "--overlap", "0.3", "--nms-iou", "0.4", "--class-agnostic"]
    assert main(words) == 0
    assert '"predictions"' in capsys.readouterr().out
