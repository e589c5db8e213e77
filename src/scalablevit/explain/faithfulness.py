"""Whether a map tells the truth: how the score falls and rises where the map's pixels are hidden and shown.

Source: RISE, arXiv:1806.07421, section 4.2 (deletion and insertion).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from scalablevit.explain.subject import Subject, Target

STEPS = 10
_BATCH = 8


@dataclass(frozen=True)
class Curves:
    """Scores while pixels are hidden and shown in the order of a map, 0 for the empty image and 1 for the whole one.

    Attributes:
        deletion: (steps + 1,) scores where shares 0, 1/steps ... 1 of the pixels, the highest first, have the mean
            colour. Of a map that tells the truth they fall at once.
        insertion: (steps + 1,) scores where these shares of the pixels are shown in a blurred image. They rise at once.
    """

    deletion: NDArray[Any]
    insertion: NDArray[Any]

    @property
    def areas(self) -> tuple[float, float]:
        """Areas under the deletion and the insertion curve, by trapezoids."""
        deletion, insertion = (float((y[1:] + y[:-1]).mean() / 2) for y in (self.deletion, self.insertion))
        return deletion, insertion


def curves(subject: Subject, target: Target, order: NDArray[Any], *, steps: int = STEPS) -> Curves | None:
    """Measure the deletion and insertion curves of an order of pixels.

    Args:
        subject: the image.
        target: the score.
        order: (h, w) importance of the pixels of `subject.inputs`; equal ones are taken in an order by chance, the
            same each time.
        steps: of the curves.

    Returns:
        the curves; None where the empty or the blurred image scores as high as the image itself, so that there is
        nothing to fall or rise.
    """
    inputs = subject.inputs
    ranks = torch.from_numpy(pixel_ranks(order)).to(inputs.device)  # 0: the most important
    empty = inputs.new_tensor(list(subject.mean))[None, :, None, None].expand_as(inputs)
    blurred = _blurred(inputs)
    limits = [round(k * ranks.numel() / steps) for k in range(steps + 1)]
    deleted = _scores(subject, target, [torch.where(ranks < k, empty, inputs) for k in limits])
    inserted = _scores(subject, target, [torch.where(ranks < k, inputs, blurred) for k in limits])
    falls, rises = deleted[0] - deleted[-1], inserted[-1] - inserted[0]
    least = 1e-4 * max(abs(deleted[0]), 1e-4)
    if not (falls > least and rises > least):
        return None
    return Curves((deleted - deleted[-1]) / falls, (inserted - inserted[0]) / rises)


def pixel_ranks(order: NDArray[Any]) -> NDArray[Any]:
    """Rank pixels (h, w) by importance, the highest first: 0 ... h * w - 1; ties by chance, the same each time."""
    chance = np.random.default_rng(0).permutation(order.size)
    sorted_pixels = np.lexsort((chance, -order.ravel()))
    ranks = np.empty(order.size, dtype=np.int64)
    ranks[sorted_pixels] = np.arange(order.size)
    return ranks.reshape(order.shape)


@torch.no_grad()
def _scores(subject: Subject, target: Target, images: Sequence[Tensor]) -> NDArray[Any]:
    scores = []
    for i in range(0, len(images), _BATCH):
        batch = torch.cat(list(images[i : i + _BATCH]))
        scores.append(target.score(subject.compute(subject.network, batch)).float().cpu())
    return torch.cat(scores).numpy().astype(np.float64)


def _blurred(inputs: Tensor) -> Tensor:
    """The image without what could be recognised in it."""
    least = min(inputs.shape[-2:])
    radius = least // 6
    if radius < 1:
        return F.adaptive_avg_pool2d(inputs, 1).expand_as(inputs)
    return transforms.gaussian_blur(inputs, [2 * radius + 1, 2 * radius + 1], [radius / 2, radius / 2])
