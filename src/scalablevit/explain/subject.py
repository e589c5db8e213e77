"""What is explained: an image, the network's input made of it, and the scores that the network gives."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from scalablevit.data.bands import reads_bands
from scalablevit.data.image_batches import ReadImage, read_batches

log = logging.getLogger(__name__)

MOST_TARGETS = 6
"""Objects or regions of an image that are explained, unless more are asked for."""


@dataclass(frozen=True)
class Frame:
    """Where the pixels of a network's input lie in the image that it was made of.

    Args:
        image: (height, width) of the image, in pixels.
        seen: (height, width) of the part of the input that shows the image; what lies right and below is padding.
        box_xyxy: the part of the image that is shown, in its pixels.
    """

    image: tuple[int, int]
    seen: tuple[int, int]
    box_xyxy: tuple[float, float, float, float]

    def to_input(self, x: float, y: float) -> tuple[float, float]:
        """Position (x, y) in the image, in pixels from its upper left corner, as one in the input."""
        left, top, right, bottom = self.box_xyxy
        return (x - left) / (right - left) * self.seen[1], (y - top) / (bottom - top) * self.seen[0]

    def to_image(self, maps: Tensor) -> Tensor:
        """Lay maps over the image.

        Args:
            maps: (B, h, w) of values of the input's pixels.

        Returns:
            (B, H, W) at the image's size, bilinear between pixels; 0 outside of what the network was shown.
        """
        y, x, inside = self.places(maps.device)
        shown = maps[:, : self.seen[0], : self.seen[1]]
        return sampled(shown, y * self.seen[0] - 0.5, x * self.seen[1] - 0.5) * inside

    def places(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Place the image's pixels in the part that is shown.

        Returns:
            for each row (H,) and column (W,) where it lies between the part's edges, 0 to 1; and (H, W) bool: inside.
        """
        height, width = self.image
        left, top, right, bottom = self.box_xyxy
        y = (torch.arange(height, device=device) + 0.5 - top) / (bottom - top)
        x = (torch.arange(width, device=device) + 0.5 - left) / (right - left)
        return y, x, ((y >= 0) & (y <= 1))[:, None] & ((x >= 0) & (x <= 1))


def spread_tokens(frame: Frame, tokens: Tensor, stride: int) -> Tensor:
    """Lay tokens over the image, each pixel with its own.

    Args:
        frame: of the network's input.
        tokens: (h, w, ...) of values, each over its patch of the input.
        stride: pixels per token.

    Returns:
        (H, W, ...) at the image's size; 0 outside of what the network was shown.
    """
    rows, columns, inside = frame.places(tokens.device)
    i = (rows * frame.seen[0] / stride).floor().long().clamp(0, tokens.shape[0] - 1)
    j = (columns * frame.seen[1] / stride).floor().long().clamp(0, tokens.shape[1] - 1)
    return tokens[i][:, j] * inside.reshape(*inside.shape, *[1] * (tokens.ndim - 2))


def sampled(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Read maps bilinearly at positions between their cells; beyond the first and last cell their values go on.

    Args:
        maps: (B, h, w).
        rows: (H,) row of each row to read; 0 is the centre of the first one.
        columns: (W,) likewise.

    Returns:
        (B, H, W).
    """
    h, w = maps.shape[1:]
    grid = torch.stack(
        torch.broadcast_tensors((2 * columns + 1) / w - 1, ((2 * rows + 1) / h - 1)[:, None]), dim=-1
    )  # (H, W, 2): x, y
    grid = grid.to(maps.dtype).expand(len(maps), -1, -1, -1)
    return F.grid_sample(maps[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]


@dataclass(frozen=True)
class Target:
    """A score of the network that is explained.

    Args:
        name: of the class.
        value: of the score, in 0..1.
        words: how the value reads.
        score: from the network's output for inputs (B, C, h, w) to (B,) differentiable numbers.
        box_xyxy: of the object, in pixels of the image; None: the score has no place.
        region: (H, W) bool pixels of the image that the score is of; None: the score has no place.
    """

    name: str
    value: float
    words: str
    score: Callable[[Any], Tensor]
    box_xyxy: tuple[float, float, float, float] | None = None
    region: Any = None


@dataclass(frozen=True)
class Subject:
    """An image as a network sees it.

    Args:
        path: of the image.
        image: upright, RGB.
        network: that is explained, in evaluation mode.
        inputs: (1, C, h, w) what `compute` takes, on the network's device.
        frame: where pixels of `inputs` lie in the image.
        pixels: (1, C, h, w) normalised and padded, as the stages of the network see it.
        pixels_frame: where pixels of `pixels` lie in the image.
        find_targets: from the name of a class, or None, to the scores to explain, the most important first.
        class_names: by class index.
        compute: from a network and inputs (B, C, h, w) to the network's output.
        mean: (C,) of `inputs`' values; what hidden pixels are filled with.
    """

    path: Path
    image: Image.Image
    network: nn.Module
    inputs: Tensor
    frame: Frame
    pixels: Tensor
    pixels_frame: Frame
    find_targets: Callable[[str | None], Sequence[Target]]
    class_names: Sequence[str]
    compute: Callable[[nn.Module, Tensor], Any]
    mean: Sequence[float]


@dataclass(frozen=True)
class Explanation:
    """What a method found.

    Args:
        method: its name.
        path: of the image; None: of all of them.
        numbers: as JSON takes them.
        words: (what, how much) for the table of the command line.
        draw: draws it.
    """

    method: str
    path: Path | None
    numbers: Mapping[str, Any]
    draw: Callable[[], Image.Image]
    words: Sequence[tuple[str, str]] = field(default_factory=list)


def read_images(paths: Sequence[Path], predictor: Any) -> Iterator[ReadImage]:
    """Read image files one by one as a predictor's network takes them: as RGB, or all its bands.

    Args:
        paths: image files.
        predictor: of any task.

    Raises:
        ValueError: the network takes bands, and rasterio is not installed.
    """
    preprocessing = predictor.preprocessing
    in_chans = getattr(preprocessing, "in_chans", 3)
    num_bands = in_chans if reads_bands(in_chans) else None
    for (file,) in read_batches(paths, 1, value_range=preprocessing.value_range, num_bands=num_bands):
        yield file


def class_index(name: str, class_names: Sequence[str]) -> int:
    """Index of a class.

    Raises:
        ValueError: there is no such class; names some that there are.
    """
    if name in class_names:
        return list(class_names).index(name)
    from difflib import get_close_matches

    from scalablevit.abridged import abridged

    close = get_close_matches(name, class_names, n=3)
    known = f"did you mean {' or '.join(close)}?" if close else f"classes are {abridged(list(class_names), 10)}"
    raise ValueError(f"there is no class {name!r}; {known}")


def chosen_targets(subject: Subject, class_name: str | None, most: int) -> Sequence[Target]:
    """The scores to explain, the most important first, `most` at most; a log line says what is left out.

    Raises:
        ValueError: `most` is below 1, or there is no such class.
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, got {most}")
    targets = subject.find_targets(class_name)
    if len(targets) > most:
        log.warning("%s: %d of %d objects are explained; --most N explains more", subject.path, most, len(targets))
    return targets[:most]
