"""Each key is applied in full on resume, or refused; nothing in between."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.recipes import find_recipe
from scalablevit.training.checkpoint_io import RunCheckpointIO
from scalablevit.training.command import TrainingCommand
from scalablevit.training.metrics_csv import CSVMetrics
from scalablevit.training.recipe_errors import RecipeError
from scalablevit.training.resume_rules import (
    absolute_paths,
    changes,
    check_step,
    edited,
    flattened,
    may_change,
    moved_root,
    without_secrets,
)
from scalablevit.training.run_folder import RunFolder
from scalablevit.training.settings import OptimizerSettings, ScheduleSettings

MAY = [
    "trainer.max_epochs",
    "trainer.devices",
    "trainer.precision",
    "threads",
    "checkpoint_every",
    "keep_checkpoints",
    "data.root",
    "data.num_workers",
    "data.batch_size",
    "data.augmentation.scale",
    "data.augmentation",
    "model.mixup.prob",
    "model.optimizer.lr",
    "model.optimizer.weight_decay",
    "model.schedule.name",
    "model.ema_decay",
    "model.global_batch",
    "model.patience",
    "data.val_batch_size",
    "model.grad_checkpointing",
    "data.stream.cache_dir",
    "data.stream.cache_gb",
    "data.stream.ahead",
]
MAY_NOT = [
    "data.stream.window",
    "seed_everything",
    "model.class_path",
    "data.class_path",
    "model.variant",
    "model.weights",
    "model.window_size",
    "model.head",
    "model.scale_value",
    "model.network_options",
    "model.segmenter",
    "model.segmenter_options.channels",
    "model.detector",
    "model.detector_options.anchor_sizes",
    "data.image_size",
    "data.in_chans",
    "data.mean",
    "data.val_fraction",
    "data.train",
    "data.crop_size",
    "data.interpolation",
    "data.reduce_zero_label",
    "trainer.limit_train_batches",
    "trainer.overfit_batches",
    "trainer.fast_dev_run",
    "trainer.reload_dataloaders_every_n_epochs",
    "something.new",
]


def nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]


@pytest.mark.parametrize("key", MAY)
def test_what_may_change_is_told(key: str) -> None:
    assert may_change(key)
    assert changes(nested(key, 1), nested(key, 2), [f"--{key}=2"]) == {key: (1, 2)}


@pytest.mark.parametrize("key", MAY_NOT)
def test_what_may_not_change_is_refused(key: str) -> None:
    with pytest.raises(RecipeError, match=rf"cannot change {key} from 1 to null: leave it out; or start a new run"):
        changes(nested(key, 1), nested(key, None), [f"--{key}", "null"])
    assert changes(nested(key, 1), nested(key, 1), [f"--{key}", "1"]) == {}


def callbacks(*names: str, **arguments: Any) -> list[dict[str, Any]]:
    return [{"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": arguments} for name in names]


STOP = callbacks("EarlyStopping", monitor="val/top1", patience=3)
HARMLESS = [
    (None, STOP),
    ([], STOP + callbacks("LearningRateMonitor", "Timer")),
    (STOP, None),
    (callbacks("LearningRateMonitor"), STOP),
    (STOP, callbacks("EarlyStopping", monitor="val/loss", patience=3)),
    (callbacks("Timer", duration="00:01:00:00"), callbacks("Timer", duration="00:02:00:00")),
    ("EarlyStopping", None),
]


@pytest.mark.parametrize(("old", "new"), HARMLESS)
def test_callbacks_that_only_watch_may_come_and_go(old: Any, new: Any) -> None:
    before, after = ({"trainer": {"callbacks": value}} for value in (old, new))
    words = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/top1"]
    assert changes(before, after, words) == {"trainer.callbacks": (old, new)}
    flat = [dict(flattened(recipe)) for recipe in (before, after)]
    assert edited(*flat, recipe="recipe.yaml") == {"trainer.callbacks": (old, new)}


HARMFUL = [
    (None, callbacks("GradientAccumulationScheduler", scheduling={4: 2}), "GradientAccumulationScheduler may change"),
    (callbacks("StochasticWeightAveraging"), None, "StochasticWeightAveraging may change what a step does"),
    (None, [{"class_path": "mine.EarlyStopping"}], "EarlyStopping may change what a step does"),
    (STOP, callbacks("EarlyStopping", monitor="val/top1", patience=9), r"stop early by --model\.patience N"),
    (STOP, [*STOP, {"class_path": 5}], "5 may change"),
]


@pytest.mark.parametrize(("old", "new", "why"), HARMFUL)
def test_callbacks_that_change_a_step_are_refused_with_the_reason(old: Any, new: Any, why: str) -> None:
    before, after = ({"trainer": {"callbacks": value}} for value in (old, new))
    with pytest.raises(RecipeError, match=rf"--resume cannot change trainer\.callbacks so: .*{why}"):
        changes(before, after, ["--trainer.callbacks", "x"])
    with pytest.raises(RecipeError, match=rf"trainer\.callbacks in recipe\.yaml .*{why}.*: put it back"):
        edited(dict(flattened(before)), dict(flattened(after)), recipe="recipe.yaml")


@pytest.mark.parametrize("key", ["model.ema_decay", "model.optimizer.layer_decay"])
def test_parts_of_the_checkpoint_are_not_turned_on_or_off(key: str) -> None:
    assert changes(nested(key, 0.9), nested(key, 0.8), [f"--{key}=0.8"]) == {key: (0.9, 0.8)}
    for old, new in ((None, 0.9), (0.9, None)):
        with pytest.raises(RecipeError, match=r"cannot turn .* on or off"):
            changes(nested(key, old), nested(key, new), [f"--{key}"])


def test_a_whole_block_and_init_args_count_as_their_keys() -> None:
    before = {"model": {"class_path": "A", "init_args": {"optimizer": {"lr": 1, "eps": 2}, "mixup": None}}}
    after = {"model": {"class_path": "A", "init_args": {"optimizer": {"lr": 3, "eps": 2}, "mixup": {"prob": 1}}}}
    found = changes(before, after, ["--model.optimizer", "{lr: 3}", "--model.mixup.prob", "1"])
    assert found == {"model.optimizer.lr": (1, 3), "model.mixup": (None, None), "model.mixup.prob": (None, 1)} or (
        found["model.optimizer.lr"] == (1, 3) and found["model.mixup.prob"] == (None, 1)
    )
    assert changes(before, after, []) == {}  # keys that nobody named: those of another version


@pytest.mark.parametrize("word", ["--model.init_args.variant=b", "--model.variant+=b", "--model.init_args.variant+"])
def test_every_spelling_of_a_key_has_its_rule(word: str) -> None:
    """jsonargparse takes `init_args` in a key, and `+` behind it, and applies the value all the same."""
    before, after = ({"model": {"class_path": "A", "init_args": {"variant": name}}} for name in "ab")
    with pytest.raises(RecipeError, match=r"cannot change model\.variant from a to b"):
        changes(before, after, [word])


def test_every_key_of_the_packaged_recipes_has_a_rule(capsys: pytest.CaptureFixture[str]) -> None:
    """Of the keys that change the network, the data's meaning or the order of samples, none may change."""
    for recipe in ("finetune_folder", "finetune_mask_rcnn", "finetune_upernet"):
        with pytest.raises(SystemExit):
            TrainingCommand("fit", [find_recipe(recipe)], ["--print_config"], run=Path("nowhere"))
        keys = [key for key, _ in flattened(yaml.safe_load(capsys.readouterr().out))]
        assert len(keys) > 60
        allowed = {key for key in keys if may_change(key)}
        for words in (
            "class_path",
            "variant",
            "detector",
            "segmenter",
            "image_size",
            "crop_size",
            "min_size",
            "val_frac",
        ):
            assert not {key for key in allowed if words in key and "augmentation" not in key}


