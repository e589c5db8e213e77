"""Match a network of timm, or the pyramid made of one, with a checkpoint."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from scalablevit.abridged import abridged
from scalablevit.timm_pyramid import TimmPyramid
from scalablevit.weights.input_channels import adapt_in_chans
from scalablevit.weights.report import LoadReport
from scalablevit.weights.source import WeightsError
from scalablevit.weights.whole_models import Plan, Wish

_PROBES = 4  # parameters by which the place of a network in a checkpoint is found


def plan_timm(
    core: nn.Module, targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str, wish: Wish
) -> Plan:
    """Plan to fill a network of timm from a checkpoint of the same network, as a classifier or inside another model.

    Where names or shapes differ, timm's own converter of that network is asked: it reads the formats of the authors,
    and resizes position embeddings.

    Args:
        core: classifier of timm, or `TimmPyramid`.
        targets: its parameters and buffers, by their names in it.
        tensors: of the checkpoint.
        source: of the checkpoint, for messages.
        wish: what to leave fresh.

    Raises:
        WeightsError: the checkpoint is of another network; names what differs.
    """
    network = core.trunk if isinstance(core, TimmPyramid) else core
    prefix = "trunk." if isinstance(core, TimmPyramid) else ""
    inner = {key.removeprefix(prefix): target for key, target in targets.items()}
    settings: Mapping[str, Any] = getattr(network, "pretrained_cfg", {})
    name = str(settings.get("architecture") or type(network).__name__)
    classifier, stem = (_layers(settings.get(key)) for key in ("classifier", "first_conv"))
    found = _located(inner, tensors)
    if _lacking(inner, found, (*classifier, *stem)):
        converted = _converted(network, tensors)
        found = min((found, _located(inner, converted)), key=lambda state: len(_lacking(inner, state, classifier)))
    report = LoadReport(source, name)
    values: dict[str, Tensor] = {}
    problems: list[str] = []
    heads = [key for key in inner if _is_in(key, classifier) and key in found]
    same_classes = all(found[key].shape == inner[key].shape for key in heads)
    for key, target in inner.items():
        value, whole = found.get(key), prefix + key
        if _is_in(key, classifier) and (wish.fresh_head or wish.other_classes or not same_classes or value is None):
            if value is None:
                report.fresh.append(whole)
            else:
                report.adapted[whole] = f"{tuple(value.shape)} -> {tuple(target.shape)}, freshly initialised"
        elif value is None and key.endswith("num_batches_tracked"):  # older files lack the counter
            report.fresh.append(whole)
        elif value is None:
            problems.append(f"the checkpoint lacks {key} {tuple(target.shape)}")
        elif value.shape == target.shape:
            values[whole] = value
            report.matched.append(whole)
        elif _is_in(key, stem) and value.ndim == 4 and value.shape[0] == target.shape[0]:
            values[whole] = adapt_in_chans(value, target.shape[1])
            report.adapted[whole] = f"{value.shape[1]} -> {target.shape[1]} input channels"
        else:
            problems.append(f"{key} is {tuple(value.shape)}, the model needs {tuple(target.shape)}")
    report.ignored.extend(sorted(found.keys() - inner.keys()))
    if not report.matched:
        entries = abridged(sorted(tensors), 6)
        raise WeightsError(f"{source} does not hold {name}; its entries are {entries}")
    if problems:
        shown = [*problems[:5], *([f"and {len(problems) - 5} more"] if len(problems) > 5 else [])]
        lines = [f"{source} does not fit {name}; nothing was loaded.", *(f"  {problem}" for problem in shown)]
        raise WeightsError("\n".join(lines))
    return Plan(values, report)


def _located(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of a checkpoint whose names are most like the targets', under names without its prefix."""
    # timm's `features_only` joins the first two parts of a name by "_"
    joined = {key.replace(".", "_", 1): tensor for key, tensor in tensors.items()}
    best: dict[str, Tensor] = {}
    probes = list(targets)[:: max(1, len(targets) // _PROBES)]
    for names in (tensors, joined):
        prefixes = {key.removesuffix(probe) for probe in probes for key in names if _ends_in(key, probe)}
        for prefix in sorted(prefixes, key=len):
            state = {key.removeprefix(prefix): t for key, t in names.items() if key.startswith(prefix)}
            if len(state.keys() & targets.keys()) > len(best.keys() & targets.keys()):
                best = state
    return best


def _ends_in(key: str, name: str) -> bool:
    return key == name or key.endswith(f".{name}")


def _lacking(targets: Mapping[str, Tensor], found: Mapping[str, Tensor], left_out: tuple[str, ...]) -> list[str]:
    """Targets without a tensor of their shape, but for some layers."""
    return [
        key
        for key, target in targets.items()
        if not _is_in(key, left_out)
        and not key.endswith("num_batches_tracked")
        and (key not in found or found[key].shape != target.shape)
    ]


def _converted(network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under timm's names, by the converter in the module of the network; the same where it has none."""
    convert = getattr(importlib.import_module(type(network).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return dict(tensors)
    try:
        state: Mapping[str, Any] = convert(dict(tensors), network)
    except Exception:  # of names that it does not expect
        return dict(tensors)
    return {key: value for key, value in state.items() if isinstance(value, Tensor)}


def _layers(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) and names else tuple(names or ())


def _is_in(key: str, layers: tuple[str, ...]) -> bool:
    return any(key.startswith(f"{layer}.") for layer in layers)
