"""`timing.json`: how long each epoch of a run took."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from scalablevit.safe_write import WriteError, write_json
from scalablevit.training.checkpoint_io import seconds_writing
from scalablevit.training.data_wait import DATA_WAIT, IMAGES_PER_SECOND

log = logging.getLogger(__name__)

_SPEEDS = (IMAGES_PER_SECOND, DATA_WAIT)


class EpochTimes(Callback):
    """Write the wall-clock seconds of each epoch's training and validation, on rank zero, and how fast it trained.

    Of writing checkpoints, those are counted that were written since the epoch's start, the end of the epoch before
    left out. An epoch that was resumed in its middle is left out: nobody has timed the whole of it.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._began: float | None = None
        self._validating = 0.0
        self._validation_began = 0.0
        self._written_before = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began, self._validating = time.monotonic(), 0.0
        self._written_before = seconds_writing(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the time."""
        self._validation_began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the validation apart."""
        self._validating += time.monotonic() - self._validation_began

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the epoch's times."""
        if self._began is None or not trainer.is_global_zero or not self.path.parent.is_dir():
            return
        whole, self._began = time.monotonic() - self._began, None
        metrics = trainer.callback_metrics
        epochs = {row["epoch"]: row for row in read_epoch_times(self.path) if row["epoch"] < trainer.current_epoch}
        epochs[trainer.current_epoch] = {
            "epoch": trainer.current_epoch,
            "training_seconds": round(whole - self._validating, 3),
            "validation_seconds": round(self._validating, 3),
            "checkpoint_seconds": round(seconds_writing(trainer) - self._written_before, 3),
            **{name: round(float(metrics[name]), 4) for name in _SPEEDS if name in metrics},
        }
        try:
            write_json(self.path, {"epochs": list(epochs.values())})
        except WriteError as error:
            log.warning("%s", error.strerror or error)


def read_epoch_times(path: Path) -> list[dict[str, Any]]:
    """Read a `timing.json`; none of a damaged file.

    Returns:
        of each epoch: epoch (from 0), training_seconds and validation_seconds; runs of this version have
        checkpoint_seconds, images_per_second and data_wait too.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["epochs"]
        return [
            {
                "epoch": int(row["epoch"]),
                **{key: float(row[key]) for key in ("training_seconds", "validation_seconds")},
                **{key: float(row[key]) for key in ("checkpoint_seconds", *_SPEEDS) if key in row},
            }
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
