"""Small folders of images and masks to test with."""

from pathlib import Path

import numpy as np
from PIL import Image

# What was done to the upright image before it was stored, by EXIF orientation.
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
}


def write_image(path: Path, *, seed: int = 0, size: tuple[int, int] = (24, 16)) -> Path:
    """An image of random colours, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_mask(path: Path, labels: object = None, *, size: tuple[int, int] = (24, 16)) -> Path:
    """A grayscale mask: the labels, or 0, 1 and 2 in columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if labels is None:
        labels = np.tile(np.arange(size[0]) % 3, (size[1], 1))
    Image.fromarray(np.asarray(labels, np.uint8)).save(path)
    return path


def write_part(root: Path, part: str, names: list[str], *, seed: int = 0, masks: str = "annotations") -> None:
    """Pairs in ADE20K's layout; each image another."""
    for i, name in enumerate(names):
        write_image(root / "images" / part / f"{name}.png", seed=1000 * seed + i)
        write_mask(root / masks / part / f"{name}.png")


def write_folder(root: Path, *, num_train: int = 4, num_val: int = 2) -> Path:
    """ADE20K's layout: images of 24 x 16 pixels, labels 0, 1 and 2."""
    write_part(root, "training", [f"t{i}" for i in range(num_train)])
    write_part(root, "validation", [f"v{i}" for i in range(num_val)], seed=1)
    return root


def write_turned(path: Path, pixels: np.ndarray, orientation: int) -> Path:
    """An image that is `pixels` once its EXIF orientation is applied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).transpose(STORED_AS[orientation]).save(path, exif=exif)
    return path
