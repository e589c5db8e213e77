"""Write the tables of docs/scale.md that are arithmetic: what many GPUs need from storage, links and disks.

    python benchmarks/scale_arithmetic.py

Between `<!-- table: NAME -->` and `<!-- end -->` stands what follows from the networks' parameters and operations and
the assumptions below; a test holds the page to it. Nothing here is measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import timm
import torch

import scalablevit  # noqa: F401 - registers the variants
from scalablevit.complexity import count
from scalablevit.safe_write import write_atomically

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
VARIANTS = {"S": "scalablevit_small", "B": "scalablevit_base", "L": "scalablevit_large"}
GPUS = (8, 64, 512)
IMAGE_BYTES = 147_897_477_120 / 1_281_167
"""ImageNet-1K's training archive, as image-net.org gives its size, by its images: 115 kB."""
ACHIEVED = 80e12
"""Operations a second that training achieves on a GPU: an assumption, a quarter of an A100's 312e12 in bfloat16."""
PASSES = 3
"""A training step computes a forward pass and, for inputs and for weights, twice as much backwards."""
BATCH = 128
"""Images a GPU and step."""
LINKS = {"25 Gb/s a GPU": 25e9 / 8, "100 Gb/s": 100e9 / 8, "400 Gb/s": 400e9 / 8}
DISKS = {"0.2 GB/s": 0.2e9, "1 GB/s": 1e9, "5 GB/s": 5e9}
_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Network:
    """What the tables need of a network.

    Attributes:
        parameters: their number.
        flops: operations of a forward pass of one image of 224 x 224 pixels.
    """

    parameters: int
    flops: int

    @property
    def images_per_second(self) -> float:
        """Of one GPU in training."""
        return ACHIEVED / (PASSES * self.flops)

    @property
    def step_seconds(self) -> float:
        """Of one GPU, without any exchange."""
        return BATCH / self.images_per_second

    def exchanged_bytes(self, gpus: int) -> float:
        """That each GPU sends at a step: a ring passes each gradient (4 bytes) on twice, but for its own share."""
        return 2 * (gpus - 1) / gpus * 4 * self.parameters

    def checkpoint_bytes(self, *, averaged: bool) -> int:
        """Weights and AdamW's two moments, and the averaged weights where there are some; 4 bytes each."""
        return 4 * (4 if averaged else 3) * self.parameters


@cache
def networks() -> dict[str, Network]:
    """S, B and L, counted without computing."""
    found = {}
    for name, variant in VARIANTS.items():
        with torch.device("meta"):
            network = timm.create_model(variant)
        cost = count(network, torch.empty(1, 3, 224, 224, device="meta"))
        found[name] = Network(cost.parameters, cost.flops)
    return found


def _table(header: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])


def storage() -> str:
    """Bytes a second that training reads."""
    header = ["network", "images/s a GPU", *(f"{gpus} GPUs" for gpus in GPUS)]
    rows = []
    for name, network in networks().items():
        rate = network.images_per_second
        rows.append([name, f"{rate:,.0f}", *(f"{gpus * rate * IMAGE_BYTES / 1e9:,.1f} GB/s" for gpus in GPUS)])
    return _table(header, rows)


def exchange() -> str:
    """Time of the exchange of gradients beside that of the step, if none of it were hidden behind the backward pass."""
    header = ["network", "parameters", "sent by each GPU a step", f"step of {BATCH} images", *LINKS]
    rows = []
    for name, network in networks().items():
        sent, step = network.exchanged_bytes(GPUS[-1]), network.step_seconds
        times = [f"{sent / speed * 1e3:,.0f} ms ({sent / speed / step:.0%})" for speed in LINKS.values()]
        size = [f"{network.parameters / 1e6:.1f} M", f"{sent / 1e6:,.0f} MB"]
        rows.append([name, *size, f"{step * 1e3:,.0f} ms", *times])
    return _table(header, rows)


def checkpoints() -> str:
    """Size of a checkpoint, and seconds to write it."""
    header = ["network", "checkpoint", "with `model.ema_decay`", *(f"written at {disk}" for disk in DISKS)]
    rows = []
    for name, network in networks().items():
        plain, averaged = (network.checkpoint_bytes(averaged=flag) for flag in (False, True))
        times = [f"{averaged / speed:,.1f} s" for speed in DISKS.values()]
        rows.append([name, f"{plain / 1e9:.2f} GB", f"{averaged / 1e9:.2f} GB", *times])
    return _table(header, rows)


TABLES = {"storage": storage, "exchange": exchange, "checkpoints": checkpoints}


def filled(page: str) -> str:
    """The page with every table as computed."""
    return _BLOCK.sub(lambda match: f"{match[1]}\n{TABLES[match['name']]()}\n\n{match[3]}", page)


if __name__ == "__main__":
    write_atomically(PAGE, filled(PAGE.read_text()).encode())
    print(f"written: {PAGE.name}")
