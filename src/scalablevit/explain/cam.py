"""Layer-CAM: the regions of an image that raise a score, from the maps of several stages.

Source: LayerCAM, IEEE Transactions on Image Processing 30, 2021, doi:10.1109/TIP.2021.3089943.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scalablevit.backbone import PyramidBackbone
from scalablevit.explain.energy import heatmaps
from scalablevit.explain.explainable import Explainable, explainable, frozen, recomputed, recorded
from scalablevit.explain.subject import MOST_TARGETS, Explanation, Subject, chosen_targets, sampled

LEVELS = (0, 1, 2, 3)
"""Stages whose maps are merged."""

_NEAREST_WEIGHS = 4.0
"""Weight of the level nearest to the output: a classifier's last, a pyramid's first. The others weigh 1 each."""

_MOST_PIXELS_KEPT = 600**2
"""Pixels of images up to which what the backward pass needs is kept; above, it is computed again."""

Score = Callable[[Any], Tensor]
"""From a network's output for B images to (B,) differentiable numbers."""


def layer_cam(
    model: nn.Module,
    images: Tensor | Sequence[Tensor],
    *,
    target: int | Sequence[int] | Score | None = None,
    levels: Sequence[int] = LEVELS,
) -> Tensor | list[Tensor]:
    """Map the regions of images that raise a score of a network.

    The network is left as it was: no hook, no gradient, its mode. It computes in float32, whatever its weights are in.

    Args:
        model: classifier, segmenter or detector of this package; also compiled, or with averaged weights.
        images: what the model takes: (B, C, H, W), or for a detector a list of (C, H_i, W_i).
        target: class, for all images or one for each; or a function from the model's output to (B,) numbers to explain.
            None: the likeliest class, the class of most pixels, the surest object. Of a class, the score is its logit;
            in segmentation the sum of its logits over the pixels where it is the likeliest; in detection the score of
            its surest object, by the label that the detector gives it.
        levels: stages whose maps are merged, 0 to 3, as a weighted mean of maps divided by their maxima: the level
            nearest to the output, a classifier's last and a pyramid's first, counts four times.

    Returns:
        (B, H, W) float32 in 0..1 at the size of the images, each map's maximum 1; of a list of images, a list of
        (H_i, W_i). A map is 0 where nothing raises the score.

    Raises:
        ValueError: no such class or level, or the model has no maps to explain.
    """
    found = explainable(model)
    if isinstance(images, Tensor):
        score = target if callable(target) else lambda output: score_of(output, target)
        return merged_maps(found, images, lambda output: [score(output)], levels=levels)[0]
    detector: Any = found.network
    if not hasattr(detector, "transform"):
        raise ValueError(f"a list of images is for detectors; {type(detector).__name__} takes a batch (B, C, H, W)")
    maps = []
    for i, image in enumerate(images):
        wanted = target[i] if isinstance(target, Sequence) else target
        score = wanted if callable(wanted) else lambda output, k=wanted: score_of(output, k)  # type: ignore[misc]
        seen = detector.transform.resized(image.shape[1], image.shape[2])
        size = (image.shape[1], image.shape[2])
        (merged,) = merged_maps(found, [image], lambda output, f=score: [f(output)], levels=levels, size=seen)  # type: ignore[misc]
        maps.append(nn.functional.interpolate(merged[None], size, mode="bilinear")[0, 0])
    return maps


def score_of(output: Any, target: int | Sequence[int] | None) -> Tensor:
    """The score of a class in a network's output, or of what the network finds most; see `layer_cam`.

    Args:
        output: logits (B, K) or (B, K, H, W), or a detector's list of dicts.
        target: class, for all or one for each; None: the one that the network finds.

    Returns:
        (B,).

    Raises:
        ValueError: there is no such class.
    """
    if isinstance(output, Sequence):
        return torch.stack([_object_score(found, k) for found, k in zip(output, _each(target, len(output)))])  # noqa: B905
    if output.ndim not in (2, 4):
        raise ValueError(
            f"the output must be logits (B, K) or (B, K, H, W), got {tuple(output.shape)}: give a function"
        )
    K = output.shape[1]
    for k in _each(target, len(output)):
        if k is not None and not 0 <= k < K:
            raise ValueError(f"target must be a class in 0..{K - 1}, got {k}")
    labels = output.detach().argmax(dim=1)  # (B,) or (B, H, W)
    scores = []
    for logits, label, k in zip(output, labels, _each(target, len(output)), strict=True):
        k = int(label.flatten().mode().values) if k is None else k
        scores.append(logits[k] if label.ndim == 0 else (logits[k] * (label == k)).sum())
    return torch.stack(scores)


