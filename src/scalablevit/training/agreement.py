"""What the processes of a run must have in common before they train: versions, recipe, data, checkpoint."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import lightning
import timm
import torch

from scalablevit import __version__
from scalablevit.data.check import evenly_spread
from scalablevit.data.stream.settings import OF_THE_MACHINE
from scalablevit.training.resume_rules import PATHS, without_secrets

_MAY_DIFFER = frozenset(
    # where the data lie and how they are read, by each node's own disk and cores; a launcher says how many processes
    [
        *(f"data.{name}" for name in PATHS),
        *("data.num_workers", "data.max_unreadable", "threads"),
        *(f"data.stream.{name}" for name in OF_THE_MACHINE),
        *("trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.enable_progress_bar"),
    ]
)
_MOST_NAMES = 1000  # of each part of the data; all of them could be a million
_LONGEST_VALUE = 60  # characters that a message gives of it


def facts(
    *, recipe: Mapping[str, Any], data: Any, device_type: str, checkpoint: str | os.PathLike[str] | None
) -> dict[str, str]:
    """Collect what every process must agree on with the first one.

    The data folder may lie elsewhere on another node, on its local disk; what is in it must be the same.

    Args:
        recipe: resolved, with every value.
        data: a LightningDataModule, of ours or another's.
        device_type: such as "cuda".
        checkpoint: which is resumed from or evaluated; None: neither.

    Returns:
        name -> value, as a message gives it.
    """
    found = {
        "scalablevit": __version__,
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "timm": timm.__version__,
        "device": device_type,
    }
    for key, value in without_secrets(recipe).items():
        if key not in _MAY_DIFFER:
            found[key] = json.dumps(value, ensure_ascii=False)
    names = getattr(data, "class_names", None)
    if isinstance(names, list):
        found["number of classes"] = str(len(names))
        found["class names (hash)"] = _hash(names)
    for part in ("train", "val"):
        dataset: Any = getattr(data, f"{part}_dataset", None)
        if hasattr(dataset, "__len__"):
            found[f"{part} images"] = f"{len(dataset):,}"
            found[f"{part} file names (hash)"] = _hash(_some_names(dataset))
    if hasattr(data, "order_of_shards"):
        found["order of shards (hash)"] = str(data.order_of_shards())
    if checkpoint is not None and os.path.isfile(checkpoint):
        found["checkpoint"] = f"{os.path.basename(checkpoint)} of {os.path.getsize(checkpoint):,} bytes"
    return found


def _some_names(dataset: Any) -> list[str]:
    """File names of samples that are evenly spread: another order or another file of the same number is found."""
    if not hasattr(dataset, "path"):  # shards have none
        return []
    return [os.path.basename(dataset.path(i)) for i in evenly_spread(len(dataset), _MOST_NAMES)]


def _hash(names: list[str]) -> str:
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]


def differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> str:
    """What one process has otherwise than the first: "torch 2.11.0 instead of 2.14.1; ..."; empty: nothing.

    Args:
        theirs: facts of the process.
        ours: facts of the first one.
    """
    found = [
        f"{name} {_said(theirs.get(name))} instead of {_said(ours.get(name))}"
        for name in {**ours, **theirs}
        if theirs.get(name) != ours.get(name)
    ]
    more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
    return "; ".join(found[:4]) + more


def _said(value: str | None) -> str:
    if value is None:
        return "nothing"
    return value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."
