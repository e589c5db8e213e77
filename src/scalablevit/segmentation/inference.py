"""From a network to labels: whole images, sliding windows, several scales, and pictures of any size by tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from scalablevit.data.resizing import resized_size

# What papers mean by "multi-scale with flips" on ADE20K.
MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
_COARSEST_STRIDE = 32  # pixels per token of the coarsest map
DEFAULT_TILE = 512
DEFAULT_CARRY_BYTES = 2**30


@dataclass(frozen=True)
class InferenceSettings:
    """How an image is shown to the network.

    Attributes:
        short_side: the image is first resized to this short side, in pixels, its shape kept; None: it keeps its size.
        long_side: no more than this for the resized long side, in pixels, whatever `short_side` asks; None: no limit.
        mode: "whole" shows the image at once; "slide" shows windows and averages their logits where they overlap.
        crop: side of a window, in pixels; smaller where the image is.
        stride: step from a window to the next, in pixels, 1..crop; the last ones are shifted inwards to fit.
        scales: factors on the size above, one pass each. Several passes are averaged as probabilities.
        flip: a second pass for each scale, mirrored left to right.

    Raises:
        ValueError: a value out of range.
    """

    short_side: int | None = None
    long_side: int | None = None
    mode: Literal["whole", "slide"] = "whole"
    crop: int = 512
    stride: int = 341
    scales: Sequence[float] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scales", tuple(float(scale) for scale in self.scales))
        for name in ("short_side", "long_side", "crop"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1 pixel, got {value}")
        if self.mode not in ("whole", "slide"):
            raise ValueError(f"mode must be 'whole' or 'slide', got {self.mode!r}")
        if not 1 <= self.stride <= self.crop:
            raise ValueError(f"stride must be in 1..crop ({self.crop}) to leave no gaps, got {self.stride}")
        _check_scales(self.scales)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "scales": list(self.scales)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InferenceSettings:
        """The reverse of `to_dict`.

        Raises:
            ValueError: an unknown setting, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(values) - set(known)):
            raise ValueError(f"no inference setting {', '.join(unknown)}; they are {', '.join(known)}")
        return cls(**values)

    def resized(self, height: int, width: int, scale: float = 1.0) -> tuple[int, int]:
        """Height and width at which an image of `height` by `width` pixels is shown at a scale; at least 1 pixel."""
        return resized_size(height, width, short_side=self.short_side, long_side=self.long_side, factor=scale)


@torch.no_grad()
def segment(network: nn.Module, image: Tensor, settings: InferenceSettings | None = None) -> Tensor:
    """Class probabilities of every pixel of an image.

    In every pass the image is resized (bilinearly, antialiased), its logits are resized back (bilinearly), and their
    softmax is taken. For K classes this holds a few times 4 K H W bytes; for pictures where that is too much there is
    `segment_large`.

    Args:
        network: from images (1, C, h, w) to logits (1, K, h, w), in evaluation mode.
        image: (C, H, W), normalised, on the network's device.
        settings: sizes and passes; None: one pass over the whole image at its own size.

    Returns:
        (K, H, W) float32, which sum to 1 over K: the mean of the passes' probabilities.

    Raises:
        ValueError: the image is not (C, H, W), or the network's logits are not of the image's size.
    """
    settings = settings or InferenceSettings()
    if image.ndim != 3 or min(image.shape) < 1:
        raise ValueError(f"an image must be (C, H, W) with at least 1 pixel, got {tuple(image.shape)}")
    height, width = image.shape[1:]
    passes = [(scale, flip) for scale in settings.scales for flip in ((False, True) if settings.flip else (False,))]
    total: Tensor | None = None
    for scale, flip in passes:
        shown = _resized(image[None], settings.resized(height, width, scale), antialias=True)
        shown = shown.flip(-1) if flip else shown
        logits = _logits(network, shown) if settings.mode == "whole" else _slide(network, shown, settings)
        logits = _resized(logits.flip(-1) if flip else logits, (height, width), antialias=False)
        probabilities = logits[0].softmax(dim=0)  # (K, H, W)
        total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total if len(passes) == 1 else total.div_(len(passes))


