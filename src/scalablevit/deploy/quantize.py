"""Quantize an exported graph to int8 by NNCF, with the first settings whose measured loss is allowed."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from scalablevit.deploy.export_formats import METADATA_KEY, save_openvino
from scalablevit.deploy.exportable import INPUT_NAME
from scalablevit.deploy.exported_graphs import open_graph
from scalablevit.deploy.graph_parts import PIXELS, parts_of_graph, without_weights
from scalablevit.deploy.runtimes import openvino_core
from scalablevit.weights.source import first_line

QUANTIZED_FORMATS = ("onnx", "openvino")


class QuantizationError(ValueError):
    """A network cannot be quantized, or loses more than is allowed; nothing was written."""


@dataclass(frozen=True)
class Settings:
    """How NNCF quantizes a network.

    Attributes:
        preset: "performance": symmetric activations; "mixed": asymmetric ones where they have two signs.
        smoothing: SmoothQuant (arXiv:2211.10438): move the range of activations into the weights.
        bias_correction: "fast", or "full", which runs the network for each layer.
        float_ends: the patch embedding of the pixels and the last part, such as the head, stay in floating point.
    """

    preset: Literal["performance", "mixed"] = "performance"
    smoothing: bool = False
    bias_correction: Literal["fast", "full"] = "fast"
    float_ends: bool = False

    def __str__(self) -> str:
        words = [
            f"preset {self.preset}",
            f"smoothing {'on' if self.smoothing else 'off'}",
            f"{self.bias_correction} bias correction",
        ]
        return ", ".join(words + ["first and last part in floating point"] * self.float_ends)


TRIALS = (
    Settings(),
    Settings("mixed"),
    Settings("mixed", smoothing=True),
    Settings("mixed", float_ends=True),
    Settings("mixed", bias_correction="full", float_ends=True),
)
"""Settings in the order in which they are tried: the cheapest to compute with first."""


@dataclass(frozen=True)
class Trial:
    """A quantized file and what it reaches.

    Attributes:
        settings: of NNCF.
        path: of the file.
        metric: as `measure` gives it; higher is better.
    """

    settings: Settings
    path: Path
    metric: float


def check_can_quantize(format: str) -> None:
    """Refuse to begin where nothing can be quantized.

    Raises:
        ValueError: a format without int8.
        ModuleNotFoundError: NNCF is not installed; the message names the extra.
    """
    if format not in QUANTIZED_FORMATS:
        raise ValueError(f"int8 is for the formats {' and '.join(QUANTIZED_FORMATS)}, got {format!r}")
    if find_spec("nncf") is None:
        raise ModuleNotFoundError("int8 needs nncf: python -m pip install 'scalablevit[int8]'")


def best_quantization(
    source: Path,
    folder: Path,
    *,
    images: Sequence[NDArray[Any]],
    weights: Mapping[str, Tensor],
    measure: Callable[[Path], float],
    floor: float,
    exclude: Sequence[str] = (),
    detections: int = 0,
    on_trial: Callable[[Trial], None] = lambda trial: None,
    trials: Sequence[Settings] = TRIALS,
) -> Trial:
    """Quantize with one setting after the other, until one reaches the metric that is asked for.

    Args:
        source: exported .onnx or .xml file in float32.
        folder: for the quantized files.
        images: batches as the graph takes them, for the ranges of activations.
        weights: of the network that was exported, by name.
        measure: a file's metric; higher is better.
        floor: lowest metric that is accepted.
        exclude: parts of the network that stay in floating point, as `part_of` names them.
        detections: most objects in an image, of a detector: its convolutions and matrix products alone are quantized;
            0: it is none.
        on_trial: called after each.
        trials: settings, the cheapest to compute with first.

    Returns:
        the first trial that reaches `floor`, or the one with the highest metric.

    Raises:
        ValueError: no such part, or no images.
        QuantizationError: NNCF fails with all settings.
    """
    if not images:
        raise ValueError("int8 needs at least one image for calibration")
    parts = parts_of_graph(source, weights)
    always = without_weights(source) if detections else set()
    if unknown := [name for name in exclude if name not in parts]:
        raise ValueError(f"the network has no part {', '.join(unknown)}; its parts are {', '.join(parts)}")
    done: list[Trial] = []
    failed = ""
    for i, settings in enumerate(trials):
        path = folder / f"{i}{source.suffix}"
        ends = {PIXELS, list(parts)[-1]} if settings.float_ends else set()
        try:
            quantize(source, path, images, settings, keep=always | _names(parts, ends.union(exclude)))
        except Exception as error:  # NNCF's own, of many kinds
            failed = f"{type(error).__name__}: {first_line(error)}"
            continue
        trial = Trial(settings, path, measure(path))
        on_trial(trial)
        done.append(trial)
        if trial.metric >= floor:
            return trial
    if not done:
        raise QuantizationError(f"NNCF cannot quantize this network ({failed}); nothing was written")
    return max(done, key=lambda trial: trial.metric)


def quantize(
    source: Path, target: Path, images: Sequence[NDArray[Any]], settings: Settings, *, keep: Collection[str] = ()
) -> None:
    """Write a file with int8 weights and activations; free sizes stay free.

    Args:
        source: exported .onnx or .xml file in float32.
        target: the quantized file, of the same format.
        images: batches as the graph takes them.
        settings: of NNCF.
        keep: names of operators that stay in floating point.
    """
    with _quiet():
        import nncf
        from nncf.quantization.advanced_parameters import QuantizationParameters

        smoothing = 0.95 if settings.smoothing else -1.0  # NNCF's own strength; -1 is off
        advanced = nncf.AdvancedQuantizationParameters(
            smooth_quant_alphas=nncf.AdvancedSmoothQuantParameters(matmul=smoothing, convolution=-1.0)
        )
        is_onnx = source.suffix == ".onnx"
        # Per channel, the ranges of a depthwise convolution's input come to lie before a transpose: in ONNX along the
        # wrong axis, and OpenVINO 2026.4 then computes wrong shapes where sizes are free.
        advanced.activations_quantization_params = QuantizationParameters(per_channel=False)
        data = nncf.Dataset([{INPUT_NAME: batch} for batch in images] if is_onnx else list(images))
        model = _read(source)
        quantized = nncf.quantize(
            model,
            data,
            preset=nncf.QuantizationPreset(settings.preset),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
            fast_bias_correction=settings.bias_correction == "fast",
            ignored_scope=nncf.IgnoredScope(names=sorted(keep), validate=False) if keep else None,
            advanced_parameters=advanced,
        )
        _save(quantized, model, target)


def gains_by_part(
    source: Path,
    folder: Path,
    *,
    images: Sequence[NDArray[Any]],
    weights: Mapping[str, Tensor],
    settings: Settings,
    exclude: Sequence[str] = (),
    detections: int = 0,
    most_images: int = 16,
) -> list[tuple[str, float]]:
    """Find the parts of a network that int8 harms most.

    Args:
        source, folder, images, weights, exclude, detections: as for `best_quantization`.
        settings: of NNCF.
        most_images: batches that are compared.

    Returns:
        (part, share of the squared error of the outputs, or of the scores of a detector, that is gone where it stays in
        floating point), the largest first.
    """
    parts = parts_of_graph(source, weights)
    shown = images[:most_images]
    always = without_weights(source) if detections else set()
    expected = _outputs(source, shown, detections)

    def error(more: Sequence[str], name: str) -> float:
        path = folder / f"{name}{source.suffix}"
        ends = [PIXELS, list(parts)[-1]] if settings.float_ends else []
        quantize(source, path, images, settings, keep=always | _names(parts, {*ends, *exclude, *more}))
        found = _outputs(path, shown, detections)
        return sum(_squared_error(outputs, wanted) for outputs, wanted in zip(found, expected, strict=True))

    whole = error([], "all")
    left = [part for part in parts if part not in exclude]
    gains = [(part, 1 - error([part], f"without-{i}") / whole if whole else 0.0) for i, part in enumerate(left)]
    return sorted(gains, key=lambda gain: -gain[1])


def _outputs(path: Path, images: Sequence[NDArray[Any]], detections: int) -> list[list[Tensor]]:
    """Run a file on batches as its graph takes them; of a detector the scores, filled up to its most detections."""
    run = open_graph(path).run
    outputs = [run(torch.from_numpy(batch)) for batch in images]
    return [[F.pad(found[0], (0, detections - len(found[0])))] for found in outputs] if detections else outputs


def _squared_error(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    return float(sum((x - y).double().square().sum() for x, y in zip(found, wanted, strict=True)))


def _names(parts: Mapping[str, Sequence[str]], chosen: Collection[str]) -> set[str]:
    return {name for part in chosen for name in parts.get(part, ())}


def _read(path: Path) -> Any:
    if path.suffix == ".onnx":
        import onnx

        return onnx.load(str(path))
    return openvino_core().read_model(str(path))


def _save(quantized: Any, model: Any, path: Path) -> None:
    """Write what NNCF made, with the metadata of what it got."""
    if path.suffix == ".onnx":
        import onnx

        onnx.helper.set_model_props(quantized, {entry.key: entry.value for entry in model.metadata_props})
        onnx.save(quantized, str(path))
        return
    save_openvino(quantized, json.loads(model.get_rt_info([METADATA_KEY]).value), path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF's progress bars and remarks from the user."""
    logger = logging.getLogger("nncf")
    level = logger.level
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
