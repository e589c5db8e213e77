"""Compare what an exported detector finds with what the detector itself finds in PyTorch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.deploy.exportable import InputShape
from scalablevit.ops.layout import channels_first

COUNTS = (30, 10, 3)
"""About how many detections are compared where those by the detector's own threshold are too few or undecided."""
_SEEDS = 8
_ROUNDINGS = (1, 2, 3)  # seeds
_ROUNDING = 2.0**-22  # relative: a few roundings of a float32
_LARGEST_PAIR = 1e-4  # relative difference of two detections that can be the same


class EagerDetector(nn.Module):
    """A detector as the definition of its graph: from images as the graph takes them to the graph's outputs.

    Args:
        detector: a RetinaNet or Mask R-CNN of `scalablevit.detection.models`, in evaluation; it normalises by itself.
        takes_bytes: images are (1, H, W, C) of bytes; else (1, C, H, W) of floats in 0..1.
    """

    def __init__(self, detector: nn.Module, *, takes_bytes: bool) -> None:
        super().__init__()
        self.detector: Any = detector
        self.takes_bytes = takes_bytes
        self.head: Any = getattr(detector, "roi_heads", detector)
        self.threshold = float(self.head.score_thresh)

    def forward(self, images: Tensor, *, threshold: float | None = None, seed: int | None = None) -> tuple[Tensor, ...]:
        """Detect objects in one image.

        Args:
            images: as the graph takes them.
            threshold: lowest score of a detection; None: the detector's.
            seed: of random rounding errors in all layers, to see what hangs in the balance; None: without.

        Returns:
            scores (R,), labels (R,), boxes (R, 4) in pixels and, of Mask R-CNN, masks (R, 28, 28).
        """
        if self.takes_bytes:
            images = channels_first(images).to(torch.float32) / 255
        transform = self.detector.transform
        before = transform.min_size, transform.max_size, self.head.score_thresh
        height, width = int(images.shape[2]), int(images.shape[3])
        transform.min_size, transform.max_size = min(height, width), max(height, width)  # the image keeps its size
        self.head.score_thresh = self.threshold if threshold is None else threshold
        options = {"paste_masks": False} if self.head is not self.detector else {}
        try:
            with contextlib.nullcontext() if seed is None else _rounding(self.detector, seed):
                (found,) = self.detector([images[0]], **options)
        finally:
            transform.min_size, transform.max_size, self.head.score_thresh = before
        outputs = found["scores"], found["labels"] - self.detector.first_label, found["boxes"]
        return (*outputs, found["mask_probs"]) if "mask_probs" in found else outputs


@contextlib.contextmanager
def _rounding(network: nn.Module, seed: int) -> Iterator[None]:
    """Add to the outputs of all layers random errors of the size of float32's rounding."""
    generator = torch.Generator().manual_seed(seed)

    def hook(module: nn.Module, inputs: Any, outputs: Any) -> Any:
        if not isinstance(outputs, Tensor) or not outputs.is_floating_point():
            return None
        # Beside 1, too: offsets of boxes are small, and are added to coordinates.
        size = _ROUNDING * outputs.abs().clamp(min=1)
        return outputs + size * torch.randn(outputs.shape, generator=generator)

    layers = [module for module in network.modules() if next(module.children(), None) is None]
    handles = [layer.register_forward_hook(hook) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def largest_detection_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Return the largest difference between detections, whatever their order, relative to the largest number expected.

    Args:
        found: scores (R,), labels (R,), boxes (R, 4) and perhaps masks (R, M, M), of an exported graph.
        expected: the same, of PyTorch.

    Returns:
        infinity where numbers of detections differ, or one has no counterpart of its class.
    """
    if len(found) != len(expected) or any(a.shape != b.shape for a, b in zip(found, expected, strict=True)):
        return float("inf")
    if len(expected[0]) == 0:
        return 0.0
    distance = torch.zeros(len(found[0]), len(expected[0]), dtype=torch.float64)
    for name, ours, theirs in zip(("scores", "labels", "boxes", "masks"), found, expected, strict=False):
        if name == "labels":
            distance[ours[:, None] != theirs[None, :]] = float("inf")
            continue
        ours, theirs = ours.double().flatten(1 if ours.ndim > 1 else 0), theirs.double()
        scale = theirs.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        ours, theirs = ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
        distance = torch.maximum(distance, _farthest(ours, theirs) / scale)
    distance[distance.isnan()] = float("inf")
    largest = 0.0
    for _ in range(len(distance)):  # the closest pair first
        place = int(distance.argmin())
        row, column = divmod(place, distance.shape[1])
        largest = max(largest, float(distance[row, column]))
        if not largest < float("inf"):
            return float("inf")
        distance[row, :] = distance[:, column] = float("inf")
    return largest


def _farthest(rows: Tensor, others: Tensor) -> Tensor:
    """Largest difference in any column between each row (R, n) and each of the others (S, n): (R, S), NaN kept."""
    return torch.stack([(others - row).abs().amax(dim=1) for row in rows])


def decided_examples(definition: EagerDetector, shape: InputShape) -> list[tuple[float, Tensor]]:
    """Draw images on which the detector is decided: where rounding errors leave its detections alone.

    Boxes at the threshold of suppression, or equal scores, make any two runtimes disagree, and would say nothing of
    the graph.

    Returns:
        for each of `shape.sizes` the threshold to compare by, and an image as the graph takes it. The threshold is the
        detector's own, or leaves about as many detections as one of `COUNTS`.

    Raises:
        ValueError: there are no such images.
    """
    return [_decided(definition, shape, size) for size in shape.sizes()]


def _decided(definition: EagerDetector, shape: InputShape, size: tuple[int, int]) -> tuple[float, Tensor]:
    drawn = [blocks(shape, size, seed) for seed in range(_SEEDS)]
    for images in drawn:
        if len(definition(images)[0]) >= COUNTS[-1] and is_decided(definition, images, definition.threshold):
            return definition.threshold, images
    ordered = [definition(images, threshold=0.0)[0].sort(descending=True).values for images in drawn]
    for count in COUNTS:
        for images, scores in zip(drawn, ordered, strict=True):
            threshold = _threshold(scores, count)
            if threshold is not None and is_decided(definition, images, threshold):
                return threshold, images
    raise ValueError(
        "rounding errors decide what the detector finds in every image that was tried, as in a network whose scores "
        "are all alike because it is not trained"
    )


def _threshold(ordered: Tensor, count: int) -> float | None:
    """The middle of the widest gap around the `count` highest scores; None: there are fewer."""
    gaps = ordered[:-1] - ordered[1:]
    if len(gaps) < count:
        return None
    first = count - count // 2 - 1
    place = first + int(gaps[first : count + count // 2].argmax())
    return float((ordered[place] + ordered[place + 1]) / 2)


def is_decided(definition: EagerDetector, images: Tensor, threshold: float) -> bool:
    """Tell whether rounding errors in all layers leave the detections of an image alone."""
    found = definition(images, threshold=threshold)
    return all(
        largest_detection_difference(definition(images, threshold=threshold, seed=seed), found) < _LARGEST_PAIR
        for seed in _ROUNDINGS
    )


def blocks(shape: InputShape, size: tuple[int, int], seed: int) -> Tensor:
    """Draw an image of coloured blocks under noise, as the graph takes it: there is more to find than in noise."""
    height, width = size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, shape.channels, -(-height // 24), -(-width // 24)), generator=generator)
    images = nn.functional.interpolate(coarse, scale_factor=24.0)[:, :, :height, :width]
    images = 0.85 * images + 0.15 * torch.rand(images.shape, generator=generator)
    return shape.laid_out(images)
