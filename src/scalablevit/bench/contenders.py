"""The networks that can be measured side by side, by name.

    swin_tiny_patch4_window7_224    any name that timm knows; ours are registered there
    plain:scalablevit_small         our network written as published code does (`plain_definition.py`)
    twins_svt_small:4d              Twins-SVT, its window attention handed to PyTorch's fused kernel as 4-D tensors
    vit_pytorch:scalable_vit        vit-pytorch's ScalableViT-S with the arguments of its README
    vit_pytorch:scalable_vit_paper  the same with the paper's depth and windows
    runs/digits/model.onnx          an exported file: .onnx, .xml (OpenVINO) or .pt2 (PyTorch)
    runs/digits                     the network of a run

A suffix `@MODE` gives one contender a mode of its own: `scalablevit_small@optimized`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.twins import LocallyGroupedAttn
from torch import Tensor, nn

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.bench.plain_definition import PlainScalableViT
from scalablevit.deploy.exported import is_exported, open_exported
from scalablevit.networks import takes_one_size
from scalablevit.ops.windows import crop_to, pad_to_multiple, window_partition, window_unpartition
from scalablevit.tasks import entries, load
from scalablevit.weights import open_trained

CLASSES = 1000
PEERS = (
    "swin_tiny_patch4_window7_224",
    "twins_svt_small",
    "twins_svt_small:4d",
    "convnext_tiny",
    "vit_pytorch:scalable_vit_paper",
    "plain:scalablevit_small",
)
"""Networks about as large as `scalablevit_small`."""

_FOUR_D = ":4d"
# The arguments of ScalableViT-S in the README of vit-pytorch 1.26. Its windows of 64 and 32 tokens cover whole maps of
# 256-pixel images; None does so at any size.
_README = {
    "num_classes": CLASSES,
    "dim": 64,
    "heads": (2, 4, 8, 16),
    "depth": (2, 2, 20, 2),
    "ssa_dim_key": (40, 40, 40, 32),
    "reduction_factor": (8, 4, 2, 1),
    "window_size": None,
}
_VIT_PYTORCH: dict[str, dict[str, Any]] = {
    "vit_pytorch:scalable_vit": _README,
    # vit-pytorch counts pairs of blocks, the paper counts blocks; the paper's windows have 7 x 7 tokens
    "vit_pytorch:scalable_vit_paper": {**_README, "depth": (1, 1, 10, 1), "window_size": 7},
}


class CannotMeasure(ValueError):  # noqa: N818 - leaves a cell empty, is no failure
    """A network exists, but cannot be measured with these settings or on this machine."""


@dataclass(frozen=True)
class Contender:
    """A network to measure.

    Attributes:
        label: name as given, with the mode.
        name: of the network.
        mode: overrides the cell's mode; None keeps it.
        build: builds the network on the CPU for (height, width) in pixels; may raise `CannotMeasure`.
    """

    label: str
    name: str
    mode: str | None
    build: Callable[[tuple[int, int]], nn.Module]


def find_contender(label: str) -> Contender:
    """Find a contender by its label.

    Args:
        label: as in the docstring of this module.

    Raises:
        ValueError: there is no such network; the message suggests similar names.
    """
    name, _, mode = (label, "", "") if is_exported(label) else label.partition("@")
    build = _builder(name)
    if build is None:
        known = _all_names()
        close = [other for other in known if name and other.startswith(name)][:3]
        close = close or difflib.get_close_matches(name.lower(), known, 3, cutoff=0.5)
        hint = f"did you mean {' or '.join(close)}?" if close else "take a name of timm.list_models()"
        raise ValueError(f"MODEL {name!r}: there is no such network; {hint}")
    return Contender(label, name, mode or None, build)


def _builder(name: str) -> Callable[[tuple[int, int]], nn.Module] | None:
    """Return the function that builds the network for an image size; None if there is no such network."""
    if is_exported(name):
        if not Path(name).is_file():
            raise ValueError(f"MODEL {name!r}: there is no such file")
        return lambda size: open_exported(name)
    if (Path(name) / "model.safetensors").is_file():
        return lambda size: _run(name, size)
    if name in _VIT_PYTORCH:
        return lambda size: _vit_pytorch(name, size)
    if name.startswith("plain:"):
        variant = name.removeprefix("plain:")
        return (lambda size: _plain(variant)) if variant in VARIANTS else None
    if name.startswith("twins_svt_") and name.endswith(_FOUR_D):
        shipped = name.removesuffix(_FOUR_D)
        return (lambda size: _with_4d_windows(_timm(shipped, size))) if timm.is_model(shipped) else None
    return (lambda size: _timm(name, size)) if timm.is_model(name) else None


def _all_names() -> list[str]:
    special = [*_VIT_PYTORCH, *(f"plain:{variant}" for variant in VARIANTS)]
    return [*special, *(f"{name}{_FOUR_D}" for name in timm.list_models("twins_svt_*")), *timm.list_models()]


def build_contender(contender: Contender, size: tuple[int, int]) -> nn.Module:
    """Build a network initialised from a fixed seed, without dropout and drop path.

    Args:
        contender: from `find_contender`.
        size: height and width of the images, in pixels.

    Raises:
        CannotMeasure: it cannot be built, or not for this image size.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = contender.build(size)
    # Default rates differ between networks; their cost in training does not belong to the architecture.
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, DropPath):
            module.drop_prob = 0.0
    return model


