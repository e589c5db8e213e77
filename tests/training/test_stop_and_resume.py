"""A run that is stopped anywhere and resumed must equal one that was never stopped, to the bit."""

import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import Journal, ToyData, ToyTask, make_trainer

from scalablevit.training.settings import ScheduleSettings
from scalablevit.training.stopping import StopOnSignal, TrainingStopped, leave

SCRIPT = Path(__file__).with_name("toy_run.py")


def train(
    folder: Path,
    *,
    signal_at: tuple[str, int, int] | None = None,
    resume: bool = False,
    task: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The journal of a run in this process, and the weights at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    module = ToyTask(**(task or {}))
    callbacks = [Journal(folder / "log-0.jsonl", signal_at), StopOnSignal(folder / "last.ckpt")]
    fitter = make_trainer(folder, callbacks, **(trainer or {}))
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        fitter.fit(module, datamodule=ToyData(**(data or {})), ckpt_path=folder / "last.ckpt" if resume else None)
    finally:
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    return read_journal(folder), module.network.state_dict()


def read_journal(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"log-{rank}.jsonl").read_text().splitlines()]


def assert_equal_runs(
    a: tuple[list[dict[str, Any]], dict[str, torch.Tensor]],
    b: tuple[list[dict[str, Any]], dict[str, torch.Tensor]],
) -> None:
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    for name in a[1]:
        assert torch.equal(a[1][name], b[1][name]), name


