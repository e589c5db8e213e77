"""From the labels in mask files to class indices.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalablevit.abridged import abridged

IGNORED = 255
"""Class index of pixels that are left out of losses and metrics."""

MOST_CLASSES = 255
"""Class indices are 0 to 254 at most, as 255 means ignored."""

OUTSIDE_REMEDY = (
    "correct the mask, name the classes that lack in class_names_file, add labels that are no class to ignore_labels, "
    "or see whether reduce_zero_label should be set"
)
"""What to do about labels that are no class."""

_OUTSIDE = -1
_PIXELS_AT_ONCE = 2**22


class OutsideLabelsError(ValueError):
    """A mask has labels that are no class.

    Attributes:
        labels: those labels, as the file has them, sorted.
    """

    def __init__(self, labels: Sequence[int], label_map: "LabelMap") -> None:
        self.labels = list(labels)
        shown = abridged(self.labels, 8)
        what = f"label {shown}" if len(self.labels) == 1 else f"labels {shown}"
        super().__init__(f"it has the {what}, but {label_map.describe()}")


@dataclass(frozen=True)
class LabelMap:
    """Which label of a mask file is which class. Applied once to each mask, before anything is done with it.

    Args:
        num_classes: classes, 1 to 255.
        reduce_zero_label: label 0 is no class: it is ignored, and label 1 becomes class 0 (ADE20K). Otherwise label
            0 is class 0.
        ignore_labels: labels in the file that are ignored.

    Raises:
        ValueError: `num_classes` is out of range, or an ignored label lies among the classes.
    """

    num_classes: int
    reduce_zero_label: bool = False
    ignore_labels: tuple[int, ...] = (IGNORED,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignore_labels", tuple(self.ignore_labels))
        if not 1 <= self.num_classes <= MOST_CLASSES:
            raise ValueError(
                f"there must be 1 to {MOST_CLASSES} classes, as class index {IGNORED} means ignored, got "
                f"{self.num_classes}; merge classes"
            )

    @property
    def first_label(self) -> int:
        """The label of class 0."""
        return int(self.reduce_zero_label)

    @property
    def last_label(self) -> int:
        """The label of the last class."""
        return self.num_classes - 1 + self.first_label

    def describe(self) -> str:
        """Which labels are classes and which are ignored, in words."""
        ignored = sorted({*self.ignore_labels, *([0] if self.reduce_zero_label else [])})
        more = f" and {', '.join(map(str, ignored))} ignored" if ignored else ""
        return f"labels {self.first_label} to {self.last_label} are classes{more}"

    def is_ignored(self, label: int) -> bool:
        """Whether a label of a file is left out of losses and metrics."""
        return self._class_of(label) == IGNORED

    def is_outside(self, label: int) -> bool:
        """Whether a label of a file is neither a class nor ignored."""
        return self._class_of(label) == _OUTSIDE

    def encode(self, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Class indices of the labels of a mask file.

        Args:
            labels: (H, W) integers as the file has them.

        Returns:
            (H, W): class indices, and 255 where ignored.

        Raises:
            OutsideLabelsError: a label is neither a class nor ignored.
        """
        if labels.dtype in (np.uint8, np.uint16):
            coded = self._table[labels]
        else:
            values, places = np.unique(labels, return_inverse=True)
            coded = np.array([self._class_of(int(value)) for value in values], np.int16)[places].reshape(labels.shape)
        outside = coded == _OUTSIDE
        if outside.any():
            raise OutsideLabelsError([int(label) for label in np.unique(labels[outside])], self)
        return coded.astype(np.uint8)

    def _class_of(self, label: int) -> int:
        if label in self.ignore_labels or (label == 0 and self.reduce_zero_label):
            return IGNORED
        return label - self.first_label if self.first_label <= label <= self.last_label else _OUTSIDE

    @cached_property
    def _table(self) -> NDArray[np.int16]:
        return np.array([self._class_of(label) for label in range(2**16)], np.int16)


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
        reduce_zero_label: see `LabelMap`.
        ignore_labels: see `LabelMap`.

    Raises:
        ValueError: a label is negative or too high, fewer than two classes are left, or the masks are black and white.
    """
    if set(found) == {0, IGNORED}:
        more = " and set reduce_zero_label to false" if reduce_zero_label else ""
        raise ValueError(
            "the masks have the labels 0 and 255 only, so these look like black-and-white masks; rewrite 255 as 1"
            f"{more}: classes are 0, 1, 2, ..., and 255 is not among them"
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
            "masks, or add labels that are no class to ignore_labels"
        )
    return [f"class {index}" for index in range(count)]


def class_pixels(labels: NDArray[np.integer[Any]], num_classes: int) -> list[int]:
    """How many pixels each class has.

    Args:
        labels: (H, W) class indices; those of `num_classes` and above (such as 255, ignored) are not counted.
        num_classes: K; at least 1.

    Returns:
        K counts, by class index.
    """
    counts = np.zeros(num_classes, np.int64)
    # np.bincount makes eight bytes of every label, so a large picture is counted a part at a time.
    rows = max(1, 2**22 // max(labels.shape[1], 1))
    for top in range(0, labels.shape[0], rows):
        counts += np.bincount(labels[top : top + rows].ravel(), minlength=num_classes)[:num_classes]
    return counts.tolist()
