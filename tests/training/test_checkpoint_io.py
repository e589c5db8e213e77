"""A checkpoint is whole or not there, and reading one runs no code."""

import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.safe_write import WriteError, write_atomically
from scalablevit.training.checkpoint_io import RunCheckpointIO, SafeCheckpointIO


def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    """The system itself refuses to write beyond 100 kB."""
    path = tmp_path / "last.ckpt"
    SafeCheckpointIO().save_checkpoint({"weights": torch.arange(5)}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # Python ignores the signal that would come
    try:
        with pytest.raises(WriteError, match="the earlier file of that name is intact") as error:
            SafeCheckpointIO().save_checkpoint({"weights": torch.ones(1_000_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(path) in str(error.value)
    assert os.listdir(tmp_path) == ["last.ckpt"]
    assert torch.equal(SafeCheckpointIO().load_checkpoint(path)["weights"], torch.arange(5))


@pytest.mark.slow
def test_a_disk_that_fills_during_a_run_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = 0
    real = torch.save

    def save(checkpoint: Any, file: Any) -> None:
        nonlocal saves
        saves += 1
        if saves > 2:  # best and last of the first epoch
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        real(checkpoint, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(WriteError, match="No space left on device"):
        make_trainer(tmp_path).fit(ToyTask(), datamodule=ToyData())
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["best.ckpt", "last.ckpt"]
    task = ToyTask()
    make_trainer(tmp_path).fit(task, datamodule=ToyData(), ckpt_path=tmp_path / "last.ckpt")
    whole = ToyTask()
    make_trainer(tmp_path / "whole").fit(whole, datamodule=ToyData())
    assert task.losses == whole.losses[11:]


def test_an_interrupted_write_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def write(file: Any) -> None:
        file.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert os.listdir(tmp_path) == ["a"]
    assert path.read_bytes() == b"old"


def test_an_error_that_is_not_the_disks_stays_what_it_is(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        write_atomically(tmp_path / "a", write)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match=r"file/last\.ckpt could not be written"):
        SafeCheckpointIO().save_checkpoint({}, tmp_path / "file" / "last.ckpt")


def test_others_may_read_what_the_umask_allows(tmp_path: Path) -> None:
    earlier = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", lambda file: file.write(b"x"))
    finally:
        os.umask(earlier)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch owned",)


@pytest.mark.parametrize("weights_only", [None, True, False])
def test_no_code_from_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights_only: bool | None) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match=r"evil\.ckpt is not a checkpoint of a run of ours"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt", weights_only=weights_only)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "cut.ckpt"
    SafeCheckpointIO().save_checkpoint({"weights": torch.ones(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.ckpt"):
        SafeCheckpointIO().load_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.ckpt"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "no.ckpt")


@pytest.mark.parametrize("trained", [5, [], {"task": "x"}, {"task": "x", "variant": "y", "class_names": [1]}])
def test_what_a_damaged_checkpoint_says_of_itself_is_refused(trained: Any, tmp_path: Path) -> None:
    """validate and resume read these entries; they must not end in a stack trace."""
    whole = {"pytorch-lightning_version": "2", "state_dict": {}, "loops": {}, "epoch": 0, "global_step": 0}
    torch.save({**whole, "trained": trained}, tmp_path / "best.ckpt")
    with pytest.raises(ValueError, match=r"best\.ckpt is damaged: its entry trained .*take another"):
        RunCheckpointIO().load_checkpoint(tmp_path / "best.ckpt")


def test_a_stop_while_writing_is_a_stop(tmp_path: Path) -> None:
    def write(file: Any) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("enforce fail: unexpected pos")  # as torch's zip writer ends

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "a", write)
    assert list(tmp_path.iterdir()) == []
