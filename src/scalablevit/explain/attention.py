"""Where a pixel looks: the weights of both attentions for given query points.

Only the rows of the queries that are asked for are computed, from the layers' own projections; the matrix of all
queries and keys never exists.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from scalablevit.explain.explainable import explainable, frozen
from scalablevit.explain.geometry import Point, check_points, covering_keys, nearest_tokens
from scalablevit.explain.trunk import BlockInput, walk_blocks
from scalablevit.layers import InteractiveWindowSelfAttention, ScalableSelfAttention
from scalablevit.ops.windows import pad_to_multiple

Kind = Literal["iwsa", "ssa"]


@dataclass(frozen=True)
class BlockAttention:
    """Attention weights of a block for P query points.

    Attributes:
        stage, block: of the block, from 0.
        kind: "iwsa" (keys: the tokens of the query's window, with those of the padding) or "ssa" (condensed keys).
        weights: (B, P, h, rows, columns) float32, non-negative; the keys of a query and head sum to 1.
        queries: (P, 2) row and column of each query's token in the map.
        corners: (P, 2) row and column of the token with which the query's first key begins; 0 in SSA.
        step: tokens per key in both directions: R in SSA, 1 in IWSA.
        stride: pixels per token.
        map_size: rows and columns of the map in tokens, without padding.
    """

    stage: int
    block: int
    kind: Kind
    weights: Tensor
    queries: Tensor
    corners: Tensor
    step: int
    stride: int
    map_size: tuple[int, int]

    @property
    def name(self) -> str:
        """Name of the block in the network."""
        return f"stages.{self.stage}.blocks.{self.block}"

    @property
    def is_inside(self) -> Tensor:
        """(P, rows, columns) whether a key lies in the map, not in its padding."""
        rows, columns = (
            self.corners[:, axis, None] + self.step * torch.arange(count) < self.map_size[axis]
            for axis, count in enumerate(self.weights.shape[-2:])
        )
        return (rows[:, :, None] & columns[:, None]).to(self.weights.device)

    @property
    def on_padding(self) -> Tensor:
        """(B, P, h) share of the attention that falls on tokens of the padding, in 0..1: outside the image."""
        return (self.weights * ~self.is_inside[None, :, None]).sum(dim=(-2, -1))


def attention_maps(
    model: nn.Module,
    images: Tensor,
    points: Sequence[Point],
    *,
    kind: Kind | None = None,
    blocks: Collection[str] | None = None,
) -> list[BlockAttention]:
    """Compute where query points look, in every block of a network.

    Args:
        model: classifier, pyramid, detector or segmenter of ours, or what wraps one (torch.compile, DDP, averaged
            weights). It is read only: no hook, no change of mode. Weights of 16 bits are computed in float32.
        images: (B, C, H, W), normalised as the network is fed; any height and width.
        points: (x, y) in pixels of `images`, the same ones in each image.
        kind: "iwsa" or "ssa" for blocks of one attention only; None: both.
        blocks: names such as "stages.2.blocks.1"; None: all.

    Returns:
        the blocks' weights, in the order of the network.

    Raises:
        ValueError: a point lies outside the images, a block does not exist, or the network is not one of ours.
    """
    check_points(points, (images.shape[-2], images.shape[-1]))
    ready = explainable(model)
    found, names = [], []
    with frozen(ready.network), torch.no_grad():
        for step in walk_blocks(ready.core, images.float()):
            names.append(step.name)
            is_iwsa = isinstance(step.block.attn, InteractiveWindowSelfAttention)
            if kind not in (None, "iwsa" if is_iwsa else "ssa") or (blocks is not None and step.name not in blocks):
                continue
            found.append(_block_attention(step, points))
            if blocks is not None and len(found) == len(blocks):
                return found
    if unknown := sorted(set(blocks or ()) - set(names)):
        raise ValueError(f"the network has no block {', '.join(unknown)}; its blocks are {', '.join(names)}")
    return found


def attention_over_image(
    found: BlockAttention, size: tuple[int, int], *, head: int | None = None, point: int | None = None
) -> Tensor:
    """Lay the weights of a block over the image: every pixel has the weight of the key that covers it.

    Args:
        found: from `attention_maps`.
        size: height and width of the image in pixels, as the network was fed.
        head: one head, from 0; None: the mean over the heads.
        point: one query point, from 0; None: all.

    Returns:
        (B, P, H, W), or (B, H, W) with `point`. Pixels have 0 where no key covers them: outside the window in IWSA,
        and in trailing rows and columns that fill no patch in SSA.

    Raises:
        ValueError: the block has no such head.
    """
    num_heads = found.weights.shape[2]
    if head is not None and not 0 <= head < num_heads:
        raise ValueError(f"{found.name} has heads 0..{num_heads - 1}, got head {head}")
    weights = found.weights.mean(dim=2) if head is None else found.weights[:, :, head]  # (B, P, rows, columns)
    chosen = range(weights.shape[1]) if point is None else [point]
    maps = []
    for p in chosen:
        rows, columns = (
            covering_keys(length, count, stride=found.stride, step=found.step, first=int(first)).to(weights.device)
            for length, count, first in zip(size, weights.shape[-2:], found.corners[p], strict=True)
        )
        is_covered = (rows >= 0)[:, None] & (columns >= 0)
        maps.append(weights[:, p][:, rows.clamp(min=0)[:, None], columns.clamp(min=0)] * is_covered)
    return maps[0] if point is not None else torch.stack(maps, dim=1)


def ssa_weights(layer: ScalableSelfAttention, x: Tensor, queries: Tensor) -> Tensor:
    """Compute rows of SSA's attention: `softmax(scale * q k^T)` for the queries only.

    Args:
        layer: the attention.
        x: (B, H, W, C) the map that it reads.
        queries: (P, 2) row and column of tokens.

    Returns:
        (B, P, h, H // R, W // R) weights over the condensed keys, at least one each way.
    """
    source = layer.reduced(x)  # (B, KH, KW, C')
    keys = layer.kv(source)[..., : layer.key_dim] if layer.fused_kv else layer.k(source)
    rows = layer.q(x[:, queries[:, 0], queries[:, 1]])  # (B, P, C')
    q, k = (t.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for t in (rows, keys.flatten(1, 2)))
    weights = (q @ k.transpose(-2, -1) * layer.scale).softmax(dim=-1)  # (B, h, P, M)
    return weights.transpose(1, 2).unflatten(-1, source.shape[1:3])


def iwsa_weights(layer: InteractiveWindowSelfAttention, x: Tensor, queries: Tensor) -> Tensor:
    """Compute rows of IWSA's attention: `softmax(q k^T / sqrt(D))` inside the windows of the queries only.

    Args:
        layer: the attention.
        x: (B, H, W, C) the map that it reads.
        queries: (P, 2) row and column of tokens.

    Returns:
        (B, P, h, rows, columns) weights over the tokens of each query's window, with those of the padding.
    """
    size = torch.tensor(layer.window_size, device=x.device)
    cut = pad_to_multiple(x, layer.window_size)  # (B, Hp, Wp, C)
    cut = cut.unflatten(2, (-1, layer.window_size[1])).unflatten(1, (-1, layer.window_size[0]))
    places, which = torch.unique(queries // size, dim=0, return_inverse=True)  # windows that hold a query
    windows = cut[:, places[:, 0], :, places[:, 1]]  # (n, B, rows, columns, C): indexing puts its own axis first
    q, k, _ = layer.qkv(windows).transpose(0, 1).chunk(3, dim=-1)  # (B, n, rows, columns, C)
    within = queries % size
    q = q[:, which, within[:, 0], within[:, 1]].unflatten(-1, (layer.num_heads, -1))  # (B, P, h, D)
    k = k[:, which].unflatten(-1, (layer.num_heads, -1))  # (B, P, rows, columns, h, D)
    scores = torch.einsum("bphd,bprchd->bphrc", q, k) * q.shape[-1] ** -0.5
    return scores.flatten(-2).softmax(dim=-1).unflatten(-1, layer.window_size)


def _block_attention(step: BlockInput, points: Sequence[Point]) -> BlockAttention:
    attn = step.block.attn
    map_size = (step.x.shape[1], step.x.shape[2])
    queries = nearest_tokens(points, map_size, stride=step.stride)
    x, there = step.block.norm1(step.x), queries.to(step.x.device)
    if isinstance(attn, InteractiveWindowSelfAttention):
        weights, corners, tokens = iwsa_weights(attn, x, there), queries // torch.tensor(attn.window_size), 1
        corners = corners * torch.tensor(attn.window_size)
        kind: Kind = "iwsa"
    else:
        assert isinstance(attn, ScalableSelfAttention)
        weights, corners, tokens = ssa_weights(attn, x, there), torch.zeros_like(queries), attn.reduction
        kind = "ssa"
    return BlockAttention(step.stage, step.index, kind, weights, queries, corners, tokens, step.stride, map_size)
