"""scikit-learn's handwritten digits as a folder of PNG files per class."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

_VAL_FRACTION = 0.2


def write_digits_folder(root: str | Path) -> Path:
    """Write 1,797 real 8 x 8 grayscale pictures of digits to `root/{train,val}/{0..9}/NNNN.png`.

    A fifth of each digit goes to `val`, chosen by a hash of the picture's number: always the same ones. The
    folder appears complete or not at all; processes may race to write it.

    Args:
        root: folder to make; it may exist if it is empty.

    Returns:
        `root`.

    Raises:
        ValueError: `root` holds something already, or is a file.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI 1998, as shipped with
    scikit-learn.
    """
    # scikit-learn takes a second to import.
    from sklearn.datasets import load_digits

    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root}: cannot write the digits here, it is not an empty folder; name a new folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that it is on the same disk and the renaming is atomic.
    partial = root.with_name(f".{root.name}.partial-{os.getpid()}")
    try:
        digits = load_digits()
        for part, digit, number in _split(digits.target):
            folder = partial / part / str(digit)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.rint(digits.images[number] * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
            Image.fromarray(pixels).save(folder / f"{number:04d}.png")
        try:
            partial.replace(root)
        except OSError:
            # Another process was faster; anything else in the folder's place is a fault.
            if not (root / "train").is_dir() or not (root / "val").is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _split(targets: np.ndarray) -> list[tuple[str, int, int]]:
    """(part, digit, number of the picture) of all pictures."""
    rows = []
    for digit in range(10):
        numbers = [int(number) for number in np.flatnonzero(targets == digit)]
        numbers.sort(key=lambda number: hashlib.sha256(str(number).encode()).digest())
        num_val = round(len(numbers) * _VAL_FRACTION)
        rows += [("val" if i < num_val else "train", digit, number) for i, number in enumerate(numbers)]
    return rows
