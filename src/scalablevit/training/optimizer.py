"""Build the optimizer that a recipe names: AdamW, or Muon for the hidden matrices of a backbone."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from timm.optim import Muon
from torch import nn
from torch.optim import AdamW, Optimizer

from scalablevit.training.param_groups import parameter_groups, undecayed_names
from scalablevit.training.settings import OptimizerSettings


def build_optimizer(
    network: nn.Module, beside: Sequence[nn.Module], settings: OptimizerSettings, *, lr: float, fused: bool
) -> Optimizer:
    """Build the optimizer over a network and what is trained with it.

    Args:
        network: what is trained; Muon asks for timm's hook `group_matcher`.
        beside: parts with parameters that are trained with the network and not shipped with it: by AdamW.
        settings: of the recipe.
        lr: peak learning rate, of the last layer, above 0.
        fused: whether AdamW takes PyTorch's fused form; Muon has none.

    Returns:
        the optimizer; of Muon each group says by its key `use_muon` which of both steps it takes.

    Raises:
        ValueError: no parameter is trainable; Muon and a network that does not name its layers.
    """
    decay = settings.weight_decay
    matrices = hidden_matrices(network) if settings.name == "muon" else ()
    groups = parameter_groups(network, lr=lr, weight_decay=decay, layer_decay=settings.layer_decay, apart=matrices)
    for part in beside:
        groups += parameter_groups(part, lr=lr, weight_decay=decay, layer_decay=None)
    if settings.name == "adamw":
        return AdamW(groups, lr=lr, betas=settings.betas, eps=settings.eps, fused=fused)
    for group in groups:
        group["use_muon"] = group.pop("use_fallback", False)
        group["nesterov"] = group["use_muon"]  # of AdamW it would make NAdamW
    muon = Muon(groups, lr=lr, momentum=settings.momentum, betas=settings.betas, eps=settings.eps)
    return cast(Optimizer, muon)


def hidden_matrices(network: nn.Module) -> list[str]:
    """Name the weights whose update Muon makes orthogonal: those between two layers of a backbone.

    These are the matrices of linear layers and of convolutions that mix channels, in the layers that timm's hook
    `group_matcher` names. The stem, the head and what follows a backbone are not among them, nor are depthwise
    convolutions, norms, biases, positions and what the network does not decay.

    Raises:
        ValueError: the network has no `group_matcher`.
    """
    matcher = getattr(network, "group_matcher", None)
    rules = None if matcher is None else matcher(coarse=False)
    if not isinstance(rules, dict):
        raise ValueError(
            f"model.optimizer.name muon: {type(network).__name__} does not say which layers are hidden (it has no "
            "group_matcher): take adamw"
        )
    undecayed = undecayed_names(network)
    stem = list(_patterns(rules.get("stem")))
    hidden = [pattern for key, rule in rules.items() if key != "stem" for pattern in _patterns(rule)]
    return [
        name
        for name, parameter in network.named_parameters()
        if _is_matrix(parameter)
        and name not in undecayed
        and not any(re.match(pattern, name) for pattern in stem)
        and any(re.match(pattern, name) for pattern in hidden)
    ]


def _patterns(rule: Any) -> Iterator[str]:
    """Regular expressions of one of timm's rules: a string, or pairs of a string and a layer."""
    if isinstance(rule, str):
        yield rule
    elif isinstance(rule, Iterable):
        yield from (pattern for pattern, _ in rule)


def _is_matrix(parameter: torch.Tensor) -> bool:
    return parameter.ndim >= 2 and min(parameter.shape[:2]) > 1
