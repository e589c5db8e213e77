"""A trained network as it is exported: from images to outputs, with the normalisation inside."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit import __version__
from scalablevit.ops.layout import channels_first

INPUT_NAME = "images"
FORMAT_VERSION = 1
"""Version of the metadata in exported files. It rises when an older reader would err."""

# Images that show a graph to be free in batch, height and width: odd, not square, one and several.
_TRACED = (2, 64, 96)
_OTHERS = ((1, 101, 75), (3, 128, 160), (1, 32, 32))
LARGEST_SIDE, LARGEST_BATCH = 2**14, 2**16
"""Of a file that is fixed to a size or batch, in pixels and images."""
MOST_CHECKED = 2**26
"""Pixels of the images, all of a batch together, that a graph is checked with: more would take all of the memory."""
# Traced large enough that each level of a feature pyramid has several rows and columns.
# Little padding: scores are all alike in it.
_DETECTOR_SIZES = ((192, 288), (127, 95), (160, 317), (64, 64))


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
        is_detector: each image has outputs of a length of its own, so that a graph takes one.

    Raises:
        ValueError: a number below 1 or above its limit, or a detector with a batch.
    """

    channels: int
    size: tuple[int, int] | None = None
    batch: int | None = None
    takes_bytes: bool = False
    is_detector: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be at least 1 pixel high and wide, got {self.size}")
        if self.size is not None and max(self.size) > LARGEST_SIDE:
            raise ValueError(f"size must be at most {LARGEST_SIDE:,} pixels high and wide, got {self.size}")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch must be at least 1 image, got {self.batch}")
        if self.batch is not None and self.batch > LARGEST_BATCH:
            raise ValueError(f"batch must be at most {LARGEST_BATCH:,} images, got {self.batch}")
        if self.is_detector:
            if self.batch not in (None, 1):
                raise ValueError(
                    f"batch must be 1 for a detector, got {self.batch}: each image has another number of objects, "
                    "and an output is one array; run images one by one"
                )
            object.__setattr__(self, "batch", 1)

    @property
    def free_dims(self) -> dict[int, str]:
        """Dimension -> name of those that a caller may choose."""
        height, width = (1, 2) if self.takes_bytes else (2, 3)
        free = {} if self.batch is not None else {0: "batch"}
        return free if self.size is not None else {**free, height: "height", width: "width"}

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of images to trace a detector with, and of others that its graph must take."""
        return list(_DETECTOR_SIZES) if self.size is None else [self.size]

    def examples(self) -> list[Tensor]:
        """Images to trace with, and then images of the other sizes that the graph must take."""
        generator = torch.Generator().manual_seed(0)
        return [
            self.laid_out(torch.rand((batch, self.channels, height, width), generator=generator))
            for batch, height, width in self._shapes()
        ]

    def check_pixels(self) -> None:
        """Refuse a fixed batch and size that are too large to be checked.

        Raises:
            ValueError: more than `MOST_CHECKED` pixels.
        """
        batch, height, width = max(self._shapes(), key=math.prod)
        if batch * height * width > MOST_CHECKED:
            raise ValueError(
                f"the check would compute images {batch} x {height} x {width}, more than {MOST_CHECKED / 1e6:.0f} "
                "million pixels: choose a smaller size or batch, or leave both free"
            )

    def _shapes(self) -> list[tuple[int, int, int]]:
        """Number, height and width of the images to trace and check with, each shape once."""
        if self.is_detector:
            return [(1, *size) for size in self.sizes()]
        shapes = (
            (self.batch or batch, *(self.size or (height, width))) for batch, height, width in (_TRACED, *_OTHERS)
        )
        return list(dict.fromkeys(shapes))

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

    def laid_out(self, pixels: Tensor) -> Tensor:
        """Images (N, C, H, W), float in 0..1, in the layout and dtype that the graph takes."""
        if not self.takes_bytes:
            return pixels
        return (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous()  # (N, H, W, C)

    def filled(self, images: Tensor) -> Tensor:
        """Images, with the last one repeated up to the number that the graph is fixed to."""
        lacking = (self.batch or 0) - len(images)
        return images if lacking <= 0 else torch.cat([images, images[-1:].expand(lacking, *images.shape[1:])])


def resize_rule(metadata: Mapping[str, Any], fixed: tuple[int, int] | None = None) -> dict[str, Any] | None:
    """Say how an image becomes the graph's input, from the metadata of a run.

    Args:
        metadata: of the run.
        fixed: height and width that the graph is fixed to, which a classifier's images are cut to; None: free.

    Returns:
        None where the metadata do not tell. Otherwise `rule` and its numbers, in pixels:
        "cover": resize in proportion until height and width are at least those of `size`, then cut the middle of
        `crop` (height, width) out;
        "fit": resize in proportion until the shorter side is `short_side`, or the longer one `long_side` if that is
        less; null: no such limit, and without both the image keeps its size.
        `interpolation` is that of the resizing, antialiased.
    """
    given = metadata.get("preprocessing")
    if not isinstance(given, Mapping):
        return None
    if "image_size" in given:
        height, width = fixed or given["image_size"]
        ratio = given["crop_ratio"]
        return {
            "rule": "cover",
            "size": [math.floor(height / ratio), math.floor(width / ratio)],
            "crop": [height, width],
            "interpolation": given["interpolation"],
        }
    # Detectors are evaluated as they were trained; segmentation models have settings of their own for it.
    short, long = given.get("min_size"), given.get("max_size")
    if "min_size" not in given:
        inference = metadata.get("inference") or {}
        short, long = inference.get("short_side"), inference.get("long_side")
    return {"rule": "fit", "short_side": short, "long_side": long, "interpolation": "bilinear"}


def describe(
    metadata: Mapping[str, Any],
    shape: InputShape,
    *,
    outputs: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    detections: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Build the metadata of an exported file, a JSON object under the key `scalablevit`.

    Keys of every file:
        `task`: "classification", "detection", "segmentation" or "features"; the last where the caller names none.
        `license`, `scalablevit_version`: of this package.
        `export.format_version`: see `FORMAT_VERSION`.
        `export.input`: `name`, `layout` ("NCHW", "NHWC"), `dtype` ("float32", "uint8"), `range`, `channels` ("RGB",
            "gray"), `batch` and `size` [height, width], each "free" or fixed. A detector's batch is 1.
        `export.outputs`: names, in order. ["logits"]; of a pyramid "stride_4" and so on; of RetinaNet ["scores",
            "labels", "boxes"], of Mask R-CNN with "masks" as well.
        `export.normalisation`: `inside` (true), `mean` and `std` of each channel, of values in 0..1.
        `export.resize`: see `resize_rule`; not in a file of a bare network.
        `export.weights_sha256`, of OpenVINO: of the .bin file that belongs to the .xml file.

    Keys of a run's file:
        `class_names`, by class index; `colours`, [red, green, blue] in 0..255 of each class.
        `variant` or `architecture`, of segmentation `segmenter`, of detection `detector`; `model_args`.
        `preprocessing`, as the run had it; of segmentation `inference` too, and `label_map` where the run had one.

    Key of a detector's file:
        `detections`: `score_threshold`, the lowest score; `nms_iou`, the highest IoU of two boxes of a class;
            `detections_per_image`; `first_label`, the output's label of class 0, which is 0; `boxes`, their format;
            of Mask R-CNN `mask_size`, [28, 28]: a mask holds probabilities of its class over the area of its box.
    """
    export: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "input": shape.describe(),
        "outputs": list(outputs),
        "normalisation": {"inside": True, "mean": list(mean), "std": list(std)},
    }
    resize = resize_rule(metadata, shape.size)
    if resize is not None:
        export["resize"] = resize
    told = {"license": "Apache-2.0", "scalablevit_version": __version__}
    described = {"task": "features", **metadata, "export": export, **told}
    return described if detections is None else {**described, "detections": dict(detections)}
