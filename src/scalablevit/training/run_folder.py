"""What a run leaves behind: where each file stands, what it was run with, and its metrics."""

import csv
import io
import json
import logging
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from scalablevit.safe_write import write_atomically
from scalablevit.training.invocation import invocation
from scalablevit.visualization.metrics_file import read_metrics

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "scalablevit")


class RunFolder:
    """The names in a run folder.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.csv"
        self.curves = self.path / "curves.png"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.weights = self.path / "model.safetensors"

    def holds_a_run(self) -> bool:
        """Whether a run has begun here."""
        return any(file.exists() for file in (self.recipe, self.metrics, self.last, self.best, self.weights))

    def write_environment(self, *, seed: int) -> None:
        """Write `environment.json`; where there is one (a resumed run), the earlier ones are kept in a list.

        Raises:
            WriteError: the disk is full, or the folder cannot be written.
        """
        entry = environment(seed=seed)
        earlier: list[dict[str, Any]] = []
        if self.environment.is_file():
            try:
                previous = json.loads(self.environment.read_text())
                earlier = [*previous.pop("earlier", []), previous]
            except (ValueError, AttributeError):
                log.warning("%s cannot be read and is replaced", self.environment)
        text = json.dumps({**entry, "earlier": earlier} if earlier else entry, indent=2) + "\n"
        write_atomically(self.environment, lambda file: file.write(text.encode()))


def claim(path: str | os.PathLike[str], resume: bool) -> RunFolder:
    """Take `path` for a run, on rank zero before its other ranks start: make the folder, refuse to mix two
    runs.

    Args:
        path: the run folder.
        resume: go on with the run in it, from its last checkpoint.

    Raises:
        ValueError: without `resume`, the folder holds a run, or a file stands there; with it, there is no
            checkpoint.
    """
    folder = RunFolder(path)
    if folder.path.exists() and not folder.path.is_dir():
        raise ValueError(f"the run folder {folder.path} is a file: name another folder")
    if resume:
        if not folder.last.is_file():
            raise ValueError(
                f"there is nothing to resume in {folder.path}: {folder.last} is missing. "
                "Name another run folder, or start anew without resuming"
            )
        return folder
    if folder.holds_a_run():
        again = f"go on with it ({invocation('fit', '--resume', folder.path)})"
        remedy = again if folder.last.is_file() else "remove it"
        raise ValueError(f"{folder.path} already holds a run: {remedy}, or name another folder by --run")
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    return folder


def environment(*, seed: int) -> dict[str, Any]:
    """What a run depends on besides its recipe: versions, commit, seed, command line, accelerator, time."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "scalablevit"), *sys.argv[1:]]),
        "seed": seed,
        "git": git_state(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "platform": platform.platform(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state(folder: str | os.PathLike[str] = ".") -> dict[str, Any] | None:
    """{"commit": hash, "dirty": whether tracked files differ} of the repository around `folder`, or None."""

    def git(*words: str) -> str:
        run = subprocess.run(["git", "-C", os.fspath(folder), *words], capture_output=True, text=True, timeout=10)
        run.check_returncode()
        return run.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):  # no git, no repository, no commit yet
        return None


class CSVMetrics(Logger):
    """`metrics.csv` with one row an epoch, in which training and validation meet.

    The file is replaced as a whole, so that a crash leaves either the old or the new one. A resumed run goes
    on in it: rows of epochs that are run again are replaced, not repeated. Lightning's CSVLogger deletes the
    file on resume and writes one row a call. Of step-wise metrics an epoch's last value stays; `name_epoch`
    is written as `name`.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self._rows: dict[int, dict[str, float]] | None = None
        self._written = 0.0
        self._is_dirty = False

    @property
    def name(self) -> str:
        """Of the kind of logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one file only."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.path.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Leave them out: the recipe holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Merge `metrics` into their epoch's row; write new columns at once, new values every few seconds."""
        values = {key: float(value) for key, value in metrics.items()}
        if "epoch" not in values:
            return
        epoch = int(values.pop("epoch"))
        if self._rows is None:
            self._rows = self._read()
        for later in [e for e in self._rows if e > epoch]:  # resumed from before them
            del self._rows[later]
        row = self._rows.setdefault(epoch, {})
        known = set(row)
        row.update({key.removesuffix("_epoch"): value for key, value in values.items() if not key.endswith("_step")})
        if step is not None:
            row["step"] = step
        self._is_dirty = True
        if set(row) != known or time.monotonic() - self._written > 5:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the file if there is news; a disk that is full is reported, and tried again later."""
        if not self._is_dirty or self._rows is None:
            return
        columns = sorted({key for row in self._rows.values() for key in row} - {"step"})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=["epoch", "step", *columns], restval="", lineterminator="\n")
        writer.writeheader()
        for epoch in sorted(self._rows):
            row = {key: format_number(value) for key, value in self._rows[epoch].items()}
            writer.writerow({"epoch": epoch, **row})
        self._written = time.monotonic()
        try:
            write_atomically(self.path, lambda file: file.write(text.getvalue().encode()))
            self._is_dirty = False
        except OSError as error:
            log.warning("%s", error.strerror or error)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()

    def _read(self) -> dict[int, dict[str, float]]:
        """The rows of an earlier part of the run."""
        return {int(row.pop("epoch")): row for row in read_metrics(self.path)} if self.path.is_file() else {}


def format_number(value: float) -> str:
    """Six significant digits, whole numbers as such."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.6g}"
