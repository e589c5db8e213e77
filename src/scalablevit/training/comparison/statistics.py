"""Means over seeds, and paired differences with their confidence intervals."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

LEVEL = 0.95
METHOD = "95 % t interval of the mean of the differences, paired by seed"


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        value: the mean.
        std: sample standard deviation (n - 1); None: of a single seed.
        count: how many seeds.
    """

    value: float
    std: float | None
    count: int


@dataclass(frozen=True)
class Difference:
    """Mean difference of two combinations over the seeds that both have.

    Attributes:
        value: mean of other minus first.
        low, high: ends of its confidence interval; None: of a single seed there is none.
        count: how many seeds.
    """

    value: float
    low: float | None
    high: float | None
    count: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"value": self.value, "low": self.low, "high": self.high, "seeds": self.count}


def mean_of(values: Mapping[int, float]) -> Mean | None:
    """Average the values of the seeds; None where there are none."""
    if not values:
        return None
    there = np.array(list(values.values()), dtype=np.float64)
    return Mean(float(there.mean()), float(there.std(ddof=1)) if len(there) > 1 else None, len(there))


def paired_difference(first: Mapping[int, float], other: Mapping[int, float]) -> Difference | None:
    """Average `other` minus `first` over the seeds that both have, with Student's t interval.

    Seeds are few, so their differences are taken as normally distributed: a bootstrap of three values would draw from
    ten sets at most, and its interval would be too narrow.

    Args:
        first, other: seed -> value.

    Returns:
        the difference; None where no seed is in both.
    """
    both = [seed for seed in first if seed in other]
    if not both:
        return None
    gaps = np.array([other[seed] - first[seed] for seed in both], dtype=np.float64)
    value, n = float(gaps.mean()), len(gaps)
    if n == 1:
        return Difference(value, None, None, n)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * float(gaps.std(ddof=1)) / math.sqrt(n)
    return Difference(value, value - half, value + half, n)
