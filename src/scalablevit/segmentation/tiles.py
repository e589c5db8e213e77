"""Segment images of any size by overlapping tiles, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from scalablevit.segmentation.inference import InferenceSettings, padded_logits, segment

DEFAULT_TILE = 512
DEFAULT_CARRY_BYTES = 2**30


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles.

    Args:
        tile: side of a tile, in pixels; at least 1.
        overlap: of neighbouring tiles, in pixels, 0..tile / 2; None: a quarter of a tile.
        batch_size: tiles at a time; at least 1.
        carry_bytes: limit for the scores that wait for the next row of tiles; at least those of one tile are kept.

    Raises:
        ValueError: a value is out of range.
    """

    tile: int = DEFAULT_TILE
    overlap: int | None = None
    batch_size: int = 1
    carry_bytes: int = DEFAULT_CARRY_BYTES

    def __post_init__(self) -> None:
        for name in ("tile", "batch_size", "carry_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.overlapping <= self.tile // 2:
            raise ValueError(
                f"overlap must be in 0..{self.tile // 2}, half of a tile of {self.tile} px, got {self.overlap}"
            )

    @property
    def overlapping(self) -> int:
        """Overlap of neighbouring tiles, in pixels."""
        return self.tile // 4 if self.overlap is None else self.overlap


_DEFAULT_TILING = Tiling()


@dataclass(frozen=True, kw_only=True)
class TiledInference:
    """How an image is segmented by tiles.

    Args:
        num_classes: K.
        mean, std: of each channel, for values in 0..1.
        tiling: sizes of tiles and batches.
        scales, flip: passes over each tile, as in `InferenceSettings`; several are averaged as probabilities, and
            these are what is blended then, not logits.
        device: where to compute, and where waiting scores are kept.
        on_progress: called with (tiles done, all tiles) after every tile.
    """

    num_classes: int
    mean: Sequence[float]
    std: Sequence[float]
    tiling: Tiling = _DEFAULT_TILING
    scales: Sequence[float] = (1.0,)
    flip: bool = False
    device: torch.device | str = "cpu"
    on_progress: Callable[[int, int], None] | None = None


def segment_large(
    network: nn.Module, image: NDArray[np.uint8] | Image.Image, settings: TiledInference
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Segment an image of any size by overlapping tiles, in bounded memory.

    Scores of overlapping tiles are blended by `blended_scores`. Memory beside the image (3 bytes a pixel as an
    array; a PIL image takes 4) and the labels (1 byte a pixel):

    - the scores that wait for the next row of tiles: 4 K overlap W bytes, at most `tiling.carry_bytes` (a wider image
      is done in vertical strips, at the cost of one more column of tiles for each);
    - a few times 4 K tile^2 bytes for each tile of a batch, and what the network itself needs for the batch.

    For 10,000 x 10,000 pixels, 150 classes and tiles of 512 px these are 0.3 + 0.1 GB, 0.77 GB and 0.16 GB a time. With
    scalablevit_small under UperNet (0.23 GB of weights) and PyTorch itself (0.7 GB), a process on the CPU was measured
    to hold 2.9 GiB at most, at batch size 1.

    Args:
        network, image, settings: as for `blended_scores`.

    Returns:
        (H, W) class indices: uint8 where all of 0..K-1 leave 255 (ignored) free, else uint16.

    Raises:
        ValueError: as `blended_scores`.
    """
    height, width = _size(image)
    num_classes = settings.num_classes
    if num_classes < 1 or num_classes > 65535:
        raise ValueError(f"num_classes must be in 1..65535, got {num_classes}")
    labels = np.zeros((height, width), np.uint8 if num_classes <= 255 else np.uint16)
    for top, left, scores in blended_scores(network, image, settings):
        block = scores.argmax(dim=0).cpu().numpy()
        labels[top : top + block.shape[0], left : left + block.shape[1]] = block
    return labels


def blended_scores(
    network: nn.Module, image: NDArray[np.uint8] | Image.Image, settings: TiledInference
) -> Iterator[tuple[int, int, Tensor]]:
    """Compute the scores of an image block by block: those of overlapping tiles, blended so that no seams show.

    Tiles start every `tile - overlap` pixels; those at the right and bottom are shifted inwards, so that all have the
    full size (an image smaller than a tile is one tile). In an overlap one tile fades out as the next fades in, by
    sin^2 and cos^2, which sum to 1.

    Args:
        network: from images (B, C, h, w) to logits (B, K, h, w), in evaluation mode, on `device`.
        image: (H, W, C) uint8, also memory-mapped, or a PIL image of C channels.
        settings: classes, channels, tiles and passes.

    Yields:
        top, left, scores (K, h, w) float32 on `device`. The blocks cover every pixel once.

    Raises:
        ValueError: (with the first block) an argument is out of range, or the network's logits are not (B, K, h, w).
    """
    height, width = _size(image)
    num_classes, tile, overlap = settings.num_classes, settings.tiling.tile, settings.tiling.overlapping
    # All passes see a tile at its own size, times the scale.
    passes = InferenceSettings(scales=settings.scales, flip=settings.flip)
    size = (min(tile, height), min(tile, width))
    read = _TileReader(image, settings.mean, settings.std, size=size, device=settings.device)
    rows, columns = _spans(height, tile, overlap), _spans(width, tile, overlap)
    widest = width if len(rows) == 1 else settings.tiling.carry_bytes // max(4 * num_classes * overlap, 1)
    strips = _strips(columns, widest)

    def scores_of(row: _Span, batch: list[_Span]) -> Iterable[Tensor]:
        images = read([(row.start, column.start) for column in batch])
        return _tile_scores(network, images, passes, num_classes)

    done, tiles = 0, len(rows) * sum(len(strip.columns) for strip in strips)
    for strip in strips:
        for row, column, block in _blended_strip(
            strip,
            rows,
            scores_of,
            num_classes=num_classes,
            overlap=overlap,
            batch_size=settings.tiling.batch_size,
            device=settings.device,
        ):
            if block is not None:
                yield row.first, max(column.first, strip.left), block
            done += 1
            if settings.on_progress is not None:
                settings.on_progress(done, tiles)


def _blended_strip(
    strip: _Strip,
    rows: list[_Span],
    scores_of: Callable[[_Span, list[_Span]], Iterable[Tensor]],
    *,
    num_classes: int,
    overlap: int,
    batch_size: int,
    device: torch.device | str,
) -> Iterator[tuple[_Span, _Span, Tensor | None]]:
    """Blend the tiles of a strip: row, column and finished scores (K, h, w) of each; None where the strip has none."""
    # (overlap), from 0 to 1; reversed it falls, and the two sum to 1.
    rise = torch.sin((torch.arange(overlap, device=device) + 0.5) / max(overlap, 1) * (math.pi / 2)) ** 2
    # Scores of the row of tiles above, in the rows of pixels that it shares with this one.
    carry = torch.empty(num_classes, overlap if len(rows) > 1 else 0, strip.right - strip.left, device=device)
    for row in rows:
        beside: Tensor | None = None  # the same of the tile to the left, in the columns that it shares with this one
        for i in range(0, len(strip.columns), batch_size):
            batch = strip.columns[i : i + batch_size]
            for column, scores in zip(batch, scores_of(row, batch), strict=True):
                block = _faded(scores, row, column, rise)  # (K, row.end - row.first, column.end - column.first)
                if beside is not None:
                    block[:, :, :overlap] += beside
                ready = block.shape[2] - overlap * (not column.is_last)
                beside = block[:, :, ready:].clone()
                # A strip's first tile lacks its left neighbour, in columns that the strip before has done.
                begin, end = max(column.first, strip.left), min(column.first + ready, strip.right)
                block = block[:, :, begin - column.first : end - column.first]
                waiting = carry[:, :, begin - strip.left : end - strip.left]
                if not row.is_first:
                    block[:, :overlap] += waiting
                ready = block.shape[1] - overlap * (not row.is_last)
                if not row.is_last:
                    waiting.copy_(block[:, ready:])
                yield row, column, block[:, :ready] if begin < end else None


@dataclass(frozen=True)
class _Span:
    """A tile along one axis: it is cut at `start`, and its scores count in [first, end)."""

    start: int
    first: int
    end: int
    is_first: bool
    is_last: bool


def _spans(length: int, tile: int, overlap: int) -> list[_Span]:
    """Tiles along an axis of `length` pixels; neighbours share exactly `overlap` pixels in which both count."""
    size, step = min(tile, length), tile - overlap
    number = math.ceil((length - size) / step) + 1
    return [
        _Span(min(i * step, length - size), i * step, min(i * step + size, length), i == 0, i == number - 1)
        for i in range(number)
    ]


class _Strip(NamedTuple):
    """The part [left, right) of the width, and the tiles that lie in it."""

    left: int
    right: int
    columns: list[_Span]


def _strips(columns: list[_Span], widest: int) -> list[_Strip]:
    """Cut the width into parts no wider than `widest` if that is more than a tile."""
    strips: list[_Strip] = []
    left = 0
    while left < columns[-1].end:
        right = max(span.end for span in columns if span.end - left <= widest or span.first <= left)
        strips.append(_Strip(left, right, [span for span in columns if span.first < right and span.end > left]))
        left = right
    return strips


class _TileReader:
    """Cuts tiles of one size out of an image and normalises them, the rest of it left where it is."""

    def __init__(
        self,
        image: NDArray[np.uint8] | Image.Image,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        size: tuple[int, int],
        device: torch.device | str,
    ) -> None:
        channels = len(image.getbands()) if isinstance(image, Image.Image) else image.shape[2]
        if not channels == len(mean) == len(std):
            raise ValueError(
                f"the image has {channels} channels, mean and std are of {len(mean)} and {len(std)}; convert the image"
            )
        self.image, self.size, self.device = image, size, device
        self.mean = torch.tensor(mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(std, device=device).view(-1, 1, 1)

    def __call__(self, corners: list[tuple[int, int]]) -> Tensor:
        """Tiles at (top, left), normalised: (B, C, h, w)."""
        pixels = torch.from_numpy(np.stack([self._cut(top, left) for top, left in corners])).to(self.device)
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std  # (B, h, w, C) -> (B, C, h, w)

    def _cut(self, top: int, left: int) -> NDArray[np.uint8]:
        bottom, right = top + self.size[0], left + self.size[1]
        if isinstance(self.image, Image.Image):
            pixels = np.asarray(self.image.crop((left, top, right, bottom)))
            return pixels if pixels.ndim == 3 else pixels[:, :, None]  # grayscale
        return self.image[top:bottom, left:right]


def _tile_scores(network: nn.Module, images: Tensor, passes: InferenceSettings, num_classes: int) -> Iterable[Tensor]:
    """(B, C, h, w) -> B scores (K, h, w): logits of a single pass, else mean probabilities."""
    if passes.scales == (1.0,) and not passes.flip:
        with torch.no_grad():
            scores: Sequence[Tensor] = padded_logits(network, images).unbind()
    else:
        scores = [segment(network, image, passes) for image in images]
    if scores[0].shape[0] != num_classes:
        raise ValueError(f"the network gives {scores[0].shape[0]} classes, num_classes is {num_classes}")
    return scores


def _faded(scores: Tensor, row: _Span, column: _Span, rise: Tensor) -> Tensor:
    """A copy of the part of a tile's scores (K, h, w) that counts, faded at the sides where it has neighbours."""
    top, left, overlap = row.first - row.start, column.first - column.start, len(rise)
    block = scores[:, top : row.end - row.start, left : column.end - column.start].clone()
    height, width = block.shape[1:]
    if not row.is_first:
        block[:, :overlap] *= rise[:, None]
    if not row.is_last:
        block[:, height - overlap :] *= rise.flip(0)[:, None]
    if not column.is_first:
        block[:, :, :overlap] *= rise
    if not column.is_last:
        block[:, :, width - overlap :] *= rise.flip(0)
    return block


def _size(image: NDArray[np.uint8] | Image.Image) -> tuple[int, int]:
    """Height and width of an image that can be cut into tiles."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    if image.ndim != 3 or image.dtype != np.uint8 or min(image.shape) < 1:
        raise ValueError(f"an image must be (H, W, C) uint8, got {image.shape} {image.dtype}; convert it")
    return image.shape[0], image.shape[1]
