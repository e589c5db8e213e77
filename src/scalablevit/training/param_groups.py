"""Which parameters are decayed, and which learn more slowly."""

from collections.abc import Collection
from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn


def parameter_groups(
    network: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float | None,
    apart: Collection[str] = (),
) -> list[dict[str, Any]]:
    """`network`'s trainable parameters in groups, each with its own `lr` and `weight_decay`.

    Norms, biases (all that is one-dimensional) and what `network.no_weight_decay()` names are not decayed.

    Args:
        network: may offer timm's hooks `no_weight_decay()` -> names and, for `layer_decay`,
            `group_matcher()`.
        lr: of the last layer (without `layer_decay`: of all); above 0.
        weight_decay: of what is decayed; at least 0.
        layer_decay: each layer towards the input learns by this factor more slowly, in (0, 1]; None: all
            alike.
        apart: names of parameters that share a group with none but each other; timm's key `use_fallback` is set in
            their groups.

    Raises:
        ValueError: a network without a trainable parameter.
    """
    undecayed = undecayed_names(network)
    if layer_decay is None:
        groups = param_groups_weight_decay(
            network, weight_decay=weight_decay, no_weight_decay_list=undecayed, fallback_list=apart
        )
    else:
        groups = param_groups_layer_decay(
            network,
            weight_decay=weight_decay,
            no_weight_decay_list=undecayed,
            layer_decay=layer_decay,
            fallback_list=apart,
        )
    if not groups:
        raise ValueError(f"{type(network).__name__} has no trainable parameter: unfreeze at least its head")
    for group in groups:
        group["lr"] = lr * group.pop("lr_scale", 1.0)
    return groups


def undecayed_names(network: nn.Module) -> set[str]:
    """What timm's hook `no_weight_decay` names; nothing where the network has none."""
    no_weight_decay = getattr(network, "no_weight_decay", None)
    return set(no_weight_decay()) if callable(no_weight_decay) else set()
