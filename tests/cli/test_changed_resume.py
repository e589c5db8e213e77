"""Resume a real run with another value of a key: applied in full, or refused, from the command line and by hand."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import SMALL, assert_same_result, fit, words_of

from command_line import Outcome, scalablevit
from scalablevit.classification import ClassificationTask

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def begun(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch. Not to be written to."""
    run = tmp_path_factory.mktemp("begun") / "run"
    fit(image_folder, run, "--model.schedule.name=constant", "--model.schedule.warmup_epochs=0", epochs=1)
    return run


@pytest.fixture
def copy(begun: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(begun, tmp_path / "run"))


def resume(run: Path, *words: str) -> Outcome:
    return scalablevit("fit", "--resume", run, "--epochs", "2", *words)


def edit(run: Path, old: str, new: str) -> None:
    text = (run / "recipe.yaml").read_text()
    assert text.count(old) == 1
    (run / "recipe.yaml").write_text(text.replace(old, new))


@pytest.mark.parametrize("by_hand", [False, True], ids=["word", "edited"])
def test_learning_rate_and_augmentation_are_those_that_were_asked_for(
    by_hand: bool, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[float, bool]] = []
    original = ClassificationTask.training_step

    def note(task: ClassificationTask, *args: Any) -> Any:
        transform = str(task.trainer.datamodule.train_dataset.transform)
        seen.append((task.trainer.optimizers[0].param_groups[0]["lr"], "RandomHorizontalFlip(p=0.25)" in transform))
        return original(task, *args)

    monkeypatch.setattr(ClassificationTask, "training_step", note)
    words = ["--model.optimizer.lr=0.016", "--data.augmentation.hflip_prob=0.25", "--trainer.devices=1"]
    if by_hand:
        edit(copy, "lr: 0.001\n", "lr: 0.016\n")
        edit(copy, "hflip_prob: 0.5", "hflip_prob: 0.25")
        edit(copy, "devices: auto", "devices: 1")
        words = []
    outcome = resume(copy, *words)
    assert outcome.code == 0, outcome.err
    assert seen == [(pytest.approx(0.001), True)] * 4  # 4 samples a step for lr_batch 64
    said = [line.split(maxsplit=1)[1] for line in outcome.out.splitlines() if line.startswith("changed")]
    assert set(said) == {
        "trainer.max_epochs: 1 -> 2", "model.optimizer.lr: 0.001 -> 0.016",
        "data.augmentation.hflip_prob: 0.5 -> 0.25", "trainer.devices: auto -> 1",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("batch_size: 4", "batch_size: 2", "took 4 samples an optimizer step and would take 2"),
        ("window_size: 2", "window_size: 4", "model.window_size in {} is 4, and the run was trained with 2"),
        ("seed_everything: 0", "seed_everything: 5", "seed_everything in {} is 5, and the run was trained with 0"),
        ("ema_decay: null", "ema_decay: 0.9", "model.ema_decay in {} is 0.9, and the run was trained with null"),
        ("batch_size: 4", "batch_sise: 4", "no key data.batch_sise in {}; did you mean"),
    ],
)
def test_a_recipe_edited_by_hand_that_cannot_be_applied_is_refused(old: str, new: str, words: str, copy: Path) -> None:
    before = (copy / "checkpoints" / "last.ckpt").read_bytes()
    edit(copy, old, new)
    outcome = resume(copy)
    assert outcome.code == 1
    assert words.format(copy / "recipe.yaml") in outcome.err.splitlines()[-1]
    assert (copy / "checkpoints" / "last.ckpt").read_bytes() == before


@pytest.mark.parametrize(("word", "code"), [("--data.batch_size=2", 1), ("--trainer.devices=0", 1)])
def test_words_that_cannot_be_applied_are_refused(word: str, code: int, copy: Path) -> None:
    assert resume(copy, word).code == code
    whole = resume(copy, "--data.batch_size=2", "--model.global_batch=4")
    assert whole.code == 0, whole.err


def test_the_command_that_a_damaged_checkpoint_names_resumes(copy: Path) -> None:
    last = copy / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    failed = resume(copy)
    assert failed.code == 1
    assert "Traceback" not in failed.err
    words = words_of(failed.err.strip().partition("to resume from it: ")[2])
    assert words == ["fit", "--resume", str(last.with_name("best.ckpt"))]
    outcome = scalablevit(*words, "--epochs", "2")
    assert outcome.code == 0, outcome.err
    assert "epoch 2/2" in outcome.out
    assert last.with_name("last.set-aside.ckpt").stat().st_size == 5000
    assert resume(copy, "--epochs", "3").code == 0


