"""How much a window's output changes with its neighbours' content, with LIM and without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.backbone import typed
from scalablevit.explain.explainable import explainable, frozen
from scalablevit.explain.trunk import BlockInput, walk_blocks
from scalablevit.layers import InteractiveWindowSelfAttention


@dataclass(frozen=True)
class WindowInteraction:
    """Relative change of the output of windows whose neighbours got other content, in one stage.

    The windows of the map are coloured like a chessboard; the black ones swap their content, each turned by 180
    degrees. The change of a white window is the norm of the difference of its outputs over the norm of the output. All
    numbers are means over the white windows: (B,), at least 0, and 0 where nothing passes from window to window.

    Attributes:
        stage: from 0.
        attention: change of the output of IWSA, mean over the stage's IWSA blocks.
        attention_without_lim: the same with LIM switched off: 0, as windows do not see each other.
        stage_end: change at the end of the stage where the content at its beginning was changed: what LIM, SSA and PEG
            pass on together.
        stage_end_without_lim: the same with LIM switched off in the stage.
    """

    stage: int
    attention: Tensor
    attention_without_lim: Tensor
    stage_end: Tensor
    stage_end_without_lim: Tensor


def window_interaction(model: nn.Module, images: Tensor) -> list[WindowInteraction]:
    """Measure the interaction between windows in every stage of a network.

    Args:
        model: network of ours; it is left as it was.
        images: (B, C, H, W), normalised.

    Returns:
        the stages that have IWSA and maps of two whole windows at least.
    """
    ready = explainable(model)
    found = []
    with frozen(ready.network), torch.no_grad():
        steps: dict[int, list[BlockInput]] = {}
        for step in walk_blocks(ready.core, images.float()):
            steps.setdefault(step.stage, []).append(step)
        for i, stage in enumerate(typed(ready.core.stages)):
            inner = [step for step in steps[i] if isinstance(step.block.attn, InteractiveWindowSelfAttention)]
            if not inner:
                continue
            size = inner[0].block.attn.window_size
            _, H, W, _ = inner[0].x.shape
            if (H // size[0]) * (W // size[1]) < 2:
                continue
            start = steps[i][0].x  # what the stage's first block reads
            ends, layers = [], []
            for has_lim in (True, False):
                with contextlib.nullcontext() if has_lim else _without_lim(stage):
                    ends.append(_change(stage.run_blocks, start, size))
                    changes = [
                        _change(lambda x, block=step.block: block.attn(block.norm1(x)), step.x, size) for step in inner
                    ]
                    layers.append(torch.stack(changes).mean(dim=0))
            found.append(WindowInteraction(i, layers[0], layers[1], ends[0], ends[1]))
    return found


def exchanged(x: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Swap the content of the black windows of a map, each turned by 180 degrees.

    Args:
        x: (B, H, W, C), with two whole windows at least.
        size: rows and columns of a window.

    Returns:
        the changed map, and (H, W) bool: tokens of the white windows. Tokens in windows that the map cuts are neither.
    """
    _, H, W, _ = x.shape
    n_rows, n_columns = H // size[0], W // size[1]
    black = [(i, j) for i in range(n_rows) for j in range(n_columns) if (i + j) % 2]
    changed = x.clone()
    is_white = torch.zeros(H, W, dtype=torch.bool, device=x.device)
    for i in range(n_rows):
        for j in range(n_columns):
            if (i + j) % 2 == 0:
                is_white[i * size[0] : (i + 1) * size[0], j * size[1] : (j + 1) * size[1]] = True
    for (i, j), (k, m) in zip(black, black[1:] + black[:1], strict=True):
        source = x[:, k * size[0] : (k + 1) * size[0], m * size[1] : (m + 1) * size[1]]
        changed[:, i * size[0] : (i + 1) * size[0], j * size[1] : (j + 1) * size[1]] = source.flip((1, 2))
    return changed, is_white


def _change(function: Any, x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B,) mean relative change of the white windows' outputs of a function from map to map."""
    changed, is_white = exchanged(x, size)
    before, after = function(x), function(changed)
    rows, columns = x.shape[1] // size[0] * size[0], x.shape[2] // size[1] * size[1]

    def norms(values: Tensor) -> Tensor:  # (B, n_rows, n_columns)
        cut = values[:, :rows, :columns].square().sum(dim=-1)
        return cut.unflatten(2, (-1, size[1])).unflatten(1, (-1, size[0])).sum(dim=(2, 4)).sqrt()

    white = is_white[: rows : size[0], : columns : size[1]]
    ratio = norms(after - before) / norms(before).clamp(min=torch.finfo(before.dtype).tiny)
    return ratio[:, white].mean(dim=1).cpu()


@contextlib.contextmanager
def _without_lim(stage: Any) -> Iterator[None]:
    """Switch LIM off in a stage inside a `with` block."""
    attentions = [m for m in stage.modules() if isinstance(m, InteractiveWindowSelfAttention)]
    kept = [attention.lim for attention in attentions]
    try:
        for attention in attentions:
            attention.lim = None
        yield
    finally:
        for attention, lim in zip(attentions, kept, strict=True):
            attention.lim = lim
