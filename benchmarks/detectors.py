"""Mask R-CNN on ScalableViT beside torchvision's on a ResNet-50, in one run: time and peak memory.

    python benchmarks/detectors.py --variant scalablevit_small --size 800 1280

Both are freshly initialised, see the same image and the same twenty objects, and are called alternately (ours, theirs,
ours, theirs, ...), so that other load on the machine affects both alike. Neither is trained: the lowest score
is 0, so that both suppress boxes and draw masks for 100 detections. Peak memory is that of a process of its own for
each model and pass, PyTorch included (on a GPU: of the tensors).
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import maskrcnn_resnet50_fpn

from scalablevit.backbone import VARIANTS
from scalablevit.bench.conditions import conditions, peak_bytes, spread
from scalablevit.detection import mask_rcnn
from scalablevit.safe_write import write_json

RESULTS = Path(__file__).parent / "results"
CLASSES = 80
OBJECTS = 20
PASSES = ("training step", "prediction")
MODELS = ("ours", "resnet50")


def build(name: str, variant: str, size: tuple[int, int]) -> nn.Module:
    """A detector that takes images of `size` as they are."""
    torch.manual_seed(0)
    sides = {"min_size": min(size), "max_size": max(size)}
    if name == "ours":
        return mask_rcnn(variant, CLASSES, score_thresh=0.0, **sides)
    return maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, box_score_thresh=0.0, **sides
    )


def sample(size: tuple[int, int], batch: int, device: str) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Noise, and objects at random places with box-shaped masks."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    corner = torch.rand(OBJECTS, 2, generator=generator) * torch.tensor([width * 0.8, height * 0.8])
    extent = torch.rand(OBJECTS, 2, generator=generator) * torch.tensor([width * 0.18, height * 0.18]) + 8
    boxes = torch.cat([corner, corner + extent], dim=1)
    masks = torch.zeros(OBJECTS, height, width, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = 1
    labels = torch.randint(1, CLASSES + 1, (OBJECTS,), generator=generator)
    images = [torch.rand(3, height, width, generator=generator).to(device) for _ in range(batch)]
    target = {"boxes": boxes.to(device), "labels": labels.to(device), "masks": masks.to(device)}
    return images, [target] * batch


def run(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]], kind: str) -> int:
    """One pass; how many detections it made."""
    if kind == "prediction":
        model.eval()
        with torch.inference_mode():
            return sum(len(found["scores"]) for found in model(images))
    model.train()
    model.zero_grad(set_to_none=True)
    torch.stack(list(model(images, targets).values())).sum().backward()
    return 0


def synchronise(device: str) -> None:
    """Wait until a GPU is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def memory(name: str, kind: str, variant: str, size: tuple[int, int], batch: int, device: str, threads: int) -> int:
    """Peak bytes of two passes; call it in a process of its own."""
    torch.set_num_threads(threads)
    model = build(name, variant, size).to(device)
    images, targets = sample(size, batch, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        run(model, images, targets, kind)
    synchronise(device)
    return torch.cuda.max_memory_allocated() if device == "cuda" else peak_bytes()


def measure(
    variant: str, *, size: tuple[int, int], batch: int, rounds: int, warm_up: int, device: str, threads: int
) -> dict[str, Any]:
    """Time both detectors in turns, and measure the memory of each alone.

    Args:
        variant: a name in `scalablevit.backbone.VARIANTS`.
        size: height and width of the images, in pixels.
        batch: images per pass.
        rounds: timed passes of each, at least 2.
        warm_up: passes of each before that.
        device: "cpu" or "cuda".
        threads: of torch's intra-op pool.

    Returns:
        the result as it is written to JSON; times are in seconds, memory in bytes.
    """
    torch.set_num_threads(threads)
    models = {name: build(name, variant, size).to(device) for name in MODELS}
    images, targets = sample(size, batch, device)
    times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in MODELS} for kind in PASSES}
    detections = dict.fromkeys(MODELS, 0)
    for kind in PASSES:
        for i in range(warm_up + rounds):
            for name, model in models.items():
                synchronise(device)
                start = time.perf_counter()
                found = run(model, images, targets, kind)
                synchronise(device)
                if i >= warm_up:
                    times[kind][name].append(time.perf_counter() - start)
                    detections[name] = found or detections[name]
    peaks: dict[str, dict[str, int]] = {kind: {} for kind in PASSES}
    for kind in PASSES:
        for name in MODELS:
            # a fresh process, as the most that one has held never falls again
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peaks[kind][name] = pool.apply(memory, (name, kind, variant, size, batch, device, threads))
    return {
        "benchmark": "detectors",
        **conditions(device),
        "precision": "fp32",
        "variant": variant,
        "threads": threads,
        "batch": batch,
        "size": list(size),
        "warm_up": warm_up,
        "parameters": {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()},
        "detections": detections,
        "seconds": times,
        "spread": {kind: {name: spread(values) for name, values in times[kind].items()} for kind in PASSES},
        "peak_bytes": peaks,
    }


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    height, width = result["size"]
    lines = [
        f"Mask R-CNN, {result['variant']} and resnet50, {result['precision']}, batch {result['batch']}, "
        f"{height}x{width} px, {result['threads']} threads, {result['device']}, torch {result['torch']}",
        f"{'':16}{'':10}{'median s':>10}{'quartiles s':>16}{'peak GiB':>10}",
    ]
    for kind in PASSES:
        for name in MODELS:
            values = result["spread"][kind][name]
            quartiles = f"{values['quartile_1']:.2f} - {values['quartile_3']:.2f}"
            peak = result["peak_bytes"][kind][name] / 2**30
            lines.append(f"{kind:16}{name:10}{values['median']:10.2f}{quartiles:>16}{peak:10.2f}")
    return "\n".join(lines)


def main() -> None:
    """Read the flags, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", default="scalablevit_small", choices=list(VARIANTS))
    parser.add_argument("--size", type=int, nargs=2, default=[800, 1280], help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=1, help="images per pass")
    parser.add_argument("--rounds", type=int, default=5, help="timed passes of each, at least 2")
    parser.add_argument("--warm-up", type=int, default=1, help="discarded passes before that")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help=f"JSON file; default {RESULTS.name}/detectors-VARIANT-SIZE.json")
    args = parser.parse_args()
    if min(args.size) < 1 or args.rounds < 2:
        parser.error(f"--size must be at least 1 and --rounds at least 2, got {args.size} and {args.rounds}")
    height, width = args.size
    result = measure(
        args.variant,
        size=(height, width),
        batch=args.batch,
        rounds=args.rounds,
        warm_up=args.warm_up,
        device=args.device,
        threads=args.threads,
    )
    print(table(result))
    path = args.output or RESULTS / f"detectors-{args.variant}-{args.device}-{args.batch}x{height}x{width}.json"
    write_json(path, result)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
