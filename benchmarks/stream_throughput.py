"""Time the reading of JPEG files of 224 pixels from shards beside the folder that they were packed from.

    python benchmarks/stream_throughput.py --images 2000 --rounds 7

Both are read in the shuffled order of an epoch, in one process, file by file to decoded RGB, in turns. Cold: the system
is told to forget the files before each pass (posix_fadvise), which it obeys for files that are on the disk. Warm: they
were read just before. The ratio is the folder's time over that of the shards: above 1, shards are faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import scalablevit
from scalablevit.bench.conditions import conditions
from scalablevit.classification.data import ImageFolderData
from scalablevit.classification.sharded import shard_source
from scalablevit.data.stream.write import write_shards
from scalablevit.safe_write import write_json

RESULTS = Path(__file__).parent / "results"
CLASSES = 10
BLOCK = 50


def write_folder(root: Path, count: int) -> Path:
    """Write JPEG files of 224 x 224 pixels, cut from photographs, into class folders."""
    from skimage import data

    photographs = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket(), data.cat()]
    rng = np.random.default_rng(0)
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        top, left = (int(rng.integers(0, side - 224 + 1)) for side in photograph.shape[:2])
        path = root / "train" / f"class_{i % CLASSES}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[top : top + 224, left : left + 224]).save(path, quality=90)
    for c in range(CLASSES):
        path = root / "val" / f"class_{c}" / "0.jpg"
        path.parent.mkdir(parents=True)
        Image.fromarray(photographs[0][:224, :224]).save(path, quality=90)
    return root


def forget(folder: Path) -> None:
    """Have the system drop the content of all files of a folder from memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def one_pass(datasets: dict[str, Any], order: list[int]) -> dict[str, tuple[float, float]]:
    """Decode the images of an epoch from each place, by turns of 50 images: seconds, and seconds of the processor."""
    found = dict.fromkeys(datasets, (0.0, 0.0))
    for start in range(0, len(order), BLOCK):
        names = sorted(datasets, reverse=bool(start // BLOCK % 2))
        for name in names:
            wall, cpu = time.perf_counter(), time.process_time()
            for index in order[start : start + BLOCK]:
                datasets[name].read(index)
            spent = time.perf_counter() - wall, time.process_time() - cpu
            found[name] = found[name][0] + spent[0], found[name][1] + spent[1]
    return found


def measure(images: int, rounds: int) -> dict[str, Any]:
    """Seconds of each pass, by state and place."""
    found: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        root = write_folder(Path(folder) / "folder", images)
        write_shards(shard_source(root), Path(folder) / "shards", version=scalablevit.__version__, num_workers=0)
        places = {"folder": root, "shards": Path(folder) / "shards"}
        size = sum(path.stat().st_size for path in (root / "train").rglob("*.jpg"))
        data = {name: ImageFolderData(place, batch_size=1, num_workers=0) for name, place in places.items()}
        order = [key.index for key in data["folder"].train_dataloader().sampler]
        datasets = {name: one.train_dataset for name, one in data.items()}
        one_pass(datasets, order)
        for _ in range(rounds):
            for state in ("cold", "warm"):
                for place in places.values():
                    if state == "cold":
                        forget(place)
                for name, (wall, cpu) in one_pass(datasets, order).items():
                    kept = found.setdefault(f"{state} {name}", {"seconds": [], "cpu_seconds": []})
                    kept["seconds"].append(wall)
                    kept["cpu_seconds"].append(cpu)
                    print(f"{state} {name}: {len(order) / wall:,.0f} images/s", file=sys.stderr)
    return {"passes": found, "images": images, "bytes": size, "rounds": rounds}


def summary(passes: dict[str, dict[str, list[float]]], images: int) -> dict[str, Any]:
    """Median rates, and the median over the rounds of the ratio of times."""
    result: dict[str, Any] = {}
    for state in ("cold", "warm"):
        folder, shards = passes[f"{state} folder"], passes[f"{state} shards"]
        result[state] = {
            "folder_images_per_second": images / statistics.median(folder["seconds"]),
            "shards_images_per_second": images / statistics.median(shards["seconds"]),
            "ratio": statistics.median(a / b for a, b in zip(folder["seconds"], shards["seconds"], strict=True)),
            "cpu_ratio": statistics.median(
                a / b for a, b in zip(folder["cpu_seconds"], shards["cpu_seconds"], strict=True)
            ),
        }
    return result


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    found = argparse.ArgumentParser(description="Time the reading of JPEG files from shards beside their folder.")
    found.add_argument("--images", type=int, default=2000, metavar="N", help="how many (default: 2000)")
    found.add_argument("--rounds", type=int, default=7, metavar="N", help="passes of each kind (default: 7)")
    found.add_argument("--output", type=Path, default=RESULTS / "stream_throughput.json", metavar="FILE")
    return found


def main() -> None:
    """Measure, print and write."""
    args = parser().parse_args()
    found = measure(args.images, args.rounds)
    result = {**conditions("cpu"), **found, "summary": summary(found["passes"], args.images)}
    write_json(args.output, result)
    for state, values in result["summary"].items():
        print(
            f"{state}: folder {values['folder_images_per_second']:,.0f} images/s, shards "
            f"{values['shards_images_per_second']:,.0f}, ratio {values['ratio']:.3f} (processor time "
            f"{values['cpu_ratio']:.3f})"
        )


if __name__ == "__main__":
    main()
