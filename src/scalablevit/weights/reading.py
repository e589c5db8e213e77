"""Read the tensors of a checkpoint of any format, without running code."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from scalablevit.abridged import abridged
from scalablevit.weights.metadata import TrainedWeights, parse_metadata
from scalablevit.weights.source import WeightsError, first_line, weights_file

_CONTAINERS = ("model", "state_dict", "model_state_dict", "module")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        source: where it was read from, for messages.
        tensors: by their names in the file, on the CPU.
        class_names: by class index; None: the checkpoint names none.
        metadata: of a file that a run wrote; empty for others.
    """

    source: str
    tensors: dict[str, Tensor]
    class_names: list[str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(source: str | PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, without running code that a pickle may hold.

    Args:
        source: safetensors or pickle file, a folder with `model.safetensors`, or an `hf-hub:` or `local-dir:` name.

    Returns:
        name in the file -> tensor on the CPU.

    Raises:
        WeightsError: truncated, not a checkpoint, or a pickle with anything but data.
        FileNotFoundError: no such file.
    """
    return read(source).tensors


def read(source: str | PathLike[str] | TrainedWeights | Mapping[str, Any]) -> Checkpoint:
    """Read tensors and metadata of a checkpoint, once.

    Args:
        source: as for `read_checkpoint`; also the open weights of a run, or a state dict or checkpoint in memory.

    Raises:
        WeightsError: as for `read_checkpoint`.
        FileNotFoundError: no such file.
    """
    if isinstance(source, Mapping):
        name = "state dict in memory"
        return Checkpoint(name, state_dict_in(source, name))
    name = str(source.path if isinstance(source, TrainedWeights) else source)
    try:
        if name.startswith("hf-hub:"):
            content = timm.models.load_state_dict_from_hf(name.removeprefix("hf-hub:"), weights_only=True)
            return Checkpoint(name, state_dict_in(content, name))
        path = source.path if isinstance(source, TrainedWeights) else weights_file(source)
        if path.stat().st_size == 0:
            raise WeightsError(f"{path} is empty; copy or download it again")
        return _read_safetensors(path, name) if path.suffix == ".safetensors" else _read_pickle(path, name)
    except (WeightsError, FileNotFoundError):
        raise
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if blocked is None:
            raise WeightsError(f"{name} is truncated or not a checkpoint; copy or download it again") from error
        raise WeightsError(
            f"{name} holds more than data: unpickling would call {blocked[1]}, which could run any code. If you trust "
            "its source, load it there with torch.load and save the state dict alone with safetensors"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise WeightsError(f"{name} is truncated or not a checkpoint ({first_line(error)}); copy it again") from error


def state_dict_in(checkpoint: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    """Return the state dict inside a checkpoint, however it is wrapped."""
    for key in _CONTAINERS:
        if isinstance(checkpoint.get(key), Mapping):
            return state_dict_in(checkpoint[key], source)
    tensors = {key: value for key, value in checkpoint.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"{source} holds no tensors; its entries are {abridged(sorted(map(str, checkpoint)), 6)}")
    return tensors


def _read_safetensors(path: Path, name: str) -> Checkpoint:
    with safe_open(path, "pt") as file:
        metadata = parse_metadata(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    return Checkpoint(name, tensors, metadata.get("class_names"), metadata)


def _read_pickle(path: Path, name: str) -> Checkpoint:
    with torch.serialization.safe_globals([argparse.Namespace]):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{name} holds a {type(checkpoint).__name__}, not a state dict")
    trained = checkpoint.get("trained")  # what our tasks add to their checkpoints
    names = trained.get("class_names") if isinstance(trained, Mapping) else None
    return Checkpoint(name, state_dict_in(checkpoint, name), names)
