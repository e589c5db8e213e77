"""The method `attention`: figures and numbers of where query points look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalablevit.explain.attention import BlockAttention, attention_maps, attention_over_image
from scalablevit.explain.geometry import Point, check_points, grid_points
from scalablevit.explain.subject import Explanation, Subject

PER = ("stage", "block", "head")
"""What a panel shows: the mean over the blocks of a stage and their heads, a block, or one head."""

_MOST_PANELS = 64


def explain(
    subject: Subject, *, at: Sequence[Point] | None = None, grid: int | None = None, per: str = "stage"
) -> list[Explanation]:
    """Show where query points of an image look, in both attentions.

    Args:
        subject: the image.
        at: (x, y) in pixels of the image: a figure for each.
        grid: points along each side: one figure of all of them, with the mean over all blocks of SSA. None, and no
            `at`: the point in the middle of the image.
        per: "stage", "block" or "head"; see `PER`.

    Raises:
        ValueError: a point lies outside the image or what the network sees of it, or the points are too many.
    """
    size = (subject.image.height, subject.image.width)
    points = list(at or ())
    if grid is not None:
        if per != "stage":
            raise ValueError(f"per {per} is for single points (at): a grid shows the mean over all blocks")
        if not 1 <= grid * grid <= _MOST_PANELS:
            raise ValueError(f"grid must be 1..{math.isqrt(_MOST_PANELS)} points along each side, got {grid}")
    elif not points:
        points = [_middle(subject)]
    if points:
        check_points(points, size)
    spread = [] if grid is None else _seen_points(subject, grid)
    found = attention_maps(subject.network, subject.pixels, [_to_pixels(subject, point) for point in points + spread])
    explanations = [_one_point(subject, found, i, point, per) for i, point in enumerate(points)]
    if spread:
        explanations.append(_grid(subject, found, len(points), spread))
    return explanations


@dataclass(frozen=True)
class _Group:
    """What one panel shows: blocks of one attention, and one head or None for all."""

    title: str
    blocks: list[BlockAttention]
    row: str
    head: int | None = None


def query_numbers(found: BlockAttention, point: int) -> dict[str, Any]:
    """Give the numbers of a query in a block: mean over the heads, of the first image.

    Returns:
        entropy: of the weights over the logarithm of their number, in 0..1 (1: all keys alike); None for one key.
        distance: mean distance of the keys inside the map from the query's token, in pixels of the network's input.
        largest: largest weight of a key.
        on_padding: share of the weights that falls on padding.
    """
    weights = found.weights[0, point]  # (h, rows, columns)
    count = weights[0].numel()
    return {
        "block": found.name,
        "attention": found.kind.upper(),
        "keys": list(weights.shape[1:]),
        "entropy": None if count == 1 else round(float(entropies(found)[0, point].mean()), 6),
        "distance": round(float(distances(found)[0, point].mean()), 3),
        "largest": round(float(weights.mean(dim=0).max()), 6),
        "on_padding": round(float(found.on_padding[0, point].mean()), 6),
    }


def entropies(found: BlockAttention) -> Tensor:
    """(B, P, h) entropy of the weights over its maximum, the logarithm of the number of keys; in 0..1.

    It is NaN where there is one key only.
    """
    weights = found.weights.flatten(-2)
    entropy = -torch.special.xlogy(weights, weights).sum(dim=-1)
    return entropy / math.log(weights.shape[-1]) if weights.shape[-1] > 1 else torch.full_like(entropy, math.nan)


def distances(found: BlockAttention, *, uniform: bool = False) -> Tensor:
    """(B, P, h) mean distance between a query's token and the centres of its keys in the map, in pixels of the input.

    Args:
        found: the attention of a block.
        uniform: as if all keys had the same weight.
    """
    rows, columns = found.weights.shape[-2:]
    middle = (found.step - 1) / 2  # of a key's tokens
    y, x = (
        found.corners[:, axis, None] + found.step * torch.arange(count) + middle - found.queries[:, axis, None]
        for axis, count in enumerate((rows, columns))
    )  # (P, rows) and (P, columns), in tokens
    lengths = found.stride * torch.hypot(y[:, :, None], x[:, None]).to(found.weights)  # (P, rows, columns)
    weights = (torch.ones_like(found.weights) if uniform else found.weights) * found.is_inside[None, :, None]
    total = weights.sum(dim=(-2, -1)).clamp(min=torch.finfo(weights.dtype).tiny)
    return (weights * lengths[None, :, None]).sum(dim=(-2, -1)) / total


def _one_point(subject: Subject, found: Sequence[BlockAttention], index: int, point: Point, per: str) -> Explanation:
    groups = _groups(found, per)
    if len(groups) > _MOST_PANELS:
        raise ValueError(
            f"per {per} would make {len(groups)} panels, more than {_MOST_PANELS}: the network is too deep; take per "
            f"{PER[PER.index(per) - 1]}, or scalablevit.explain.attention_maps in Python"
        )
    numbers = [query_numbers(block, index) for block in found]

    def draw() -> Any:
        from scalablevit.explain.draw import Panel  # matplotlib takes a while to import
        from scalablevit.explain.draw_attention import draw_rows

        rows: dict[str, list[Panel | None]] = {}
        for group in groups:
            heat = _over_image(subject, group.blocks, index, group.head)
            panel = Panel(f"{group.title}, at most {heat.max():.1%}", heat, point=(point[0] + 0.5, point[1] + 0.5))
            rows.setdefault(group.row, []).append(panel)
        return draw_rows(subject.image, rows)

    words = []
    for group in _groups(found, "stage"):
        chosen = [n for n, block in zip(numbers, found, strict=True) if any(block is b for b in group.blocks)]
        mean = {
            key: np.mean([n[key] for n in chosen if n[key] is not None] or [0]) for key in ("distance", "on_padding")
        }
        aside = f", {mean['on_padding']:.0%} on padding" if mean["on_padding"] > 0.005 else ""
        words.append((f"{point[0]:g},{point[1]:g} {group.title} {group.row}", f"{mean['distance']:.0f} px away{aside}"))
    content = {"at": [float(point[0]), float(point[1])], "blocks": numbers}
    return Explanation("attention", subject.path, content, draw, words)


def _grid(subject: Subject, found: Sequence[BlockAttention], first: int, points: Sequence[Point]) -> Explanation:
    blocks = [block for block in found if block.kind == "ssa"]
    if not blocks:
        raise ValueError("the network has no SSA: a grid would show single windows; give points (at)")
    numbers: list[dict[str, Any]] = [
        {"at": [float(x), float(y)], "blocks": [query_numbers(block, first + i) for block in blocks]}
        for i, (x, y) in enumerate(points)
    ]

    def draw() -> Any:
        from scalablevit.explain.draw import Panel, draw_heatmaps

        heats = [_over_image(subject, blocks, first + i, None) for i in range(len(points))]
        panels = [
            Panel(f"SSA from {point[0]:g},{point[1]:g}", _scaled(heat), point=point)
            for point, heat in zip(points, heats, strict=True)
        ]
        return draw_heatmaps(subject.image, panels, scale="weight of a key (largest of the panel: 1)")

    mean = np.mean([block["distance"] for point in numbers for block in point["blocks"]])
    words = [(f"{len(points)} points, SSA", f"{mean:.0f} px away")]
    return Explanation("attention", subject.path, {"points": numbers}, draw, words)


def _groups(found: Sequence[BlockAttention], per: str) -> list[_Group]:
    """The panels: a row for each attention, or, per block and head, for each stage and attention."""
    if per not in PER:
        raise ValueError(f"per must be one of {', '.join(PER)}, got {per!r}")
    groups = []
    for stage in sorted({block.stage for block in found}):
        for kind in ("iwsa", "ssa"):
            blocks = [block for block in found if (block.stage, block.kind) == (stage, kind)]
            row = f"{kind.upper()} {stage + 1}"
            if per == "stage" and blocks:
                groups.append(_Group(f"stage {stage + 1}", blocks, kind.upper()))
            for block in blocks if per != "stage" else ():
                title = f"block {block.block + 1}"
                if per == "block":
                    groups.append(_Group(title, [block], row))
                else:
                    heads = range(block.weights.shape[2])
                    groups.extend(_Group(f"{title} head {head + 1}", [block], row, head) for head in heads)
    return groups


def _over_image(subject: Subject, blocks: Sequence[BlockAttention], point: int, head: int | None) -> NDArray[Any]:
    """(H, W) mean of the blocks' weights over the image."""
    size = (subject.pixels.shape[-2], subject.pixels.shape[-1])
    laid = [attention_over_image(block, size, head=head, point=point) for block in blocks]
    return subject.pixels_frame.to_image(torch.stack(laid).mean(dim=0))[0].cpu().numpy()


