"""Labels of masks: counted, and the classes that follow from them.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Collection, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalablevit.abridged import abridged
from scalablevit.moved import forward_moved_names

IGNORED = 255
"""Class index of pixels that are left out of losses and metrics."""

MOST_CLASSES = 255
"""Class indices are 0 to 254 at most, as 255 means ignored."""

_PIXELS_AT_ONCE = 2**22


def count_labels(labels: NDArray[np.integer]) -> dict[int, int]:
    """Label -> number of its pixels in (H, W) integers."""
    if labels.dtype not in (np.uint8, np.uint16):
        values, counts = np.unique(labels, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    flat = labels.ravel()
    total = np.zeros(int(flat.max(initial=0)) + 1, np.int64)
    # bincount makes 64-bit integers of what it is given, eight times the mask.
    for start in range(0, flat.size, _PIXELS_AT_ONCE):
        total += np.bincount(flat[start : start + _PIXELS_AT_ONCE], minlength=total.size)
    return {int(label): int(total[label]) for label in np.flatnonzero(total)}


def names_of_labels(
    found: Collection[int], *, reduce_zero_label: bool = False, ignore_labels: Iterable[int] = (IGNORED,)
) -> list[str]:
    """Names "class 0", "class 1", ... for as many classes as the labels found in masks ask for.

    Args:
        found: every label of the data.
        reduce_zero_label: see `label_map.LabelMap`.
        ignore_labels: see `label_map.LabelMap`.

    Raises:
        ValueError: a label is negative or too high, fewer than two classes are left, or the labels look like shades of
            gray.
    """
    if set(found) == {0, IGNORED}:
        more = " and set reduce_zero_label to false" if reduce_zero_label else ""
        raise ValueError(
            "the masks have the labels 0 and 255 only, so these look like black-and-white masks; rewrite 255 as 1"
            f"{more}: classes are 0, 1, 2, ..., and 255 is not among them. Or give a label_map with the lines "
            "`0 background` and `255 object`"
        )
    ignored = {*ignore_labels, *([0] if reduce_zero_label else [])}
    classes = sorted(set(found) - ignored)
    if classes and classes[0] < 0:
        raise ValueError(
            f"the masks have the negative label {classes[0]}; add it to ignore_labels, or correct the masks"
        )
    if len(classes) < 2:
        only = f"only the label {classes[0]}" if classes else "no label"
        left_out = ", ".join(map(str, sorted(ignored & set(found)))) or "none"
        raise ValueError(
            f"the masks have {only} beside the ignored ones ({left_out}), so there is nothing to tell apart; where "
            "an ignored label is meant to be a class, change ignore_labels or reduce_zero_label, or renumber the "
            "masks: classes are 0, 1, 2, ..., and 255 is not among them"
        )
    count = classes[-1] + 1 - int(reduce_zero_label)
    if count > MOST_CLASSES:
        raise ValueError(
            f"the masks have labels up to {classes[-1]}, but there can be {MOST_CLASSES} classes at most; renumber the "
            f"masks, add labels that are no class to ignore_labels, or give a label_map with lines such as "
            f"`{classes[-1]} road`"
        )
    return [f"class {index}" for index in range(count)]


def why_shades(classes: Sequence[int], count: int) -> str | None:
    """Tell that labels are spread too thinly to be class indices, and what to do; None where they are not.

    Args:
        classes: labels found that are classes, sorted.
        count: how many classes they make if they are class indices.
    """
    neighbours = any(second - first == 1 for first, second in pairwise(classes))
    if len(classes) * 10 > count and (neighbours or len(classes) * 2 >= count):
        return None
    return (
        f"the masks have the labels {abridged(classes, 8)}, so {count - len(classes)} of {count} classes would never "
        "occur; these look like shades of gray rather than class indices. Rewrite them as 0, 1, 2, ..., give a "
        f"label_map with lines such as `{classes[-1]} road`, or, if there are {count} classes, name them in "
        "class_names_file"
    )


def class_pixels(labels: NDArray[np.integer[Any]], num_classes: int) -> list[int]:
    """How many pixels each class has.

    Args:
        labels: (H, W) class indices; those of `num_classes` and above (such as 255, ignored) are not counted.
        num_classes: K; at least 1.

    Returns:
        K counts, by class index.
    """
    counts = np.zeros(num_classes, np.int64)
    # np.bincount makes eight bytes of every label, so a large image is counted a part at a time.
    rows = max(1, 2**22 // max(labels.shape[1], 1))
    for top in range(0, labels.shape[0], rows):
        counts += np.bincount(labels[top : top + rows].ravel(), minlength=num_classes)[:num_classes]
    return counts.tolist()


forward_moved_names(__name__)
