"""Measure time and peak memory of one image from 224 to 1024 pixels a side, ours beside the plain definition.

    python benchmarks/linear_cost.py --variant scalablevit_small --sizes 224 320 448 640 832 1024

A least-squares line through the logarithms gives the power of the number of pixels with which time and memory grow: 1
is linear. Memory is what the process (on a GPU: the tensors) holds at most while the network runs, less what it holds
before.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalablevit.backbone import VARIANTS
from scalablevit.bench.cells import PRECISIONS, cells
from scalablevit.bench.throughput import measure
from scalablevit.bench.turns import Timing

RESULTS = Path(__file__).parent / "results"


def exponent(pixels: Sequence[float], values: Sequence[float]) -> float | None:
    """Slope of log(values) over log(pixels); None with fewer than two sizes, or where a value is not above 0."""
    if len(set(pixels)) < 2 or min(values) <= 0:
        return None
    return statistics.linear_regression([math.log(x) for x in pixels], [math.log(y) for y in values]).slope


def series(result: Mapping[str, Any], label: str) -> dict[str, list[float]]:
    """A contender's `pixels`, `seconds` (medians) and `bytes` (peak beyond what is held before), size by size."""
    found: dict[str, list[float]] = {"pixels": [], "seconds": [], "bytes": []}
    for cell in result["cells"]:
        figures = cell["contenders"][label]
        memory = figures.get("memory", {})
        if "note" in figures or "peak_bytes" not in memory:
            continue
        found["pixels"].append(cell["size"][0] * cell["size"][1])
        found["seconds"].append(figures["spread"]["median"])
        found["bytes"].append(memory["peak_bytes"] - memory["held_bytes"])
    return found


def exponents(result: Mapping[str, Any]) -> dict[str, Any]:
    """`exponents`: label -> powers of the pixels with which time and memory grow."""
    found: dict[str, dict[str, float | None]] = {}
    for label in result["cells"][0]["contenders"]:
        values = series(result, label)
        found[label] = {
            what: exponent(values["pixels"], values[key]) if values[key] else None
            for what, key in (("time", "seconds"), ("memory", "bytes"))
        }
    return {"exponents": found}


def table(result: Mapping[str, Any]) -> str:
    """The result for people."""
    labels = list(result["exponents"])
    all_series = {label: series(result, label) for label in labels}
    width = max(map(len, labels)) + 4
    lines = [
        f"batch 1, {result['cells'][0]['precision']}, {result['threads']} threads, {result['device']}, "
        f"torch {result['torch']}",
        f"{'':8}" + "".join(f"{label:>{width}}" for label in labels for _ in range(2)),
        f"{'pixels':8}" + "".join(f"{'ms':>{width}}{'MiB':>{width}}" for _ in labels),
    ]
    for cell in result["cells"]:
        pixels = cell["size"][0] * cell["size"][1]
        row = f"{cell['size'][0]:<8}"
        for label in labels:
            values = all_series[label]
            if pixels not in values["pixels"]:
                row += f"{'-':>{width}}" * 2
                continue
            i = values["pixels"].index(pixels)
            row += f"{1000 * values['seconds'][i]:{width}.1f}{values['bytes'][i] / 2**20:{width}.1f}"
        lines.append(row)
    powers = [result["exponents"][label][what] for label in labels for what in ("time", "memory")]
    lines.append(f"{'power':8}" + "".join(f"{'-' if p is None else f'{p:.2f}':>{width}}" for p in powers))
    return "\n".join(lines)


def main() -> None:
    """Read the flags, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="scalablevit_small", choices=list(VARIANTS))
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 320, 448, 640, 832, 1024], metavar="N")
    parser.add_argument("--precision", default="fp32", choices=PRECISIONS)
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each network and size")
    parser.add_argument("--warm-up", type=int, default=1, help="discarded passes before that")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--output", type=Path, help=f"JSON file; default {RESULTS.name}/linear_cost-DEVICE.json")
    args = parser.parse_args()
    path = args.output or RESULTS / f"linear_cost-{args.device}.json"
    try:
        result = measure(
            [args.variant, f"plain:{args.variant}"],
            cells(
                sizes=[(side, side) for side in args.sizes],
                precisions=[args.precision],
                modes=["eager"],
                tasks=["inference"],
                batches=[1],
            ),
            timing=Timing(rounds=args.rounds, warm_up=args.warm_up),
            device=args.device,
            threads=args.threads,
            memory=True,
            output=path,
            benchmark="linear_cost",
            on_cell=lambda i, n, cell, seconds: None if seconds else print(f"[{i}/{n}] {cell}", file=sys.stderr),
            finish=exponents,
        )
    except ValueError as error:
        parser.error(str(error))
    print(table(result))
    print(f"written to {path}")


if __name__ == "__main__":
    main()
