"""Write Fashion-MNIST as a folder of PNG files per class, ready for `scalablevit fit`.

    python examples/fashion_mnist_folder.py data/fashion_mnist

Reads the four gzip IDX files of Fashion-MNIST (Xiao, Rasul, Vollgraf, arXiv:1708.07747): 60,000 training and
10,000 test images of 28 x 28 pixels. Debian's package `dataset-fashion-mnist` installs them; so does a
download from the authors' repository.

Writes OUT/{train,val,test}/{class name}/NNNNN.png. `val` has 5,000 of the training images, 500 of each class, always
the same ones: epochs and settings are chosen on them. `test` has the 10,000 test images, for the final figure:

    scalablevit validate RUN --data.val test

With `--test-as-val`, `train` has all 60,000 images and `val` the 10,000 test images; there is no `test` then.

With `--few-labels 10 100`, folders `labels-10-0`, `labels-10-1`, ... have that many images of each class, three draws
of the training images for each number: for training with few labels, `--data.train labels-10-0`.
"""

import argparse
import gzip
import hashlib
import math
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag"]
CLASSES += ["Ankle-boot"]
TRAINING = ("train", 60_000)  # prefix of the files, images
TEST = ("t10k", 10_000)
HELD_OUT = 500  # training images of each class that validate
DRAWS = 3  # folders for each number of labels
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


def drawn(labels: np.ndarray, count: int, *, name: str) -> list[int]:
    """Draw images of each class: those whose index and `name` have the lowest SHA-256.

    A hash, unlike a random generator, is the same in every version of Python and NumPy.

    Args:
        labels: (N,) class of each image; negative: not to be drawn.
        count: images of each class.
        name: of the draw.

    Returns:
        indices.

    Raises:
        ValueError: a class has fewer images.
    """
    digests = np.array([hashlib.sha256(f"{name}{i}".encode()).hexdigest() for i in range(len(labels))])
    chosen: list[int] = []
    for label in range(len(CLASSES)):
        members = np.flatnonzero(labels == label)
        if len(members) < count:
            raise ValueError(f"{CLASSES[label]} has {len(members)} images to draw from; ask for no more than that")
        chosen += members[np.argsort(digests[members])[:count]].tolist()
    return chosen


def plan_files(
    source: Path, *, test_as_val: bool, few_labels: Sequence[int]
) -> tuple[list[tuple[Path, np.ndarray]], dict[str, int]]:
    """Read the images and say where each goes.

    Args:
        source: folder of the four .gz files.
        test_as_val: the test images become `val`, and no training image is held out.
        few_labels: images of each class, for folders of few of the training images.

    Returns:
        files: path below the data folder, and the image, (28, 28) uint8.
        counts: part -> images.

    Raises:
        ValueError: the files do not hold Fashion-MNIST.
    """
    images, labels = read_part(source, *TRAINING)
    test_images, test_labels = read_part(source, *TEST)
    validate = [] if test_as_val else drawn(labels, HELD_OUT, name="")
    rest = labels.astype(np.int64)
    rest[validate] = -1
    parts = {"train": np.flatnonzero(rest >= 0).tolist(), "val": validate}
    for count in few_labels:
        for draw in range(DRAWS):
            parts[f"labels-{count}-{draw}"] = drawn(rest, count, name=f"{count}/{draw}/")
    files = [
        (Path(part, CLASSES[labels[i]], f"{i:05d}.png"), images[i]) for part, chosen in parts.items() for i in chosen
    ]
    part = "val" if test_as_val else "test"
    files += [(Path(part, CLASSES[label], f"{i:05d}.png"), test_images[i]) for i, label in enumerate(test_labels)]
    return files, {**{name: len(chosen) for name, chosen in parts.items()}, part: len(test_labels)}


def write_folder(
    source: Path, out: Path, *, test_as_val: bool = False, few_labels: Sequence[int] = ()
) -> dict[str, int]:
    """Write all images to a temporary folder beside `out`, then give it its name.

    Args:
        source: folder of the four .gz files.
        out: the data folder, new or empty.
        test_as_val: the test images become `val`, and no training image is held out.
        few_labels: images of each class, for folders of few of the training images.

    Returns:
        part -> images.

    Raises:
        ValueError: the files do not hold Fashion-MNIST, or `out` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is no empty folder; name a new one, or remove it")
    files, counts = plan_files(source, test_as_val=test_as_val, few_labels=few_labels)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        for part in counts:
            for name in CLASSES:
                (partial / part / name).mkdir(parents=True)
        for written, (path, image) in enumerate(files, 1):
            Image.fromarray(image).save(partial / path)
            if sys.stderr.isatty() and (written % 500 == 0 or written == len(files)):
                print(f"\r{written:,} of {len(files):,} images", end="", file=sys.stderr, flush=True)
        partial.replace(out)
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)
        shutil.rmtree(partial, ignore_errors=True)
    return counts


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
    parser.add_argument(
        "--test-as-val",
        action="store_true",
        help="train on all 60,000 images and validate on the 10,000 test images (default: hold 5,000 out)",
    )
    parser.add_argument(
        "--few-labels", type=int, nargs="+", default=[], metavar="N", help="folders of N training images of each class"
    )
    arguments = parser.parse_args()
    if any(count < 1 for count in arguments.few_labels):
        parser.error("--few-labels: give numbers of at least 1")
    try:
        counts = write_folder(
            arguments.source,
            arguments.out,
            test_as_val=arguments.test_as_val,
            few_labels=arguments.few_labels,
        )
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{arguments.out}: {', '.join(f'{part} {count:,}' for part, count in counts.items())} images")
    print(f"classes: {', '.join(CLASSES)}")
    is_default = arguments.out.resolve() == RECIPE_ROOT.resolve()
    print(f"Try: {shlex.join(FIT_COMMAND + ([] if is_default else ['--data.root', str(arguments.out)]))}")


if __name__ == "__main__":
    main()
