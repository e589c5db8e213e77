"""The training and the validation part of a data folder: what they are called, and how the second is set aside.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "validation", "valid", "test")

T = TypeVar("T")


def split_by_hash(items: Sequence[T], fraction: float, *, name: Callable[[T], str]) -> tuple[list[T], list[T]]:
    """Split off a share of the items, at least one where there are two, chosen by a hash of their names: the same on
    every machine and in every run, and few others move where one is added.

    Args:
        items: pictures.
        fraction: the share, in (0, 1).
        name: of an item: its path in the data folder.

    Returns:
        kept, split off: both in the order of `items`.
    """
    count = min(max(1, round(len(items) * fraction)), len(items) - 1) if len(items) > 1 else 0
    chosen = set(sorted(range(len(items)), key=lambda i: _hash(name(items[i])))[:count])
    return [items[i] for i in range(len(items)) if i not in chosen], [items[i] for i in sorted(chosen)]


def check_val_fraction(val_fraction: float) -> None:
    """Raise a ValueError unless the share that is set aside for validation lies within (0, 1)."""
    if not 0 < val_fraction < 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {val_fraction}; 0.1 is usual")


def why_no_folder(root: Path) -> str | None:
    """What is wrong with a data folder that is none, and what to do; None if it is one."""
    if root.is_dir():
        return None
    what = "is a file, not a folder" if root.exists() else "does not exist"
    return f"{root}: the data folder {what}; check the path given as root"


def _hash(name: str) -> bytes:
    # Windows' separators give the same hash; file names need not be UTF-8.
    return hashlib.sha256(os.fsencode(Path(name).as_posix())).digest()
