"""A run that is killed within an epoch and resumed from its last checkpoint must equal one that was not, to the bit."""

import logging
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from test_stop_and_resume import BY_STEPS, TWO_PROCESSES, read_journal, run_two_ranks
from toy_run import Journal, ToyData, ToyTask, make_trainer

from scalablevit.training import mid_epoch_checkpoints
from scalablevit.training.checkpoint_interval import CheckpointInterval, checkpoint_interval
from scalablevit.training.mid_epoch_checkpoints import MidEpochCheckpoints, kept_checkpoints
from scalablevit.training.recipe_errors import RecipeError
from scalablevit.training.stopping import StopOnSignal


class Killed(BaseException):
    """What ends a run without a chance to save."""


class KillAt(Callback):
    """Raise at the start of a batch, counted over the run, or of a validation."""

    def __init__(self, batch: int | None = None, validation: int | None = None) -> None:
        self.batch, self.validation, self.validations = batch, validation, 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.fit_loop.total_batch_idx == self.batch:
            raise Killed

    def on_validation_batch_start(self, trainer: Any, *_: Any, **__: Any) -> None:
        if self.validations == self.validation:
            raise Killed
        self.validations += 1


def train(
    folder: Path,
    *,
    every: CheckpointInterval | None = None,
    keep: int = 0,
    kill: KillAt | None = None,
    task: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    resume: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor], list[int]]:
    """Journal, weights at the end, and the steps at which it was saved within epochs."""
    folder.mkdir(parents=True, exist_ok=True)
    module, last = ToyTask(**(task or {})), folder / "last.ckpt"
    saved: list[int] = []
    callbacks: list[Callback] = [Journal(folder / "log-0.jsonl"), StopOnSignal(last)]
    if every is not None:
        callbacks.append(MidEpochCheckpoints(last, every, keep=keep))
    fitter = make_trainer(folder, [*callbacks, *([] if kill is None else [kill])], **(trainer or {}))
    save = fitter.save_checkpoint

    def note(path: Any, *args: Any, **kwargs: Any) -> None:
        saved.append(fitter.global_step)
        save(path, *args, **kwargs)

    fitter.save_checkpoint = note  # type: ignore[method-assign]
    fitter.fit(module, datamodule=ToyData(), ckpt_path=last if resume else None)
    return read_journal(folder), module.network.state_dict(), saved


# 23 samples, batch 2, the odd one dropped: 11 batches an epoch
CASES: dict[str, tuple[KillAt, dict[str, Any]]] = {
    "plain": (KillAt(batch=18), {}),
    "averaged weights": (KillAt(batch=9), {"task": {"ema_decay": 0.9}}),
    "accumulation": (KillAt(batch=17), {"trainer": {"accumulate_grad_batches": 2}}),
    "within an epoch's validation": (KillAt(validation=3), {}),
    "validations within an epoch": (KillAt(batch=10), {"trainer": {"val_check_interval": 5}}),
    "within a validation within an epoch": (KillAt(validation=8), {"trainer": {"val_check_interval": 5}}),
    "accumulation, validations within steps": (
        KillAt(batch=9),
        {"trainer": {"val_check_interval": 5, "accumulate_grad_batches": 2}},
    ),
    "no validation": (KillAt(batch=12), {"trainer": {"limit_val_batches": 0}}),
    "max_steps": (KillAt(batch=20), {"trainer": {**BY_STEPS, "val_check_interval": 4}}),
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case, marks=() if case in ("averaged weights", "validations within an epoch") else pytest.mark.slow
        )
        for case in CASES
    ],
)
def test_a_killed_run_resumes_to_the_bit(case: str, tmp_path: Path) -> None:
    kill, options = CASES[case]
    kill.validations = 0
    whole, weights, _ = train(tmp_path / "whole", **options)
    every = CheckpointInterval(steps=4)
    with pytest.raises(Killed):
        train(tmp_path / "cut", every=every, kill=kill, **options)
    journal = tmp_path / "cut" / "log-0.jsonl"
    cut = read_journal(tmp_path / "cut")
    journal.unlink()
    progress = torch.load(tmp_path / "cut" / "last.ckpt", weights_only=True)["loops"]["fit_loop"]
    num_saved = progress["epoch_loop.batch_progress"]["total"]["ready"]
    assert sum("batch" in line for line in cut) - num_saved < 6 * options.get("trainer", {}).get(
        "accumulate_grad_batches", 1
    )
    resumed, resumed_weights, _ = train(tmp_path / "cut", every=every, resume=True, **options)
    num_before = len(whole) - len(resumed)
    assert sum("batch" in line for line in whole[:num_before]) == num_saved
    assert cut[:num_before] + resumed == whole
    assert all(torch.equal(resumed_weights[name], value) for name, value in weights.items())