# an interval that happens to be an epoch's length
BY_STEPS = {"max_steps": 27, "max_epochs": -1, "check_val_every_n_epoch": None, "val_check_interval": 11}
# 23 samples, batch 2, the odd one dropped: 11 batches an epoch; validation: 6 batches an epoch
CASES = {
    "middle of an epoch": (("step", 4, signal.SIGINT), {}),
    "SIGTERM in the second epoch": (("step", 15, signal.SIGTERM), {}),
    "last step of an epoch": (("step", 10, signal.SIGINT), {}),
    "last step of the run": (("step", 32, signal.SIGINT), {}),
    "validation": (("validation", 8, signal.SIGINT), {}),
    "last batch of a validation": (("validation", 5, signal.SIGINT), {}),
    "averaged weights, epoch": (("step", 15, signal.SIGINT), {"task": {"ema_decay": 0.9}}),
    "averaged weights, validation": (("validation", 8, signal.SIGINT), {"task": {"ema_decay": 0.9}}),
    "within an accumulated step": (("batch", 4, signal.SIGINT), {"trainer": {"accumulate_grad_batches": 3}}),
    "max_steps, epoch": (("step", 15, signal.SIGINT), {"trainer": {"max_steps": 27, "max_epochs": -1}}),
    "max_steps, first step of an epoch": (
        ("step", 11, signal.SIGINT),
        {"trainer": {"max_steps": 27, "max_epochs": -1}},
    ),
    "max_steps, validation": (
        ("validation", 3, signal.SIGINT),
        {"trainer": {"max_steps": 27, "max_epochs": -1}},
    ),
    "fewer batches than there are": (("step", 6, signal.SIGINT), {"trainer": {"limit_train_batches": 5}}),
    "last of fewer batches": (("step", 4, signal.SIGINT), {"trainer": {"limit_train_batches": 5}}),
    "validation within an epoch": (("validation", 2, signal.SIGINT), {"trainer": {"val_check_interval": 4}}),
    "last step before a validation within an epoch": (
        ("step", 3, signal.SIGINT),
        {"trainer": {"val_check_interval": 4}},
    ),
    "validation within an accumulated step": (
        ("validation", 2, signal.SIGINT),
        {"trainer": {"accumulate_grad_batches": 3, "val_check_interval": 4}},
    ),
    "no validation": (("step", 10, signal.SIGINT), {"trainer": {"limit_val_batches": 0}}),
    "max_steps, last step of an epoch": (
        ("step", 10, signal.SIGINT),
        {"trainer": {**BY_STEPS, "val_check_interval": 4}},
    ),
    "max_steps, behind the validation of an epoch": (("validated", 0, signal.SIGINT), {"trainer": BY_STEPS}),
    "max_steps, behind the validation at an epoch's end": (
        ("validated", 0, signal.SIGINT),
        {"trainer": {"max_steps": 27, "max_epochs": -1}},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_to_the_bit(case: str, tmp_path: Path) -> None:
    signal_at, options = CASES[case]
    whole = train(tmp_path / "whole", **options)
    with pytest.raises(TrainingStopped) as stopped:
        train(tmp_path / "cut", signal_at=signal_at, **options)
    assert stopped.value.signum == signal_at[2]
    assert stopped.value.checkpoint == tmp_path / "cut" / "last.ckpt"
    cut = read_journal(tmp_path / "cut")
    assert len(cut) < len(whole[0])
    assert_equal_runs(train(tmp_path / "cut", resume=True, **options), whole)


@pytest.mark.slow
@pytest.mark.parametrize("signal_at", [("step", 26), ("validated", 1)], ids=lambda value: value[0])
def test_a_run_that_is_stopped_in_its_last_step_is_validated_first(signal_at: tuple[str, int], tmp_path: Path) -> None:
    options = {"trainer": {**BY_STEPS, "val_check_interval": 15}}
    whole = train(tmp_path / "whole", **options)
    assert ["val" in line for line in whole[0]] == [i in (15, 28) for i in range(29)]
    with pytest.raises(TrainingStopped) as stopped:
        train(tmp_path / "cut", signal_at=(*signal_at, signal.SIGTERM), **options)
    assert stopped.value.checkpoint == tmp_path / "cut" / "last.ckpt"
    assert read_journal(tmp_path / "cut") == whole[0]
    assert_equal_runs(train(tmp_path / "cut", resume=True, **options), whole)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [15, 22], ids=["within an epoch", "at its end"])
def test_more_steps_for_a_run_that_had_all_of_its_own(steps: int, tmp_path: Path) -> None:
    task = {"schedule": ScheduleSettings("constant", warmup_steps=2)}
    whole = train(tmp_path / "whole", task=task, trainer={"max_steps": 27, "max_epochs": -1})
    train(tmp_path / "short", task=task, trainer={"max_steps": steps, "max_epochs": -1})
    longer = train(tmp_path / "short", resume=True, task=task, trainer={"max_steps": 27, "max_epochs": -1})
    trained = [[line for line in journal if "loss" in line] for journal in (longer[0], whole[0])]
    assert_equal_runs((trained[0], longer[1]), (trained[1], whole[1]))


@pytest.mark.slow
def test_workers_change_nothing_and_may_change_on_resume(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    assert_equal_runs(train(tmp_path / "workers", data={"num_workers": 2}), whole)
    with pytest.raises(TrainingStopped):
        train(tmp_path / "cut", signal_at=("step", 15, signal.SIGTERM), data={"num_workers": 2})
    assert_equal_runs(train(tmp_path / "cut", resume=True), whole)


@pytest.mark.slow
def test_without_the_loaders_state_the_comparison_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(TrainingStopped):
        train(tmp_path / "cut", signal_at=("step", 4, signal.SIGINT))
    monkeypatch.setattr(ToyTask, "on_load_checkpoint", lambda self, checkpoint: None)
    resumed = train(tmp_path / "cut", resume=True)
    assert resumed[0] != whole[0]


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    class Impatient(Journal):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            if trainer.global_step == 4:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    folder = tmp_path / "run"
    folder.mkdir()
    trainer = make_trainer(folder, [Impatient(folder / "log-0.jsonl"), StopOnSignal(folder / "last.ckpt")])
    with pytest.raises(TrainingStopped) as stopped:
        trainer.fit(ToyTask(), datamodule=ToyData())
    assert stopped.value.checkpoint is None
    assert not (folder / "last.ckpt").exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_leaving_tells_how_to_go_on(signum: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "it's a run"
    last = run / "checkpoints" / "last.ckpt"

    def said(checkpoint: Path | None) -> str:
        with pytest.raises(SystemExit) as left:
            leave(TrainingStopped(signum, checkpoint), run=run)
        assert left.value.code == code
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert said(None) == f"Stopped by {signal.Signals(signum).name}: nothing was saved.\n"
    last.parent.mkdir(parents=True)
    last.touch()
    assert f": saved to {last}. To resume: " in said(last)
    assert shlex.split(said(last).partition("To resume: ")[2])[-3:] == ["fit", "--resume", str(run)]
    assert f"nothing was saved since {last}. To resume: " in said(None)
    with pytest.raises(SystemExit) as left:
        leave(TrainingStopped(signum, None), run=run, is_global_zero=False)
    assert left.value.code == 0
    assert capsys.readouterr().err == ""


def run_script(*runs: dict[str, Any], env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Train in a process of its own, as the command does; several runs one after the other."""
    for run in runs:
        Path(run["folder"]).mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(runs)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
    )


def run_two_ranks(*runs: dict[str, Any]) -> list[subprocess.CompletedProcess[str]]:
    """The same with two processes that we start, so that they can do run after run without starting anew."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    with ThreadPoolExecutor(2) as pool:
        ranks = [pool.submit(run_script, *runs, env={**common, "LOCAL_RANK": str(r)}) for r in (0, 1)]
        return [rank.result() for rank in ranks]


@pytest.mark.slow
def test_a_signal_to_all_processes_ends_with_one_line_and_its_code(tmp_path: Path) -> None:
    """SIGTERM goes to the data workers too, as `timeout`, systemd and containers send it."""
    settings = {"folder": str(tmp_path), "trainer": {"max_epochs": 100_000}, "data": {"num_workers": 2}}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), json.dumps([settings])],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        journal = tmp_path / "log-0.jsonl"
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.stat().st_size < 3000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("Stopped by SIGTERM: saved to")
    assert (tmp_path / "last.ckpt").is_file()


TWO_PROCESSES = {"devices": 2, "strategy": "ddp", "max_epochs": 2}


@pytest.fixture(scope="module")
def two_process_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `cut` (stopped, resumed), `whole` and `poisoned`, and what was said in `cut` and `poisoned`.

    Rank 1 alone gets the signal. BatchNorm, and 13 = 7 + 6 validation samples: 4 and 3 batches.
    """
    root = tmp_path_factory.mktemp("two")
    options = {
        "trainer": TWO_PROCESSES,
        "data": {"num_validation": 13, "num_workers": 1},
        "task": {"batch_norm": True},
    }
    cut = {"folder": str(root / "cut"), **options}
    # Lightning starts the second process
    result = run_script({**cut, "signal_at": ["step", 7, signal.SIGINT], "signal_rank": 1})
    (root / "said-cut").write_text(f"{result.returncode}\n{result.stderr}")
    ranks = run_two_ranks(
        {"folder": str(root / "whole"), **options},
        {**cut, "resume": str(root / "cut" / "last.ckpt")},
        {"folder": str(root / "poisoned"), "poison_rank": 1, "poison_steps": [3], "trainer": TWO_PROCESSES},
    )
    assert [rank.returncode for rank in ranks] == [0, 0], ranks[0].stderr + ranks[1].stderr
    (root / "said-poisoned").write_text(ranks[0].stderr)
    return root


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on_to_the_bit(two_process_runs: Path) -> None:
    code, said = (two_process_runs / "said-cut").read_text().split("\n", 1)
    assert code == "130"
    assert "Traceback" not in said
    assert "Stopped by SIGINT: saved to" in said
    whole, cut = two_process_runs / "whole", two_process_runs / "cut"
    expected = [read_journal(whole, rank) for rank in (0, 1)]
    assert [read_journal(cut, rank) for rank in (0, 1)] == expected
    assert [len(journal) for journal in expected] == [12, 12]  # 5 batches and a validation, twice
    seen = [i for journal in expected for line in journal[:5] for i in line["seen"]]
    assert len(set(seen)) == len(seen) == 20
    ours, theirs = torch.load(cut / "network.pt"), torch.load(whole / "network.pt")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_a_poisoned_rank_makes_all_ranks_drop_the_step(two_process_runs: Path) -> None:
    """Rank 1's loss is NaN in batch 3: both go on with the same finite weights."""
    assert "step 3 dropped" in (two_process_runs / "said-poisoned").read_text()
    folder = two_process_runs / "poisoned"
    journals = [[line for line in read_journal(folder, rank) if "loss" in line] for rank in (0, 1)]
    assert [[math.isnan(line["loss"]) for line in journal] for journal in journals] == [
        [False] * 10,
        [False] * 3 + [True] + [False] * 6,
    ]
    for value in torch.load(folder / "network.pt").values():
        assert value.isfinite().all()
