"""Images of 16 pixels, a network of 0.6 M parameters, and runs of it."""

import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from command_line import Outcome, scalablevit
from run_metrics import learned_by
from scalablevit.training.invocation import invocation
from scalablevit.training.module import TrainingModule

CLASSES = ("blue sky", "grün", "red")
# Of every recipe: a network and images small enough for a test, loaded in this process.
SMALL = (
    "--model.variant=scalablevit_atto",
    "--model.head=auto",
    "--model.window_size=2",
    "--data.image_size=16",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--precision=32-true",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=true",
)


def write_images(root: Path, *, classes: Sequence[str] = CLASSES, num_train: int = 6, num_val: int = 3) -> Path:
    """Noise, with the class as the brightest colour: learned within a few steps."""
    rng = np.random.default_rng(0)
    for part, count in (("train", num_train), ("val", num_val)):
        for k, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 80, (16, 16, 3)).astype(np.uint8)
                pixels[..., k % 3] += 150
                Image.fromarray(pixels).save(folder / f"pic {i}.png")
    return root


def words_of(command: str) -> list[str]:
    """The words of a command line that we told the user to type, behind the program's own."""
    program, words = shlex.split(invocation()), shlex.split(command)
    assert words[: len(program)] == program
    return words[len(program) :]


def fit(data: Path, run: Path, *words: str | Path, recipe: str | Path = "train_folder", epochs: int = 2) -> Outcome:
    """A small run that must end well."""
    outcome = scalablevit(
        "fit", "--config", recipe, *SMALL, "--data.root", data, "--run", run, "--epochs", str(epochs), *words
    )
    assert outcome.code == 0, outcome.err
    return outcome


def stop_at_batch(monkeypatch: pytest.MonkeyPatch, batch: int, signum: int = signal.SIGINT) -> None:
    """Let a run get a signal at its `batch`-th training batch, once."""
    original = TrainingModule.on_train_batch_start
    begun = []

    def and_stop(self: TrainingModule, *args: Any) -> None:
        begun.append(True)
        if len(begun) == batch:
            os.kill(os.getpid(), signum)
        original(self, *args)

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", and_stop)


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    """The tensors of a run's model.safetensors."""
    return safetensors.torch.load_file(run / "model.safetensors")


def assert_same_result(run: Path, other: Path) -> None:
    """Weights and metrics, to the bit."""
    ours, theirs = weights_of(run), weights_of(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    files = (run / "model.safetensors", other / "model.safetensors")
    assert files[0].read_bytes() == files[1].read_bytes()
    assert learned_by(run) == learned_by(other)
    assert (run / "results.json").read_text() == (other / "results.json").read_text()
