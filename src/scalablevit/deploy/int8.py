"""Export a network in int8: quantized on images, measured, and written only if it loses no more than is allowed."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scalablevit.deploy.detector_check import blocks
from scalablevit.deploy.detector_graph import detector_graph, is_detector, layer_weights
from scalablevit.deploy.export import checked_format, export, file_bytes, relative_difference
from scalablevit.deploy.export_formats import FORMATS, METADATA_KEY, Run, save_openvino
from scalablevit.deploy.exportable import InputShape
from scalablevit.deploy.exported import open_exported
from scalablevit.deploy.exported_graphs import open_graph
from scalablevit.deploy.optimize import fold
from scalablevit.deploy.quantize import (
    QuantizationError,
    Trial,
    best_quantization,
    check_can_quantize,
    gains_by_part,
)
from scalablevit.deploy.runtimes import Precision, openvino_core, precisions_of
from scalablevit.safe_write import check_writable, write_together
from scalablevit.weights.source import first_line

TIMED_IMAGES = 8
"""Most images in the batch that `Comparison.timed` gets."""


@dataclass(frozen=True)
class Variant:
    """One precision of an exported network.

    Attributes:
        name: "fp32", "bf16", "int8", or "int8 + bf16": in bf16 what is not int8.
        metric: as the evaluation gives it.
        bytes: size of the file, with its weights.
        run: images as the graph takes them to its outputs.
    """

    name: str
    metric: float
    bytes: int
    run: Run


@dataclass(frozen=True)
class Int8Exported:
    """An int8 file that was measured and written.

    Attributes:
        path: the main file.
        trial: what was taken.
        variants: fp32 first.
        batch: images as the graph takes them, for timing.
        differences: shape of images -> largest difference to the fp32 file, relative to the largest output; empty for
            a detector, whose numbers of objects may differ.
    """

    path: Path
    trial: Trial
    variants: tuple[Variant, ...]
    batch: Tensor
    differences: Mapping[tuple[int, ...], float]


@dataclass(frozen=True)
class Quantization:
    """What an int8 file is made with, and how much it may lose.

    Args:
        images: normalised images (N, C, H, W) of the training set, as the network gets them.
        measure: metric of a network of normalised images on the validation set, in 0..1; higher is better.
        metric: its name.
        max_drop: largest loss, in points: hundredths of the metric.
        exclude: parts that stay in floating point.

    Raises:
        ValueError: `max_drop` is below 0 or not a number.
    """

    images: Sequence[Tensor]
    measure: Callable[[nn.Module], float]
    metric: str
    max_drop: float = 1.0
    exclude: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.max_drop >= 0:
            raise ValueError(f"max_drop must be at least 0 points, got {self.max_drop}")


def export_int8(
    network: nn.Module,
    path: str | os.PathLike[str],
    quantization: Quantization,
    *,
    format: str,
    mean: Sequence[float],
    std: Sequence[float],
    on_step: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> Int8Exported:
    """Export a network in int8, by the first of NNCF's settings that loses no more than is allowed.

    Args:
        network, path, format, mean, std: as for `scalablevit.deploy.export.export`; "onnx" or "openvino".
        quantization: images, metric and limit.
        on_step: called with a line for people after each step.
        options: further arguments of `export`.

    Returns:
        the file, and what each precision reaches.

    Raises:
        QuantizationError: the loss is larger; names the parts to exclude. No file is written.
        ValueError: an argument out of range.
        ModuleNotFoundError: NNCF, or a package of the format, is not installed.
        WriteError: the file could not be written.
    """
    check_can_quantize(format)
    path = Path(path)
    checked_format(format, path)
    check_writable(path)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / f"fp32{FORMATS[format].suffix}"
        _check_size(options.get("size"), quantization.images)
        export(network, source, format=format, mean=mean, std=std, **options)
        on_step("exported in fp32 and checked")
        opened = open_exported(source)
        taken = [opened.as_taken(images).numpy() for images in quantization.images]
        folded = fold(network).cpu().float()
        weights = folded.state_dict()
        if is_detector(folded):
            weights = layer_weights(detector_graph(folded))
        detections = int(opened.metadata.get("detections", {}).get("detections_per_image", 0))
        measured = _Measured(quantization.measure)
        fp32 = measured.variants(source)
        on_step(f"fp32: {quantization.metric} {fp32[0].metric:.2%}")
        if math.isnan(fp32[0].metric):
            raise QuantizationError(f"the validation set gives no {quantization.metric}; nothing was written")
        trial = best_quantization(
            source,
            folder,
            images=taken,
            weights=weights,
            measure=measured.metric,
            floor=fp32[0].metric - quantization.max_drop / 100,
            exclude=quantization.exclude,
            detections=detections,
            on_trial=lambda trial: on_step(f"int8, {trial.settings}: {quantization.metric} {trial.metric:.2%}"),
        )
        drop = 100 * (fp32[0].metric - trial.metric)
        if not drop <= quantization.max_drop:
            on_step("looking for the parts that int8 harms most")
            gains = gains_by_part(
                source, folder, images=taken, weights=weights, settings=trial.settings, exclude=quantization.exclude,
                detections=detections,
            )  # fmt: skip
            raise QuantizationError(_too_much(quantization, fp32[0].metric, trial, gains))
        if detections:
            differences = {}
            _check_detections(trial.path, opened.input)
        else:
            differences = dict(_differences(source, trial.path, opened.input.examples()))
        _describe(trial, quantization, fp32[0].metric)
        variants = (*fp32, *measured.variants(trial.path, is_int8=True))
        suffixes = [".bin"] * (format == "openvino") + [path.suffix]
        write_together({path.with_suffix(x): trial.path.with_suffix(x).read_bytes() for x in suffixes})
    return Int8Exported(path, trial, variants, _stacked(taken, opened.input.batch), differences)


def _check_size(size: tuple[int, int] | None, images: Sequence[Tensor]) -> None:
    """Refuse to fix a graph to another size than the images have that it is calibrated on."""
    for image in images:
        height, width = image.shape[2:]
        if size not in (None, (height, width)):
            raise ValueError(
                f"--size {' '.join(map(str, size or ()))} does not fit the images of the data, which the network sees "
                f"at {height}x{width} pixels: leave out --size"
            )


class _Measured:
    """Metrics of files, each measured once."""

    def __init__(self, measure: Callable[[nn.Module], float]) -> None:
        self._measure = measure
        self._known: dict[tuple[Path, Precision], float] = {}

    def metric(self, path: Path, precision: Precision = "f32") -> float:
        if (path, precision) not in self._known:
            self._known[path, precision] = self._measure(open_exported(path, precision=precision))
        return self._known[path, precision]

    def variants(self, path: Path, *, is_int8: bool = False) -> list[Variant]:
        size = file_bytes(path)
        names = {"f32": "int8", "bf16": "int8 + bf16"} if is_int8 else {"f32": "fp32", "bf16": "bf16"}
        return [
            Variant(names[precision], self.metric(path, precision), size, open_graph(path, precision).run)
            for precision in precisions_of(path)
        ]


def _too_much(quantization: Quantization, before: float, trial: Trial, gains: Sequence[tuple[str, float]]) -> str:
    useful = [(part, gain) for part, gain in gains if gain >= 0.1][:3]
    said = ", ".join(f"{part} ({gain:.0%})" for part, gain in useful)
    advice = (
        f"the error of the outputs comes mostly from {said}: leave them in floating point by "
        f"--exclude {' '.join([*quantization.exclude, *(part for part, _ in useful)])}, or raise --max-drop"
        if useful
        else "no part of the network alone is the cause: raise --max-drop, or give more --calibration-images"
    )
    return (
        f"int8 loses {100 * (before - trial.metric):.2f} points of {quantization.metric} ({before:.2%} to "
        f"{trial.metric:.2%}), and --max-drop allows {quantization.max_drop:g}; nothing was written; {advice}"
    )


def _differences(source: Path, quantized: Path, examples: Iterable[Tensor]) -> Iterable[tuple[tuple[int, ...], float]]:
    """Run the quantized file at each shape, beside the one in fp32.

    Raises:
        QuantizationError: it fails, or its outputs have other shapes or are not finite.
    """
    ours, theirs = open_graph(quantized).run, open_graph(source).run
    for images in examples:
        shape = tuple(images.shape)
        try:
            found, wanted = ours(images), theirs(images)
        except Exception as error:  # each runtime's own
            raise QuantizationError(
                f"the int8 graph fails for images {shape} ({first_line(error)}); nothing was written"
            ) from error
        largest = 0.0
        for x, y in zip(found, wanted, strict=True):
            if x.shape != y.shape or not x.isfinite().all():
                raise QuantizationError(f"the int8 graph is wrong for images {shape}; nothing was written")
            largest = max(largest, relative_difference(x, y))
        yield shape, largest


def _check_detections(quantized: Path, shape: InputShape) -> None:
    """Run a quantized detector at several sizes.

    Raises:
        QuantizationError: it fails, or its outputs do not fit together or are not finite.
    """
    run = open_graph(quantized).run
    for size in shape.sizes():
        images = blocks(shape, size, seed=0)
        try:
            outputs = run(images)
        except Exception as error:  # each runtime's own
            raise QuantizationError(
                f"the int8 graph fails for images {tuple(images.shape)} ({first_line(error)}); nothing was written"
            ) from error
        if len({len(output) for output in outputs}) > 1 or not all(output.isfinite().all() for output in outputs):
            raise QuantizationError(f"the int8 graph is wrong for images {tuple(images.shape)}; nothing was written")


def _describe(trial: Trial, quantization: Quantization, before: float) -> None:
    """Have the file tell how it was quantized."""
    told = {
        "settings": str(trial.settings),
        "excluded": list(quantization.exclude),
        "calibration_images": sum(len(images) for images in quantization.images),
        "metric": quantization.metric,
        "fp32": before,
        "int8": trial.metric,
    }
    path = trial.path
    if path.suffix == ".onnx":
        import onnx

        model = onnx.load(str(path))
        (entry,) = (entry for entry in model.metadata_props if entry.key == METADATA_KEY)
        entry.value = json.dumps({**json.loads(entry.value), "int8": told})
        onnx.save(model, str(path))
        return
    opened = openvino_core().read_model(str(path))
    metadata = json.loads(opened.get_rt_info([METADATA_KEY]).value)
    described = path.with_name("described.xml")
    save_openvino(opened, {**metadata, "int8": told}, described)
    del opened  # it may read its weights from the file
    for suffix in (".xml", ".bin"):
        described.with_suffix(suffix).replace(path.with_suffix(suffix))


def _stacked(batches: Sequence[NDArray[Any]], fixed: int | None) -> Tensor:
    """The first images of one shape, as a batch of as many as the graph is fixed to."""
    if fixed is not None:
        return torch.from_numpy(batches[0])
    alike = [batch for batch in batches if batch.shape[1:] == batches[0].shape[1:]]
    return torch.from_numpy(batches[0] if len(batches[0]) > 1 else np.concatenate(alike[:TIMED_IMAGES]))
