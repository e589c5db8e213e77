"""Confidence intervals by bootstrap over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure over images.

    Attributes:
        value: over all images.
        low, high: 95 % of the figures over images drawn with replacement lie between.
        images: that have the figure.
    """

    value: float
    low: float
    high: float
    images: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "value": round(self.value, 6),
            "low": round(self.low, 6),
            "high": round(self.high, 6),
            "images": self.images,
        }


def bootstrap(values: Sequence[float | None], *, samples: int = 2000, seed: int = 0) -> Interval | None:
    """Compute the mean over images and its 95 % interval by percentiles.

    Args:
        values: of each image; None: the image has none, and is left out.
        samples: how often images are drawn; at least 1.
        seed: of the draws: the same numbers have the same interval.

    Returns:
        the interval; None where no image has a value.
    """
    there = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(there):
        return None
    return bootstrap_of(there, lambda rows: float(rows.mean()), samples=samples, seed=seed)


def bootstrap_of(
    rows: NDArray[Any], figure: Callable[[NDArray[Any]], float], *, samples: int = 2000, seed: int = 0
) -> Interval:
    """Compute any figure over images and its 95 % interval by percentiles.

    Args:
        rows: (N, ...) what is known of each image; N at least 1.
        figure: from such rows to the number.
        samples, seed: as for `bootstrap`.
    """
    rng = np.random.default_rng(seed)
    drawn = [figure(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(samples)]
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(figure(rows), float(low), float(high), len(rows))
