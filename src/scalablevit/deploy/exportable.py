"""A trained network as it is exported: from images to outputs, with the normalisation inside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.ops.layout import channels_first

INPUT_NAME = "images"
FORMAT_VERSION = 1
"""Version of the metadata in exported files. It rises when an older reader would err."""

# Images that show a graph to be free in batch, height and width: odd, not square, one and several.
_TRACED = (2, 64, 96)
_OTHERS = ((1, 101, 75), (3, 128, 160), (1, 32, 32))


class ExportableNetwork(nn.Module):
    """A network behind the normalisation of its images.

    Args:
        network: from normalised images (N, C, H, W) to a tensor, or a list of them.
        mean: per channel, of pixels in 0..1.
        std: per channel, of pixels in 0..1; above 0.
        takes_bytes: images are (N, H, W, C) of bytes; else (N, C, H, W) of floats in 0..1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, *, mean: Sequence[float], std: Sequence[float], takes_bytes: bool) -> None:
        super().__init__()
        self.network = network
        self.takes_bytes = takes_bytes
        self.register_buffer("mean", torch.tensor(list(mean))[:, None, None])  # (C, 1, 1)
        self.register_buffer("std", torch.tensor(list(std))[:, None, None])

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images to the network's outputs."""
        if self.takes_bytes:
            images = channels_first(images).to(torch.float32) / 255  # (N, H, W, C) -> (N, C, H, W)
        outputs = self.network((images - self.mean) / self.std)
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


@dataclass(frozen=True)
class InputShape:
    """What shapes of images an exported graph takes.

    Args:
        channels: of an image; at least 1.
        size: height and width in pixels; None: both are free.
        batch: number of images; None: free.
        takes_bytes: as for `ExportableNetwork`.

    Raises:
        ValueError: a number below 1.
    """

    channels: int
    size: tuple[int, int] | None = None
    batch: int | None = None
    takes_bytes: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be at least 1 pixel high and wide, got {self.size}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch must be at least 1 image, got {self.batch}")

    @property
    def free_dims(self) -> dict[int, str]:
        """Dimension -> name of those that a caller may choose."""
        height, width = (1, 2) if self.takes_bytes else (2, 3)
        free = {} if self.batch is not None else {0: "batch"}
        return free if self.size is not None else {**free, height: "height", width: "width"}

    def examples(self) -> list[Tensor]:
        """Images to trace with, and then images of the other sizes that the graph must take."""
        found: list[Tensor] = []
        generator = torch.Generator().manual_seed(0)
        for batch, height, width in (_TRACED, *_OTHERS):
            shape = (self.batch or batch, self.channels, *(self.size or (height, width)))
            if any(tuple(x.shape) == self._laid_out(shape) for x in found):
                continue
            images = torch.rand(shape, generator=generator)
            found.append((images.permute(0, 2, 3, 1) * 255).byte().contiguous() if self.takes_bytes else images)
        return found

    def describe(self) -> dict[str, Any]:
        """For the metadata of the exported file."""
        return {
            "name": INPUT_NAME,
            "layout": "NHWC" if self.takes_bytes else "NCHW",
            "dtype": "uint8" if self.takes_bytes else "float32",
            "range": [0, 255] if self.takes_bytes else [0, 1],
            "channels": {1: "gray", 3: "RGB"}.get(self.channels, str(self.channels)),
            "batch": self.batch or "free",
            "size": list(self.size) if self.size else "free",
        }

    def _laid_out(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        batch, channels, height, width = shape
        return (batch, height, width, channels) if self.takes_bytes else shape
