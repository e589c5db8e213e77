"""Export a trained network to a file that needs neither this package nor, but for one format, PyTorch."""

from __future__ import annotations

import contextlib
import copy
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_config

from scalablevit.deploy.detector_check import EagerDetector, decided_examples, largest_detection_difference
from scalablevit.deploy.detector_graph import DetectorGraph, detector_graph, is_detector
from scalablevit.deploy.export_formats import FORMATS, Encoded, ExportFormat, Run
from scalablevit.deploy.exportable import INPUT_NAME, ExportableNetwork, InputShape, describe
from scalablevit.deploy.optimize import fold
from scalablevit.safe_write import check_writable, write_together
from scalablevit.weights.metadata import problem_of_metadata
from scalablevit.weights.source import first_line

LARGEST_DIFFERENCE = 1e-4
"""Largest difference to PyTorch that an exported file may have, relative to the largest output."""


class ExportError(ValueError):
    """An exported graph does not compute what the network computes; nothing was written."""


class _DifferenceError(ExportError):
    """The graph runs, and gives something else."""


@dataclass(frozen=True)
class CheckedSize:
    """How an exported graph compares with PyTorch for images of one shape.

    Attributes:
        shape: of the images.
        difference: the largest, relative to the largest output.
        detections: that were compared; None: not a detector.
    """

    shape: tuple[int, ...]
    difference: float
    detections: int | None = None


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


