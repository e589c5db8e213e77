"""Label an image of any size by tiles, and print the peak memory of the process.

    python benchmarks/tiled_prediction.py --segmenter upernet --variant scalablevit_small --side 10000

The network is freshly initialised and the image is noise: neither changes what memory is needed. `--tiles N` stops
after N tiles; the peak is reached within the second row of tiles, as everything that waits for a later tile is there
by then.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scalablevit.backbone import VARIANTS
from scalablevit.bench.conditions import conditions, peak_bytes
from scalablevit.safe_write import write_json
from scalablevit.segmentation.models import build_segmenter
from scalablevit.segmentation.tiles import TiledInference, Tiling, blended_scores

RESULTS = Path(__file__).parent / "results"
CLASSES = 150
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def measure(segmenter: str, variant: str, *, side: int, tile: int, tiles: int | None, threads: int) -> dict[str, Any]:
    """Label a square image of noise.

    Args:
        segmenter: "semantic_fpn" or "upernet".
        variant: a name in `scalablevit.backbone.VARIANTS`.
        side: of the image, in pixels.
        tile: side of a tile, in pixels.
        tiles: stop after so many; None: label all of the image.
        threads: of torch's intra-op pool.

    Returns:
        the result as it is written to JSON; times are in seconds, memory in bytes.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = build_segmenter(segmenter, variant, CLASSES).eval()  # type: ignore[arg-type]
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    labels = np.full((side, side), 255, np.uint8)
    before = peak_bytes()
    counts = {"done": 0, "all": 0}

    def note(done: int, total: int) -> None:
        counts.update(done=done, all=total)

    start = time.perf_counter()
    settings = TiledInference(num_classes=CLASSES, mean=MEAN, std=STD, tiling=Tiling(tile), on_progress=note)
    for top, left, scores in blended_scores(network, image, settings):
        block = scores.argmax(0).numpy()
        labels[top : top + block.shape[0], left : left + block.shape[1]] = block
        if tiles is not None and counts["done"] + 1 >= tiles:
            break
    return {
        "benchmark": "tiled_prediction",
        **conditions("cpu"),
        "precision": "fp32",
        "segmenter": segmenter,
        "variant": variant,
        "threads": threads,
        "classes": CLASSES,
        "side": side,
        "tile": tile,
        "tiles_done": counts["done"],
        "tiles": counts["all"] or math.ceil((side - tile) / (tile - tile // 4) + 1) ** 2,
        "seconds": time.perf_counter() - start,
        "unlabelled_pixels": int((labels == 255).sum()),
        "peak_bytes_before": before,
        "peak_bytes": peak_bytes(),
    }


def main() -> None:
    """Read the flags, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--segmenter", default="upernet", choices=["semantic_fpn", "upernet"])
    parser.add_argument("--variant", default="scalablevit_small", choices=list(VARIANTS))
    parser.add_argument("--side", type=int, default=10_000, help="of the image, in pixels")
    parser.add_argument("--tile", type=int, default=512, help="side of a tile, in pixels")
    parser.add_argument("--tiles", type=int, help="stop after so many tiles; default: label all of the image")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="JSON file; default results/tiled_prediction-...json")
    args = parser.parse_args()
    result = measure(
        args.segmenter, args.variant, side=args.side, tile=args.tile, tiles=args.tiles, threads=args.threads
    )
    print(
        f"{args.segmenter} on {args.variant}, {CLASSES} classes, {args.side} x {args.side} px: "
        f"{result['tiles_done']} of {result['tiles']} tiles in {result['seconds']:.0f} s, "
        f"peak {result['peak_bytes'] / 2**30:.2f} GiB"
    )
    path = args.output or RESULTS / f"tiled_prediction-{args.segmenter}-{args.variant}-{args.side}.json"
    write_json(path, result)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
