"""From the labels or colours in mask files to class indices, and back.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalablevit.abridged import abridged
from scalablevit.segmentation.labels import IGNORED, MOST_CLASSES

OUTSIDE_REMEDY = (
    "correct the mask, name the classes that lack in class_names_file, add labels that are no class to ignore_labels, "
    "see whether reduce_zero_label should be set, or give a label_map"
)
"""What to do about labels that are no class."""

OUTSIDE_MAP_REMEDY = 'correct the mask, or add them to the label map; "ignored" in place of a name leaves them out'
"""The same, where a label map file says which labels there are."""

LARGEST_LABEL = 65535
"""Labels of classes are at most this: PNG files have 16 bits for the masks that are written back."""

_OUTSIDE = -1


class OutsideLabelsError(ValueError):
    """A mask has labels that are no class.

    Attributes:
        labels: those labels, as the file has them, sorted; colours are packed, see `pack_colours`.
        remedy: what the user can do.
    """

    def __init__(self, labels: Sequence[int], label_map: "LabelMap") -> None:
        self.labels = list(labels)
        self.remedy = OUTSIDE_REMEDY if label_map.entries is None else OUTSIDE_MAP_REMEDY
        if label_map.in_colours:
            self.remedy += "; where the masks hold class indices and no colours, set label_map null"
        word = "colour" if label_map.in_colours else "label"
        shown = abridged([label_map.show(label) for label in self.labels], 8)
        what = f"{word} {shown}" if len(self.labels) == 1 else f"{word}s {shown}"
        super().__init__(f"it has the {what}, but {label_map.describe()}")


@dataclass(frozen=True)
class LabelMap:
    """Which label of a mask file is which class. Applied once to each mask, before anything is done with it.

    Args:
        num_classes: classes, 1 to 255.
        reduce_zero_label: label 0 is no class: it is ignored, and label 1 becomes class 0 (ADE20K). Otherwise label
            0 is class 0.
        ignore_labels: labels in the file that are ignored.
        entries: (label, class index) of each label that counts, 255 where it is ignored, as a label map file says; the
            first of a class is written back. None: labels are numbered as above.
        in_colours: labels are colours, packed by `pack_colours`.

    Raises:
        ValueError: `num_classes` is out of range, or entries name a class beyond it, or a label that no mask can have.
    """

    num_classes: int
    reduce_zero_label: bool = False
    ignore_labels: tuple[int, ...] = (IGNORED,)
    entries: tuple[tuple[int, int], ...] | None = None
    in_colours: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "ignore_labels", tuple(self.ignore_labels))
        if not 1 <= self.num_classes <= MOST_CLASSES:
            raise ValueError(
                f"there must be 1 to {MOST_CLASSES} classes, as class index {IGNORED} means ignored, got "
                f"{self.num_classes}; merge classes"
            )
        if self.entries is None:
            return
        object.__setattr__(self, "entries", tuple((int(label), int(index)) for label, index in self.entries))
        largest = 0xFFFFFF if self.in_colours else LARGEST_LABEL
        impossible = next((label for label, k in self.entries if k != IGNORED and not 0 <= label <= largest), None)
        if impossible is not None:
            raise ValueError(f"the label map has the label {impossible}, but labels of classes are 0 to {largest}")
        beyond = sorted({index for _, index in self.entries} - {*range(self.num_classes), IGNORED})
        if beyond:
            raise ValueError(
                f"the label map has a label for class index {beyond[0]}, but there are {self.num_classes} classes; "
                "correct it"
            )

    @property
    def first_label(self) -> int:
        """The label of class 0, where labels are numbered."""
        return int(self.reduce_zero_label)

    @property
    def last_label(self) -> int:
        """The label of the last class, where labels are numbered."""
        return self.num_classes - 1 + self.first_label

    @cached_property
    def class_labels(self) -> tuple[int, ...]:
        """The label that stands for each class in files, by class index; -1 for a class that these files have not."""
        if self.entries is None:
            return tuple(range(self.first_label, self.last_label + 1))
        first: dict[int, int] = {}
        for label, index in self.entries:
            first.setdefault(index, label)
        return tuple(first.get(index, -1) for index in range(self.num_classes))

    @cached_property
    def by_label(self) -> dict[int, int]:
        """Class index of every label that is a class or ignored, 255 where it is ignored."""
        return {label: self._class_of(label) for label in self._known}

    def show(self, label: int) -> str:
        """A label for people: a number, or a colour as #rrggbb."""
        return f"#{label:06x}" if self.in_colours else str(label)

    def describe(self) -> str:
        """Which labels are classes and which are ignored, in words."""
        if self.entries is not None:
            ignored = [label for label, index in self.entries if index == IGNORED]
            named = abridged([self.show(label) for label, index in self.entries if index != IGNORED], 8)
            word = "colours" if self.in_colours else "labels"
            more = f" and {abridged([self.show(label) for label in ignored], 8)} ignored" if ignored else ""
            return f"{word} {named} are classes{more}, by the label map"
        ignored = sorted({*self.ignore_labels, *([0] if self.reduce_zero_label else [])})
        more = f" and {', '.join(map(str, ignored))} ignored" if ignored else ""
        return f"labels {self.first_label} to {self.last_label} are classes{more}"

    def class_of(self, label: int) -> int | None:
        """Class index of a label, 255 where it is ignored, None where it is neither."""
        index = self._class_of(label)
        return None if index == _OUTSIDE else index

    def is_outside(self, label: int) -> bool:
        """Whether a label of a file is neither a class nor ignored."""
        return self._class_of(label) == _OUTSIDE

    def encode(self, labels: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Class indices of the labels of a mask file.

        Args:
            labels: (H, W) integers as the file has them, or packed colours.

        Returns:
            (H, W): class indices, and 255 where ignored.

        Raises:
            OutsideLabelsError: a label is neither a class nor ignored.
        """
        if labels.dtype in (np.uint8, np.uint16):
            coded = self._table[labels]
        else:
            known = np.array(sorted(self._known), labels.dtype)
            places = np.searchsorted(known, labels).clip(max=len(known) - 1)
            classes = np.array([self._class_of(int(label)) for label in known], np.int16)
            coded = np.where(known[places] == labels, classes[places], np.int16(_OUTSIDE))
        outside = coded == _OUTSIDE
        if outside.any():
            raise OutsideLabelsError([int(label) for label in np.unique(labels[outside])], self)
        return coded.astype(np.uint8)

    def decode(self, classes: NDArray[np.integer]) -> NDArray[np.integer]:
        """Labels of class indices, as mask files have them.

        Args:
            classes: (H, W) class indices below `num_classes`.

        Returns:
            (H, W) uint8, or uint16 where a label is above 255; (H, W, 3) uint8 for colours.
        """
        if self.in_colours:
            return np.array([unpack_colour(label) for label in self.class_labels], np.uint8)[classes]
        dtype = np.uint8 if max(self.class_labels) <= 255 else np.uint16
        return np.array(self.class_labels, dtype)[classes]

    def to_dict(self) -> dict[str, Any]:
        """The map as JSON takes it; `from_dict` reads it back."""
        return {
            "num_classes": self.num_classes,
            "reduce_zero_label": self.reduce_zero_label,
            "ignore_labels": list(self.ignore_labels),
            "entries": None if self.entries is None else [list(entry) for entry in self.entries],
            "in_colours": self.in_colours,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelMap":
        """Read what `to_dict` wrote.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        entries = values["entries"]
        return cls(
            int(values["num_classes"]),
            bool(values["reduce_zero_label"]),
            tuple(int(label) for label in values["ignore_labels"]),
            None if entries is None else tuple((int(label), int(index)) for label, index in entries),
            bool(values["in_colours"]),
        )

    def _class_of(self, label: int) -> int:
        if label in self._entries:
            return self._entries[label]
        if label in self.ignore_labels or (label == 0 and self.reduce_zero_label):
            return IGNORED
        if self.entries is not None:
            return _OUTSIDE
        return label - self.first_label if self.first_label <= label <= self.last_label else _OUTSIDE

    @cached_property
    def _entries(self) -> dict[int, int]:
        return dict(self.entries or ())

    @cached_property
    def _known(self) -> set[int]:
        """Labels that are classes or ignored."""
        numbered = range(self.last_label + 1) if self.entries is None else self._entries
        within = {label for label in self.ignore_labels if -(2**31) <= label < 2**31}
        return {*numbered, *within}

    @cached_property
    def _table(self) -> NDArray[np.int16]:
        return np.array([self._class_of(label) for label in range(2**16)], np.int16)


def pack_colours(pixels: NDArray[np.uint8]) -> NDArray[np.int32]:
    """(..., 3) RGB to one number a pixel, red * 65536 + green * 256 + blue."""
    wide = pixels.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def unpack_colour(label: int) -> tuple[int, int, int]:
    """RGB of a packed colour."""
    return label >> 16, label >> 8 & 255, label & 255