def file_bytes(path: Path) -> int:
    """Size of an exported file, with the weights that OpenVINO has beside an .xml file, in bytes."""
    files = (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def export(
    network: nn.Module,
    path: str | os.PathLike[str],
    *,
    format: str,
    mean: Sequence[float],
    std: Sequence[float],
    metadata: Mapping[str, Any] | None = None,
    output_names: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    uint8: bool = False,
) -> Exported:
    """Export a network, check the result by the runtime of its format, and write it.

    Args:
        network: from normalised images (N, C, H, W) to a tensor or a list of them, whatever the size; such as
            `ScalableViT`, a pyramid from `create_backbone`, or a model of `scalablevit.segmentation`. Or a detector of
            `scalablevit.detection`: its graph takes one image, and resizes nothing.
        path: of the file; its name ends in .onnx, .xml (OpenVINO, with a .bin beside it) or .pt2 (PyTorch), by format.
        format: "onnx", "openvino" or "torch".
        mean, std: of the channels, for pixels in 0..1. The normalisation becomes a part of the graph.
        metadata: what else the file shall tell of itself, such as task and class_names; as JSON takes it. See
            `scalablevit.deploy.exportable.describe` for all keys.
        output_names: one for each output; None: ["logits"], or those of a detector.
        size: height and width in pixels that the graph is fixed to; None: both stay free.
        batch: number of images that the graph is fixed to; None: it stays free.
        uint8: take bytes (N, H, W, C) in place of floats in 0..1 (N, C, H, W).

    Returns:
        the file, and how far it is off at each size that was compared.

    Raises:
        ValueError: an unknown format, a path that does not fit it, an argument out of range, metadata that could not
            be read back, a detector with a batch, or with another mean or std than its own.
        ExportError: the exported graph fails, or differs from PyTorch by more than `LARGEST_DIFFERENCE`.
        ModuleNotFoundError: the format's packages are not installed.
        WriteError: the file could not be written.
    """
    path = Path(path)
    chosen = checked_format(format, path)
    if len(mean) != len(std) or not mean or min(std) <= 0:
        raise ValueError(f"mean and std must have a value per channel, std above 0; got {list(mean)} and {list(std)}")
    as_detector = is_detector(network)
    chosen.check_installed(format, is_detector=as_detector)
    shape = InputShape(len(mean), size=size, batch=batch, takes_bytes=uint8, is_detector=as_detector)
    shape.check_pixels()
    check_writable(path)
    network = copy.deepcopy(network).cpu().float().eval().requires_grad_(False)
    graph = detector_graph(fold(network)) if as_detector else fold(network)
    prepared = ExportableNetwork(graph, mean=mean, std=std, takes_bytes=uint8).eval()
    detections = graph.describe() if isinstance(graph, DetectorGraph) else None
    names = output_names or (graph.output_names if isinstance(graph, DetectorGraph) else ("logits",))
    described = describe(metadata or {}, shape, outputs=names, mean=mean, std=std, detections=detections)
    if problem := problem_of_metadata(described):
        raise ValueError(f"a file with this metadata could not be read back: {problem}; change it")
    definition: nn.Module
    thresholds: list[float] = []
    with torch.no_grad():
        if as_detector:
            definition = _eager_detector(network, mean, std, uint8)
            drawn = _examples_for(definition, shape)
            thresholds, examples = [threshold for threshold, _ in drawn], [images for _, images in drawn]
        else:
            definition = ExportableNetwork(network, mean=mean, std=std, takes_bytes=uint8).eval()
            examples = shape.examples()
        program = record(prepared, examples[0], shape)
    try:
        encoded = chosen.encode(program, described, names, shape.free_dims)
    except Exception as error:  # each converter's own
        raise ExportError(
            f"{format} cannot express this network ({type(error).__name__}: {first_line(error)}); nothing was written"
        ) from error
    if isinstance(definition, EagerDetector):
        checks = _compare_detections(encoded, definition, thresholds, examples, chosen.runtime)
    else:
        checks = [compare(encoded.run, definition, images, chosen.runtime) for images in examples]
    write_together({path.with_suffix(suffix): content for suffix, content in encoded.parts.items()})
    return Exported(path, chosen.runtime, tuple(checks))


def record(network: nn.Module, images: Tensor, shape: InputShape) -> ExportedProgram:
    """Record the operators that a network runs, with the free dimensions of its images kept free.

    Raises:
        ExportError: PyTorch cannot record this network.
    """
    dynamic: dict[str, Any] = {INPUT_NAME: dict.fromkeys(shape.free_dims, Dim.DYNAMIC)}
    try:
        # PyTorch would otherwise fix every size that it compares on the way.
        oblivious = symbolic_config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
        with oblivious, torch.no_grad(), warnings.catch_warnings():
            # torchvision's non-maximum suppression asks torch for free sizes by a name of before
            warnings.filterwarnings("ignore", message=".*create_unbacked_symint", category=FutureWarning)
            return torch.export.export(
                network,
                (images,),
                dynamic_shapes=dynamic if shape.free_dims else None,
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    except Exception as error:  # whatever a network of any kind makes of it
        raise ExportError(
            f"torch.export cannot record this network ({type(error).__name__}: {first_line(error)})"
        ) from error


def compare(run: Run, definition: Callable[[Tensor], Sequence[Tensor]], images: Tensor, runtime: str) -> CheckedSize:
    """Compare what an exported graph gives with what PyTorch gives.

    Raises:
        ExportError: the graph fails, or is further off than `LARGEST_DIFFERENCE`.
    """
    shape = tuple(images.shape)
    with torch.no_grad():
        expected = definition(images)
        try:
            found = run(images)
        except Exception as error:  # each runtime's own
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise ExportError(
                f"{runtime} fails on the exported graph for images {shape} ({reason}); nothing was written"
            ) from error
    detects = isinstance(getattr(definition, "func", definition), EagerDetector)
    difference = (largest_detection_difference if detects else _largest_difference)(found, expected)
    if not difference <= LARGEST_DIFFERENCE:
        counts = f" ({len(found[0])} detections for {len(expected[0])})" if detects else ""
        raise _DifferenceError(
            f"the exported graph in {runtime} differs from PyTorch by {difference:.1e} for images {shape}{counts}, and "
            f"at most {LARGEST_DIFFERENCE:.0e} is allowed; nothing was written"
        )
    return CheckedSize(shape, difference, len(expected[0]) if detects else None)


def _compare_detections(
    encoded: Encoded, definition: EagerDetector, thresholds: list[float], examples: list[Tensor], runtime: str
) -> list[CheckedSize]:
    """Compare the graph, with each threshold in the place of its own; and run it as it is."""
    runs = {definition.threshold: encoded.run}
    checks = []
    for threshold, images in zip(thresholds, examples, strict=True):
        if threshold not in runs:
            runs[threshold] = encoded.with_constants({"network.score_threshold": torch.tensor(threshold)})
            with contextlib.suppress(_DifferenceError):  # where rounding errors decide; but it has to run
                compare(encoded.run, definition, images, runtime)
        checks.append(compare(runs[threshold], partial(definition, threshold=threshold), images, runtime))
    return checks


def _largest_difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    return max(relative_difference(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference, relative to the largest number expected; infinite where shapes differ."""
    if found.shape != expected.shape:
        return float("inf")
    largest = expected.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
    return float((found - expected).abs().max() / largest)


def checked_format(format: str, path: Path) -> ExportFormat:
    """The format of a name, for a file of the path's name.

    Raises:
        ValueError: there is none, or the path's name does not fit it.
    """
    if format not in FORMATS:
        raise ValueError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    chosen = FORMATS[format]
    if path.suffix != chosen.suffix:
        raise ValueError(f"the name of a file for {chosen.runtime} ends in {chosen.suffix}, got {path}")
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    return chosen


def _eager_detector(network: Any, mean: Sequence[float], std: Sequence[float], takes_bytes: bool) -> EagerDetector:
    own = network.transform.mean, network.transform.std
    if (tuple(mean), tuple(std)) != (tuple(own[0]), tuple(own[1])):
        raise ValueError(
            f"a detector normalises by the mean and std that it was built with, {list(own[0])} and {list(own[1])}; got "
            f"{list(mean)} and {list(std)}"
        )
    return EagerDetector(network, takes_bytes=takes_bytes).eval()


def _examples_for(definition: EagerDetector, shape: InputShape) -> list[tuple[float, Tensor]]:
    try:
        return decided_examples(definition, shape)
    except ValueError as error:
        raise ExportError(f"the exported graph could not be checked: {error}; nothing was written") from error
