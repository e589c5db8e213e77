"""Export a trained network to a file that needs neither this package nor, but for one format, PyTorch."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_config

from scalablevit import __version__
from scalablevit.deploy.export_formats import FORMATS, Encoded
from scalablevit.deploy.exportable import FORMAT_VERSION, INPUT_NAME, ExportableNetwork, InputShape
from scalablevit.deploy.optimize import fold
from scalablevit.safe_write import write_atomically

LARGEST_DIFFERENCE = 1e-4
"""Largest difference to PyTorch that an exported file may have, relative to the largest output."""


class ExportError(ValueError):
    """An exported graph does not compute what the network computes; nothing was written."""


@dataclass(frozen=True)
class CheckedSize:
    """How an exported graph compares with PyTorch for images of one shape.

    Attributes:
        shape: of the images.
        difference: the largest, relative to the largest output.
    """

    shape: tuple[int, ...]
    difference: float


@dataclass(frozen=True)
class Exported:
    """A file that was exported and checked.

    Attributes:
        path: the main file.
        runtime: that checked it.
        checks: one for each shape; the first is the traced one.
    """

    path: Path
    runtime: str
    checks: tuple[CheckedSize, ...]


def export(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    format: str,
    mean: Sequence[float],
    std: Sequence[float],
    metadata: Mapping[str, Any] | None = None,
    output_names: Sequence[str] = ("logits",),
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    uint8: bool = False,
) -> Exported:
    """Export a network, check the result by the runtime of its format, and write it.

    Args:
        network: from normalised images (N, C, H, W) to a tensor or a list of them, whatever the size; such as
            `ScalableViT`, a pyramid from `create_backbone`, or a model of `scalablevit.segmentation`.
        path: of the file; its name ends in .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2 (PyTorch), by format.
        format: "onnx", "openvino" or "torch".
        mean, std: of the channels, for pixels in 0..1. The normalisation becomes a part of the graph.
        metadata: what else the file shall tell of itself, such as task and class_names; as JSON takes it.
        output_names: one for each output.
        size: height and width in pixels that the graph is fixed to; None: both stay free.
        batch: number of images that the graph is fixed to; None: it stays free.
        uint8: take bytes (N, H, W, C) in place of floats in 0..1 (N, C, H, W).

    Returns:
        the file, and how far it is off at each size that was compared.

    Raises:
        ValueError: an unknown format, a path that does not fit it, or an argument out of range.
        ExportError: the exported graph fails, or differs from PyTorch by more than `LARGEST_DIFFERENCE`.
        ModuleNotFoundError: the format's packages are not installed.
        WriteError: the file could not be written.
    """
    path = Path(path)
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    chosen = FORMATS[format]
    if path.suffix != chosen.suffix:
        raise ValueError(f"the name of a file for {chosen.runtime} ends in {chosen.suffix}, got {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    if len(mean) != len(std) or not mean or min(std) <= 0:
        raise ValueError(f"mean and std must have a value per channel, std above 0; got {list(mean)} and {list(std)}")
    chosen.check_installed(format)
    shape = InputShape(len(mean), size=size, batch=batch, takes_bytes=uint8)
    network = copy.deepcopy(network).cpu().float().eval()
    definition = ExportableNetwork(network, mean=mean, std=std, takes_bytes=uint8).eval()
    folded = ExportableNetwork(fold(network), mean=mean, std=std, takes_bytes=uint8).eval()
    examples = shape.examples()
    program = record(folded, examples[0], shape)
    described = {
        **(metadata or {}),
        "export": {
            "format_version": FORMAT_VERSION,
            "input": shape.describe(),
            "outputs": list(output_names),
            "normalisation": {"inside": True, "mean": list(mean), "std": list(std)},
        },
        "license": "Apache-2.0",
        "scalablevit_version": __version__,
    }
    encoded = chosen.encode(program, described, output_names, shape.free_dims)
    checks = tuple(compare(encoded, definition, images, chosen.runtime) for images in examples)
    for suffix, content in encoded.parts.items():
        write_atomically(path.with_suffix(suffix), partial(_write, content))
    return Exported(path, chosen.runtime, checks)


def record(network: nn.Module, images: Tensor, shape: InputShape) -> ExportedProgram:
    """Record the operators that a network runs, with the free dimensions of its images kept free.

    Raises:
        ExportError: PyTorch cannot record this network.
    """
    dynamic: dict[str, Any] = {INPUT_NAME: dict.fromkeys(shape.free_dims, Dim.DYNAMIC)}
    try:
        # PyTorch would otherwise fix every size that it compares on the way.
        with symbolic_config.patch(backed_size_oblivious=True), torch.no_grad():  # type: ignore[attr-defined]
            return torch.export.export(
                network,
                (images,),
                dynamic_shapes=dynamic if shape.free_dims else None,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # whatever a network of any kind makes of it
        raise ExportError(
            f"torch.export cannot record this network ({type(error).__name__}: {_first_line(error)})"
        ) from error


def compare(encoded: Encoded, definition: nn.Module, images: Tensor, runtime: str) -> CheckedSize:
    """Compare what an exported graph gives with what PyTorch gives.

    Raises:
        ExportError: the graph fails, or is further off than `LARGEST_DIFFERENCE`.
    """
    shape = tuple(images.shape)
    with torch.no_grad():
        expected = definition(images)
        try:
            found = encoded.run(images)
        except Exception as error:  # each runtime's own
            reason = f"{type(error).__name__}: {_first_line(error)}"
            raise ExportError(
                f"{runtime} fails on the exported graph for images {shape} ({reason}); nothing was written"
            ) from error
    difference = max(relative_difference(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    if not difference <= LARGEST_DIFFERENCE:
        raise ExportError(
            f"the exported graph in {runtime} differs from PyTorch by {difference:.1e} for images {shape}, and at most "
            f"{LARGEST_DIFFERENCE:.0e} is allowed; nothing was written"
        )
    return CheckedSize(shape, difference)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest number expected; infinite where shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    largest = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((found - expected).abs().max() / largest)


def _write(content: bytes, file: BinaryIO) -> None:
    file.write(content)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), "")
