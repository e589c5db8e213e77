"""Find the state dict inside a checkpoint, and the averaged weights that may lie beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scalablevit.abridged import abridged
from scalablevit.weights.source import WeightsError, shortened

# in the order of preference; the averaged ones only where none of the plain ones is there
_PLAIN = ("model", "state_dict", "model_state_dict", "module", "network", "net", "weights", "params")
_AVERAGED = (
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "ema_model_state_dict",
    "ema_model",
    "ema",
    "ema_state",
    "params_ema",
    "averaged_model",
    "model_averaged",
    "swa_model",
    "teacher",
)
_DEEPEST = 8
_MOST_LOOSE = 8  # tensors, such as counters, beside the entries of a checkpoint


@dataclass(frozen=True)
class Found:
    """The weights in a checkpoint.

    Attributes:
        tensors: name -> tensor.
        entry: where they lay, such as "model" or "ema.module"; empty: at the top.
        others: further entries with weights.
    """

    tensors: dict[str, Tensor]
    entry: str
    others: tuple[str, ...]


def find_state_dict(checkpoint: Mapping[Any, Any], source: str, entry: str | None = None) -> Found:
    """Find the state dict inside a checkpoint, however it is wrapped.

    Args:
        checkpoint: what a file holds.
        source: for messages.
        entry: the entry to take, such as "model_ema" or, of one inside another, "ema.module"; None: the plain weights,
            or the averaged ones where there are no others.

    Raises:
        WeightsError: no tensors, no such entry, or tensors that are not plain ones.
    """
    candidates = _candidates(checkpoint)
    if entry is not None:
        candidates = _named(checkpoint, source, entry, candidates)
    elif not candidates:
        raise WeightsError(
            f"{source} holds no tensors; its entries are {shortened(abridged(sorted(map(str, checkpoint)), 6))}"
        )
    chosen = next(iter(candidates))
    tensors = candidates[chosen]
    for key, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
            kind = "quantized" if tensor.is_quantized else "without values" if tensor.is_meta else "sparse"
            raise WeightsError(f"{source} holds a tensor that is {kind}, {shortened(key)}; save plain float tensors")
    return Found(tensors, chosen, tuple(name for name in candidates if name != chosen))


def _named(
    checkpoint: Mapping[Any, Any], source: str, entry: str, known: Mapping[str, dict[str, Tensor]]
) -> dict[str, dict[str, Tensor]]:
    """The entry of that name first, or the only one inside it."""
    part: Any = checkpoint
    if entry not in checkpoint:
        for key in entry.split("."):
            part = part.get(key) if isinstance(part, Mapping) else None
    else:
        part = checkpoint[entry]
    found = _candidates(part) if isinstance(part, Mapping) else {}
    if not found:
        there = f"entries with weights: {abridged(known, 6)}" if known and set(known) != {""} else "a bare state dict"
        raise WeightsError(f"{source} has no weights in an entry {shortened(entry, 80)!r}; it has {there}")
    inner, tensors = next(iter(found.items()))
    chosen = f"{entry}.{inner}" if inner else entry
    return {chosen: tensors, **{name: values for name, values in known.items() if name != chosen}}


def _candidates(checkpoint: Mapping[Any, Any]) -> dict[str, dict[str, Tensor]]:
    """Every state dict of a checkpoint by its entry, the one to take first."""
    found: dict[str, dict[str, Tensor]] = {}
    for key in (*_PLAIN, *_AVERAGED):
        _collect(checkpoint.get(key), key, found, 1)
    own = _tensors(checkpoint)
    plain = any(name.split(".")[0] in _PLAIN for name in found)
    if own and (not found or (not plain and len(own) > _MOST_LOOSE)):
        found = {"": own, **found}
    if not found:
        for key, value in checkpoint.items():  # by a name of the trainer's own
            if isinstance(key, str):
                _collect(value, key, found, 1)
    return found


def _collect(value: Any, name: str, found: dict[str, dict[str, Tensor]], depth: int) -> None:
    """Add the state dict in an entry, or in an entry that wraps it; `depth` ends what contains itself."""
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return
    for key in (*_PLAIN, *_AVERAGED):
        if isinstance(value.get(key), Mapping):
            _collect(value[key], f"{name}.{key}", found, depth + 1)
            return
    if tensors := _tensors(value):
        found[name] = tensors


def _tensors(value: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in value.items() if isinstance(key, str) and isinstance(tensor, Tensor)}
