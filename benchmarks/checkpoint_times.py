"""Measure size and time of a run's last checkpoint: weights, their average, and AdamW's two moments.

    python benchmarks/checkpoint_times.py
    python benchmarks/checkpoint_times.py --folder /scratch --variants scalablevit_small --output times.json

A run of `fit` trains one step on two small images from random weights, so that every state is there; then its last
checkpoint is written again and again, as `--checkpoint-every` does: to the disk of `--folder`, waiting for the disk.
Reading is what `--resume` takes, with the check of its checksums; the file comes from the system's cache then.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from scalablevit.recipes import find_recipe
from scalablevit.training.checkpoint_io import RunCheckpointIO
from scalablevit.training.command import TrainingCommand, quiet_lightning
from scalablevit.training.environment import git_state
from soak import write_images

RESULT = Path(__file__).parent / "results" / "checkpoint_times.json"
VARIANTS = ("scalablevit_small", "scalablevit_base", "scalablevit_large")


def measure(variant: str, folder: Path, *, rounds: int) -> dict[str, Any]:
    """Write and read a variant's checkpoint.

    Returns:
        variant, parameters, bytes, and seconds of each write and read.
    """
    data = write_images(folder / "data", classes=2, each=2)
    words = ["--model.variant", variant, "--data.root", str(data), "--data.image_size", "32", "--data.batch_size", "2"]
    words += ["--data.num_workers", "0", "--model.ema_decay", "0.999", "--trainer.max_steps", "1"]
    words += ["--trainer.limit_val_batches", "0", "--trainer.enable_progress_bar", "false"]
    command = TrainingCommand("fit", [find_recipe("train_folder")], words, run=folder / "run")
    trainer, last = command.trainer, command.folder.last
    trainer.fit(command.model, command.datamodule)
    checkpoint_io = trainer.strategy.checkpoint_io
    assert isinstance(checkpoint_io, RunCheckpointIO)
    writes, reads = list[float](), list[float]()
    for _ in range(rounds):
        before = checkpoint_io.seconds
        trainer.save_checkpoint(last)
        writes.append(checkpoint_io.seconds - before)
        began = time.monotonic()
        checkpoint_io.load_checkpoint(last)
        reads.append(time.monotonic() - began)
    size, count = last.stat().st_size, sum(p.numel() for p in command.model.network.parameters())
    command.folder.release()
    return {"variant": variant, "parameters": count, "bytes": size, "write_seconds": writes, "read_seconds": reads}


def line(cell: dict[str, Any]) -> list[str]:
    """A row of the table: variant, size, medians of writing and reading, bytes a second of writing."""
    write, read = statistics.median(cell["write_seconds"]), statistics.median(cell["read_seconds"])
    size = cell["bytes"]
    return [
        f"`{cell['variant']}`",
        f"{cell['parameters'] / 1e6:.1f} M",
        f"{size / 1e6:,.0f} MB",
        f"{write:.1f} s",
        f"{size / write / 1e6:,.0f} MB/s",
        f"{read:.1f} s",
    ]


def main() -> int:
    """Read the flags, measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5, help="checkpoints written of each (default: 5)")
    parser.add_argument("--folder", type=Path, help="folder on the disk to measure (default: the temporary one)")
    parser.add_argument("--output", type=Path, default=RESULT, help=f"JSON file (default: {RESULT.name})")
    args = parser.parse_args()
    quiet_lightning()
    cells = []
    for variant in args.variants:
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            cells.append(measure(variant, Path(folder), rounds=args.rounds))
        print(" | ".join(line(cells[-1])), flush=True)
    found = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": (git_state() or {}).get("commit"),
        "torch": torch.__version__,
        "cells": cells,
    }
    args.output.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