def _scaled(heat: NDArray[Any]) -> NDArray[Any]:
    return heat / heat.max() if heat.max() > 0 else heat


def _seen_range(low: float, high: float, length: int) -> range:
    """Pixels along one side whose middles the network sees; where it sees less than that, the one that it sees into.

    Args:
        low, high: ends of the part that the network sees, in pixels.
        length: of the image's side.
    """
    found = range(math.ceil(low - 0.5), math.ceil(high - 0.5))
    return found or range(only := min(max(int((low + high) / 2), 0), length - 1), only + 1)


def _seen_ranges(subject: Subject) -> tuple[range, range]:
    """Columns and rows of the image that the network sees."""
    left, top, right, bottom = subject.pixels_frame.box_xyxy
    height, width = subject.pixels_frame.image
    return _seen_range(left, right, width), _seen_range(top, bottom, height)


def _middle(subject: Subject) -> Point:
    """The image's middle pixel, or where the network does not see it the middle one of those that it sees."""
    sides = (subject.image.width, subject.image.height)
    x, y = (
        side // 2 if side // 2 in seen else seen[len(seen) // 2]
        for side, seen in zip(sides, _seen_ranges(subject), strict=True)
    )
    return x, y


def _to_pixels(subject: Subject, point: Point) -> Point:
    """The point in what the stages see: the middle of the image's pixel.

    Raises:
        ValueError: the network does not see that part of the image.
    """
    columns, rows = _seen_ranges(subject)
    if not (int(point[0]) in columns and int(point[1]) in rows):
        raise ValueError(
            f"point {point[0]:g},{point[1]:g} is not seen by the network, which cuts out x {columns[0]}..{columns[-1]} "
            f"and y {rows[0]}..{rows[-1]} of the image"
        )
    height, width = subject.pixels_frame.seen
    x, y = subject.pixels_frame.to_input(point[0] + 0.5, point[1] + 0.5)
    return min(max(0.0, x - 0.5), width - 0.5), min(max(0.0, y - 0.5), height - 0.5)


def _seen_points(subject: Subject, grid: int) -> list[Point]:
    """Points spread over the part of the image that the network sees."""
    columns, rows = _seen_ranges(subject)
    inside = grid_points((len(rows), len(columns)), grid)
    return [(int(x + columns[0]), int(y + rows[0])) for x, y in inside]
