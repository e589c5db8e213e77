"""Build the backbone of a dense model: ours as published, or any of timm's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scalablevit.backbone import (
    SCALED_VALUE_VARIANTS,
    BlockOptions,
    WindowSize,
    create_backbone,
)
from scalablevit.networks import check_network_name, is_ours
from scalablevit.timm_pyramid import Pyramid, build_timm_pyramid

# Arguments of `create_backbone` that dense models take in one mapping: all that they do not take by name.
NETWORK_OPTIONS = (
    "channel_ratios",
    "reductions",
    *(name for name in BlockOptions.__annotations__ if name not in ("scale_value", "window_size")),
)


def create_dense_backbone(
    name: str,
    *,
    in_chans: int,
    scale_value: bool | None,
    drop_path_rate: float,
    window_size: WindowSize | Sequence[WindowSize],
    network_options: Mapping[str, Any] | None,
    grad_checkpointing: bool,
) -> Pyramid:
    """Build the pyramid of a detector or segmenter.

    Args:
        name: variant, such as "scalablevit_small", or a network of timm's registry with maps at the same strides.
        in_chans, drop_path_rate, window_size, grad_checkpointing: as for `create_backbone`.
        scale_value: scaled-value form of SSA; None: as in the published dense figures, for scalablevit_small only.
        network_options: further arguments of `create_backbone`: any of `NETWORK_OPTIONS`; of timm's network, its own.

    Of timm's network, scale_value and window_size have no effect.

    Raises:
        ValueError: no such variant or option, or an argument out of range.
    """
    options = dict(network_options or {})
    check_network_name(name)
    if not is_ours(name):
        return build_timm_pyramid(
            name,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            options=options,
            grad_checkpointing=grad_checkpointing,
        )
    if unknown := sorted(set(options) - set(NETWORK_OPTIONS)):
        raise ValueError(f"network_options has no {', '.join(unknown)}; it takes {', '.join(NETWORK_OPTIONS)}")
    return create_backbone(
        name,
        in_chans=in_chans,
        scale_value=name in SCALED_VALUE_VARIANTS if scale_value is None else scale_value,
        drop_path_rate=drop_path_rate,
        window_size=window_size,
        grad_checkpointing=grad_checkpointing,
        **options,
    )
