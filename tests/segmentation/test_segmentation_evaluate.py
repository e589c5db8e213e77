"""Scores against an independent count, and probabilities of large images band by band."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scalablevit.segmentation import bands
from scalablevit.segmentation.bands import most_likely_classes, probability_bands
from scalablevit.segmentation.evaluate import (
    Evaluation,
    PixelConfusion,
    Scores,
    count_pixels,
)
from scalablevit.segmentation.inference import InferenceSettings, segment


def labelled_images(K: int, *, seed: int = 0, absent: tuple[int, ...] = ()) -> list[tuple[np.ndarray, np.ndarray]]:
    """(labels, mask) of images of several sizes; right at seven pixels of ten; a tenth is ignored."""
    rng = np.random.default_rng(seed)
    present = [k for k in range(K) if k not in absent]
    pairs = []
    for size in [(17, 23), (1, 1), (40, 9), (8, 8)]:
        mask = rng.choice(present, size)
        labels = np.where(rng.random(size) < 0.7, mask, rng.choice(present, size))
        pairs.append((labels, np.where(rng.random(size) < 0.1, 255, mask)))
    return pairs


def scores_of(pairs: list[tuple[np.ndarray, np.ndarray]], K: int) -> Scores:
    metric = PixelConfusion(K)
    for labels, mask in pairs:
        metric.update(torch.from_numpy(labels), torch.from_numpy(mask))
    return metric.scores()


@pytest.mark.parametrize("K", [1, 2, 7, 150])
def test_confusion_equals_a_count_pixel_by_pixel(K: int) -> None:
    pairs = labelled_images(K)
    expected = np.zeros((K, K), dtype=int)
    for labels, mask in pairs:
        for said, true in zip(labels.ravel(), mask.ravel(), strict=True):
            if true != 255:
                expected[true, said] += 1
    scores = scores_of(pairs, K)
    assert scores.confusion.dtype == torch.int64
    assert np.array_equal(scores.confusion.numpy(), expected)


def test_scores_equal_sets_of_pixels_counted_by_hand() -> None:
    """Class 3 is nowhere; class 5 is predicted once, where there is none of it."""
    K = 6
    pairs = labelled_images(K, absent=(3, 5))
    pairs[0][0][0, :] = 5
    said = np.concatenate([labels.ravel() for labels, _ in pairs])
    true = np.concatenate([mask.ravel() for _, mask in pairs])
    said, true = said[true != 255], true[true != 255]
    ious, accuracies = [], []
    for k in range(K):
        inside, outside = (said == k) & (true == k), (said == k) | (true == k)
        ious.append(inside.sum() / outside.sum() if outside.any() else None)
        accuracies.append(inside.sum() / (true == k).sum() if (true == k).any() else None)
    assert ious[3] is None
    assert ious[5] == 0
    scores = scores_of(pairs, K)
    assert scores.miou == pytest.approx(np.mean([iou for iou in ious if iou is not None]), abs=1e-12)
    assert scores.mean_accuracy == pytest.approx(np.mean([a for a in accuracies if a is not None]), abs=1e-12)
    assert scores.accuracy == pytest.approx((said == true).mean(), abs=1e-12)
    table = Evaluation(scores, 4, []).summary([f"class {k}" for k in range(K)])["classes"]
    assert [row["iou"] for row in table] == [None if iou is None else pytest.approx(iou, abs=1e-12) for iou in ious]
    assert [row["accuracy"] is None for row in table] == [a is None for a in accuracies]
    assert [row["pixels"] for row in table] == [int((true == k).sum()) for k in range(K)]


def test_scores_are_of_the_whole_set_and_not_means_of_images() -> None:
    pairs = labelled_images(3)
    whole = scores_of(pairs, 3).miou
    assert whole == scores_of(pairs[::-1], 3).miou
    assert abs(whole - np.mean([scores_of([pair], 3).miou for pair in pairs])) > 1e-3


def test_nothing_but_ignored_pixels() -> None:
    mask = np.full((4, 4), 255)
    scores = scores_of([(np.zeros((4, 4), int), mask)], 3)
    assert math.isnan(scores.miou)
    assert math.isnan(scores.accuracy)
    summary = Evaluation(scores, 1, []).summary(["a", "b", "c"])
    assert summary["miou"] is None
    assert summary["mean_accuracy"] is None


def test_counts_stay_exact_beyond_what_floats_hold() -> None:
    metric = PixelConfusion(2)
    metric.counts[0, 0] = 2**60
    metric.update(torch.zeros(3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    assert int(metric.scores().confusion[0, 0]) == 2**60 + 3


def test_labels_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(3, 2\)"):
        count_pixels(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, 2, dtype=torch.int64), num_classes=2)


class Pixelwise(nn.Module):
    """Logits from each pixel's colour; keeps the largest image it saw."""

    def __init__(self, K: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, K, 3, padding=1)
        self.largest = 0

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, K, H, W)."""
        self.largest = max(self.largest, images.shape[-1])
        return 20 * self.conv(images)


@pytest.mark.parametrize(
    "settings", [{}, {"scales": (0.5, 1.2), "flip": True}, {"mode": "slide", "crop": 8, "stride": 5}]
)
def test_bands_of_a_large_image_are_what_segment_gives(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, image = Pixelwise(5).eval(), torch.randn(3, 61, 83)
    chosen = InferenceSettings(short_side=16, **settings)  # type: ignore[arg-type]
    whole = segment(network, image, chosen)
    ((top, only),) = probability_bands(network, image, chosen, num_classes=5)
    assert top == 0
    assert torch.equal(only, whole)
    monkeypatch.setattr(bands, "MOST_SCORES", 4 * 5 * 83 * 7)
    parts = list(probability_bands(network, image, chosen, num_classes=5))
    assert [top for top, _ in parts] == list(range(0, 61, 7))
    banded = torch.cat([band for _, band in parts], dim=1)
    assert banded.shape == whole.shape
    assert (banded - whole).abs().max() < 1e-4
    labels = most_likely_classes(network, image, chosen, num_classes=5)
    assert labels.dtype == torch.uint8
    assert (labels != whole.argmax(0)).float().mean() < 1e-3, "ties alone"


def test_bands_of_an_image_at_its_own_size_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = Pixelwise(5).eval(), torch.randn(3, 20, 30)
    monkeypatch.setattr(bands, "MOST_SCORES", 100)
    ((_, only),) = probability_bands(network, image, InferenceSettings(), num_classes=5)
    whole = segment(network, image, InferenceSettings())
    assert torch.equal(only, whole)
    assert torch.equal(most_likely_classes(network, image, InferenceSettings(), num_classes=5), whole.argmax(0))


@pytest.mark.parametrize("size", [(6, 9), (1, 9), (6, 1), (1, 1)], ids=str)
def test_classes_left_out_of_an_enlargement_win_nowhere(size: tuple[int, int]) -> None:
    """Of forty classes, many of which are never the likeliest at the pixels but some between them."""
    logits = torch.randn(40, *size) + 2 * torch.randn(40, 1, 1)
    able = bands._able_to_win(logits)
    large = torch.nn.functional.interpolate(logits[None], scale_factor=9, mode="bilinear")[0].argmax(0)
    assert set(large.unique().tolist()) <= set(able.tolist())
    assert len(able) < 40


def test_an_image_made_smaller_is_labelled_at_its_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    network, image = Pixelwise(5).eval(), torch.randn(3, 32, 64)
    settings = InferenceSettings(short_side=32)
    labels = most_likely_classes(network, image, settings, num_classes=5, size=(50, 101))
    logits = network(image[None])
    expected = torch.nn.functional.interpolate(logits, size=(50, 101), mode="bilinear")[0].argmax(0)
    assert (labels != expected).float().mean() < 1e-3


def test_results_have_figures_of_each_class_and_the_confusion() -> None:
    confusion = torch.tensor([[6, 2, 0], [1, 3, 0], [0, 0, 0]])
    summary = Evaluation(Scores(confusion), 1, []).summary(["a", "b", "c"])
    assert summary["confusion"] == confusion.tolist()
    first, second, third = summary["classes"]
    assert (first["precision"], first["recall"], first["f1"]) == (6 / 7, 6 / 8, 12 / 15)
    assert (second["iou"], second["precision"], second["recall"]) == (3 / 6, 3 / 5, 3 / 4)
    assert (third["iou"], third["precision"], third["recall"], third["f1"]) == (None, None, None, None)
    assert summary["f1"] == pytest.approx((12 / 15 + 6 / 9) / 2)
    assert first["accuracy"] == first["recall"]
    assert first["pixels"] == first["support"] == 8
