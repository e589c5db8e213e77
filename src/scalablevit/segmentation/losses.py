"""Losses of pixels: cross-entropy, focal loss and Dice loss, with weights for classes; ignored pixels never count."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from scalablevit.segmentation.labels import IGNORED


def segmentation_loss(
    logits: Tensor,
    masks: Tensor,
    *,
    ignored_in_mean: bool = False,
    class_weights: Tensor | None = None,
    focal_gamma: float | None = None,
    cross_entropy_weight: float = 1.0,
    dice_weight: float = 0.0,
) -> Tensor:
    """Compute the loss of a batch in float32: cross-entropy, or focal loss, and Dice loss, each times its weight.

    Without a pixel of a class it is 0, and its gradient 0 for every parameter.

    Args:
        logits: (B, K, H, W).
        masks: (B, H, W) int64 class indices, 255 where ignored.
        ignored_in_mean: divide cross-entropy by all pixels; False: by those with a class.
        class_weights: (K,) factors on the pixels of each class; the mean is weighted by them too.
        focal_gamma: exponent of focal loss, which takes the place of cross-entropy; None: cross-entropy.
        cross_entropy_weight: of cross-entropy or focal loss.
        dice_weight: of Dice loss.
    """
    logits = logits.float()
    # A factor of 0 would still reach every parameter, but not where the other is left out altogether.
    loss = logits.sum() * 0.0 if cross_entropy_weight == 0 and dice_weight == 0 else None
    if cross_entropy_weight != 0:
        loss = pixel_loss(
            logits, masks, ignored_in_mean=ignored_in_mean, class_weights=class_weights, focal_gamma=focal_gamma
        )
        loss = loss if cross_entropy_weight == 1 else cross_entropy_weight * loss
    if dice_weight != 0:
        dice = dice_weight * dice_loss(logits, masks, class_weights=class_weights)
        loss = dice if loss is None else loss + dice
    assert loss is not None
    return loss


def pixel_loss(
    logits: Tensor,
    masks: Tensor,
    *,
    ignored_in_mean: bool,
    class_weights: Tensor | None,
    focal_gamma: float | None,
) -> Tensor:
    """Cross-entropy, or focal loss, as a mean over pixels; arguments as for `segmentation_loss`.

    Source: Focal Loss for Dense Object Detection, arXiv:1708.02002, equation 5, over softmax in place of sigmoid.
    """
    known = masks != IGNORED
    if focal_gamma is None:
        total = F.cross_entropy(logits, masks, weight=class_weights, ignore_index=IGNORED, reduction="sum")
    else:
        surprise = F.cross_entropy(logits, masks, ignore_index=IGNORED, reduction="none")  # (B, H, W), 0 where ignored
        # -expm1(-x) is 1 - p without a loss of digits where p is near 1, and its power has a gradient at 0.
        missing = -torch.expm1(-surprise)
        factor = missing.clamp_min(torch.finfo(torch.float32).tiny) ** focal_gamma
        total = (factor * surprise * _weight_of_pixels(masks, known, class_weights)).sum()
    if ignored_in_mean:
        return total / masks.numel()
    if class_weights is None:
        return total / known.sum().clamp_min(1)
    weight = _weight_of_pixels(masks, known, class_weights).sum()
    return total / torch.where(weight > 0, weight, 1.0)


def dice_loss(logits: Tensor, masks: Tensor, *, class_weights: Tensor | None = None) -> Tensor:
    """1 - Dice of probabilities and truth over the whole batch, as a mean over the classes that occur in it.

    Args:
        logits: (B, K, H, W), float32.
        masks: (B, H, W) int64 class indices, 255 where ignored.
        class_weights: (K,) of the classes in the mean.

    Source: V-Net, arXiv:1606.04797, equation in section 3, with plain sums in the denominator.
    """
    K = logits.shape[1]
    known = masks != IGNORED
    probabilities = logits.softmax(1) * known[:, None]  # (B, K, H, W)
    truth = F.one_hot(masks.where(known, 0), K).movedim(-1, 1) * known[:, None]  # (B, K, H, W)
    dims = (0, 2, 3)
    occurs = truth.sum(dims)  # (K,)
    overlap = 2 * (probabilities * truth).sum(dims)
    dice = overlap / (probabilities.sum(dims) + occurs).clamp_min(torch.finfo(torch.float32).tiny)
    weight = (occurs > 0).float() * (1.0 if class_weights is None else class_weights)
    total = weight.sum()
    # Without a class, the probabilities still take part, so that every parameter has a gradient of 0.
    return ((1 - dice) * weight).sum() / torch.where(total > 0, total, 1.0)


def _weight_of_pixels(masks: Tensor, known: Tensor, class_weights: Tensor | None) -> Tensor:
    """(B, H, W) the weight of each pixel's class, 0 where ignored."""
    if class_weights is None:
        return known.float()
    return class_weights[masks.where(known, 0)] * known