def merged_maps(
    found: Explainable,
    inputs: Any,
    scores: Callable[[Any], Sequence[Tensor]],
    *,
    levels: Sequence[int] = LEVELS,
    size: tuple[int, int] | None = None,
    compute: Callable[[nn.Module, Any], Any] | None = None,
) -> list[Tensor]:
    """Compute the merged Layer-CAM of several scores in one pass forward, and one back for each.

    Args:
        found: the network.
        inputs: what it takes.
        scores: from its output to (B,) numbers for each map.
        levels: stages whose maps are merged.
        size: (height, width) in pixels of the part of the network's input that is mapped; None: that of `inputs`.
        compute: from network and inputs to the output; None: the network is called.

    Returns:
        for each score (B, h, w) float32 in 0..1.

    Raises:
        ValueError: no such level.
    """
    strides = found.strides
    if not levels or not set(levels) <= set(range(len(strides))):
        raise ValueError(f"levels must be some of 0..{len(strides) - 1}, got {list(levels)}")
    height, width = inputs.shape[2:] if size is None else size
    nearest = 0 if isinstance(found.core, PyramidBackbone) else len(strides) - 1
    merged = []
    for maps in level_maps(found, inputs, scores, levels=levels, compute=compute):
        total = torch.zeros(())
        for level, cam in zip(sorted(set(levels)), maps, strict=True):
            rows = (torch.arange(height, device=cam.device) + 0.5) / strides[level] - 0.5
            columns = (torch.arange(width, device=cam.device) + 0.5) / strides[level] - 0.5
            weight = _NEAREST_WEIGHS if level == nearest else 1.0
            total = total.to(cam.device) + weight * normalised(sampled(normalised(cam), rows, columns))
        merged.append(normalised(total))
    return merged


def level_maps(
    found: Explainable,
    inputs: Any,
    scores: Callable[[Any], Sequence[Tensor]],
    *,
    levels: Sequence[int] = LEVELS,
    compute: Callable[[nn.Module, Any], Any] | None = None,
) -> list[list[Tensor]]:
    """Compute the Layer-CAM of each level at its own size, as `merged_maps` takes them.

    Returns:
        for each score, and in it for each level from the finest on, (B, H_l, W_l) float32 of at least 0.
    """
    first, modules = min(levels), found.map_modules
    pixels = sum(x.numel() // x.shape[-3] for x in ([inputs] if isinstance(inputs, Tensor) else inputs))
    saves = recomputed(found.core) if pixels > _MOST_PIXELS_KEPT else contextlib.nullcontext()
    with frozen(found.network):

        def start(level: int, output: Tensor) -> Tensor:
            # what lies before the first map needs no gradient, and so no memory
            return output.detach().requires_grad_() if level == first else output

        with recorded({level: modules[level] for level in sorted(set(levels))}, change=start) as maps, saves:
            inputs = _ready(inputs)
            output = found.network(inputs) if compute is None else compute(found.network, inputs)
        return [_cams(score, list(maps.values())) for score in scores(output)]


def _cams(score: Tensor, maps: Sequence[Tensor]) -> list[Tensor]:
    """Weight each value by its gradient where that is above 0, and add up the channels: (B, H, W, C) -> (B, H, W)."""
    if not score.requires_grad:
        return [torch.zeros(x.shape[:3], device=x.device) for x in maps]
    gradients = torch.autograd.grad(score.sum(), maps, retain_graph=True, allow_unused=True, materialize_grads=True)
    return [(g.relu() * x.detach()).sum(dim=-1).relu() for g, x in zip(gradients, maps, strict=True)]


def normalised(maps: Tensor) -> Tensor:
    """(B, h, w) of at least 0, each divided by its maximum; a map of zeros stays one."""
    most = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(most > 0, maps / most.clamp(min=torch.finfo(maps.dtype).tiny), 0.0)


def explain(subject: Subject, *, class_name: str | None = None, most: int = MOST_TARGETS) -> list[Explanation]:
    """Explain what the network finds in an image, or a class, by Layer-CAM; the method `cam`.

    Raises:
        ValueError: `most` is below 1, or there is no such class.
    """
    targets = chosen_targets(subject, class_name, most)
    if not targets:
        return []
    merged = merged_maps(
        explainable(subject.network),
        subject.inputs,
        lambda output: [target.score(output) for target in targets],
        size=subject.pixels_frame.seen,
        compute=subject.compute,
    )
    maps = [subject.pixels_frame.to_image(x)[0].cpu().numpy() for x in merged]
    return [heatmaps("cam", subject, targets, maps, scale="Layer-CAM (maximum 1)")]


def _object_score(found: Any, label: int | None) -> Tensor:
    """The score of the surest object of a label, or of any; 0 without gradient where there is none."""
    scores = found["scores"] if label is None else found["scores"][found["labels"] == label]
    return scores.max() if len(scores) else found["scores"].new_zeros(())


def _each(target: int | Sequence[int] | None, count: int) -> list[int | None]:
    """One target for each of `count` images."""
    if target is None or isinstance(target, int):
        return [target] * count
    if len(target) != count:
        raise ValueError(f"target must be one class, or one for each of {count} images, got {len(target)}")
    return [int(k) for k in target]


def _ready(inputs: Any) -> Any:
    """Images in float32; those made in inference mode are copied, as autograd does not take them."""
    if isinstance(inputs, Tensor):
        images = inputs.float() if inputs.is_floating_point() else inputs
        return images.clone() if images.is_inference() else images
    return [_ready(x) for x in inputs]
