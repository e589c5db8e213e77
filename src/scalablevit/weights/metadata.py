"""Read what a run's weights say about themselves: task, classes, preprocessing, arguments of the network."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from scalablevit.abridged import abridged
from scalablevit.model_files import TRAINED, WEIGHTS_FILE
from scalablevit.weights.formats import weights_format
from scalablevit.weights.source import TRAINED_NETWORKS, WeightsError, first_line, shortened, weights_file

METADATA_KEY = "scalablevit"
FORMAT_VERSION = 1
"""Version of the metadata that `save_model` and `save_network` write. It rises when an older reader would err; keys
that a reader does not know are kept and ignored."""

PRETRAINING_TASK = "pretraining"
"""In the metadata of a backbone that was pretrained alone, for tasks to start from."""

_MOST_CHARACTERS = 2**24
_MOST_TEXT = 1000  # characters of one name
_DEEPEST = 8
_LARGEST_NUMBER = 10**6
_LARGEST_WINDOW = 512  # tokens; maps are padded to whole windows
_TEXTS = ("task", "architecture", "variant", "detector", "segmenter", "scalablevit_version")
_OBJECTS = ("model_args", "preprocessing", "inference")


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
        WeightsError: not a safetensors file, or metadata that cannot be read.
        FileNotFoundError: no such file.
    """
    path = weights_file(source)
    try:
        kind = weights_format(path)
        if kind != "safetensors":
            raise WeightsError(f"{path} is not a safetensors file but a pickle of PyTorch, which holds no metadata")
        with safe_open(path, "pt") as file:
            return parse_metadata(file.metadata(), path)
    except PermissionError:
        raise
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is truncated or not a safetensors file ({first_line(error)})") from error


def parse_metadata(
    header: Mapping[str, str] | None,
    path: str | os.PathLike[str],
    *,
    remedy: str = "take the weights of a run that ended well",
) -> dict[str, Any]:
    """Decode our entry in the header of a safetensors file, and check the types of what we read from it.

    Args:
        header: the free part of the file's header.
        path: for messages.
        remedy: what to do about damaged metadata.

    Returns:
        the metadata, keys that this version does not know included; empty where there is none.

    Raises:
        WeightsError: not JSON, not an object, a value of the wrong type, or written by a newer version.
    """
    text = (header or {}).get(METADATA_KEY, "{}")
    if len(text) > _MOST_CHARACTERS:
        raise WeightsError(f"{path}: its metadata has {len(text):,} characters; at most {_MOST_CHARACTERS:,} are read")
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:  # also integers of thousands of digits
        raise WeightsError(f"{path}: its metadata is not readable JSON ({first_line(error)})") from error
    if not isinstance(metadata, dict):
        raise WeightsError(f"{path}: its metadata is {_named(metadata)}, not an object")
    _check_version(metadata, path)
    problem = problem_of_metadata(metadata)
    if problem:
        raise WeightsError(f"{path}: its metadata is damaged: {problem}; {remedy}")
    return metadata


def _check_version(metadata: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    version = metadata.get("format_version", FORMAT_VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise WeightsError(f"{path}: its metadata is damaged: format_version is {shortened(repr(version), 80)}")
    if version > FORMAT_VERSION:
        writer = metadata.get("scalablevit_version")
        written = f" (scalablevit {shortened(writer, 40)})" if isinstance(writer, str) else ""
        raise WeightsError(
            f"{path} was written by a newer version{written}: its metadata has format {version}, and this version "
            f"reads up to {FORMAT_VERSION}; upgrade: python -m pip install -U scalablevit"
        )


def problem_of_metadata(metadata: Mapping[str, Any]) -> str:
    """Say what is wrong with the entries that we read; empty where nothing is."""
    for key in _TEXTS:
        value = metadata.get(key)
        if value is not None and (not isinstance(value, str) or len(value) > _MOST_TEXT):
            return f"{key} is {_named(value)}, not a short text"
    for key in _OBJECTS:
        value = metadata.get(key)
        if value is not None and not isinstance(value, dict):
            return f"{key} is {_named(value)}, not an object"
        if problem := _bad_value(value, key):
            return problem
    multi_label = metadata.get("multi_label")
    if multi_label is not None and not isinstance(multi_label, bool):
        return f"multi_label is {_named(multi_label)}, neither true nor false"
    names = metadata.get("class_names")
    if names is None:
        return ""
    if not isinstance(names, list) or not names:
        return f"class_names is {_named(names)}, not a list of names"
    odd = next((name for name in names if not isinstance(name, str) or len(name) > _MOST_TEXT), None)
    if odd is not None:
        return f"class_names holds {_named(odd)} among its names"
    twice = [repr(shortened(name, 80)) for name, count in Counter(names).items() if count > 1]
    return f"class_names has {abridged(twice)} more than once" if twice else ""


def _bad_value(value: Any, where: str, depth: int = 0) -> str:
    """Say which value of the settings is no setting: too deep, too long, too large or not finite."""
    if depth > _DEEPEST:
        return f"{shortened(where, 80)} is nested too deeply"
    if isinstance(value, dict):
        parts = [(f"{where}.{key}", part) for key, part in value.items()]
    elif isinstance(value, list):
        parts = [(where, part) for part in value]
    else:
        parts = []
        most = _LARGEST_WINDOW if where.endswith(".window_size") else _LARGEST_NUMBER
        if isinstance(value, int | float) and not abs(value) <= most:  # NaN too
            return f"{shortened(where, 80)} is {shortened(value, 40)}; its size is at most {most:,}"
        if isinstance(value, str) and len(value) > _MOST_TEXT:
            return f"{shortened(where, 80)} is {_named(value)}"
    return next((problem for name, part in parts if (problem := _bad_value(part, name, depth + 1))), "")


def _named(value: Any) -> str:
    """Name a value by its kind and, where it is short, by itself."""
    kinds: dict[type, str] = {list: "a list", dict: "an object", bool: "a truth value", int: "a number"}
    kinds |= {float: "a number", str: "a text", type(None): "null"}
    kind = kinds.get(type(value), type(value).__name__)
    if isinstance(value, str | list | dict):
        return f"{kind} of {len(value):,}" if value else f"{kind} without entries"
    return kind if value is None else f"{kind} ({shortened(value, 40)})"


def _read_trained(source: str | os.PathLike[str]) -> TrainedWeights:
    path = weights_file(source, TRAINED_NETWORKS)
    if weights_format(path) != "safetensors":
        run = path.parent.parent
        if path.parent.name == "checkpoints" and (run / WEIGHTS_FILE).is_file():
            raise WeightsError(f"{path} is a checkpoint to resume from; predicting takes its run: {run}")
        raise WeightsError(
            f"{path}: predicting takes a {TRAINED}, which know the class names "
            "and the preprocessing; from other checkpoints a run can start: "
            "scalablevit fit --config finetune_folder --model.weights ..."
        )
    metadata = read_metadata(path)
    task = metadata.get("task")
    if not isinstance(task, str):
        raise WeightsError(
            f"{source} holds weights without the task that they were trained for; predicting takes a run folder of "
            "`scalablevit fit`, or the model.safetensors in it"
        )
    if task == PRETRAINING_TASK:
        name = shortened(metadata.get("architecture"), 80)
        raise WeightsError(
            f"{source} holds a backbone that was pretrained without labels: it has no head and predicts nothing. Train "
            f"a task from it: scalablevit fit --config finetune_folder --data.root FOLDER --model.variant {name} "
            f"--model.weights {source}"
        )
    return TrainedWeights(path, task, metadata)
