"""A checkpoint that is damaged or forged ends in one message before the first step, and touches no file but its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.training.checkpoint_io import RunCheckpointIO, explained_restoring
from scalablevit.training.optimizer_state import check_optimizer_state
from scalablevit.training.run_checkpoints import MovableCheckpoint
from scalablevit.weights import WeightsError, read_checkpoint

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The checkpoint of a toy run of one epoch."""
    folder = tmp_path_factory.mktemp("trained")
    best = MovableCheckpoint(dirpath=folder, filename="top", monitor="val/loss", enable_version_counter=False)
    make_trainer(folder, [best], max_epochs=1).fit(ToyTask(), datamodule=ToyData())
    return torch.load(folder / "last.ckpt", weights_only=True)


def write(folder: Path, trained: dict[str, Any], change: Change) -> Path:
    """Write the changed checkpoint, as `last.ckpt`."""
    path = folder / "last.ckpt"
    torch.save(trained, path)
    copy = torch.load(path, weights_only=True)
    change(copy)
    torch.save(copy, path)
    return path


def put(value: Any, *keys: Any) -> Change:
    def change(checkpoint: dict[str, Any]) -> None:
        for key in keys[:-1]:
            checkpoint = checkpoint[key]
        checkpoint[keys[-1]] = value

    return change


WRONG: dict[str, list[Any]] = {
    "epoch": [None, "x", -1, 0.5, []],
    "global_step": [None, "x", -1, True],
    "pytorch-lightning_version": [None, 7, []],
    "state_dict": [None, 7, [], {"a": 1}],
    "loops": [None, 7, [], "x"],
    "callbacks": [7, [], "x"],
    "optimizer_states": [7, [], "x", {"a": 1}],
    "lr_schedulers": [7, [], "x", {"a": 1}],
    "recipe": [7, [], "x"],
    "train_loader": [7, [], {"a": 1}, {"epoch": 1}, {"epoch": "x", "batches": 0}, {"epoch": 1, "batches": -5}],
    "train_loss": [7, [], (1,), ("x", 2), {"a": 1}],
    "last_lr": ["x", [], {"a": 1}],
}


@pytest.mark.parametrize(("entry", "value"), [(entry, value) for entry, values in WRONG.items() for value in values])
def test_an_entry_of_another_form_is_named(tmp_path: Path, trained: dict[str, Any], entry: str, value: Any) -> None:
    path = write(tmp_path, trained, put(value, entry))
    with pytest.raises(ValueError, match=rf"last\.ckpt is damaged: its entry {entry} is not as a run writes it"):
        RunCheckpointIO().load_checkpoint(path)


def test_a_whole_checkpoint_is_read(tmp_path: Path, trained: dict[str, Any]) -> None:
    path = write(tmp_path, trained, lambda checkpoint: None)
    assert RunCheckpointIO().load_checkpoint(path).keys() == trained.keys()
    assert {"train_loss", "last_lr", "train_loader", "optimizer_states", "lr_schedulers"} <= trained.keys()


@pytest.mark.parametrize(
    "keys",
    [
        ("fit_loop", "epoch_progress", "current", "ready"),
        ("fit_loop", "epoch_loop.batch_progress", "total"),
        ("fit_loop", "epoch_loop.automatic_optimization.optim_progress", "optimizer", "step", "total", "completed"),
    ],
)
@pytest.mark.parametrize("value", [None, "x", 0.5, -1])
def test_progress_is_counted_in_whole_numbers(
    tmp_path: Path, trained: dict[str, Any], keys: tuple[str, ...], value: Any
) -> None:
    with pytest.raises(ValueError, match="its entry loops is not as a run writes it"):
        RunCheckpointIO().load_checkpoint(write(tmp_path, trained, put(value, "loops", *keys)))


def test_a_checkpoint_without_progress_is_none_of_a_run(tmp_path: Path, trained: dict[str, Any]) -> None:
    """The run would begin again at epoch 1, with trained weights."""
    with pytest.raises(ValueError, match="it lacks loops"):
        RunCheckpointIO().load_checkpoint(write(tmp_path, trained, lambda checkpoint: checkpoint.pop("loops")))


def state_of(index: int, **values: Any) -> Change:
    return lambda checkpoint: checkpoint["optimizer_states"][0]["state"][index].update(values)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put(None, "loops", "fit_loop"), "AttributeError"),
        (put([], "optimizer_states", 0, "param_groups"), "ValueError: loaded state dict"),
        (put({}, "optimizer_states", 0), "KeyError"),
        (put({"in_a_row": 0}, "callbacks", "NonFiniteGuard"), "KeyError"),
        (put({"in_a_row": "x", "total": 0}, "callbacks", "NonFiniteGuard"), "invalid literal"),
        (state_of(0, exp_avg=torch.zeros(1)), "its optimizer holds 1 as exp_avg of a parameter of shape 8;"),
        (state_of(0, exp_avg_sq=torch.zeros(10**6)), "holds 1000000 as exp_avg_sq"),
        (state_of(0, exp_avg=None), "holds nothing as exp_avg"),
        (state_of(0, step=None), "TypeError"),
        (state_of(0, step=torch.zeros(5)), "no count of steps"),
    ],
)
def test_state_that_cannot_be_taken_up_is_one_message(
    tmp_path: Path, trained: dict[str, Any], change: Change, told: str
) -> None:
    path = write(tmp_path, trained, change)
    torch.save(trained, tmp_path / "best.ckpt")
    task = ToyTask()
    with (
        pytest.raises(ValueError, match=rf"last\.ckpt is damaged: .*{told}.*take another .*best\.ckpt is whole"),
        explained_restoring(path),
    ):
        make_trainer(tmp_path, max_epochs=2).fit(task, datamodule=ToyData(), ckpt_path=str(path))
    assert task.losses == []


