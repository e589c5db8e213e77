"""Tell the variant, and the form of SSA, from the tensors of a checkpoint."""

import os
from collections.abc import Mapping

from torch import Tensor

from scalablevit.backbone import VARIANTS
from scalablevit.weights.published_names import to_native_names
from scalablevit.weights.reading import read_checkpoint


def holds_scaled_values(source: str | os.PathLike[str]) -> bool | None:
    """Tell whether a checkpoint's SSA is of the scaled-value form; None where it has no block that would tell.

    Args:
        source: as for `read_checkpoint`.

    Raises:
        WeightsError: it cannot be read.
        FileNotFoundError: no such file.
    """
    return _scaled_values(to_native_names(read_checkpoint(source)))


def describe_variant(state: Mapping[str, Tensor]) -> str:
    """Name the variant that a state dict in our names holds, or give its widths and depths."""
    widths: list[int] = []
    depths: list[int] = []
    while (stem := state.get(f"stages.{len(widths)}.patch_embed.proj.weight")) is not None:
        blocks = {key.split(".")[3] for key in state if key.startswith(f"stages.{len(widths)}.blocks.")}
        widths.append(stem.shape[0] if stem.ndim else 0)
        depths.append(len(blocks))
    if not widths:
        return "not a ScalableViT"
    form = ", scaled-value form" if _scaled_values(state) else ""
    for name, numbers in VARIANTS.items():
        if (tuple(widths), tuple(depths)) == (numbers["embed_dims"], numbers["depths"]):
            return name + form
    return f"a ScalableViT of widths {widths} and depths {depths}{form}"


def _scaled_values(state: Mapping[str, Tensor]) -> bool | None:
    """Tell the form of SSA from a state dict in our names; None: no block tells."""
    trunks = {key.removesuffix("expand.weight") for key in state if key.endswith(".attn.expand.weight")}
    return any(f"{trunk}kv.weight" in state for trunk in trunks) if trunks else None
