"""scikit-learn's handwritten digits as a folder of PNG files per class."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from scalablevit.data.builtin.whole_folder import write_whole_folder

_VAL_FRACTION = 0.2


def write_digits_folder(root: str | Path) -> Path:
    """Write 1,797 real 8 x 8 grayscale images of digits to `root/{train,val}/{0..9}/NNNN.png`.

    A fifth of each digit goes to `val`, chosen by a hash of the image's number: always the same ones. The
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

    def write(folder: Path) -> None:
        # scikit-learn takes a second to import.
        from sklearn.datasets import load_digits

        digits = load_digits()
        for part, digit, number in split_digits(digits.target):
            class_folder = folder / part / str(digit)
            class_folder.mkdir(parents=True, exist_ok=True)
            pixels = np.rint(digits.images[number] * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
            Image.fromarray(pixels).save(class_folder / f"{number:04d}.png")

    return write_whole_folder(root, write, parts=("train", "val"))


def split_digits(targets: np.ndarray) -> list[tuple[str, int, int]]:
    """("train" or "val", digit, number of the image) of all images, the same ones on any machine.

    Args:
        targets: (1797,) the digit 0..9 that each image shows, in scikit-learn's order.
    """
    rows = []
    for digit in range(10):
        numbers = [int(number) for number in np.flatnonzero(targets == digit)]
        numbers.sort(key=lambda number: hashlib.sha256(str(number).encode()).digest())
        num_val = round(len(numbers) * _VAL_FRACTION)
        rows += [("val" if i < num_val else "train", digit, number) for i, number in enumerate(numbers)]
    return rows