def test_errors_of_training_and_messages_of_ours_stay_what_they_are(tmp_path: Path, trained: dict[str, Any]) -> None:
    with pytest.raises(KeyError, match="not restored"), explained_restoring(tmp_path):
        raise KeyError("not restored")
    path = write(tmp_path, trained, put("another", "trained", "task"))
    with pytest.raises(ValueError, match=r"^this is not a checkpoint of toy"), explained_restoring(path):
        make_trainer(tmp_path, max_epochs=2).fit(ToyTask(), datamodule=ToyData(), ckpt_path=str(path))


def test_switches_of_the_optimizer_are_those_of_the_run(tmp_path: Path, trained: dict[str, Any]) -> None:
    """Lightning restores them with the state; a checkpoint of fp16 then runs an AdamW that is not fused, say."""

    def change(checkpoint: dict[str, Any]) -> None:
        for group in checkpoint["optimizer_states"][0]["param_groups"]:
            group.update(amsgrad=True, fused=False, maximize=True)

    path = write(tmp_path, trained, change)
    trainer = make_trainer(tmp_path, max_epochs=2)
    trainer.fit(ToyTask(), datamodule=ToyData(), ckpt_path=str(path))
    groups = trainer.optimizers[0].param_groups
    assert {(group["amsgrad"], group["fused"], group["maximize"]) for group in groups} == {(False, True, False)}


def test_moments_are_laid_out_as_their_parameter() -> None:
    """An expanded tensor has one number in memory; a kernel that takes it for contiguous writes beyond it."""
    parameter = nn.Parameter(torch.ones(3, 5))
    optimizer = torch.optim.AdamW([parameter], fused=True)
    moment = torch.arange(15.0).view(5, 3).t()
    optimizer.state[parameter] = {
        "step": torch.tensor(1.0),
        "exp_avg": torch.tensor(2.0).expand(3, 5),
        "exp_avg_sq": moment,
    }
    check_optimizer_state(optimizer)
    state = optimizer.state[parameter]
    assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    assert torch.equal(state["exp_avg"], torch.full((3, 5), 2.0))
    assert torch.equal(state["exp_avg_sq"], moment)


@pytest.mark.parametrize(
    "change",
    [
        {"kth_best_model_path": "elsewhere/other.ckpt"},
        {"best_k_models": {"best.ckpt": "x"}},
        {"best_k_models": 7},
        {"best_loss": "x"},
    ],
)
def test_the_best_epoch_of_a_damaged_checkpoint(tmp_path: Path, change: dict[str, Any]) -> None:
    saver = MovableCheckpoint(dirpath=tmp_path, filename="best", monitor="val/loss")
    best = {"best_model_path": "best.ckpt", "kth_best_model_path": "best.ckpt", "best_k_models": {"best.ckpt": 1.0}}
    state = {**saver.state_dict(), **best}
    saver.load_state_dict(state)
    assert saver.best_k_models == {str(tmp_path / "best.ckpt"): torch.tensor(1.0)}
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        saver.load_state_dict({**state, **change})


def test_only_checkpoints_in_their_place_are_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The path comes from the checkpoint that was resumed from; Lightning removes folders too."""
    run, precious = tmp_path / "run" / "checkpoints", tmp_path / "precious"
    for folder in (run, precious):
        folder.mkdir(parents=True)
        (folder / "a.ckpt").touch()
        (folder / "thesis.tex").touch()
    for path in (
        *(run / "..", run / ".." / ".." / "precious", run / ".." / ".." / "precious" / "a.ckpt"),
        *(precious, run / "thesis.tex", f"file://{precious}"),
    ):
        caplog.clear()
        RunCheckpointIO().remove_checkpoint(path)
        assert "is not removed" in caplog.text
    assert len(list(tmp_path.rglob("*"))) == 7
    RunCheckpointIO().remove_checkpoint(run / "a.ckpt")
    assert [path.name for path in run.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7])
def test_a_bit_that_was_turned_over_is_found(tmp_path: Path, place: float) -> None:
    """Torch reads such a file without a word."""
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(1000)}, "trained": {}}, path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 64
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["state_dict"]["a"].any()
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged \(the checksum of last/data/0 does not fit\)"):
        RunCheckpointIO().load_checkpoint(path)
    with pytest.raises(WeightsError, match="is damaged: the checksum of last/data/0 does not fit"):
        read_checkpoint(path)
