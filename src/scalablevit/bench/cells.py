"""The settings in which networks are measured: one cell each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Mode = Literal["eager", "compile", "graphs", "optimized"]
Task = Literal["inference", "training"]

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
"""fp32; tf32: fp32 with TF32 matrix products (CUDA); bf16 and fp16: inference with weights cast to that dtype, training
under autocast with fp32 weights (fp16 with loss scaling)."""
MODES = ("eager", "compile", "graphs", "optimized")
"""eager; `torch.compile`; `torch.compile(mode="max-autotune")`, which uses CUDA graphs; `scalablevit.optimize` for our
networks and `torch.compile` for others (inference only)."""
TASKS = ("inference", "training")
"""A forward pass; or a training step: forward, cross-entropy, backward, AdamW."""


@dataclass(frozen=True)
class Cell:
    """One setting in which every contender is measured.

    Attributes:
        size: height and width of the images, in pixels.
        precision, mode, task: one of `PRECISIONS`, `MODES` and `TASKS`.
        batch: images per pass.
    """

    size: tuple[int, int]
    precision: Precision
    mode: Mode
    task: Task
    batch: int

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.task}, {self.precision}, {self.mode}, batch {self.batch}, {height} x {width} px"


def cells(
    *,
    sizes: Sequence[tuple[int, int]],
    precisions: Sequence[Precision],
    modes: Sequence[Mode],
    tasks: Sequence[Task],
    batches: Sequence[int],
) -> list[Cell]:
    """List every combination once, with the batch changing fastest."""
    for size in sizes:
        if min(size) < 1:
            raise ValueError(f"--size must be at least 1 pixel, got {size[0]}x{size[1]}")
    for batch in batches:
        if batch < 1:
            raise ValueError(f"--batch must be at least 1, got {batch}")
    found = [
        Cell(size, precision, mode, task, batch)
        for size, task, precision, mode, batch in itertools.product(sizes, tasks, precisions, modes, batches)
    ]
    return list(dict.fromkeys(found))


def obstacle(cell: Cell, device: torch.device, mode: str | None = None) -> str | None:
    """Say why a cell cannot be measured on a device; None if it can.

    Args:
        cell: the cell.
        device: where to compute.
        mode: of the contender, where it overrides the cell's.
    """
    mode = mode or cell.mode
    if cell.precision == "tf32" and device.type != "cuda":
        return f"--precision tf32 is for CUDA devices, not {device.type}; use fp32"
    if mode == "graphs" and device.type != "cuda":
        return f"--mode graphs is for CUDA devices, not {device.type}; use compile"
    if mode == "optimized" and cell.task == "training":
        return "--mode optimized prepares for inference; use compile for training"
    return None
