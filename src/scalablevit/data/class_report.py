"""Precision, recall and F1 of each class from counts, for every task that can count."""

from collections.abc import Sequence
from typing import Any

import numpy as np

_MOST_IN_A_MATRIX = 100


def class_report(class_names: Sequence[str], confusion: np.ndarray) -> list[dict[str, Any]]:
    """Compute the figures of each class.

    Args:
        class_names: by class index.
        confusion: (K, K) counts, true class by predicted class.

    Returns:
        for each class its name (`class`), `precision` (share of what is predicted as the class that is of it), `recall`
        (share of the class that is predicted as it), `f1` (their harmonic mean), `support` (number of the class) and
        `predicted` (number predicted as it). Shares lie in 0..1; None where there is nothing to divide by.
    """
    hits, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        class_figures(name, hits=int(hits[k]), support=int(support[k]), predicted=int(predicted[k]))
        for k, name in enumerate(class_names)
    ]


def class_figures(name: str, *, hits: int, support: int, predicted: int) -> dict[str, Any]:
    """Compute the figures of one class from its counts; see `class_report`."""
    return {
        "class": name,
        "precision": hits / predicted if predicted else None,
        "recall": hits / support if support else None,
        "f1": 2 * hits / (support + predicted) if support + predicted else None,
        "support": support,
        "predicted": predicted,
    }


def macro_mean(report: Sequence[dict[str, Any]], figure: str) -> float | None:
    """Average a figure over the classes that occur, each counting once.

    A class that occurs and is never predicted has no precision; it counts as 0.

    Args:
        report: of `class_report`.
        figure: "precision", "recall" or "f1".
    """
    values = [row[figure] or 0.0 for row in report if row["support"]]
    return sum(values) / len(values) if values else None


def confusion_as_json(confusion: np.ndarray) -> dict[str, Any]:
    """Write a confusion matrix as JSON takes it: `confusion`, rows of counts, true class by predicted class.

    Above 100 classes most counts are 0: then `confusion_entries` has [true class, predicted class, count] of the rest.
    """
    if len(confusion) <= _MOST_IN_A_MATRIX:
        return {"confusion": confusion.tolist()}
    return {"confusion_entries": [[int(i), int(j), int(confusion[i, j])] for i, j in np.argwhere(confusion)]}
