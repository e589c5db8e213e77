"""The maps of a network's stages as colours: their first three principal components."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.explain.explainable import explainable, frozen, recorded
from scalablevit.explain.subject import Explanation, Subject, spread_tokens

_COMPONENTS = 3
_CLIPPED = 0.01  # share of values that each end of a component's range leaves out: a few tokens are far from all others


def feature_colours(model: nn.Module, images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Colour the tokens of each stage by the first three principal components of their features, image by image.

    Tokens of like colour have like features; colours of two stages, or of two images, mean nothing to each other. A
    component's sign is arbitrary: the feature that weighs most in it counts positive.

    Args:
        model: classifier, segmenter or detector of this package; also compiled, or with averaged weights.
        images: (B, C, H, W), normalised.

    Returns:
        for each stage, (B, H_i, W_i, 3) float32 in 0..1, and (B, 3) the share of the tokens' variance that each
        component holds, in 0..1. Components that a stage lacks, having too few tokens, are gray with a share of 0.

    Raises:
        ValueError: the model has no maps, or the images are not as it takes them.
    """
    found = explainable(model)
    with (
        frozen(found.network),
        torch.no_grad(),
        recorded(dict(enumerate(found.map_modules))) as maps,
    ):
        found.core(images.float())
    return [_coloured(maps[i]) for i in range(len(maps))]


def _coloured(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(B, H, W, C) -> colours (B, H, W, 3) and shares of the variance (B, 3)."""
    B, H, W, C = maps.shape
    tokens = maps.reshape(B, H * W, C).double()
    tokens = tokens - tokens.mean(dim=1, keepdim=True)
    variances, axes = torch.linalg.eigh(tokens.transpose(1, 2) @ tokens)  # ascending; (B, C), (B, C, C)
    k = min(_COMPONENTS, C)
    variances, axes = variances.flip(1).clamp(min=0), axes.flip(2)[:, :, :k]
    heaviest = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True))  # (B, 1, k)
    values = tokens @ (axes * heaviest.sign())  # (B, N, k)
    low, high = values.quantile(_CLIPPED, dim=1, keepdim=True), values.quantile(1 - _CLIPPED, dim=1, keepdim=True)
    total = variances.sum(dim=1, keepdim=True)
    spread = high - low
    is_there = spread > 1e-6 * (total[:, :, None] / max(H * W, 1)).sqrt().clamp(min=1e-12)
    colours = torch.where(is_there, ((values - low) / spread.clamp(min=1e-30)).clamp(0, 1), 0.5)
    shares = torch.where(total > 0, variances[:, :k] / total.clamp(min=1e-300), 0.0)
    missing = _COMPONENTS - k
    colours = nn.functional.pad(colours, (0, missing), value=0.5)
    return colours.reshape(B, H, W, _COMPONENTS).float(), nn.functional.pad(shares, (0, missing)).float()


def explain(subject: Subject) -> list[Explanation]:
    """Show the features of each stage as colours; the method `features`."""
    strides = explainable(subject.network).strides
    stages = feature_colours(subject.network, subject.pixels)
    numbers: list[dict[str, Any]] = []
    panels: list[tuple[str, Any]] = []
    for i, (colours, shares) in enumerate(stages):
        height, width = colours.shape[1:3]
        seen = [round(float(x), 6) for x in shares[0]]
        numbers.append({"stage": i + 1, "stride": strides[i], "tokens": [height, width], "variance": seen})
        shown = spread_tokens(subject.pixels_frame, colours[0], strides[i])  # (H, W, 3)
        panels.append((f"stage {i + 1}: {height} x {width} tokens, {sum(seen):.0%}", shown.cpu().numpy()))

    def draw() -> Any:
        from scalablevit.explain.draw import draw_colours

        return draw_colours(subject.image, panels)

    rows = [(f"stage {row['stage']}", f"{sum(row['variance']):.1%} of the variance") for row in numbers]
    return [Explanation("features", subject.path, {"stages": numbers}, draw, rows)]
