"""Ctrl-C and SIGTERM outside the steps of a run, and a log that cannot be written."""

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.training.resources import explained_resources
from scalablevit.training.stopping import StopOnSignal, TrainingStopped
from scalablevit.training.tensorboard import TolerantTensorBoard


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_step_and_after_the_last_stops(signum: int, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for moment in ("before", "setup", "after"):
        stop = StopOnSignal(tmp_path / "last.ckpt")

        class Interrupted(ToyTask):
            def setup(self, stage: str) -> None:
                super().setup(stage)
                if moment == "setup":  # noqa: B023
                    os.kill(os.getpid(), signum)

        trainer = make_trainer(tmp_path / moment, [stop], max_epochs=1)
        with pytest.raises(TrainingStopped) as stopped, stop.held():  # noqa: PT012
            if moment == "before":
                os.kill(os.getpid(), signum)
            trainer.fit(Interrupted(), datamodule=ToyData())
            os.kill(os.getpid(), signum)
        assert stopped.value.signum == signum
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_training_goes_on_where_tensorboards_log_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    task = ToyTask()
    logger = TolerantTensorBoard(tmp_path, name="", version="tensorboard")
    with caplog.at_level(logging.WARNING, "scalablevit"):
        make_trainer(tmp_path, max_epochs=2, logger=logger, log_every_n_steps=1).fit(task, datamodule=ToyData())
    assert len(task.losses) == 22
    said = [record.getMessage() for record in caplog.records if "TensorBoard" in record.getMessage()]
    assert len(said) == 1
    assert "No space left on device" in said[0]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."), "asked for 99"),
        (OSError(24, "Too many open files"), "ulimit -n"),
        (RuntimeError("unable to open: Too many open files"), "ulimit -n"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "), r"data\.num_workers"),
        (RuntimeError("a bug"), "^a bug$"),
    ],
)
def test_what_a_machine_runs_out_of_is_named(error: Exception, words: str) -> None:
    with pytest.raises(Exception, match=words), explained_resources():
        raise error
