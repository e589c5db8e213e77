"""Exported files of networks so small that an export takes a second."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.classification import Preprocessing
from scalablevit.deploy.export import export
from scalablevit.segmentation.transforms import Preprocessing as MaskPreprocessing

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NAMES = ("cat", "dog", "[cow]")


class TinyClassifier(nn.Module):
    """(B, 3, H, W) -> (B, K)."""

    def __init__(self, num_classes: int = len(NAMES)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.conv(images).relu().mean((2, 3)) * 4)


class TinySegmenter(nn.Module):
    """(B, 3, H, W) -> (B, K, H, W)."""

    def __init__(self, num_classes: int = len(NAMES)) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, num_classes, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


def classifier_metadata(names: Sequence[str] = NAMES, *, side: int = 32) -> dict[str, Any]:
    """What the weights of a classifier say."""
    preprocessing = Preprocessing(
        image_size=(side, side), crop_ratio=0.875, interpolation="bicubic", mean=MEAN, std=STD
    )
    return {
        "task": "classification",
        "class_names": list(names),
        "preprocessing": preprocessing.to_dict(),
        "architecture": "scalablevit_atto",
        "model_args": {"num_classes": len(names)},
    }


def segmenter_metadata(names: Sequence[str] = NAMES, *, short_side: int | None = None) -> dict[str, Any]:
    """What the weights of a segmenter say."""
    preprocessing = MaskPreprocessing(mean=MEAN, std=STD, short_side=short_side, long_side=None, palette=())
    return {
        "task": "segmentation",
        "class_names": list(names),
        "preprocessing": preprocessing.to_dict(),
        "inference": {"short_side": short_side, "long_side": None},
        "variant": "scalablevit_atto",
        "segmenter": "semantic_fpn",
        "model_args": {"in_chans": 3},
    }


def write_exported(
    folder: Path, form: str, *, network: nn.Module | None = None, metadata: dict[str, Any] | None = None, **fixed: Any
) -> Path:
    """An exported classifier, unless told otherwise."""
    path = folder / f"model{SUFFIXES[form]}"
    export(
        TinyClassifier() if network is None else network,
        path,
        format=form,
        mean=MEAN,
        std=STD,
        metadata=classifier_metadata() if metadata is None else metadata,
        **fixed,
    )
    return path


def with_metadata(path: Path, changed: object, to: Path) -> Path:
    """A copy of an ONNX file with other metadata: a text, or an object."""
    import onnx

    model = onnx.load(path)
    text = changed if isinstance(changed, str) else json.dumps(changed)
    onnx.helper.set_model_props(model, {"scalablevit": text})
    onnx.save(model, to)
    return to


def metadata_of(path: Path) -> dict[str, Any]:
    """The metadata of an ONNX file."""
    import onnx

    found: dict[str, Any] = json.loads(onnx.load(path).metadata_props[0].value)
    return found
