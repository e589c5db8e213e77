"""Outputs that are not numbers (NaN) count as wrong: argmax would take them for a class, most often for the first."""

import contextlib
import logging
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

ADVICE = "train with a lower learning rate, or take an earlier checkpoint"

_log = logging.getLogger(__name__)


def warn_of_lost(lost: int, images: int) -> None:
    """Warn of the images of a set or batch for which a network's outputs are not numbers, if there are any."""
    if lost:
        _log.warning("the outputs for %d of %d images are not numbers, and count as wrong; %s", lost, images, ADVICE)


def wrong_where_nan(scores: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Rank the true class last where a score is NaN.

    Args:
        scores: (N, K).
        targets: (N,) indices of the true classes.

    Returns:
        (N, K) scores, and the number of samples with a NaN.
    """
    lost = scores.isnan().any(dim=1)
    if not lost.any():
        return scores, 0
    ranked = scores.masked_fill(lost[:, None], 0.0)
    ranked[lost, targets[lost]] = -torch.inf
    return ranked, int(lost.sum())


def wrong_labels_where_nan(probabilities: Tensor, targets: Tensor) -> tuple[Tensor, int]:
    """Give a sample the opposite of its labels where a probability is NaN.

    Args:
        probabilities: (N, K).
        targets: (N, K) of 0 and 1.

    Returns:
        (N, K) probabilities, and the number of samples with a NaN.
    """
    lost = probabilities.isnan().any(dim=1)
    if not lost.any():
        return probabilities, 0
    return torch.where(lost[:, None], 1.0 - targets.to(probabilities.dtype), probabilities), int(lost.sum())


def other_than(mask: Tensor, num_classes: int) -> Tensor:
    """A wrong class for every pixel: the one behind the true one.

    Args:
        mask: class indices, of any shape.
        num_classes: K.
    """
    return (mask.long() + 1) % num_classes


@contextlib.contextmanager
def watched(network: nn.Module) -> Iterator[list[bool]]:
    """In a `with` block, note for each call of a network whether its output holds a NaN: a tensor, or several."""
    found: list[bool] = []

    def look(module: nn.Module, inputs: object, output: object) -> None:
        parts = output.values() if isinstance(output, Mapping) else [output]
        found.append(any(isinstance(part, Tensor) and bool(part.isnan().any()) for part in parts))

    handle = network.register_forward_hook(look)
    try:
        yield found
    finally:
        handle.remove()