class Stepwise(ToyTask):
    """Notes the decay and betas of each step."""

    def on_train_batch_end(self, *args: Any) -> None:
        super().on_train_batch_end(*args)
        group = max(self.trainer.optimizers[0].param_groups, key=lambda group: group["weight_decay"])
        self.settings_seen = (group["weight_decay"], group["betas"], group["eps"])


def train(folder: Path, task: ToyTask, resume: bool = False, data: Any = None, **options: Any) -> ToyTask:
    trainer = make_trainer(folder, **options)
    trainer.fit(task, datamodule=data or ToyData(), ckpt_path=folder / "last.ckpt" if resume else None)
    return task


def test_a_resumed_run_learns_with_the_settings_of_its_recipe(tmp_path: Path) -> None:
    flat = ScheduleSettings(name="constant", warmup_steps=0)
    train(tmp_path, ToyTask(schedule=flat), max_epochs=1)
    optimizer = OptimizerSettings(lr=0.004, lr_batch=None, weight_decay=0.3, betas=(0.8, 0.9), eps=1e-6)
    task = train(tmp_path, Stepwise(schedule=flat, optimizer=optimizer), resume=True, max_epochs=2)
    assert task.rates == [0.004] * 11
    assert task.settings_seen == (0.3, (0.8, 0.9), 1e-6)  # type: ignore[attr-defined]


