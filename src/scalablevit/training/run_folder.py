"""A run folder: where each of its files stands, and which run may write there."""

import contextlib
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from scalablevit.moved import forward_moved_names
from scalablevit.safe_write import sweep_leftovers, write_json
from scalablevit.training.checkpoint_io import RunCheckpointIO
from scalablevit.training.environment import environment
from scalablevit.training.invocation import invocation
from scalablevit.training.run_lock import RunLock

log = logging.getLogger(__name__)


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
        self.timing = self.path / "timing.json"
        self.loggers = self.path / "loggers.json"
        self.curves = self.path / "curves.png"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"
        self.weights = self.path / "model.safetensors"
        self._lock = RunLock(self.path)

    def holds_a_run(self) -> bool:
        """Whether a run has begun here."""
        return any(file.exists() for file in (self.recipe, self.metrics, self.last, self.best, self.weights))

    def write_environment(self, *, seed: int) -> None:
        """Write `environment.json`; where there is one (a resumed run), the earlier ones are kept in a list.

        Raises:
            WriteError: the disk is full, or the folder cannot be written.
        """
        entry = environment(seed=seed) | {"folder": os.path.abspath(self.path)}
        earlier: list[dict[str, Any]] = []
        if self.environment.is_file():
            try:
                previous = json.loads(self.environment.read_text(encoding="utf-8"))
                earlier = [*previous.pop("earlier", []), previous]
            except (ValueError, AttributeError, TypeError, RecursionError):
                log.warning("%s cannot be read and is replaced", self.environment)
        write_json(self.environment, {**entry, "earlier": earlier} if earlier else entry)

    def earlier_place(self) -> Any:
        """Where the folder stood when its run was started last, as environment.json has it; None: unknown."""
        if not self.environment.is_file():  # reading a pipe would wait for ever
            return None
        with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
            return json.loads(self.environment.read_text(encoding="utf-8")).get("folder")
        return None

    def acquire(self) -> None:
        """Lock the folder, which must exist, for this process; sweep what killed writes left behind.

        Raises:
            FolderInUseError: another process trains in it.
        """
        self._lock.acquire()
        swept = sweep_leftovers(self.path)
        if swept:
            log.warning(
                "removed %d unfinished file%s of %.1f MB that killed writes left in %s",
                len(swept),
                "" if len(swept) == 1 else "s",
                sum(swept.values()) / 1e6,
                self.path,
            )

    def set_last_aside(self) -> Path:
        """Give the last checkpoint another name, whatever stands in its place; returns it."""
        aside = self.checkpoints / "last.set-aside.ckpt"
        number = 1
        while os.path.lexists(aside) and (aside.is_dir() or self.last.is_dir()):  # a folder cannot be replaced
            number += 1
            aside = self.checkpoints / f"last.set-aside-{number}.ckpt"
        self.last.replace(aside)
        return aside

    def release(self) -> None:
        """Unlock the folder; remove one in which no training has begun."""
        self._lock.release()
        if not self.holds_a_run():
            shutil.rmtree(self.tensorboard, ignore_errors=True)
            for folder in (self.checkpoints, self.path):
                with contextlib.suppress(OSError):  # not empty, or not there
                    folder.rmdir()


def claim(path: str | os.PathLike[str], resume: bool, *, checkpoint: Path | None = None) -> RunFolder:
    """Take `path` for a run, on rank zero before its other ranks start: make the folder, lock it, refuse to mix two
    runs.

    Args:
        path: the run folder.
        resume: resume the run in it, from its last checkpoint.
        checkpoint: resume from this one.

    Returns:
        the folder, locked until `release`.

    Raises:
        ValueError: without `resume`, the folder holds a run, or a file stands there; with it, there is no
            checkpoint. Or another process trains in it.
    """
    folder = RunFolder(path)
    if folder.path.exists() and not folder.path.is_dir():
        raise ValueError(f"the run folder {folder.path} is a file: name another folder")
    if resume:
        wanted = checkpoint or folder.last
        if not wanted.is_file():
            what = "is a folder, not a checkpoint" if wanted.is_dir() else "is missing"
            way = RunCheckpointIO().way_on(wanted)
            raise ValueError(
                f"there is nothing to resume in {folder.path}: {wanted} {what}"
                f"{way or '. Name another run folder, or start anew without resuming'}"
            )
        folder.acquire()
        return folder
    if not folder.holds_a_run():
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.acquire()
    if folder.holds_a_run():  # looked at again: another run may have begun before this one had the lock
        folder.release()
        again = f"resume it ({invocation('fit', '--resume', folder.path)})"
        remedy = again if folder.last.is_file() else "remove it"
        raise ValueError(f"{folder.path} already holds a run: {remedy}, or name another folder by --run")
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    return folder


forward_moved_names(__name__)
