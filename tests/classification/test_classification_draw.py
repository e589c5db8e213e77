"""Images of results: they are drawn whatever the class names, sizes and counts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scalablevit.classification import Preprocessing
from scalablevit.classification.annotate import annotate
from scalablevit.classification.data import ImageFolderDataset
from scalablevit.classification.draw import draw_confusion, draw_predictions
from scalablevit.classification.evaluate import Evaluation, evaluate
from scalablevit.data.images import read_image

NAMES = ["$\\frac{$", "grün", "a" * 60]
PREPROCESSING = Preprocessing((4, 4), 1.0, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture
def dataset(tmp_path: Path) -> ImageFolderDataset:
    """Three images a class, red, green and blue; the last one cannot be read."""
    files = {}
    for k, name in enumerate("rgb"):
        (tmp_path / name).mkdir()
        files[name] = [f"{name}/{i}.png" for i in range(3)]
        for file in files[name]:
            pixels = np.zeros((30, 20, 3), np.uint8)
            pixels[..., k] = 255
            Image.fromarray(pixels).save(tmp_path / file)
    (tmp_path / "b" / "2.png").write_bytes(b"junk")
    return ImageFolderDataset(
        tmp_path, files, class_folders=list("rgb"), transform=PREPROCESSING.eval_transform(),
        image_shape=(3, 4, 4), max_substitutes=0,
    )  # fmt: skip


class Colours(torch.nn.Module):
    """Says green of blue, else what is there."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means = images.mean((2, 3))
        return torch.stack([means[:, 0], means[:, 1] + means[:, 2], means[:, 2] * 0.5], 1)


def test_evaluation_counts(dataset: ImageFolderDataset) -> None:
    for batch_size in (1, 4, 100):
        result = evaluate(Colours(), dataset, batch_size=batch_size)
        assert result.count == 8
        assert result.unreadable == [str(dataset.path(8))]
        assert result.indices.tolist() == list(range(8))
        assert result.top1 == 6 / 8
        assert result.top5 is None
        assert result.confusion.tolist() == [[3, 0, 0], [0, 3, 0], [0, 2, 0]]
    assert result.summary(["a", "b", "c"])["top1"] == 0.75


def test_top5() -> None:
    probabilities = torch.arange(7.0).repeat(2, 1)
    result = Evaluation(probabilities, torch.tensor([2, 1]), torch.arange(2), [])
    assert result.top5 == 0.5


def test_nothing_readable(dataset: ImageFolderDataset) -> None:
    for i in range(len(dataset)):
        dataset.path(i).write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 9 images"):
        evaluate(Colours(), dataset, batch_size=2)


def test_sheets_are_drawn(dataset: ImageFolderDataset, tmp_path: Path) -> None:
    result = evaluate(Colours(), dataset, batch_size=4)
    dataset.path(0).unlink()  # gone since
    draw_predictions(result, dataset, NAMES, tmp_path / "predictions.png", count=5)
    draw_confusion(result.confusion, NAMES, tmp_path / "confusion.png")
    for name in ("predictions.png", "confusion.png"):
        image = read_image(tmp_path / name)
        assert min(image.size) > 200
        assert np.asarray(image).std() > 5


@pytest.mark.slow
def test_confusion_of_a_thousand_classes(tmp_path: Path) -> None:
    draw_confusion(torch.eye(1000, dtype=torch.int64), [str(i) for i in range(1000)], tmp_path / "big.png")
    assert max(read_image(tmp_path / "big.png").size) < 3000


@pytest.mark.parametrize("size", [(8, 8), (300, 20), (2000, 1000), (1, 1)])
def test_annotation_stands_below_the_whole_image(size: tuple[int, int]) -> None:
    image = Image.new("RGB", size, "red")
    sheet = annotate(image, ["grün  98.0%", "b" * 80])
    pixels = np.asarray(sheet)
    red = (pixels == (255, 0, 0)).all(-1)
    factor = -(-256 // max(size)) if max(size) < 256 else 1
    assert red.sum() == size[0] * size[1] * factor**2
    assert (pixels > 240).all(-1).any(), "the text is white"


def test_letters_beyond_ascii_have_glyphs() -> None:
    """A missing glyph is a box, the same for every letter."""
    image = Image.new("RGB", (64, 64))
    assert np.asarray(annotate(image, ["ü"])).tobytes() != np.asarray(annotate(image, ["ж"])).tobytes()