def segment_large(
    network: nn.Module,
    picture: NDArray[np.uint8] | Image.Image,
    *,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    tile: int = DEFAULT_TILE,
    overlap: int | None = None,
    batch_size: int = 1,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    device: torch.device | str = "cpu",
    carry_bytes: int = DEFAULT_CARRY_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Label a picture of any size by overlapping tiles, in bounded memory.

    Scores of overlapping tiles are blended by `blended_scores`. Memory beside the picture (3 bytes a pixel as an
    array; a PIL picture takes 4) and the labels (1 byte a pixel):

    - the scores that wait for the next row of tiles: 4 K overlap W bytes, at most `carry_bytes` (a wider picture is
      done in vertical strips, at the cost of one column of tiles more for each);
    - a few times 4 K tile^2 bytes for each tile of a batch, and what the network itself needs for the batch.

    For 10,000 x 10,000 pixels, 150 classes and tiles of 512 px these are 0.3 + 0.1 GB, 0.77 GB and 0.16 GB a time. With
    scalablevit_small under UperNet (0.23 GB of weights) and PyTorch itself (0.7 GB), a process on the CPU was measured
    to hold 2.9 GiB at most, at batch size 1.

    Args:
        network, picture, num_classes, mean, std, tile, overlap, batch_size, scales, flip, device, carry_bytes,
            on_progress: as for `blended_scores`.

    Returns:
        (H, W) class indices: uint8 where all of 0..K-1 leave 255 (ignored) free, else uint16.

    Raises:
        ValueError: as `blended_scores`.
    """
    height, width = _size(picture)
    if num_classes < 1 or num_classes > 65535:
        raise ValueError(f"num_classes must be in 1..65535, got {num_classes}")
    labels = np.zeros((height, width), np.uint8 if num_classes <= 255 else np.uint16)
    for top, left, scores in blended_scores(
        network,
        picture,
        num_classes=num_classes,
        mean=mean,
        std=std,
        tile=tile,
        overlap=overlap,
        batch_size=batch_size,
        scales=scales,
        flip=flip,
        device=device,
        carry_bytes=carry_bytes,
        on_progress=on_progress,
    ):
        block = scores.argmax(dim=0).cpu().numpy()
        labels[top : top + block.shape[0], left : left + block.shape[1]] = block
    return labels


def blended_scores(
    network: nn.Module,
    picture: NDArray[np.uint8] | Image.Image,
    *,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    tile: int = DEFAULT_TILE,
    overlap: int | None = None,
    batch_size: int = 1,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    device: torch.device | str = "cpu",
    carry_bytes: int = DEFAULT_CARRY_BYTES,
    on_progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, int, Tensor]]:
    """Scores of a picture, block by block: those of overlapping tiles, blended so that no seams show.

    Tiles start every `tile - overlap` pixels; those at the right and bottom are shifted inwards, so that all have the
    full size (a picture smaller than a tile is one tile). In an overlap one tile fades out as the next fades in, by
    sin^2 and cos^2, which sum to 1.

    Args:
        network: from images (B, C, h, w) to logits (B, K, h, w), in evaluation mode, on `device`.
        picture: (H, W, C) uint8, also memory-mapped, or a PIL picture of C channels.
        num_classes: K.
        mean, std: of each channel, for values in 0..1.
        tile: side of a tile, in pixels; at least 1.
        overlap: of neighbouring tiles, in pixels, 0..tile / 2; None: a quarter of a tile.
        batch_size: tiles at a time; at least 1.
        scales, flip: passes over each tile, as in `InferenceSettings`; several are averaged as probabilities, and
            these are what is blended then, not logits.
        device: where to compute, and where waiting scores are kept.
        carry_bytes: limit for the scores that wait for the next row of tiles; at least those of one tile are kept.
        on_progress: called with (tiles done, all tiles) after every tile.

    Yields:
        top, left, scores (K, h, w) float32 on `device`. The blocks cover every pixel once.

    Raises:
        ValueError: (with the first block) an argument is out of range, or the network's logits are not (B, K, h, w).
    """
    overlap = tile // 4 if overlap is None else overlap
    for name, value in dict(tile=tile, batch_size=batch_size, carry_bytes=carry_bytes).items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not 0 <= overlap <= tile // 2:
        raise ValueError(f"overlap must be in 0..{tile // 2}, half of a tile of {tile} px, got {overlap}")
    height, width = _size(picture)
    read = _TileReader(picture, mean, std, size=(min(tile, height), min(tile, width)), device=device)
    # All passes see a tile at its own size, times the scale.
    passes = InferenceSettings(scales=scales, flip=flip)
    rows, columns = _spans(height, tile, overlap), _spans(width, tile, overlap)
    widest = width if len(rows) == 1 else carry_bytes // max(4 * num_classes * overlap, 1)
    strips = _strips(columns, widest)
    # (overlap), from 0 to 1; turned round it falls, and the two sum to 1.
    rise = torch.sin((torch.arange(overlap, device=device) + 0.5) / max(overlap, 1) * (math.pi / 2)) ** 2
    done, tiles = 0, len(rows) * sum(len(spans) for _, _, spans in strips)
    for left, right, spans in strips:
        # What the row of tiles above says of the rows that it shares with this one.
        carry = torch.empty(num_classes, overlap if len(rows) > 1 else 0, right - left, device=device)
        for row in rows:
            beside: Tensor | None = None  # the same of the tile to the left, and the columns shared with that
            for i in range(0, len(spans), batch_size):
                batch = spans[i : i + batch_size]
                images = read([(row.start, column.start) for column in batch])
                for column, scores in zip(batch, _tile_scores(network, images, passes, num_classes), strict=True):
                    block = _faded(scores, row, column, rise)  # (K, row.end - row.first, column.end - column.first)
                    if beside is not None:
                        block[:, :, :overlap] += beside
                    ready = block.shape[2] - overlap * (not column.is_last)
                    beside = block[:, :, ready:].clone()
                    # A strip's first tile lacks its left neighbour, in columns that the strip before has done.
                    begin, end = max(column.first, left), min(column.first + ready, right)
                    block = block[:, :, begin - column.first : end - column.first]
                    waiting = carry[:, :, begin - left : end - left]
                    if not row.is_first:
                        block[:, :overlap] += waiting
                    ready = block.shape[1] - overlap * (not row.is_last)
                    if not row.is_last:
                        waiting.copy_(block[:, ready:])
                    if begin < end:
                        yield row.first, begin, block[:, :ready]
                    done += 1
                    if on_progress is not None:
                        on_progress(done, tiles)


def class_pixels(labels: NDArray[np.integer[Any]], num_classes: int) -> list[int]:
    """How many pixels each class has.

    Args:
        labels: (H, W) class indices; those of `num_classes` and above (such as 255, ignored) are not counted.
        num_classes: K; at least 1.

    Returns:
        K counts, by class index.
    """
    counts = np.zeros(num_classes, np.int64)
    # np.bincount makes eight bytes of every label, so a large picture is counted a part at a time.
    rows = max(1, 2**22 // max(labels.shape[1], 1))
    for top in range(0, labels.shape[0], rows):
        counts += np.bincount(labels[top : top + rows].ravel(), minlength=num_classes)[:num_classes]
    return counts.tolist()


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


def _strips(columns: list[_Span], widest: int) -> list[tuple[int, int, list[_Span]]]:
    """Parts [left, right) of the width, no wider than `widest` if that is more than a tile, and their tiles."""
    strips, left = [], 0
    while left < columns[-1].end:
        right = max(span.end for span in columns if span.end - left <= widest or span.first <= left)
        strips.append((left, right, [span for span in columns if span.first < right and span.end > left]))
        left = right
    return strips


class _TileReader:
    """Cuts tiles of one size out of a picture and normalises them, the rest of it left where it is."""

    def __init__(
        self,
        picture: NDArray[np.uint8] | Image.Image,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        size: tuple[int, int],
        device: torch.device | str,
    ) -> None:
        channels = len(picture.getbands()) if isinstance(picture, Image.Image) else picture.shape[2]
        if not channels == len(mean) == len(std):
            raise ValueError(
                f"the picture has {channels} channels, mean and std are of {len(mean)} and {len(std)}; "
                "convert the picture"
            )
        self.picture, self.size, self.device = picture, size, device
        self.mean = torch.tensor(mean, device=device).view(-1, 1, 1)
        self.std = torch.tensor(std, device=device).view(-1, 1, 1)

    def __call__(self, corners: list[tuple[int, int]]) -> Tensor:
        """Tiles at (top, left), normalised: (B, C, h, w)."""
        pixels = torch.from_numpy(np.stack([self._cut(top, left) for top, left in corners])).to(self.device)
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std  # (B, h, w, C) -> (B, C, h, w)

    def _cut(self, top: int, left: int) -> NDArray[np.uint8]:
        bottom, right = top + self.size[0], left + self.size[1]
        if isinstance(self.picture, Image.Image):
            pixels = np.asarray(self.picture.crop((left, top, right, bottom)))
            return pixels if pixels.ndim == 3 else pixels[:, :, None]  # grayscale
        return self.picture[top:bottom, left:right]


def _tile_scores(network: nn.Module, images: Tensor, passes: InferenceSettings, num_classes: int) -> Iterable[Tensor]:
    """(B, C, h, w) -> B scores (K, h, w): logits of a single pass, else mean probabilities."""
    if passes.scales == (1.0,) and not passes.flip:
        with torch.no_grad():
            scores: Sequence[Tensor] = _logits(network, images).unbind()
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


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, K, h, w), in float32 also where the network computes in less.

    The network sees images whose sides are multiples of its coarsest stride, as in training, their last rows and
    columns repeated: the zeros that its convolutions would fill up with are the mean colour, and an edge to it that
    no training crop had was taken for objects.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % _COARSEST_STRIDE, 0, -height % _COARSEST_STRIDE), mode="replicate")
    logits = network(padded)
    if logits.ndim != 4 or logits.shape[2:] != padded.shape[2:] or len(logits) != len(images):
        raise ValueError(
            f"the network must return logits (B, K, h, w) of its images' size {tuple(padded.shape)}, "
            f"got {tuple(logits.shape)}"
        )
    return logits[:, :, :height, :width].float()


def _slide(network: nn.Module, images: Tensor, settings: InferenceSettings) -> Tensor:
    """(1, C, h, w) -> (1, K, h, w): the mean of the logits of all windows over a pixel."""
    height, width = images.shape[2:]
    total: Tensor | None = None
    count = images.new_zeros(1, 1, height, width, dtype=torch.float32)
    size = (min(settings.crop, height), min(settings.crop, width))
    for top in _starts(height, settings):
        for left in _starts(width, settings):
            window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
            logits = _logits(network, images[window])
            if total is None:
                total = logits.new_zeros(1, logits.shape[1], height, width)
            total[window] += logits
            count[window] += 1
    assert total is not None
    return total.div_(count)


def _starts(length: int, settings: InferenceSettings) -> list[int]:
    """Where windows start along an axis of `length` pixels."""
    last = max(length - settings.crop, 0)
    return [min(i * settings.stride, last) for i in range(math.ceil(last / settings.stride) + 1)]


def _resized(x: Tensor, size: tuple[int, int], *, antialias: bool) -> Tensor:
    """(1, C, h, w) -> (1, C, *size), bilinearly."""
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=antialias)


def _size(picture: NDArray[np.uint8] | Image.Image) -> tuple[int, int]:
    """Height and width of a picture that can be cut into tiles."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    if picture.ndim != 3 or picture.dtype != np.uint8 or min(picture.shape) < 1:
        raise ValueError(f"a picture must be (H, W, C) uint8, got {picture.shape} {picture.dtype}; convert it")
    return picture.shape[0], picture.shape[1]


def _check_scales(scales: Sequence[float]) -> None:
    if not scales or min(scales) <= 0 or not all(map(math.isfinite, scales)):
        raise ValueError(f"scales must be one or more factors above 0, such as (0.5, 1.0), got {list(scales)}")
