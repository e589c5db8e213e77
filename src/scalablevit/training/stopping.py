"""Ctrl-C, SIGTERM, a closed terminal: finish the step, save a checkpoint from which the run resumes bit-exactly, stop.

Lightning (2.6) alone does not: Ctrl-C raises KeyboardInterrupt wherever the program happens to be, between
the weights of one half of an optimizer step and the other, and ends with exit code 1 and no checkpoint;
`save_on_exception` then saves that half-done state. On SIGTERM its handler starts a collective in the middle
of whatever the ranks are doing.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from scalablevit.data.workers import seconds_waited
from scalablevit.printable import printable
from scalablevit.training.invocation import invocation
from scalablevit.training.run_folder import RunFolder
from scalablevit.training.step_boundaries import is_before_validation, is_between_steps, mark_validation_due
from scalablevit.training.weight_averaging import WarmedUpAveraging

_LONGEST_WAIT = 15.0  # seconds that a stop waits for a batch
# SIGHUP: the terminal or the connection is closed; Windows has none
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class TrainingStopped(BaseException):
    """The user or the system stopped the run. Not an `Exception`, as `KeyboardInterrupt` is none.

    Args:
        signum: the signal.
        checkpoint: where the run was saved; None: it was not.
    """

    def __init__(self, signum: int, checkpoint: Path | None) -> None:
        self.signum = signum
        self.checkpoint = checkpoint
        super().__init__(f"stopped by {signal.Signals(signum).name}")


class StopOnSignal(Checkpoint):
    """Turn SIGINT, SIGTERM and SIGHUP into a checkpoint and a `TrainingStopped`, on all ranks together.

    The run stops at the next optimizer step's end or, with one process, the next validation batch's end; a
    validation cut short is run again on resume. With several processes, and in the validation behind the last of
    `max_steps`, a signal waits for the validation's end. A second signal stops at once, without a checkpoint.
    It is a `Checkpoint` so that Lightning calls it after all other callbacks, such as the averaging of
    weights.

    Args:
        checkpoint: where to save, say RUN/checkpoints/last.ckpt.
    """

    def __init__(self, checkpoint: str | os.PathLike[str]) -> None:
        self.checkpoint = Path(checkpoint)
        self._signum = 0
        self._training = False
        self._validation_is_due = False
        self._saved_between_epochs = False
        self._owner = 0
        self._is_global_zero = True
        self._earlier_handlers: dict[int, Any] = {}
        self._is_held = False
        self._terminals: list[int] = []

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Handle the signals from now until the end of the block, not in training alone.

        Lightning turns Ctrl-C before the first step and behind the last one into a silent exit code of 1.
        """
        self._take_over()
        self._is_held = True
        report = sys.unraisablehook

        def report_others(dropped: Any) -> None:
            if not issubclass(dropped.exc_type, TrainingStopped):
                report(dropped)

        sys.unraisablehook = report_others  # a signal that comes within a __del__
        try:
            yield
        finally:
            sys.unraisablehook = report
            self._is_held = False
            self._give_back()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remember who talks to the user."""
        self._is_global_zero = trainer.is_global_zero

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals: after Lightning has, and before data workers are forked."""
        self._take_over()

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        """Note the signal; a second one, or one outside training, stops at once."""
        if os.getpid() != self._owner:  # a child that was forked and has not set its own handlers yet
            os._exit(128 + signum)
        is_at_once = self._signum or not self._training
        self._signum = signum  # also where it is raised: where Python drops it, the first step ends the run
        if is_at_once:
            raise TrainingStopped(signum, None)
        if signum == getattr(signal, "SIGHUP", None):
            self._leave_the_terminal()
        if self._is_global_zero:
            # a stream that is being written to must not be entered a second time from a handler: plain write
            with contextlib.suppress(OSError):  # nobody may be reading it any more
                os.write(2, b"\nStopping after this step, with a checkpoint. Once more stops at once.\n")
        threading.Thread(target=self._stop_where_data_hang, args=(signum,), daemon=True).start()

    def _leave_the_terminal(self) -> None:
        """Write nothing more to a terminal that is closed: each write would fail, in the middle of the step."""
        with contextlib.suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in self._terminals:
                os.dup2(nowhere, descriptor)
            os.close(nowhere)

    def _stop_where_data_hang(self, signum: int) -> None:
        """Stop at once where the step waits for data that do not come."""
        while self._signum and self._training:
            if seconds_waited() > _LONGEST_WAIT:
                os.kill(os.getpid(), signum)
                return
            time.sleep(0.5)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take over the signals where no sanity check did; from here on there is something to save."""
        self._take_over()
        self._training = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save between two epochs."""
        self._saved_between_epochs = self._is_asked(trainer)
        if self._saved_between_epochs:
            trainer.save_checkpoint(self.checkpoint)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs, now that the earlier one's metrics are logged."""
        # not saved here: from a checkpoint of this place Lightning counts the batches on from the earlier
        # epoch's
        if self._saved_between_epochs:
            self._raise()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop in the middle of an epoch, after a whole optimizer step."""
        # after the last batch, and where a validation is due, that takes over
        if is_between_steps(trainer):
            self._stop_if_asked(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between an epoch's training and its validation; in `validate`, take over after Lightning has."""
        if self._is_held:
            self._take_over()
        if self._training and is_before_validation(trainer):
            self._validation_is_due = True
            self._stop_if_asked(trainer)
            self._validation_is_due = False

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any, **__: Any) -> None:
        """Stop in the middle of a validation; only with one process, as ranks may differ by a batch."""
        if self._training and self._signum and trainer.world_size == 1 and is_before_validation(trainer):
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, WarmedUpAveraging):
                    callback.on_validation_epoch_end(trainer, pl_module)  # the weights in training come back
            self._validation_is_due = True
            self._stop_if_asked(trainer)

    def _is_asked(self, trainer: Trainer) -> bool:
        """Whether any rank got a signal; afterwards every rank knows which."""
        if trainer.world_size > 1:
            signum = torch.tensor(self._signum, device=trainer.strategy.root_device)
            dist.all_reduce(signum, op=dist.ReduceOp.MAX)
            self._signum = int(signum)
        return self._signum != 0

    def _stop_if_asked(self, trainer: Trainer) -> None:
        """Save and raise, on all ranks, if any rank got a signal."""
        if self._is_asked(trainer):
            trainer.save_checkpoint(self.checkpoint)
            self._raise()

    def _raise(self) -> NoReturn:
        raise TrainingStopped(self._signum, self.checkpoint)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Where the validation still has to run, say so in Lightning's words."""
        if self._validation_is_due:
            mark_validation_due(checkpoint)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop behind the last epoch; else nothing is left to save: give the signals back, before Lightning does."""
        if self._saved_between_epochs:
            self._raise()
        if self._is_asked(trainer):  # since the end of the last epoch, whose checkpoint is there
            raise TrainingStopped(self._signum, self.checkpoint if self.checkpoint.is_file() else None)
        self._give_back()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._give_back()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self._give_back()

    def _take_over(self) -> None:
        """Set our handlers. Python lets only the main thread do so."""
        if threading.current_thread() is not threading.main_thread():
            return
        if not self._earlier_handlers:
            self._signum = 0
            self._owner = os.getpid()
            self._terminals = [descriptor for descriptor in (1, 2) if os.isatty(descriptor)]
        for signum in _SIGNALS:  # Lightning may have put its own there meanwhile
            if signum not in (signal.SIGINT, signal.SIGTERM) and signal.getsignal(signum) == signal.SIG_IGN:
                continue  # started by nohup: the run shall outlive its terminal
            if signal.getsignal(signum) != self._handle:
                earlier = signal.signal(signum, self._handle)
                self._earlier_handlers.setdefault(signum, earlier)

    def _give_back(self) -> None:
        self._training = False
        if self._is_held:
            return
        for signum, handler in self._earlier_handlers.items():
            # Lightning ends some runs by putting back its predecessors first: then there is nothing to undo
            if signal.getsignal(signum) == self._handle:
                signal.signal(signum, handler)
        self._earlier_handlers = {}


def leave(stopped: TrainingStopped, *, run: str | os.PathLike[str], is_global_zero: bool = True) -> NoReturn:
    """End the process as a stopped program does: one line on stderr, exit code 130 (SIGINT), 143 (SIGTERM)
    or 129 (SIGHUP).

    Args:
        stopped: what `Trainer.fit` raised.
        run: the run folder; only if it holds a last checkpoint, the line tells how to resume.
        is_global_zero: other ranks leave silently with code 0, so that their launcher does not kill rank
            zero.
    """
    if not is_global_zero:
        raise SystemExit(0)
    last = RunFolder(run).last
    can_go_on = last.is_file()
    if stopped.checkpoint is not None:
        said = f"saved to {stopped.checkpoint}"
    elif can_go_on:
        said = f"nothing was saved since {last}"
    else:
        said = "nothing was saved"
    hint = f" To resume: {invocation('fit', '--resume', run)}" if can_go_on else ""
    line = f"Stopped by {signal.Signals(stopped.signum).name}: {said}.{hint}"
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{printable(line)}\n")
        sys.stderr.flush()
    raise SystemExit(128 + stopped.signum)