def test_steps_are_counted_over_the_run_and_epochs_count_too(tmp_path: Path) -> None:
    _, _, saved = train(tmp_path, every=CheckpointInterval(steps=4))
    within = [step for step in saved if step % 11]
    assert within == [4, 8, 12, 16, 20, 24, 28, 32]


def test_the_newest_are_kept(tmp_path: Path) -> None:
    train(tmp_path, every=CheckpointInterval(steps=4), keep=2, trainer={"max_epochs": 2})
    assert [path.name for path in kept_checkpoints(tmp_path)] == ["step-16.ckpt", "step-20.ckpt"]
    steps = [torch.load(path, weights_only=True)["global_step"] for path in kept_checkpoints(tmp_path)]
    assert steps == [16, 20]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 22
    assert not list(tmp_path.glob(".*"))


def test_an_older_one_is_removed_only_when_the_newer_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    link = mid_epoch_checkpoints._link_or_copy

    def watched(source: Path, target: Path) -> None:
        seen.append([path.name for path in kept_checkpoints(tmp_path)])
        link(source, target)

    monkeypatch.setattr(mid_epoch_checkpoints, "_link_or_copy", watched)
    train(tmp_path, every=CheckpointInterval(steps=4), keep=1, trainer={"max_epochs": 1})
    assert seen == [[], ["step-4.ckpt"]]
    assert [path.name for path in kept_checkpoints(tmp_path)] == ["step-8.ckpt"]


def test_where_the_disk_knows_no_links_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(mid_epoch_checkpoints.os, "link", no_links)
    train(tmp_path, every=CheckpointInterval(steps=9), keep=1, trainer={"max_epochs": 1})
    assert torch.load(tmp_path / "step-9.ckpt", weights_only=True)["global_step"] == 9