def test_a_resumed_run_follows_the_schedule_of_its_recipe_from_its_first_step(tmp_path: Path) -> None:
    train(tmp_path, ToyTask(), max_epochs=1)
    longer = train(tmp_path, ToyTask(), resume=True, max_epochs=3)
    whole = train(tmp_path / "whole", ToyTask(), max_epochs=3)
    assert longer.rates == whole.rates[11:]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (ToyData(batch_size=4), "took 2 samples an optimizer step and would take 4.* --model.global_batch 2"),
        (ToyData(batch_size=1), "took 2 samples an optimizer step and would take 1"),
    ],
)
def test_another_step_is_refused(data: ToyData, words: str, tmp_path: Path) -> None:
    train(tmp_path, ToyTask(), max_epochs=1)
    with pytest.raises(ValueError, match=words):
        train(tmp_path, ToyTask(), resume=True, data=data, max_epochs=2)


def test_another_batch_size_goes_on_with_the_same_step(tmp_path: Path) -> None:
    train(tmp_path, ToyTask(global_batch=2), max_epochs=1)
    task = train(tmp_path, ToyTask(global_batch=2), resume=True, data=ToyData(batch_size=1), max_epochs=2)
    assert task.trainer.global_step == 22
    steps = {"samples_per_step": 8, "samples_per_pass": 4, "num_samples": 100}
    check_step(steps, {**steps, "samples_per_pass": 2}, is_within_epoch=False)
    check_step({}, steps, is_within_epoch=True)
    with pytest.raises(ValueError, match="lies within an epoch"):
        check_step(steps, {**steps, "samples_per_pass": 2}, is_within_epoch=True)
    for theirs, ours in (("a", "b"), (None, "b"), ("a", None)):
        check_step({**steps, "shards": theirs}, {**steps, "shards": ours}, is_within_epoch=False)
        with pytest.raises(ValueError, match="in the order of other shards: samples would be lost"):
            check_step({**steps, "shards": theirs}, {**steps, "shards": ours}, is_within_epoch=True)
    check_step(steps, {**steps, "shards": "b"}, is_within_epoch=True)  # of an earlier version
    with pytest.raises(ValueError, match="trained on 100 samples, and the data now have 90"):
        check_step(steps, {**steps, "num_samples": 90}, is_within_epoch=False)


def test_what_gives_access_to_data_is_in_no_comparison() -> None:
    def recipe(key: str) -> dict[str, Any]:
        return {"data": {"init_args": {"root": "s3://b/c", "stream": {"window": 4, "storage_options": {"key": key}}}}}

    assert without_secrets(recipe("abc")) == {"data.root": "s3://b/c", "data.stream.window": 4}
    assert changes(recipe("abc"), recipe("xyz"), ["--data.stream.storage_options", "{key: xyz}"]) == {}


def test_data_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d" / "annotations").mkdir(parents=True)
    (tmp_path / "d" / "annotations" / "a.json").touch()
    (tmp_path / "names.txt").touch()
    arguments = {"root": "d", "train_annotations": "annotations/a.json", "class_names_file": "names.txt"}
    done = absolute_paths({"data": {"class_path": "X", "init_args": dict(arguments)}})["data"]["init_args"]
    assert done == {**arguments, "root": str(tmp_path / "d"), "class_names_file": str(tmp_path / "names.txt")}


