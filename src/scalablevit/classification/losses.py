"""The loss of a classifier: cross-entropy, with class weights or as focal loss."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scalablevit.abridged import abridged


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


def weights_of_classes(
    given: str | Sequence[float] | Mapping[str, float], class_names: Sequence[str], counts: Sequence[int]
) -> Tensor:
    """Turn the recipe's class weights into a factor for each class, with mean 1 over the training images.

    Args:
        given: "balanced" (each class counts the same in total), or weights by class index or by class name; classes
            that are not named get 1.
        class_names: by class index.
        counts: training images of each class.

    Returns:
        (K,) float32.

    Raises:
        ValueError: names no class, another number of weights, or one that is negative or not finite.
    """
    numbers = torch.tensor(counts, dtype=torch.float64)
    if isinstance(given, str):
        if given != "balanced":
            raise ValueError(f"model.class_weights must be 'balanced', a list, an object or null, got {given!r}")
        weights = 1.0 / numbers.clamp(min=1.0)
    elif isinstance(given, Mapping):
        if unknown := [name for name in given if name not in class_names]:
            raise ValueError(
                f"model.class_weights names {abridged(map(repr, unknown))}, which are no classes; they are "
                f"{abridged(map(repr, class_names), 8)}"
            )
        weights = torch.tensor([float(given.get(name, 1.0)) for name in class_names], dtype=torch.float64)
    else:
        weights = torch.tensor([float(weight) for weight in given], dtype=torch.float64)
    if len(weights) != len(class_names):
        raise ValueError(f"model.class_weights needs {len(class_names)} weights, one per class, got {len(weights)}")
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or not bool((weights * numbers).any()):
        raise ValueError(f"model.class_weights must be at least 0, and one above 0, got {given}")
    return (weights * numbers.sum() / (weights * numbers).sum()).float()
