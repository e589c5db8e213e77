"""Ctrl-C and SIGTERM outside the steps of a run, and a log that cannot be written."""

import json
import logging
import os
import pty
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.training.resources import explained_resources
from scalablevit.training.stopping import StopOnSignal, TrainingStopped
from scalablevit.training.tensorboard import TolerantTensorBoard


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_first_step_and_after_the_last_stops(signum: int, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
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
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def in_a_terminal(*, ignoring: bool, folder: Path) -> int:
    """Train in a terminal of its own that closes in the fourth step; its exit code."""
    script = Path(__file__).with_name("toy_run.py")
    task = {"folder": str(folder), "trainer": {"max_epochs": 2}, "data": {"num_workers": 2}}
    folder.mkdir()
    pid, terminal = pty.fork()
    if pid == 0:
        if ignoring:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does, and its output goes to a file
            for descriptor in (1, 2):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        os.execv(sys.executable, [sys.executable, str(script), json.dumps([task | {"wait_at": 4}])])
    reached = folder / "waits"
    deadline = time.monotonic() + 60
    while not reached.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.close(terminal)  # the system sends SIGHUP to all processes in it
    reached.unlink()
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.slow
def test_a_terminal_that_closes_is_a_stop_with_a_checkpoint(tmp_path: Path) -> None:
    assert in_a_terminal(ignoring=False, folder=tmp_path / "run") == 129
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["global_step"] in (4, 5)
    assert in_a_terminal(ignoring=True, folder=tmp_path / "nohup") == 0
    assert (tmp_path / "nohup" / "network.pt").exists()


def test_a_signal_behind_the_last_epoch_is_a_stop(tmp_path: Path) -> None:
    """The results are not written yet, which takes as long as a validation."""

    class Late(Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    stop = StopOnSignal(tmp_path / "last.ckpt")
    with pytest.raises(TrainingStopped) as stopped, stop.held():
        make_trainer(tmp_path, [Late(), stop], max_epochs=1).fit(ToyTask(), datamodule=ToyData())
    assert stopped.value.checkpoint == tmp_path / "last.ckpt"
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 11


def test_a_signal_that_python_drops_stops_the_run_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python prints and drops what is raised within a __del__, and a signal may come there."""
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)

    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    class Interrupted(ToyTask):
        def setup(self, stage: str) -> None:
            super().setup(stage)
            Dying()

    stop = StopOnSignal(tmp_path / "last.ckpt")
    task = Interrupted()
    with pytest.raises(TrainingStopped) as stopped, stop.held():
        make_trainer(tmp_path, [stop], max_epochs=1).fit(task, datamodule=ToyData())
    assert len(task.losses) == 1
    assert stopped.value.checkpoint == tmp_path / "last.ckpt"
    assert capsys.readouterr().err == ""


def test_nothing_is_lost_where_nobody_reads_what_a_stop_says(tmp_path: Path) -> None:
    """`fit 2>&1 | head`, then Ctrl-C."""
    reader, writer = os.pipe()
    os.close(reader)
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        stop = StopOnSignal(tmp_path / "last.ckpt")

        class Interrupted(ToyTask):
            def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
                super().on_train_batch_start(batch, batch_idx)
                if batch_idx == 3:
                    os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(TrainingStopped) as stopped:
            make_trainer(tmp_path, [stop], max_epochs=1).fit(Interrupted(), datamodule=ToyData())
    finally:
        os.dup2(kept, 2)
        for descriptor in (kept, writer):
            os.close(descriptor)
    assert stopped.value.checkpoint == tmp_path / "last.ckpt"


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
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(11, "Resource temporarily unavailable"), "--pids-limit"),
        (RuntimeError("unable to open: Too many open files"), "ulimit -n"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed. "), r"data\.num_workers"),
        (RuntimeError("a bug"), "^a bug$"),
    ],
)
def test_what_a_machine_runs_out_of_is_named(error: Exception, words: str) -> None:
    with pytest.raises(Exception, match=words), explained_resources():
        raise error
