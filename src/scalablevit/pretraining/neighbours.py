"""How well the nearest neighbours of an image tell its class: what features are worth, without training on them."""

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_NEIGHBOURS = 20
TEMPERATURE = 0.07
_AT_A_TIME = 1024


def neighbours_votes(
    bank: Tensor, labels: Tensor, queries: Tensor, *, num_classes: int, k: int = NUM_NEIGHBOURS
) -> Tensor:
    """Votes of the k nearest features for each class: exp(cosine / 0.07) each.

    Args:
        bank: features of images with labels, (N, C).
        labels: their class indices, (N,).
        queries: features of the images to classify, (M, C).
        num_classes: K.
        k: neighbours; all of the bank where it has fewer.

    Returns:
        (M, K); the class of an image is that of the most votes.

    Source: weighted k-NN of arXiv:1805.01978, with k = 20 of arXiv:2104.14294.
    """
    bank, queries = F.normalize(bank.float(), dim=1), F.normalize(queries.float(), dim=1)
    votes = torch.zeros(len(queries), num_classes, device=queries.device)
    for start in range(0, len(queries), _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        similarities, nearest = (queries[part] @ bank.T).topk(min(k, len(bank)), dim=1)  # (m, k)
        weights = ((similarities - 1) / TEMPERATURE).exp()  # over exp(1 / T), which is too large for float16 and alike
        votes[part] = votes[part].scatter_add(1, labels[nearest], weights)
    return votes
