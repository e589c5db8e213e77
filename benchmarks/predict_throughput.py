"""Time `predict` on a folder of photographs, and say which share of it passes outside of the network.

    python benchmarks/predict_throughput.py --images 1000 --threads 2

JPEG files are cut from the photographs of scikit-image and scikit-learn. Four ways go in turns over the same files:
images read when they are asked for or ahead, through the network as it is or prepared. The first is `predict` as it
was, the last as it is. "Outside" is the time while the network does not compute: reading, resizing, normalising,
printing.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import scalablevit
from scalablevit.bench.conditions import conditions
from scalablevit.classification import Classifier, Preprocessing
from scalablevit.cli.prediction_table import PredictionTable
from scalablevit.safe_write import write_json

RESULTS = Path(__file__).parent / "results"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WAYS = {  # name -> (read ahead, prepared)
    "before": (False, False),
    "read ahead": (True, False),
    "prepared": (False, True),
    "now": (True, True),
}


class Timed(nn.Module):
    """A network and the seconds that it computed for."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.seconds = network, 0.0

    def forward(self, images: Tensor) -> Tensor:
        start = time.perf_counter()
        found: Tensor = self.network(images)
        self.seconds += time.perf_counter() - start
        return found


def photographs() -> list[Image.Image]:
    """Photographs of 300 to 640 pixels a side."""
    import skimage.data
    from sklearn.datasets import load_sample_images

    arrays = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket()]
    return [Image.fromarray(array) for array in [*arrays, *load_sample_images().images]]


def write_folder(folder: Path, count: int) -> list[Path]:
    """Write JPEG files that differ: photographs that lose up to an eighth of each side, mirrored or not."""
    sources, rng = photographs(), np.random.default_rng(0)
    paths = []
    for i in range(count):
        image = sources[i % len(sources)]
        left, top, right, bottom = (int(x) for x in rng.uniform(0, 1 / 16, 4) * (image.size * 2))
        image = image.crop((left, top, image.width - right, image.height - bottom))
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        paths.append(folder / f"{i:05d}.jpg")
        image.save(paths[-1], quality=90)
    return paths


def classifiers(variant: str, size: int) -> dict[bool, Classifier]:
    """The classifier with its network as it is, and prepared."""
    torch.manual_seed(0)
    network = getattr(scalablevit, variant)(num_classes=1000)
    preprocessing = Preprocessing((size, size), 0.875, "bicubic", MEAN, STD)
    names = [f"class {k}" for k in range(1000)]
    found = {}
    for is_prepared in (False, True):
        made = Classifier(network, class_names=names, preprocessing=preprocessing, device="cpu")
        if is_prepared:
            made.prepare()
        made.network = Timed(made.network)
        found[is_prepared] = made
    return found


def one_pass(classifier: Classifier, paths: list[Path], *, is_ahead: bool) -> tuple[float, float]:
    """Predict all files and print their table; returns the seconds in all, and those in the network."""
    timed = classifier.network
    assert isinstance(timed, Timed)
    timed.seconds = 0.0
    start = time.perf_counter()
    table = PredictionTable(("class", "probability"), map(str, paths), classifier.class_names)
    # An iterator is read as `predict` read every folder before.
    for prediction in classifier.predict(paths if is_ahead else iter(paths)):
        assert prediction.error is None, prediction.error
        table.add(str(prediction.path), prediction.table_rows())
    return time.perf_counter() - start, timed.seconds


def measure(variant: str, *, images: int, size: int, threads: int, rounds: int) -> dict[str, Any]:
    """Time every way over the same files.

    Args:
        variant: of the network, freshly initialised.
        images: files in the folder.
        size: side of the network's input, in pixels.
        threads: of torch's intra-op pool.
        rounds: passes of each way, in turns; at least 1.

    Returns:
        the result as it is written to JSON; times are in seconds.
    """
    torch.set_num_threads(threads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        paths = write_folder(Path(folder), images)
        made = classifiers(variant, size)
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        with contextlib.redirect_stdout(nowhere):
            for classifier in made.values():  # the first pass allocates
                list(classifier.predict(paths[:16]))
            for _ in range(rounds):
                for way, (is_ahead, is_prepared) in WAYS.items():
                    times[way].append(one_pass(made[is_prepared], paths, is_ahead=is_ahead))
    return {
        "benchmark": "predict_throughput",
        **conditions("cpu"),
        "variant": variant,
        "images": images,
        "size": size,
        "threads": threads,
        "cores": os.cpu_count(),
        "rounds": rounds,
        "load_before": load,
        "seconds": {way: [whole for whole, _ in values] for way, values in times.items()},
        "network_seconds": {way: [network for _, network in values] for way, values in times.items()},
    }


def summary(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By way: median images per second, share outside of the network, and time of the first way over its own."""
    base = result["seconds"]["before"]
    found = {}
    for way, seconds in result["seconds"].items():
        network = result["network_seconds"][way]
        found[way] = {
            "images_per_second": result["images"] / statistics.median(seconds),
            "outside": statistics.median(1 - n / s for n, s in zip(network, seconds, strict=True)),
            "speed": statistics.median(b / s for b, s in zip(base, seconds, strict=True)),
        }
    return found


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="scalablevit_small")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="JSON (default: benchmarks/results/predict_throughput-CPU.json)")
    args = parser.parse_args()
    result = measure(args.variant, images=args.images, size=args.size, threads=args.threads, rounds=args.rounds)
    cpu = "-".join("".join(c if c.isalnum() else " " for c in result["device"].lower()).split())
    path = args.output or RESULTS / f"predict_throughput-{cpu}.json"
    write_json(path, result)
    for way, figures in summary(result).items():
        rate, outside, speed = (figures[key] for key in ("images_per_second", "outside", "speed"))
        print(f"{way:12}{rate:8.1f} images/s{outside:8.1%} outside of the network{speed:8.2f} x before")
    print(path)


if __name__ == "__main__":
    main()