def _run(name: str, size: tuple[int, int]) -> nn.Module:
    """Build the network of a run, with its weights; a detector takes images at their size, as its graph does."""
    trained = open_trained(name)
    preprocessing = trained.metadata.get("preprocessing") or {}
    architecture, own = str(trained.metadata.get("architecture")), trained.metadata.get("model_args") or {}
    if trained.task == "classification" and takes_one_size(architecture, own):
        side = tuple(preprocessing.get("image_size", size))
        if side != tuple(size):
            raise CannotMeasure(f"the run's network takes images of {side[0]} x {side[1]} pixels only: give this size")
    network = load(entries()[trained.task].predictor).load(trained, device="cpu").network
    return _Detections(network, size) if trained.task == "detection" else network


class _Detections(nn.Module):
    """A detector as a network of one tensor: (N, C, H, W) normalised images to the outputs of each."""

    def __init__(self, detector: Any, size: tuple[int, int]) -> None:
        super().__init__()
        self.detector = detector
        detector.transform.min_size, detector.transform.max_size = min(size), max(size)

    def forward(self, images: Tensor) -> list[Any]:
        """Detect in the images one by one."""
        return [self.detector([image]) for image in images]


def _timm(name: str, size: tuple[int, int]) -> nn.Module:
    """Build a network from timm's registry for images of `size`."""
    settings = timm.get_pretrained_cfg(name, allow_unregistered=True)
    arguments: dict[str, Any] = {"num_classes": CLASSES, "pretrained": False}
    if settings is not None and settings.fixed_input_size and tuple(settings.input_size[-2:]) != size:
        arguments["img_size"] = size
    try:
        return timm.create_model(name, **arguments)
    except (TypeError, AssertionError, ValueError) as error:
        if "img_size" not in arguments:
            raise
        raise CannotMeasure(f"cannot be built for {size[0]} x {size[1]} pixels: {error}") from error


def _plain(variant: str) -> nn.Module:
    """Build the plain definition with the weights of our network."""
    weights = ScalableViT(num_classes=CLASSES, **VARIANTS[variant]).state_dict()
    model = PlainScalableViT(variant, num_classes=CLASSES)
    model.load_state_dict(weights)
    return model


def _vit_pytorch(name: str, size: tuple[int, int]) -> nn.Module:
    try:
        package = importlib.import_module("vit_pytorch.scalable_vit")
    except ImportError as error:
        raise CannotMeasure("the package vit-pytorch is missing: python -m pip install vit-pytorch") from error
    window, (height, width) = _VIT_PYTORCH[name]["window_size"], size
    if window is not None and (height % (32 * window) or width % (32 * window)):
        raise CannotMeasure(f"sides must be multiples of {32 * window} pixels, as it does not pad windows")
    return package.ScalableViT(**_VIT_PYTORCH[name])


class _WindowsAsBatch(nn.Module):
    """Twins' window attention with all windows in the batch dimension.

    timm calls PyTorch's fused attention with (B, n, h, L, D); its kernels take four dimensions, and other inputs are
    computed step by step. Layers and weights are those of the module that it replaces.
    """

    def __init__(self, attention: LocallyGroupedAttn) -> None:
        super().__init__()
        self.num_heads, self.window = attention.num_heads, (attention.ws, attention.ws)
        self.qkv, self.proj = attention.qkv, attention.proj

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, N, C) tokens of an H by W map -> (B, N, C)."""
        B, N, C = x.shape
        height, width = size
        x = pad_to_multiple(x.view(B, height, width, C), self.window)  # (B, Hp, Wp, C)
        _, Hp, Wp, _ = x.shape
        qkv = self.qkv(window_partition(x, self.window))  # (B * n, L, 3C)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # each (B * n, h, L, D)
        x = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B * n, L, C)
        x = crop_to(window_unpartition(x, self.window, Hp, Wp), height, width)  # (B, H, W, C)
        return self.proj(x.reshape(B, N, C))


def _with_4d_windows(model: nn.Module) -> nn.Module:
    """Replace every window attention of a Twins-SVT."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LocallyGroupedAttn):
                setattr(parent, name, _WindowsAsBatch(child))
    return model