def test_data_that_moved_with_their_run_are_found(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    recipe = {"data": {"init_args": {"root": str(old / "data")}}}
    (new / "runs" / "a").mkdir(parents=True)
    assert moved_root(recipe, was_at=str(old / "runs" / "a"), is_at=new / "runs" / "a") is None
    (new / "data").mkdir()
    assert moved_root(recipe, was_at=str(old / "runs" / "a"), is_at=new / "runs" / "a") == str(new / "data")
    for strange in (None, 3, [], {"a": 1}):
        assert moved_root(recipe, was_at=strange, is_at=new) is None
    (old / "data").mkdir(parents=True)
    assert moved_root(recipe, was_at=str(old / "runs" / "a"), is_at=new / "runs" / "a") is None


@pytest.mark.parametrize("text", ["", "[", "[1]", "3", '{"earlier": 5}', "[" * 100_000, '{"folder": 3}', "\x00"])
def test_a_damaged_environment_is_no_obstacle(text: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.environment.write_text(text)
    folder.earlier_place()
    folder.write_environment(seed=4)
    assert json.loads(folder.environment.read_text())["seed"] == 4
    assert folder.earlier_place() == str(tmp_path)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_what_stands_in_the_place_of_the_environment_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    if kind == "pipe":
        os.mkfifo(folder.environment)
    else:
        folder.environment.mkdir()
    assert folder.earlier_place() is None


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"epoch\nx\n", b"epoch,a\n\x00,1\n", b"\xff\xfe\x00", b"epoch\ninf\n"]
)
def test_damaged_metrics_are_set_aside(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    logger = CSVMetrics(tmp_path / "metrics.csv")
    logger.log_metrics({"epoch": 3, "loss": 1.0}, step=4)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,loss\n3,4,1\n"
    assert (tmp_path / "metrics.damaged.csv").read_bytes() == content


def test_a_damaged_last_checkpoint_names_the_best(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.checkpoints.mkdir()
    whole = {"pytorch-lightning_version": "2", "state_dict": {}, "loops": {}, "epoch": 0, "global_step": 0}
    torch.save(whole, folder.best)
    torch.save({**whole, "epoch": "x"}, folder.last)
    with pytest.raises(ValueError, match=r"its entry epoch is not.*best\.ckpt is whole.*fit --resume .*best\.ckpt"):
        RunCheckpointIO().load_checkpoint(folder.last)
    folder.last.write_bytes(folder.best.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"last\.ckpt is truncated.*best\.ckpt is whole.*fit --resume .*best\.ckpt"):
        RunCheckpointIO().load_checkpoint(folder.last)
    folder.best.write_bytes(b"")
    with pytest.raises(ValueError, match=r"last\.ckpt is truncated") as error:
        RunCheckpointIO().load_checkpoint(folder.last)
    assert "whole" not in str(error.value)


def test_a_recipe_edited_by_hand_is_told_or_refused(tmp_path: Path) -> None:
    trained = {"model.window_size": 7, "model.ema_decay": None, "model.mixup": None, "model.optimizer.lr": 0.1}
    recipe = tmp_path / "recipe.yaml"
    assert edited({}, trained, recipe=recipe) == {}
    assert edited(trained, {**trained, "model.new_in_this_version": 3}, recipe=recipe) == {}
    assert edited(trained, {**trained, "model.optimizer.lr": 0.2}, recipe=recipe) == {"model.optimizer.lr": (0.1, 0.2)}
    assert edited(trained, {**trained, "model.optimizer.lr": 0.2}, recipe=recipe, known=["model.optimizer.lr"]) == {}
    without = {key: value for key, value in trained.items() if key != "model.mixup"}
    assert edited(trained, {**without, "model.mixup.prob": 1}, recipe=recipe)["model.mixup.prob"] == (None, 1)
    for key, value in (("model.window_size", 4), ("model.ema_decay", 0.9)):
        with pytest.raises(RecipeError, match=rf"^{key} in {recipe} is {value}, and .* with (7|null), .*put it back"):
            edited(trained, {**trained, key: value}, recipe=recipe)
