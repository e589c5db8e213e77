"""Read what a run's weights say about themselves: task, classes, preprocessing, arguments of the network."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from scalablevit.weights.source import WeightsError, first_line, weights_file

METADATA_KEY = "scalablevit"


@dataclass(frozen=True)
class TrainedWeights:
    """Weights of a run, with their metadata read and their task known.

    Attributes:
        path: the safetensors file.
        task: "classification", "detection" or "segmentation".
        metadata: as the run wrote it.
    """

    path: Path
    task: str
    metadata: dict[str, Any]


def open_trained(source: str | os.PathLike[str] | TrainedWeights, task: str | None = None) -> TrainedWeights:
    """Read the metadata of a run's weights, and check the task.

    Args:
        source: run folder, or the `model.safetensors` in it; weights that are open already are checked alone.
        task: what the weights must be trained for; None: anything.

    Raises:
        WeightsError: not weights of a run, or weights for another task.
        FileNotFoundError: no such file.
    """
    if not isinstance(source, TrainedWeights):
        source = _read_trained(source)
    if task is not None and source.task != task:
        raise WeightsError(f"{source.path} holds weights for {source.task!r}, not for {task}")
    return source


def trained_task(source: str | os.PathLike[str]) -> str:
    """Return the task of a run's weights: "classification", "detection" or "segmentation".

    Args:
        source: run folder, or the `model.safetensors` in it.

    Raises:
        WeightsError: not weights of a run.
        FileNotFoundError: no such file.
    """
    return open_trained(source).task


def metadata_for(source: str | os.PathLike[str], task: str) -> dict[str, Any]:
    """Return the metadata of a run's weights that were trained for `task`.

    Raises:
        WeightsError: not weights of a run, or weights for another task.
        FileNotFoundError: no such file.
    """
    return open_trained(source, task).metadata


def read_metadata(source: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the metadata that `save_weights` put into a safetensors file; empty where there is none.

    Raises:
        WeightsError: not a safetensors file.
        FileNotFoundError: no such file.
    """
    path = weights_file(source)
    try:
        with safe_open(path, "pt") as file:
            return parse_metadata(file.metadata())
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} is truncated or not a safetensors file ({first_line(error)})") from error


def parse_metadata(header: dict[str, str] | None) -> dict[str, Any]:
    """Decode our entry in the header of a safetensors file."""
    return json.loads((header or {}).get(METADATA_KEY, "{}"))


def _read_trained(source: str | os.PathLike[str]) -> TrainedWeights:
    path = Path(source)
    if path.is_file() and path.suffix != ".safetensors":
        raise WeightsError(
            f"{path}: predicting takes a run folder or its model.safetensors, which know the class names "
            "and the preprocessing; from other checkpoints a run can start: "
            "scalablevit fit --config finetune_folder --model.weights ..."
        )
    metadata = read_metadata(source)
    task = metadata.get("task")
    if not isinstance(task, str):
        raise WeightsError(
            f"{source} holds weights without the task that they were trained for; predicting takes a run folder of "
            "`scalablevit fit`, or the model.safetensors in it"
        )
    return TrainedWeights(weights_file(source), task, metadata)
