"""The networks that the recipes of a comparison build: checked before the first run starts, told apart."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from scalablevit.tasks import entries, load
from scalablevit.training.comparison.plan import PlannedRun
from scalablevit.training.module import check_variant
from scalablevit.training.resume_rules import flattened

_OF_THE_NETWORK = ("model.network_options", "model.scale_value", "model.window_size", "model.head")


def check_networks(runs: Sequence[PlannedRun]) -> dict[str, str | None]:
    """Build the network of each combination, without memory for its weights.

    Args:
        runs: with their recipes.

    Returns:
        label -> what tells its network from others; None: of a task from elsewhere, which is not built.

    Raises:
        ValueError: a network that cannot be built; names the combination, the key and the remedy.
    """
    found: dict[str, str | None] = {}
    for run in runs:
        label = run.combination.label
        if label in found:
            continue
        try:
            network = network_of(run.asked)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from error
        found[label] = None if network is None else fingerprint(network)
    return found


def network_of(recipe: Mapping[str, Any]) -> nn.Module | None:
    """Build the untrained network of a recipe on torch's meta device; None: the task is from elsewhere.

    Raises:
        ValueError: it cannot be built.
    """
    model = recipe["model"]
    module, _, name = str(model["class_path"]).rpartition(".")
    task = load(f"{module}:{name}")
    entry = next((entry for entry in entries().values() if load(entry.task) is task), None)
    if entry is None or not entry.untrained:
        return None
    arguments = model.get("init_args") or {}
    check_variant(arguments["variant"])
    with torch.device("meta"):
        network: nn.Module = load(entry.untrained)(arguments)
    return network


def fingerprint(network: nn.Module) -> str:
    """A text that is the same for networks that compute the same from the same weights."""
    kinds = (bool, int, float, str, tuple, list, type(None))
    modules = [
        (name, type(module).__name__, sorted((k, repr(v)) for k, v in vars(module).items() if isinstance(v, kinds)))
        for name, module in network.named_modules()
    ]
    shapes = [(name, tuple(x.shape)) for name, x in network.state_dict().items()]
    return hashlib.sha256(repr((modules, shapes)).encode()).hexdigest()


def repeated(runs: Sequence[PlannedRun], fingerprints: Mapping[str, str | None]) -> set[str]:
    """Labels of combinations that differ from the first one in name alone: same network, same recipe around it."""
    first = runs[0]
    around = _around(first.asked)
    return {
        run.combination.label
        for run in runs
        if run.combination.label != first.combination.label
        and fingerprints[run.combination.label] is not None
        and fingerprints[run.combination.label] == fingerprints[first.combination.label]
        and _around(run.asked) == around
    }


def _around(recipe: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in flattened(recipe)
        if key != "seed_everything" and not any(key == own or key.startswith(f"{own}.") for own in _OF_THE_NETWORK)
    }
