"""Time our network against the plain definition, in eager mode on a CPU, and write the result down.

    python benchmarks/cpu_eager.py --variant scalablevit_small --batch 8 --size 224

Both hold the same weights and are called in turns (ours, plain, ours, plain, ...), so that what else the
machine does hits both alike. Each is warmed up first; those rounds are discarded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from conditions import RESULTS, conditions, spread
from plain_definition import PlainScalableViT
from scalablevit.backbone import VARIANTS, ScalableViT


def seconds(model: nn.Module, images: Tensor) -> float:
    """Wall-clock time of one forward pass."""
    start = time.perf_counter()
    model(images)
    return time.perf_counter() - start


def measure(
    variant: str, *, batch: int, size: tuple[int, int], rounds: int, warm_up: int, threads: int
) -> dict[str, Any]:
    """Time both networks.

    Args:
        variant: a name in `scalablevit.backbone.VARIANTS`.
        batch: images per forward pass.
        size: height and width of the images, in pixels.
        rounds: timed passes of each network, at least 2.
        warm_up: passes of each network before that.
        threads: of torch's intra-op pool.

    Returns:
        the result as it is written to JSON; times are in seconds.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours = ScalableViT(**VARIANTS[variant]).eval()
    plain = PlainScalableViT(variant).eval()
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(batch, 3, *size)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    with torch.inference_mode():
        difference = (ours(images) - plain(images)).abs().max().item()
        for i in range(warm_up + rounds):
            for name, model in (("ours", ours), ("plain", plain)):
                elapsed = seconds(model, images)
                if i >= warm_up:
                    times[name].append(elapsed)
    return {
        "benchmark": "cpu_eager",
        **conditions("cpu"),
        "precision": "fp32",
        "variant": variant,
        "threads": threads,
        "batch": batch,
        "size": list(size),
        "warm_up": warm_up,
        "max_abs_difference": difference,
        "seconds": times,
        "spread": {name: spread(values) for name, values in times.items()},
        "ratio_of_medians": statistics.median(times["plain"]) / statistics.median(times["ours"]),
        "median_of_ratios": statistics.median(p / o for p, o in zip(times["plain"], times["ours"], strict=True)),
    }


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    height, width = result["size"]
    lines = [
        f"{result['variant']}, {result['precision']}, batch {result['batch']}, {height}x{width} px, "
        f"{result['threads']} threads, {result['device']}, torch {result['torch']}",
        f"{'':8}{'median ms':>12}{'quartiles ms':>20}{'images/s':>12}",
    ]
    for name, values in result["spread"].items():
        quartiles = f"{1000 * values['quartile_1']:.0f} - {1000 * values['quartile_3']:.0f}"
        rate = result["batch"] / values["median"]
        lines.append(f"{name:8}{1000 * values['median']:12.1f}{quartiles:>20}{rate:12.1f}")
    lines.append(
        f"ours is {result['ratio_of_medians']:.2f}x as fast (ratio of medians; "
        f"median of the rounds' ratios {result['median_of_ratios']:.2f}x)"
    )
    return "\n".join(lines)


def main() -> None:
    """Read the flags, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="scalablevit_small", choices=list(VARIANTS))
    parser.add_argument("--batch", type=int, default=8, help="images per forward pass")
    parser.add_argument("--size", type=int, nargs="+", default=[224], help="side in pixels, or height and width")
    parser.add_argument("--rounds", type=int, default=15, help="timed passes of each network, at least 2")
    parser.add_argument("--warm-up", type=int, default=3, help="discarded passes before that")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help=f"JSON file; default {RESULTS.name}/cpu_eager-VARIANT-BxSIZE.json")
    args = parser.parse_args()
    if len(args.size) > 2 or min(args.size) < 1:
        parser.error(f"--size takes one side or height and width, each at least 1, got {args.size}")
    if args.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {args.rounds}")
    height, width = args.size[0], args.size[-1]
    result = measure(
        args.variant,
        batch=args.batch,
        size=(height, width),
        rounds=args.rounds,
        warm_up=args.warm_up,
        threads=args.threads,
    )
    print(table(result))
    path = args.output or RESULTS / f"cpu_eager-{args.variant}-{args.batch}x{height}x{width}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
