"""Adapt the first kernel of a checkpoint to images of other channels."""

from torch import Tensor

from scalablevit.weights.source import WeightsError


def adapt_in_chans(weight: Tensor, in_chans: int) -> Tensor:
    """Make the first kernel (C, I, k, k) fit other images: summed for one channel, else repeated and scaled."""
    old = weight.shape[1]
    if old == 0:
        raise WeightsError("the first kernel of the checkpoint takes images without channels; it is damaged")
    if in_chans == 1:
        return weight.sum(dim=1, keepdim=True)
    repeats = -(-in_chans // old)
    return weight.repeat(1, repeats, 1, 1)[:, :in_chans] * (old / in_chans)
