"""Whether a classifier's heatmaps find the digit that they explain: the pointing game on grids of four digits.

    python benchmarks/heatmaps_on_digits.py runs/digits data/digits/val

Four validation images of different classes make one image, two by two. For each of the four classes, the map should
lie in the cell of its digit: by chance a quarter of its energy does, and a quarter of its maxima. Source: the grid
pointing game of Böhle et al., arXiv:2104.00032.
"""

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from scalablevit.classification import Classifier
from scalablevit.explain import layer_cam


def measure(maps: Tensor, cells: Tensor) -> tuple[float, float]:
    """Share of the energy in a cell, and of maxima in it, of maps (B, H, W) and the cell 0..3 of each."""
    side = maps.shape[1] // 2
    energies = maps.unfold(1, side, side).unfold(2, side, side).flatten(1, 2).sum(dim=(2, 3))  # (B, 4)
    total = energies.sum(dim=1).clamp(min=1e-12)  # a map may be empty
    share = energies.gather(1, cells[:, None])[:, 0] / total
    highest = maps.flatten(1).argmax(dim=1)
    found = highest // maps.shape[2] // side * 2 + highest % maps.shape[2] // side
    return float(share.mean()), float((found == cells).float().mean())


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("data", type=Path, help="folder per class")
    parser.add_argument("--grids", type=int, default=100)
    args = parser.parse_args()
    classifier = Classifier.load(args.run, device="cpu")
    images = [
        [classifier.transform(Image.open(path).convert("RGB")) for path in sorted((args.data / name).iterdir())]
        for name in classifier.class_names
    ]
    generator = torch.Generator().manual_seed(1)
    grids, classes = [], []
    for _ in range(args.grids):
        chosen = torch.randperm(len(images), generator=generator)[:4].tolist()
        four = [images[k][int(torch.randint(len(images[k]), (), generator=generator))] for k in chosen]
        grids.append(torch.cat([torch.cat(four[:2], dim=2), torch.cat(four[2:], dim=2)], dim=1))
        classes.append(chosen)
    batch, labels = torch.stack(grids), torch.tensor(classes)  # (G, C, 2h, 2w), (G, 4)
    found: dict[str, dict[str, float]] = {}
    settings: dict[str, tuple[int, ...]] = {"default": (0, 1, 2, 3), **{f"stage {i + 1}": (i,) for i in range(4)}}
    for name, levels in settings.items():
        maps = [layer_cam(classifier.network, batch, target=labels[:, i].tolist(), levels=levels) for i in range(4)]
        cells = torch.arange(4).repeat_interleave(len(batch))
        share, pointing = measure(torch.cat([torch.as_tensor(x) for x in maps]), cells)
        found[name] = {"energy": round(share, 3), "over_chance": round(4 * share, 2), "pointing": round(pointing, 3)}
    print(json.dumps({"grids": args.grids, "maps": 4 * args.grids, **found}, indent=2))


if __name__ == "__main__":
    main()
