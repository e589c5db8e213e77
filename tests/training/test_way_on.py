"""A run whose last checkpoint cannot be used goes on from another, which is named with what that costs."""

import logging
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from scalablevit import __version__
from scalablevit.safe_write import sweep_leftovers, write_atomically
from scalablevit.training.checkpoint_io import RunCheckpointIO, told_of_version
from scalablevit.training.run import Run
from scalablevit.training.run_folder import RunFolder, claim


def write(path: Path, *, step: int, epoch: int, is_last_batch: bool = True, **more: Any) -> None:
    """A checkpoint with what a run's has at the least."""
    path.parent.mkdir(parents=True, exist_ok=True)
    loops = {"fit_loop": {"epoch_loop.batch_progress": {"is_last_batch": is_last_batch}}}
    content = {"pytorch-lightning_version": "2.6.6", "state_dict": {"a": torch.ones(3)}, "loops": loops, **more}
    torch.save({**content, "epoch": epoch, "global_step": step}, path)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    """Five epochs of 10 steps in metrics.csv; the best is of the third, kept ones are of the fourth and fifth."""
    folder = RunFolder(tmp_path / "a run")
    write(folder.best, step=30, epoch=2)
    write(folder.checkpoints / "step-38.ckpt", step=38, epoch=3, is_last_batch=False)
    folder.recipe.write_text("model: {}\n")
    folder.metrics.write_text("epoch,step\n" + "".join(f"{i},{i * 10 + 9}\n" for i in range(5)))
    return folder


def spoil(last: Path, how: str) -> None:
    if how == "truncated":
        write(last, step=50, epoch=4)
        last.write_bytes(last.read_bytes()[:700])
    elif how == "empty":
        last.touch()
    elif how == "a folder":
        last.mkdir()
    elif how == "another file":
        last.write_text("not a checkpoint")


def _resume(folder: RunFolder) -> None:
    claimed = claim(folder.path, resume=True)
    try:
        RunCheckpointIO().load_checkpoint(folder.last)
    finally:
        claimed.release()


@pytest.mark.parametrize("how", ["truncated", "empty", "a folder", "another file", "missing"])
def test_the_newest_whole_checkpoint_is_offered_with_what_is_lost(how: str, folder: RunFolder) -> None:
    spoil(folder.last, how)
    with pytest.raises(ValueError, match=re.escape(str(folder.last))) as error:
        _resume(folder)
    said = str(error.value)
    kept = folder.checkpoints / "step-38.ckpt"
    assert f"{kept} is whole (step 38, 3 epochs done; the run came to epoch 5: 2 epochs are trained again)" in said
    command = said.partition("to resume from it: ")[2].partition(". Whole too: ")[0]
    assert shlex.split(command)[-3:] == ["fit", "--resume", str(kept)]
    assert said.endswith("Whole too: best.ckpt (step 30, 3 epochs done)")


def test_damaged_ones_are_not_offered(folder: RunFolder) -> None:
    (folder.checkpoints / "step-38.ckpt").write_bytes(b"")
    folder.last.touch()
    said = RunCheckpointIO().way_on(folder.last)
    assert "best.ckpt is whole" in said
    assert "step-38" not in said
    folder.best.unlink()
    assert RunCheckpointIO().way_on(folder.last) == ""
    with pytest.raises(ValueError, match="is truncated or not a checkpoint"):
        RunCheckpointIO().load_checkpoint(folder.last)


def test_where_the_best_is_damaged_the_last_is_offered(folder: RunFolder) -> None:
    write(folder.last, step=50, epoch=4)
    folder.best.write_bytes(b"")
    assert "last.ckpt is whole (step 50, 5 epochs done; the run came to epoch 5: no epochs are trained again)" in (
        RunCheckpointIO().way_on(folder.best)
    )


@pytest.mark.parametrize("how", ["truncated", "a folder"])
def test_what_stood_in_the_place_of_the_last_is_set_aside(how: str, folder: RunFolder) -> None:
    spoil(folder.last, how)
    assert folder.set_last_aside().name == "last.set-aside.ckpt"
    spoil(folder.last, how)
    again = folder.set_last_aside()
    assert again.exists()
    assert not folder.last.exists()


def test_another_version_is_named(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    write(folder.last, step=50, epoch=4, scalablevit_version="0.0.1")
    assert told_of_version(folder.last) == (
        f"; scalablevit 0.0.1 wrote it, and this is {__version__}: install that version to resume it"
    )
    write(folder.best, step=50, epoch=4, scalablevit_version=__version__)
    assert told_of_version(folder.best) == told_of_version(folder.checkpoints / "step-38.ckpt") == ""
    assert told_of_version(folder.path / "none.ckpt") == ""
    run = Run(
        folder, module=SimpleNamespace(arguments_from_weights={}), data=None, trainer=None, recipe_text="{}", seed=0
    )  # type: ignore[arg-type]
    run._check_recipe(SimpleNamespace(is_global_zero=True), None, {"scalablevit_version": "0.0.1"})  # type: ignore[arg-type]
    assert f"scalablevit 0.0.1 wrote the checkpoint, and this is {__version__}" in caplog.text


def test_leftovers_are_swept_and_told_of(folder: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    """Of every file that is written atomically, at any depth: checkpoints, metrics, weights, images, exports."""
    caplog.set_level(logging.WARNING)
    names = [
        *("checkpoints/.last.ckpt.abc_12x3.tmp", "checkpoints/.step-38.ckpt.q1w2e3r4.tmp", ".metrics.csv.q1w2e3r4.tmp"),
        *(".curves.png.q1w2e3r4.tmp", ".model.safetensors.q1w2e3r4.tmp", "predictions/.a.png.q1w2e3r4.tmp"),
    ]
    for name in names:
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_bytes(bytes(500_000))
    claim(folder.path, resume=True, checkpoint=folder.best).release()
    assert not list(folder.path.rglob("*.tmp"))
    assert f"removed 6 unfinished files of 3.0 MB that killed writes left in {folder.path}" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps files that are open")
def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    """As an export into the run folder; once that is killed, what it wrote goes."""
    script = (
        "import sys, time; from scalablevit.safe_write import write_atomically\n"
        "write_atomically(sys.argv[1], lambda file: (file.write(b'abc'), file.flush(), time.sleep(60)))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "model.onnx")])
    try:
        deadline = time.monotonic() + 30
        while not [path for path in tmp_path.glob(".*.tmp") if path.stat().st_size]:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert sweep_leftovers(tmp_path) == {}
    finally:
        process.kill()
        process.wait()
    assert list(sweep_leftovers(tmp_path).values()) == [3]


def test_a_file_that_is_being_written_here_is_left_alone_too(tmp_path: Path) -> None:
    seen: list[Any] = []

    def content(file: Any) -> None:
        file.write(b"abc")
        seen.append(sweep_leftovers(tmp_path))

    write_atomically(tmp_path / "a", content)
    assert seen == [{}]
    assert (tmp_path / "a").read_bytes() == b"abc"
