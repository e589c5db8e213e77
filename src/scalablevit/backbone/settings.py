"""How the blocks of a network are built: the options of a user, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

WindowSize = int | tuple[int, int]


class BlockOptions(TypedDict, total=False):
    """Arguments of `ScalableViT` and `create_backbone` that say how every block is built; see `BlockSettings`."""

    scale_value: bool
    window_size: WindowSize | Sequence[WindowSize]
    attn_drop_rate: float
    proj_drop_rate: float
    mlp_ratio: float
    qkv_bias: bool
    lim: bool
    peg: bool
    pattern: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class BlockSettings:
    """How every block is built, checked; the defaults are those of the paper.

    Args:
        scale_value: scale the values of SSA in width, too (see `ScalableSelfAttention`).
        window_size: side of IWSA's windows in tokens, or (rows, columns); or one such per stage, as a list.
        attn_drop_rate: dropout probability of attention weights, in [0, 1).
        proj_drop_rate: dropout probability after projections and in MLPs, in [0, 1).
        mlp_ratio: hidden channels of the MLPs as a multiple of C.
        qkv_bias: give queries, keys and values a bias.
        lim: have IWSA's Local Interactive Module (paper, table 6).
        peg: have a positional encoding generator in every stage.
        pattern: attentions ("iwsa", "ssa") of the blocks, repeated along each stage.

    Raises:
        ValueError: a setting is out of its range.
    """

    scale_value: bool = False
    window_size: WindowSize | Sequence[WindowSize] = 7
    attn_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    lim: bool = True
    peg: bool = True
    pattern: Sequence[str] = ("iwsa", "ssa")

    def __post_init__(self) -> None:
        check_rates(proj_drop_rate=self.proj_drop_rate, attn_drop_rate=self.attn_drop_rate)
        if not self.pattern or set(self.pattern) - {"iwsa", "ssa"}:
            raise ValueError(f"pattern must be made of 'iwsa' and 'ssa', got {list(self.pattern)}")


def check_lengths(num_stages: int, **lists: Sequence[Any]) -> None:
    """Refuse lists that do not have one value per stage."""
    for name, values in lists.items():
        if len(values) != num_stages:
            raise ValueError(f"{name} must have one value per stage ({num_stages}), got {list(values)}")


def check_names(function: str, options: Mapping[str, Any]) -> None:
    """Refuse options that no block has, as Python refuses arguments."""
    if unknown := sorted(options.keys() - BlockOptions.__annotations__.keys()):
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}")


def check_rates(**rates: float) -> None:
    """Refuse probabilities outside of [0, 1)."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must be in [0, 1), got {rate}")


def per_stage(window_size: WindowSize | Sequence[WindowSize], num_stages: int) -> list[WindowSize]:
    """A list means one size per stage, a number or a tuple one size for all."""
    if isinstance(window_size, int | tuple):
        return [window_size] * num_stages
    if len(window_size) != num_stages:
        raise ValueError(
            f"window_size must be a number, a tuple (rows, columns), or a list of one per stage ({num_stages}), "
            f"got {window_size}"
        )
    return list(window_size)
