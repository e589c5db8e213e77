"""Read the tensors of a checkpoint of any format, without running code."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import safe_open
from torch import Tensor

from scalablevit.weights.checksums import damaged_part
from scalablevit.weights.containers import Found, find_state_dict
from scalablevit.weights.formats import weights_format
from scalablevit.weights.metadata import TrainedWeights, parse_metadata
from scalablevit.weights.source import WeightsError, first_line, weights_file


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        source: where it was read from, for messages.
        tensors: by their names in the file, on the CPU.
        class_names: by class index; None: the checkpoint names none.
        metadata: of a file that a run wrote; empty for others.
        entry: the entry that the tensors were taken from, such as "model"; empty: the checkpoint is a bare state dict.
        others: further entries with weights, such as "model_ema", which were not taken.
        task: that a run of ours trained the weights for, "pretraining" for a backbone alone; None: unknown.
    """

    source: str
    tensors: dict[str, Tensor]
    class_names: list[str] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    entry: str = ""
    others: tuple[str, ...] = ()
    task: str | None = None


def read_checkpoint(source: str | PathLike[str], *, entry: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, without running code that a pickle may hold.

    Args:
        source: safetensors or pickle file, a folder with `model.safetensors`, or an `hf-hub:` or `local-dir:` name;
            `#ENTRY` behind it does as `entry`.
        entry: of the checkpoint's entries, the one with the weights, such as "model_ema"; None: the usual one.

    Returns:
        name in the file -> tensor on the CPU.

    Raises:
        WeightsError: truncated, not a checkpoint, a pickle with anything but data, or no such entry.
        FileNotFoundError: no such file.
    """
    return read(source, entry=entry).tensors


def read(source: str | PathLike[str] | TrainedWeights | Mapping[str, Any], *, entry: str | None = None) -> Checkpoint:
    """Read tensors and metadata of a checkpoint, once.

    Args:
        source: as for `read_checkpoint`; also the open weights of a run, or a state dict or checkpoint in memory.
        entry: as for `read_checkpoint`.

    Raises:
        WeightsError: as for `read_checkpoint`.
        FileNotFoundError: no such file.
    """
    if isinstance(source, Mapping):
        return _checkpoint("state dict in memory", find_state_dict(source, "state dict in memory", entry))
    if not isinstance(source, str | PathLike | TrainedWeights):
        raise WeightsError(
            f"weights are read from a file, a folder or a state dict; got a {type(source).__name__}: for a network, "
            "give network.state_dict()"
        )
    if isinstance(source, TrainedWeights):
        return _read_file(source.path, str(source.path), entry)
    name, entry = _split_entry(str(source), entry)
    if name.startswith("hf-hub:"):
        return _read_hub(name, entry)
    return _read_file(weights_file(name), name, entry)


def _split_entry(source: str, entry: str | None) -> tuple[str, str | None]:
    """Split FILE#ENTRY, unless a file has that very name."""
    name, mark, behind = source.rpartition("#")
    if not mark or not behind or "/" in behind or Path(source.removeprefix("local-dir:")).exists():
        return source, entry
    if entry is not None and entry != behind:
        raise WeightsError(
            f"{source} names the entry {behind!r}, and entry={entry!r} another one; leave out one of them"
        )
    return name, behind


def _read_hub(name: str, entry: str | None) -> Checkpoint:
    try:
        content = timm.models.load_state_dict_from_hf(name.removeprefix("hf-hub:"), weights_only=True)
    except Exception as error:  # of the network, the hub, its client, safetensors, torch
        raise WeightsError(
            f"{name} could not be fetched ({first_line(error)}); check the name and the network, or download its "
            "model.safetensors and give that file"
        ) from error
    return _checkpoint(name, find_state_dict(content, name, entry))


def _read_file(path: Path, name: str, entry: str | None) -> Checkpoint:
    try:
        if weights_format(path) == "safetensors":
            return _read_safetensors(path, name, entry)
        return _read_pickle(path, name, entry)
    except (WeightsError, FileNotFoundError, PermissionError):
        raise
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL (\S+)", str(error))
        if blocked is None:
            raise WeightsError(f"{name} is truncated or not a checkpoint; copy or download it again") from error
        raise WeightsError(
            f"{name} holds more than data: unpickling would call {blocked[1]}, which could run any code. If you trust "
            "its source, load it there with torch.load and save the state dict alone with safetensors"
        ) from error
    # damaged pickles and archives raise almost anything: RuntimeError, EOFError, IndexError, struct.error, ...
    except Exception as error:
        raise WeightsError(f"{name} is truncated or not a checkpoint ({first_line(error)}); copy it again") from error


def _checkpoint(name: str, found: Found, class_names: list[str] | None = None) -> Checkpoint:
    return Checkpoint(name, found.tensors, class_names, entry=found.entry, others=found.others)


def _read_safetensors(path: Path, name: str, entry: str | None) -> Checkpoint:
    if entry is not None:
        raise WeightsError(f"{name} is a safetensors file, which has no entries such as {entry!r}; leave it out")
    with safe_open(path, "pt") as file:
        metadata = parse_metadata(file.metadata(), path)
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    if not tensors:
        raise WeightsError(f"{name} holds no tensors")
    return Checkpoint(name, tensors, metadata.get("class_names"), metadata, task=metadata.get("task"))


def _read_pickle(path: Path, name: str, entry: str | None) -> Checkpoint:
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # it reads or it raises
        with path.open("rb") as file:  # by name, torch would read what is called .safetensors as such
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{name} holds a {type(checkpoint).__name__}, not a state dict")
    trained = checkpoint.get("trained")  # what our tasks add to their checkpoints
    if trained is not None and (part := damaged_part(path)) is not None:
        raise WeightsError(f"{name} is damaged: the checksum of {part} does not fit; copy it again")
    names = trained.get("class_names") if isinstance(trained, Mapping) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        names = None
    task = trained.get("task") if isinstance(trained, Mapping) else None
    found = _checkpoint(name, find_state_dict(checkpoint, name, entry), names)
    return replace(found, task=task if isinstance(task, str) else None)
