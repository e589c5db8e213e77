"""The training and the validation part of a data folder: their names, and how the second is set aside or measured.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "validation", "valid", "test")

PLACES = (
    *("root", "train", "val", "images", "masks", "labels", "val_labels"),
    *("train_annotations", "val_annotations", "train_images", "val_images", "split"),
)
"""Recipe keys of `data` that say where the data lie."""

_NUMBERING = ("label_map", "reduce_zero_label", "ignore_labels")
"""Recipe keys of `data` that say which label of a mask is which class."""

T = TypeVar("T")


def split_by_hash(items: Sequence[T], fraction: float, *, name: Callable[[T], str]) -> tuple[list[T], list[T]]:
    """Split off a share of the items, chosen by a hash of their names.

    It is the same on every machine and in every run, and few others move where one is added. At least one item is split
    off where there are two, and one is kept unless the share is 1.

    Args:
        items: images.
        fraction: the share, in (0, 1]; 1 splits all off.
        name: of an item: its path in the data folder.

    Returns:
        kept, split off: both in the order of `items`.
    """
    if fraction == 1:
        return [], list(items)
    count = min(max(1, round(len(items) * fraction)), len(items) - 1) if len(items) > 1 else 0
    chosen = set(sorted(range(len(items)), key=lambda i: _hash(name(items[i])))[:count])
    return [items[i] for i in range(len(items)) if i not in chosen], [items[i] for i in sorted(chosen)]


def check_val_fraction(val_fraction: float, *, trained_class_names: Sequence[str] | None = None) -> None:
    """Raise a ValueError unless the share that is set aside for validation lies within (0, 1).

    Args:
        val_fraction: the share.
        trained_class_names: of the network that is evaluated on the data; the share may be 1 then, as nothing is
            trained.
    """
    if not (0 < val_fraction < 1 or (val_fraction == 1 and trained_class_names is not None)):
        raise ValueError(f"val_fraction must be between 0 and 1, got {val_fraction}; 0.1 is usual")


def settings_for_evaluation(
    data: Mapping[str, Any],
    own: Mapping[str, Any],
    *,
    class_names: Sequence[str],
    label_map: Mapping[str, Any] | None = None,
    given: Collection[str] = (),
) -> dict[str, Any]:
    """Choose the settings of data on which a trained network is evaluated and nothing is trained.

    A part that is set aside keeps training and validation apart. In data that the network was not trained on nothing
    needs to be kept apart: where they have no validation part, all of them are evaluated. Classes are those of the
    network, whatever classes the data have, and so are the labels of masks that come without a label map.

    Args:
        data: settings of the data, by their recipe keys.
        own: settings of the data that the network was trained on.
        class_names: of the network, by index.
        label_map: of masks that the network was trained on; None: there are no masks, or none is known.
        given: keys that the user gave for this evaluation; they are left alone.

    Returns:
        the settings to change, of those that `data` has: `val_fraction` (1), `trained_class_names` and
        `trained_label_map`.
    """
    changes: dict[str, Any] = {"trained_class_names": list(class_names)}
    if label_map is not None and not any(key in given and data.get(key) != "auto" for key in _NUMBERING):
        changes["trained_label_map"] = dict(label_map)
    if any(_place(data.get(key)) != _place(own.get(key)) for key in PLACES):
        changes["val_fraction"] = 1.0
    return {key: value for key, value in changes.items() if key in data and key not in given}


def _place(value: Any) -> str | None:
    """A path in one form, or a list of them; other values, and names such as "auto", stay as they are."""
    if value is None:
        return None
    if isinstance(value, list | tuple):
        return ", ".join(str(_place(item)) for item in value)
    if not isinstance(value, str | os.PathLike):
        return str(value)  # detection's `masks` is a switch, segmentation's a folder
    path = os.path.expanduser(os.fspath(value))
    return os.path.realpath(path) if os.path.exists(path) else path


def why_no_folder(root: Path) -> str | None:
    """What is wrong with a data folder that is none, and what to do; None if it is one."""
    if root.is_dir():
        return None
    what = "is a file, not a folder" if root.exists() else "does not exist"
    return f"{root}: the data folder {what}; check the path given as root"


def _hash(name: str) -> bytes:
    # Windows' separators give the same hash; file names need not be UTF-8.
    return hashlib.sha256(os.fsencode(Path(name).as_posix())).digest()
