"""Sorting parameters into groups: what is not decayed, and the layers of layer-wise learning rates."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from scalablevit.backbone.stage import typed


def peg_weights(stages: nn.ModuleList) -> set[str]:
    """Names of the kernels of PEG, which are not decayed."""
    return {f"stages.{i}.peg.conv.weight" for i, s in enumerate(typed(stages)) if not isinstance(s.peg, nn.Identity)}


def layer_groups(coarse: bool) -> dict[str, Any]:
    """timm's group matcher: the stem, then one layer per block (or per stage if coarse), then the norms."""
    if coarse:
        return dict(stem=r"^stages\.0\.patch_embed", blocks=r"^stages\.(\d+)")
    return dict(
        stem=r"^stages\.0\.patch_embed",
        blocks=[
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.(?:patch_embed|peg)", (0,)),
            (r"^norms?\.", (99999,)),
        ],
    )


def groups_below(prefix: str, groups: dict[str, Any]) -> dict[str, Any]:
    """Adapt the backbone's group matcher to a model that holds the backbone.

    Args:
        prefix: of the backbone's parameters in that model, such as "backbone.".
        groups: from `PyramidBackbone.group_matcher`, or any of timm's in a dict.

    Returns:
        the same rules for the prefixed names. Parameters that match none, such as those of heads, form the last layer.
    """

    def below(rule: Any) -> Any:
        if isinstance(rule, str):
            # an anchor begins each alternative; "[^" is none
            inner = re.sub(r"(^|[|(]|\(\?:)\^", r"\1", rule)
            return f"^{re.escape(prefix)}{f'(?:{inner})' if '|' in inner else inner}"
        if rule is None:
            return None
        return [(below(pattern), layer) for pattern, layer in rule]

    return {name: below(rule) for name, rule in groups.items()}
