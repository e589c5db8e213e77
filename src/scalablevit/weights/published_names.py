"""Rename parameters of published checkpoints to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

_RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # Dense checkpoints say `blocks` where classifiers say `stages`; ours have both, so match two numbers.
        (r"^(?:stages|blocks)\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
        (r"^patch_embeds\.(\d+)\.", r"stages.\1.patch_embed."),
        (r"^pos_block\.(\d+)\.proj\.0\.", r"stages.\1.peg.conv."),
        (r"\.attn\.(?:lim_func|lepe_func)\.", r".attn.lim."),
        (r"\.attn\.reduction\.0\.", r".attn.reduce."),
        (r"\.attn\.reduction\.1\.", r".attn.expand."),
        (r"\.attn\.norm_act\.0\.", r".attn.norm."),
        (r"^norm_list\.(\d+)\.", r"norms.\1."),
        (r"^head\.0\.", r"head.hidden."),
        (r"^head\.1\.", r"head.norm."),
        (r"^head\.3\.", r"head.fc."),
        (r"^head\.(weight|bias)$", r"head.fc.\1"),
    )
]
# Wrappers that training code leaves around a network: DDP, torch.compile, Lightning tasks, detectors, our pyramid.
_PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone.", "body.")
_OURS = re.compile(r"^(?:stages|blocks|patch_embeds|pos_block|norm_list|norms)\.\d+\.")


def to_native_names(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Rename the entries of a state dict: released classifiers, dense backbones, or ours, which stay as they are.

    Prefixes of wrappers (`module.`, `backbone.`, ...) are removed. Where only some entries have the prefix of the
    network, as in a detector with a neck, the others keep their names.

    Args:
        state_dict: any mapping from names to values.

    Returns:
        the same values under the names of `ScalableViT` and `PyramidBackbone`.

    Raises:
        ValueError: two entries end up under one name.
    """
    prefix = _network_prefix(state_dict)
    renamed: dict[str, T] = {}
    for name, value in state_dict.items():
        new = name.removeprefix(prefix)
        if name.startswith(prefix):
            for pattern, replacement in _RENAMES:
                new = pattern.sub(replacement, new)
        if new in renamed:
            raise ValueError(f"the checkpoint holds {new!r} twice, under names such as {name!r}; keep one of them")
        renamed[new] = value
    return renamed


def _network_prefix(names: Mapping[str, object]) -> str:
    """Return the shortest chain of wrappers' prefixes before names of the network; "" where there is none."""
    best: str | None = None
    for name in names:
        prefix, rest = "", name
        while not _OURS.match(rest):
            step = next((p for p in _PREFIXES if rest.startswith(p)), None)
            if step is None:
                break
            prefix, rest = prefix + step, rest.removeprefix(step)
        if _OURS.match(rest):
            best = prefix if best is None or len(prefix) < len(best) else best
    return best or ""
