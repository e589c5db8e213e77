"""Time networks prepared by `scalablevit.optimize` beside the plain definition, and say how far their outputs differ.

    python benchmarks/prepared.py --threads 1 2

All run in one process, in turns. Weights are freshly initialised, images are noise; the largest difference of logits is
over their largest value.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scalablevit
from scalablevit.bench.conditions import conditions, spread
from scalablevit.bench.plain_definition import PlainScalableViT
from scalablevit.bench.turns import Timing, interleave
from scalablevit.deploy.precision import native_bfloat16
from scalablevit.safe_write import write_json

RESULTS = Path(__file__).parent / "results"
PLAIN = "plain definition, fp32"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def contenders(variant: str, *, has_compile: bool) -> dict[str, Callable[[Tensor], Tensor]]:
    """The same weights, run in every way; the plain definition is first."""
    torch.manual_seed(0)
    model = getattr(scalablevit, variant)().eval()
    plain = PlainScalableViT(variant).eval()
    plain.load_state_dict(model.state_dict())
    found: dict[str, Callable[[Tensor], Tensor]] = {PLAIN: plain, "eager, fp32": model}
    found["prepared, fp32"] = scalablevit.optimize(model, backend="eager", dtype=torch.float32)
    found["prepared, bf16"] = scalablevit.optimize(model, backend="eager", dtype=torch.bfloat16)
    if has_compile:
        found["compiled, fp32"] = scalablevit.optimize(model, backend="compile", dtype=torch.float32)
        found["compiled, bf16"] = scalablevit.optimize(model, backend="compile", dtype=torch.bfloat16)
    if importlib.util.find_spec("openvino") is not None:
        found["OpenVINO, fp32"] = scalablevit.optimize(model, backend="openvino", dtype=torch.float32)
        found["OpenVINO, bf16"] = scalablevit.optimize(model, backend="openvino", dtype=torch.bfloat16)
    return found


def measure(
    variant: str,
    *,
    batch: int,
    size: int,
    threads: list[int],
    rounds: int,
    has_compile: bool = True,
    clock: str = "wall",
) -> dict[str, Any]:
    """Time all contenders with each number of threads.

    Args:
        variant: of the network.
        batch: images at a time.
        size: side of the images, in pixels.
        threads: of torch's intra-op pool, one cell each.
        rounds: timed turns, at least 2.
        has_compile: measure `torch.compile` too, which takes minutes to compile.
        clock: "wall", or "cpu" for the time that the process computed: with one thread, where others compute too.

    Returns:
        the result as it is written to JSON; times are in seconds.
    """
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    cells = []
    for count in threads:
        torch.set_num_threads(count)
        load = os.getloadavg()[0]
        networks = contenders(variant, has_compile=has_compile)  # anew: OpenVINO keeps the threads of its programs
        with torch.no_grad():
            exact = networks[PLAIN](images)
            figures: dict[str, Any] = {}
            for name, network in networks.items():
                start = time.perf_counter()
                found = network(images)
                figures[name] = {
                    "first_seconds": time.perf_counter() - start,
                    "difference": float((found - exact).abs().max() / exact.abs().max()),
                    "same_class": float((found.argmax(1) == exact.argmax(1)).float().mean()),
                }
                network(images)
            runs = {name: (lambda network=network: network(images)) for name, network in networks.items()}
            times, _ = interleave(runs, timing=Timing(rounds=rounds), synchronise=lambda: None, clock=CLOCKS[clock])
        for name, seconds in times.items():
            figures[name] |= {"seconds": seconds, "spread": spread(seconds)}
        cells.append({"threads": count, "load_before": load, "contenders": figures})
    return {
        "benchmark": "prepared",
        **conditions("cpu"),
        "native_bfloat16": native_bfloat16(torch.device("cpu")),
        "variant": variant,
        "batch": batch,
        "size": size,
        "rounds": rounds,
        "clock": clock,
        "cells": cells,
    }


def speeds(cell: dict[str, Any]) -> dict[str, float]:
    """By contender: how many times as fast as the plain definition, the median of the ratios round by round."""
    base = cell["contenders"][PLAIN]["seconds"]
    return {
        name: statistics.median(b / s for b, s in zip(base, figures["seconds"], strict=True))
        for name, figures in cell["contenders"].items()
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="scalablevit_small")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: of this process alone, for one thread")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--output", type=Path, help="JSON (default: benchmarks/results/prepared-CPU.json)")
    args = parser.parse_args()
    result = measure(
        args.variant,
        batch=args.batch,
        size=args.size,
        threads=args.threads,
        rounds=args.rounds,
        has_compile=not args.no_compile,
        clock=args.clock,
    )
    cpu = "-".join("".join(c if c.isalnum() else " " for c in result["device"].lower()).split())
    path = args.output or RESULTS / f"prepared-{cpu}.json"
    write_json(path, result)
    for cell in result["cells"]:
        for name, speed in speeds(cell).items():
            figures = cell["contenders"][name]
            median, difference = 1000 * figures["spread"]["median"], figures["difference"]
            print(
                f"{cell['threads']} threads  {name:24}{median:8.0f} ms{speed:7.2f} x plain  differs by {difference:.1e}"
            )
    print(path)


if __name__ == "__main__":
    main()
