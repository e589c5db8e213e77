"""Save a run within its epochs too, by the clock or by optimizer steps: a kill then costs minutes, not an epoch."""

import contextlib
import logging
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from scalablevit.safe_write import write_atomically
from scalablevit.training.checkpoint_interval import CheckpointInterval
from scalablevit.training.checkpoint_io import seconds_writing
from scalablevit.training.step_boundaries import is_before_validation, is_between_steps, mark_validation_due

log = logging.getLogger(__name__)

_KEPT = re.compile(r"step-(\d+)\.ckpt")
_LARGEST_SHARE = 0.1  # of the time that may go into writing before a warning
_LITTLE_WRITING = 5.0  # seconds that are worth no warning
_MOST_STEPS_AHEAD = 10_000


class MidEpochCheckpoints(Checkpoint):
    """Write the last checkpoint every so often, at the end of an optimizer step, on all ranks together.

    The clock is rank zero's. Ranks do not meet at every step for it: rank zero says at which later step they ask it
    again, half of the time that is left away as steps took so far. It is a `Checkpoint` so that Lightning calls it
    after all other callbacks, such as the averaging of weights.

    Args:
        last: the checkpoint to write.
        interval: how often.
        keep: how many of them are kept as `step-STEP.ckpt` beside it; the oldest is removed once a newer one is
            complete.
    """

    def __init__(self, last: Path, interval: CheckpointInterval, *, keep: int = 0) -> None:
        self.last = last
        self.interval = interval
        self.keep = keep
        self._training = False
        self._validation_is_due = False
        self._step = 0  # of the checkpoint before
        self._due_at = 0.0
        self._ask_at = 0  # the step at which the ranks meet
        self._asked = (0, 0.0)  # step and time at which they met before
        self._began = 0.0
        self._writing = 0.0
        self._num_written = 0
        self._has_warned = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._training = True
        self._began = time.monotonic()
        self._ask_at = 0
        self._restart(trainer)
        self._asked = (trainer.global_step, self._began)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save between two steps, if it is time."""
        if is_between_steps(trainer) and self._is_due(trainer):
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save before a validation, if it is time: it may take long."""
        if self._training and is_before_validation(trainer) and self._is_due(trainer):
            self._validation_is_due = True
            self._save(trainer)
            self._validation_is_due = False

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note that a validation still has to run."""
        if self._validation_is_due:
            mark_validation_due(checkpoint)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock anew: the epoch's checkpoint has just been written."""
        if self.interval.steps is not None and self._is_due(trainer):
            self._keep(trainer)
        self._restart(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save no more."""
        self._training = False

    def _is_due(self, trainer: Trainer) -> bool:
        """Whether it is time; the same answer on every rank."""
        step = trainer.global_step
        if step == self._step:
            return False
        if self.interval.steps is not None:
            return step // self.interval.steps > self._step // self.interval.steps
        if trainer.world_size == 1:
            return time.monotonic() >= self._due_at
        if step < self._ask_at:
            return False
        now = time.monotonic()
        left = self._due_at - now
        step_seconds = max((now - self._asked[1]) / max(1, step - self._asked[0]), 1e-6)
        ahead = min(max(1, int(left / 2 / step_seconds)), _MOST_STEPS_AHEAD)
        said = torch.tensor([left <= 0, ahead], dtype=torch.int64, device=trainer.strategy.root_device)
        dist.broadcast(said, src=0)
        is_due, ahead = (int(value) for value in said.tolist())
        self._asked, self._ask_at = (step, now), step + ahead
        return is_due == 1

    def _save(self, trainer: Trainer) -> None:
        before = seconds_writing(trainer)
        trainer.save_checkpoint(self.last)
        self._writing += seconds_writing(trainer) - before
        self._num_written += 1
        self._keep(trainer)
        self._restart(trainer)
        self._warn_of_time(trainer)

    def _restart(self, trainer: Trainer) -> None:
        self._step = trainer.global_step
        if self.interval.seconds is not None:
            self._due_at = time.monotonic() + self.interval.seconds

    def _keep(self, trainer: Trainer) -> None:
        """Keep the last checkpoint by its step; then remove the oldest of those that are too many."""
        if self.keep == 0 or not trainer.is_global_zero or not self.last.is_file():
            return
        kept = self.last.with_name(f"step-{trainer.global_step}.ckpt")
        try:
            _link_or_copy(self.last, kept)
            others = sorted(
                (path for path in kept_checkpoints(kept.parent) if path != kept),
                key=lambda path: path.stat().st_mtime_ns,  # not by step: a run may have gone back to an earlier one
            )
            for path in others[: max(0, len(others) + 1 - self.keep)]:
                path.unlink(missing_ok=True)
        except OSError as error:  # the last checkpoint is written: the run is safe
            log.warning("the checkpoint of step %d is not kept: %s", trainer.global_step, error.strerror or error)

    def _warn_of_time(self, trainer: Trainer) -> None:
        """Say once that writing takes much of the time."""
        share = self._writing / max(time.monotonic() - self._began, 1e-9)
        is_little = self._writing < _LITTLE_WRITING or share <= _LARGEST_SHARE
        if self._has_warned or self._num_written < 3 or is_little or not trainer.is_global_zero:
            return
        self._has_warned = True
        log.warning(
            "%.0f%% of the time goes into writing checkpoints (%.1f s each): raise --checkpoint-every, or use a faster "
            "disk",
            100 * share,
            self._writing / self._num_written,
        )


def kept_checkpoints(folder: Path) -> list[Path]:
    """The `step-STEP.ckpt` of a run, by their steps."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.ckpt") if (match := _KEPT.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a complete file a second name, or copy it where the disk knows no links.

    Raises:
        WriteError: the system refused to write.
    """
    with contextlib.suppress(OSError):
        target.unlink()
    try:
        os.link(source, target)
    except OSError:
        with source.open("rb") as file:
            write_atomically(target, lambda copy: shutil.copyfileobj(file, copy, 2**24))
