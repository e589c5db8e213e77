"""Small data sets of images, and their shards."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scalablevit.data.stream.write import Written, write_shards
from scalablevit.tasks import load


def write_image(path: Path, seed: int, size: tuple[int, int] = (20, 24)) -> Path:
    """Write an image of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, quality=90)
    return path


def write_classes(root: Path, *, train: int = 12, val: int = 4) -> Path:
    """Three classes with so many JPEG files each; no validation folder where `val` is 0."""
    for c, name in enumerate(("ant", "bee", "cat fish")):
        for part, count in (("train", train), ("val", val)):
            for i in range(count):
                write_image(
                    root / (part if val else ".") / name / f"{part}{i:02d}.jpg",
                    seed=1000 * c + i + 500 * (part == "val"),
                )
    return root


def shard(root: Path, out: Path, *, task: str = "classification", size_mb: float = 0.005, **flags: Any) -> Written:
    """Write shards of a few samples each."""
    source = load(f"scalablevit.{task}.sharded:shard_source")(root, **flags)
    return write_shards(source, out, version="0", size_mb=size_mb, num_workers=0)
