"""Losses of a classifier: cross-entropy over classes, or binary for each; with class weights or as focal loss."""

import torch
import torch.nn.functional as F
from torch import Tensor


def soft_targets(targets: Tensor, num_classes: int, label_smoothing: float) -> Tensor:
    """Spread a share of each target over all classes: (B,) class indices to (B, K) that sum to 1."""
    return F.one_hot(targets, num_classes) * (1.0 - label_smoothing) + label_smoothing / num_classes


def soft_cross_entropy(
    logits: Tensor, targets: Tensor, *, class_weights: Tensor | None = None, focal_gamma: float | None = None
) -> Tensor:
    """Mean over the samples of the cross-entropy with targets that are spread over classes.

    Class weights are not divided by their sum in the batch, as in torch's own: so the mean over processes and over
    accumulated batches is that of the whole step.

    Args:
        logits: (B, K) float32.
        targets: (B, K), which sum to 1 over K.
        class_weights: (K,), a factor on the part of each class; None: 1.
        focal_gamma: the part of a class with probability p is multiplied by (1 - p) ** gamma, so that what is easy
            counts less; None: by 1.

    Source: focal loss, arXiv:1708.02002.
    """
    log_p = F.log_softmax(logits, dim=-1)
    parts = -targets * log_p
    if focal_gamma is not None:
        parts = parts * (1.0 - log_p.exp()).clamp(min=0.0) ** focal_gamma
    if class_weights is not None:
        parts = parts * class_weights
    return parts.sum(dim=-1).mean()


def binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    *,
    class_weights: Tensor | None = None,
    positive_weights: Tensor | None = None,
    focal_gamma: float | None = None,
) -> Tensor:
    """Mean over the samples and classes of the cross-entropy of a yes or no for each class.

    Args:
        logits: (B, K) float32.
        targets: (B, K) in 0..1.
        class_weights: (K,), a factor on all of a class; None: 1.
        positive_weights: (K,), a factor on the part of a class's targets of 1; None: 1.
        focal_gamma: the part of an answer with probability p is multiplied by (1 - p) ** gamma, so that what is easy
            counts less; None: by 1.

    Source: focal loss, arXiv:1708.02002.
    """
    log_yes, log_no = F.logsigmoid(logits), F.logsigmoid(-logits)
    yes, no = -targets * log_yes, -(1.0 - targets) * log_no
    if focal_gamma is not None:
        least = torch.finfo(logits.dtype).tiny  # a power below 1 has no slope at 0
        yes = yes * log_no.exp().clamp(min=least) ** focal_gamma
        no = no * log_yes.exp().clamp(min=least) ** focal_gamma
    if positive_weights is not None:
        yes = yes * positive_weights
    parts = yes + no
    return (parts if class_weights is None else parts * class_weights).mean()