@pytest.mark.parametrize(("words", "count"), [((), 9), (("--trainer.limit_val_batches=2",), 8)])
def test_validate_tells_checkpoint_and_images(words: tuple[str, ...], count: int, begun: Path) -> None:
    outcome = scalablevit("validate", begun, *words)
    assert outcome.code == 0, outcome.err
    lines = outcome.err.splitlines()
    assert f"checkpoint  {begun / 'checkpoints' / 'best.ckpt'}" in lines
    assert f"evaluated   {count} images" in lines


@pytest.mark.parametrize("removed", [False, True], ids=["renamed", "deleted"])
def test_a_folder_that_goes_under_the_run_is_one_message(
    removed: bool, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ClassificationTask.training_step

    def take_away(task: ClassificationTask, *args: Any) -> Any:
        if copy.is_dir():
            shutil.rmtree(copy) if removed else copy.rename(copy.with_name("moved"))
        return original(task, *args)

    with monkeypatch.context() as patch:
        patch.setattr(ClassificationTask, "training_step", take_away)
        outcome = resume(copy)
    assert outcome.code == 1
    assert outcome.err.count("error:") == 1
    assert f"error: the run folder {copy} was moved or removed under the run" in outcome.err.splitlines()[-1]
    assert not copy.exists()
    if not removed:
        assert resume(copy.with_name("moved")).code == 0


def test_a_folder_that_cannot_be_written_is_one_message(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, before = os.open, sorted(copy.rglob("*"))

    def read_only(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if str(path).startswith(str(copy)) and flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return original(path, flags, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        outcome = resume(copy)
    assert outcome.code == 1
    assert outcome.err == (
        f"scalablevit: error: cannot write into the run folder {copy} (Read-only file system); name another by --run\n"
    )
    assert sorted(copy.rglob("*")) == before


def test_where_the_disk_is_full_at_the_first_last_checkpoint_the_best_is_named(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = tempfile.mkstemp

    def full(*args: Any, prefix: str = "", **options: Any) -> Any:
        if "last.ckpt" in prefix:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args, prefix=prefix, **options)

    run = tmp_path / "run"
    best = run / "checkpoints" / "best.ckpt"
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "mkstemp", full)
        words = ("--config", "train_folder", *SMALL, "--data.root", image_folder, "--run", run, "--epochs", "2")
        outcome = scalablevit("fit", *words)
    assert outcome.code == 1
    words = words_of(outcome.err.strip().partition("To resume then: ")[2])
    assert words == ["fit", "--resume", str(best)]
    refused = scalablevit("fit", "--resume", run)
    assert refused.code == 1
    assert words_of(refused.err.strip().partition("to resume from it: ")[2]) == words
    assert scalablevit(*words).code == 0


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_the_interpreter_ends(signum: int, code: int) -> None:
    script = (
        "import atexit, os, sys\nfrom scalablevit.cli import entry\n"
        f"atexit.register(lambda: os.kill(os.getpid(), {int(signum)}))\n"
        "sys.argv = ['scalablevit', '--version']\nentry.run()\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (code, "scalablevit: error: stopped\n")


@pytest.mark.slow
def test_other_workers_on_resume_change_no_bit(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads, which the workers' cores would set, are those of the run folder."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("scalablevit.training.run.threads_per_process", lambda devices, workers: 2 - workers)
    seen: list[int] = []
    original = ClassificationTask.on_train_start

    def note(task: ClassificationTask) -> None:
        seen.append(torch.get_num_threads())
        original(task)

    monkeypatch.setattr(ClassificationTask, "on_train_start", note)
    threads = torch.get_num_threads()
    try:
        fit(image_folder, tmp_path / "run", epochs=1)
        other = Path(shutil.copytree(tmp_path / "run", tmp_path / "other"))
        for run, workers in ((tmp_path / "run", 0), (other, 1)):
            outcome = resume(run, f"--data.num_workers={workers}")
            assert outcome.code == 0, outcome.err
    finally:
        torch.set_num_threads(threads)
    assert seen == [2, 2, 2]
    assert_same_result(other, tmp_path / "run")