def test_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Clock(Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            now[0] += 3.0

    monkeypatch.setattr(mid_epoch_checkpoints, "time", SimpleNamespace(monotonic=lambda: now[0]))
    callback = MidEpochCheckpoints(tmp_path / "last.ckpt", CheckpointInterval(seconds=10.0))
    saved: list[int] = []
    fitter = make_trainer(tmp_path, [Clock(), callback], max_epochs=2)
    save = callback._save
    callback._save = lambda trainer: (saved.append(trainer.global_step), save(trainer))[1]  # type: ignore[method-assign,func-returns-value]
    fitter.fit(ToyTask(), datamodule=ToyData())
    assert saved == [4, 8, 15, 19]  # the clock starts anew at an epoch's end


def test_ranks_ask_the_first_ones_clock_and_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks, the second with a clock that is far off: both save at the same steps, and meet few times."""
    sent: list[torch.Tensor] = []
    clocks, saved, met = {0: 0.0, 1: 5000.0}, {0: [], 1: []}, {0: 0, 1: 0}
    rank = [0]

    def broadcast(said: torch.Tensor, src: int) -> None:
        assert src == 0
        met[rank[0]] += 1
        if rank[0] == 0:
            sent.append(said.clone())
        else:
            said.copy_(sent.pop(0))

    monkeypatch.setattr(mid_epoch_checkpoints.dist, "broadcast", broadcast)
    monkeypatch.setattr(mid_epoch_checkpoints, "time", SimpleNamespace(monotonic=lambda: clocks[rank[0]]))
    strategy = SimpleNamespace(root_device=torch.device("cpu"), checkpoint_io=None)
    callbacks = [MidEpochCheckpoints(tmp_path / "last.ckpt", CheckpointInterval(seconds=100.0)) for _ in range(2)]
    trainers = [SimpleNamespace(world_size=2, strategy=strategy, global_step=0) for _ in range(2)]
    for rank[0] in (0, 1):
        callbacks[rank[0]].on_train_start(trainers[rank[0]], None)  # type: ignore[arg-type]
    for step in range(1, 1001):
        for rank[0] in (0, 1):
            trainers[rank[0]].global_step = step
            clocks[rank[0]] += 0.5 + 3.0 * rank[0] * (step % 7 == 0)
            if callbacks[rank[0]]._is_due(trainers[rank[0]]):  # type: ignore[arg-type]
                saved[rank[0]].append(step)
                callbacks[rank[0]]._restart(trainers[rank[0]])  # type: ignore[arg-type]
    assert saved[0] == saved[1]
    assert [b - a for a, b in zip(saved[0], saved[0][1:], strict=False)] == [200, 200, 200, 200]
    assert met[0] == met[1] <= 60


@pytest.mark.slow
def test_two_processes_save_by_one_clock_and_go_on_to_the_bit_after_sigkill(tmp_path: Path) -> None:
    cut, whole = (
        {"folder": str(tmp_path / name), "trainer": TWO_PROCESSES, "every_seconds": 1e-6} for name in ("cut", "whole")
    )
    killed = run_two_ranks({**cut, "signal_at": ["step", 7, signal.SIGKILL], "signal_rank": "all"})
    assert [rank.returncode for rank in killed] == [-signal.SIGKILL] * 2, killed[0].stderr
    last = tmp_path / "cut" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 7
    del whole["every_seconds"]
    ranks = run_two_ranks({**cut, "resume": str(last)}, whole)
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr + ranks[1].stderr
    ours, theirs = (torch.load(tmp_path / name / "network.pt") for name in ("cut", "whole"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [read_journal(tmp_path / "cut", rank) for rank in (0, 1)] == [
        read_journal(tmp_path / "whole", rank) for rank in (0, 1)
    ]


def test_writing_that_takes_long_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = MidEpochCheckpoints(tmp_path / "last.ckpt", CheckpointInterval(steps=1))

    class Slow(Callback):
        def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
            trainer.strategy.checkpoint_io.seconds += 1.0

    caplog.set_level(logging.WARNING)
    began = time.monotonic()
    make_trainer(tmp_path, [Slow(), callback], max_epochs=1).fit(ToyTask(), datamodule=ToyData())
    assert time.monotonic() - began < 30
    said = [record.message for record in caplog.records if "goes into writing checkpoints" in record.message]
    assert len(said) == 1
    assert "raise --checkpoint-every" in said[0]


@pytest.mark.parametrize(
    ("text", "seconds", "steps"),
    [
        *(
            ("90s", 90.0, None),
            ("10m", 600.0, None),
            ("2h", 7200.0, None),
            ("1.5h", 5400.0, None),
            ("1d", 86400.0, None),
        ),
        *(("500steps", None, 500), ("1step", None, 1), (" 500 STEPS ", None, 500)),
    ],
)
def test_intervals(text: str, seconds: float | None, steps: int | None) -> None:
    assert checkpoint_interval(text) == CheckpointInterval(seconds=seconds, steps=steps)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0m", "a time above 0"),
        ("-5m", "a time above 0"),
        ("-1steps", "a whole number of steps, at least 1"),
        ("0steps", "at least 1"),
        ("1.5steps", "a whole number of steps"),
        ("10", "it lacks a unit"),
        (10, "it lacks a unit"),
        ("ten minutes", "it is neither"),
        ("10 fortnights", "it is neither"),
        ("", "it is neither"),
        ("1e3s", "it is neither"),
        ("99999d", "at most 366d"),
        (True, "it is neither"),
        ("nan", "it is neither"),
    ],
)
def test_what_is_no_interval_is_named(text: Any, why: str) -> None:
    with pytest.raises(RecipeError, match=r"--checkpoint-every \(checkpoint_every\) must be") as error:
        checkpoint_interval(text)
    assert why in str(error.value)
    assert repr(text) in str(error.value)


def test_no_interval() -> None:
    assert checkpoint_interval(None) is None
