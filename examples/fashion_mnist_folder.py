"""Write Fashion-MNIST as a folder of PNG files per class, ready for `scalablevit fit`.

    python examples/fashion_mnist_folder.py data/fashion_mnist

Reads the four gzip IDX files of Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv:1708.07747): 60,000 training and
10,000 test images of 28 x 28 pixels. Debian's package `dataset-fashion-mnist` installs them; so does a
download from the authors' repository. Writes OUT/{train,val}/{class name}/NNNNN.png.
"""

import argparse
import gzip
import math
import os
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"]
CLASSES += ["Ankle-boot"]
PARTS = {"train": ("train", 60_000), "val": ("t10k", 10_000)}  # our folder: (prefix of the files, images)
FIT_COMMAND = ["scalablevit", "fit", "--config", "fashion_mnist"]
RECIPE_ROOT = Path("data/fashion_mnist")  # where the recipe looks for the images

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """Read a gzip IDX file of unsigned bytes: 00 00, type, number of dimensions, sizes (big-endian), values.

    Raises:
        ValueError: the file is missing, damaged, or has another type or number of dimensions.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except FileNotFoundError:
        raise ValueError(
            f"{path}: there is no such file; install Debian's package dataset-fashion-mnist, or name the "
            "folder of the four .gz files with --source"
        ) from None
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: the gzip file is truncated or damaged ({error}); get it again") from error
    magic = content[:4]
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if magic != expected:
        raise ValueError(
            f"{path}: starts with {magic.hex(' ')} where an IDX file of {dimensions} dimensions starts "
            f"with {expected.hex(' ')}; it is another file, get it again"
        )
    start = 4 + 4 * dimensions
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    values = np.frombuffer(content[start:], np.uint8)
    if len(content) < start or values.size != math.prod(shape):
        raise ValueError(f"{path}: promises {shape} values and holds {values.size}; get the file again")
    return values.reshape(shape)


def read_part(source: Path, prefix: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 28, 28) uint8 and labels (count,) uint8 in 0..9.

    Raises:
        ValueError: the files do not hold Fashion-MNIST.
    """
    images = read_idx(source / f"{prefix}-images-idx3-ubyte.gz", dimensions=3)
    labels = read_idx(source / f"{prefix}-labels-idx1-ubyte.gz", dimensions=1)
    if images.shape != (count, 28, 28) or labels.shape != (count,) or labels.max() >= len(CLASSES):
        raise ValueError(
            f"{source}: {prefix} has images {images.shape} and labels {labels.shape} up to {labels.max()}, "
            f"where Fashion-MNIST has {(count, 28, 28)}, {(count,)} and 9; get the files again"
        )
    return images, labels


def write_folder(source: Path, out: Path) -> None:
    """Write all images to a temporary folder beside `out`, then give it its name.

    Raises:
        ValueError: the files do not hold Fashion-MNIST, or `out` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is no empty folder; name a new one, or remove it")
    parts = {part: read_part(source, prefix, count) for part, (prefix, count) in PARTS.items()}
    total = sum(len(labels) for _, labels in parts.values())
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    written = 0
    try:
        for part, (images, labels) in parts.items():
            for name in CLASSES:
                (partial / part / name).mkdir(parents=True)
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                Image.fromarray(image).save(partial / part / CLASSES[label] / f"{i:05d}.png")
                written += 1
                if sys.stderr.isatty() and (written % 500 == 0 or written == total):
                    print(f"\r{written:,} of {total:,} images", end="", file=sys.stderr, flush=True)
        partial.replace(out)
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)
        shutil.rmtree(partial, ignore_errors=True)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out", type=Path, help="folder to write, new or empty")
    parser.add_argument(
        "--source",
        type=Path,
        default=Path("/usr/share/datasets/fashion-mnist"),
        help="folder of the four .gz files (default: %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        write_folder(arguments.source, arguments.out)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{arguments.out}: 70,000 images of {', '.join(CLASSES)}")
    is_default = arguments.out.resolve() == RECIPE_ROOT.resolve()
    print(f"Try: {shlex.join(FIT_COMMAND + ([] if is_default else ['--data.root', str(arguments.out)]))}")


if __name__ == "__main__":
    main()
