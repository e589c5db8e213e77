"""Small images with a table of labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("bird", "cat", "dog")


def write_labelled(
    root: Path, *, count: int = 12, header: str = "file,labels", rows: Sequence[str] = (), side: int = 16
) -> Path:
    """Noise with a bright stripe for each label of `labels_of`, and labels.csv with them, or with other rows."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        pixels = rng.integers(0, 60, (side, side, 3)).astype(np.uint8)
        for k, name in enumerate(CLASSES):
            pixels[k * side // 3 : (k + 1) * side // 3, :, k] += 180 * (name in labels_of(i))
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
    own = [f"{i}.png,{'|'.join(labels_of(i))}" for i in range(count)]
    (root / "labels.csv").write_text("\n".join([header, *(rows or own)]) + "\n", encoding="utf-8")
    return root


def labels_of(i: int) -> list[str]:
    """All sets of the classes by turns, the empty one included."""
    return [name for k, name in enumerate(CLASSES) if i >> k & 1]
