"""The whole path of `scalablevit fit`: run folder, repetition, stop and resume, overrides."""

import csv
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from tiny_runs import CLASSES, SMALL, assert_same_result, fit, stop_at_batch, weights_of, words_of

from command_line import Outcome, scalablevit
from scalablevit.classification import ClassificationTask, Classifier
from scalablevit.data.images import read_image
from scalablevit.weights import read_metadata


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_leaves_everything_behind(finished: tuple[Path, Outcome]) -> None:
    run, said = finished
    assert {path.name for path in run.iterdir()} == {
        "checkpoints", "config.json", "confusion.png", "curves.png", "environment.json", "metrics.csv",
        "model.safetensors", "predictions.png", "recipe.yaml", "results.json", "tensorboard", "timing.json",
    }  # fmt: skip
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert list((run / "tensorboard").glob("events.*"))
    for name in ("confusion.png", "curves.png", "predictions.png"):
        assert min(read_image(run / name).size) > 100
    assert [row["epoch"] for row in rows_of(run)] == ["0", "1"]
    assert all(float(row["train/loss"]) > 0 and row["val/top1"] for row in rows_of(run))
    environment = json.loads((run / "environment.json").read_text())
    assert environment["seed"] == 0
    assert environment["versions"]["torch"] == torch.__version__.split("+")[0]
    # in a pipe: a line an epoch, nothing of a bar, nothing of Lightning's
    assert [line[:9] for line in said.out.splitlines() if line.startswith("epoch")] == [
        "epoch 1/2",
        "epoch 2/2",
    ]
    assert all(" loss " in line and " val/top1 " in line for line in said.out.splitlines() if line[:5] == "epoch")
    assert "\x1b" not in said.out + said.err
    assert all(line.startswith("warning: ") for line in said.err.splitlines())


def test_weights_know_classes_and_preprocessing(run: Path) -> None:
    metadata = read_metadata(run)
    assert metadata["class_names"] == list(CLASSES)
    assert metadata["preprocessing"]["image_size"] == [16, 16]
    assert metadata["architecture"] == "scalablevit_atto"
    results = json.loads((run / "results.json").read_text())
    best = max(float(row["val/top1"]) for row in rows_of(run))
    assert results["count"] == 9
    assert results["top1"] == pytest.approx(best, abs=1e-5)


def test_timm_builds_the_same_network(run: Path) -> None:
    images = torch.randn(2, 3, 16, 16)
    network = timm.create_model(f"local-dir:{run}", pretrained=True).eval()
    ours = Classifier.load(run, device="cpu").network
    with torch.no_grad():
        assert torch.equal(network(images), ours(images))
    assert network.pretrained_cfg["label_names"] == list(CLASSES)


def test_the_commands_it_suggests_work(finished: tuple[Path, Outcome]) -> None:
    """Spaces, an apostrophe and an umlaut stand in their paths."""
    *_, words, last = map(words_of, finished[1].out.strip().splitlines()[-2:])
    assert words[0] == "predict"
    assert last == ["export", str(finished[0]), "--format", "onnx"]  # tests of export run it
    outcome = scalablevit(*words)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count(".png") == 3


@pytest.mark.slow
def test_stored_recipe_repeats_the_run_to_the_bit(image_folder: Path, tmp_path: Path) -> None:
    """Nulls, which override what a default would say, survive."""
    words = ("--data.augmentation=null", "--model.ema_decay=0.9", "--model.mixup.mixup_alpha=0.2")
    fit(image_folder, tmp_path / "first", *words, "--seed=7", "--trainer.gradient_clip_val=null")
    stored = yaml.safe_load((tmp_path / "first" / "recipe.yaml").read_text())
    assert stored["seed_everything"] == 7
    assert stored["data"]["init_args"]["augmentation"] is None
    assert stored["trainer"]["gradient_clip_val"] is None
    assert stored["model"]["init_args"]["mixup"]["mixup_alpha"] == 0.2
    again = scalablevit("fit", "--config", tmp_path / "first" / "recipe.yaml", "--run", tmp_path / "second")
    assert again.code == 0, again.err
    assert_same_result(tmp_path / "second", tmp_path / "first")


@pytest.mark.slow
def test_the_seed_changes_the_run(image_folder: Path, run: Path, tmp_path: Path) -> None:
    fit(image_folder, tmp_path / "run", "--seed", "1")
    ours, theirs = weights_of(tmp_path / "run"), weights_of(run)
    assert not torch.equal(ours["head.fc.weight"], theirs["head.fc.weight"])


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped_and_resumed_equals_never_stopped(
    image_folder: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signum: int, code: int
) -> None:
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 2, signum)
        words = ("--config", "train_folder", *SMALL, "--data.root", image_folder, "--epochs", "2")
        stopped = scalablevit("fit", *words, "--run", tmp_path / "the run")
    assert stopped.code == code
    last = stopped.err.strip().splitlines()[-1]
    words = words_of(last.partition("To resume: ")[2])
    assert words == ["fit", "--resume", str(tmp_path / "the run")]
    resumed = scalablevit(*words)
    assert resumed.code == 0, resumed.err
    assert_same_result(tmp_path / "the run", run)
    seconds = [line.split()[-2] for line in resumed.out.splitlines() if line.startswith("epoch")]
    assert all(int(s) < 60 for s in seconds), "an epoch's time counts from the resume"
    assert len(json.loads((tmp_path / "the run" / "environment.json").read_text())["earlier"]) == 1


@pytest.mark.slow
def test_every_epoch_is_saved_though_not_every_one_is_validated(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies in the third epoch; only the second and fourth are validated."""
    words = ("--trainer.check_val_every_n_epoch=2", "--model.ema_decay=0.9")
    fit(image_folder, tmp_path / "whole", *words, epochs=4)
    original = ClassificationTask.training_step

    def die(task: ClassificationTask, batch: Any, batch_idx: int) -> torch.Tensor:
        if (task.trainer.current_epoch, batch_idx) == died_at:
            raise ValueError("died")
        return original(task, batch, batch_idx)

    for k, died_at in enumerate([(1, 1), (2, 1), (3, 0)]):
        run = tmp_path / f"run{k}"
        with monkeypatch.context() as patch:
            patch.setattr(ClassificationTask, "training_step", die)
            given = ("--config", "train_folder", *SMALL, "--data.root", image_folder, "--epochs", "4")
            assert scalablevit("fit", *given, *words, "--run", run).err.endswith("error: died\n")
        saved = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
        assert saved["global_step"] == died_at[0] * 4
        resumed = scalablevit("fit", "--resume", run)
        assert resumed.code == 0, resumed.err
        assert_same_result(run, tmp_path / "whole")


@pytest.mark.slow
def test_resuming_a_finished_run_says_so_and_epochs_go_on(image_folder: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    again = scalablevit("fit", "--resume", copy)
    assert again.code == 0
    assert "all its 2 epochs already" in again.out
    (line,) = (line for line in again.out.splitlines() if "already" in line)
    assert words_of(line.partition("to train on: ")[2]) == ["fit", "--resume", str(copy), "--epochs", "N"]
    assert_same_result(copy, run)
    more = scalablevit("fit", "--resume", copy, "--epochs", "3")
    assert more.code == 0, more.err
    assert "already" not in more.out
    assert [row["epoch"] for row in rows_of(copy)] == ["0", "1", "2"]
    assert rows_of(copy)[:2] == rows_of(run)
    assert yaml.safe_load((copy / "recipe.yaml").read_text())["trainer"]["max_epochs"] == 3


@pytest.mark.slow
def test_a_moved_run_remembers_its_best_score(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "moved"))
    best: list[tuple[str, float | None]] = []
    original = ClassificationTask.on_train_epoch_start

    def note(task: ClassificationTask) -> None:
        best.extend((c.best_model_path, c.best_model_score) for c in task.trainer.checkpoint_callbacks[:1])
        original(task)

    monkeypatch.setattr(ClassificationTask, "on_train_epoch_start", note)
    outcome = scalablevit("fit", "--resume", copy, "--epochs", "3")
    assert outcome.code == 0, outcome.err
    assert Path(best[0][0]) == copy / "checkpoints" / "best.ckpt"
    assert best[0][1] == pytest.approx(json.loads((run / "results.json").read_text())["top1"])


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_validating(signum: int, code: int, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = ClassificationTask.validation_step

    def stop(task: ClassificationTask, *args: Any) -> None:
        signal.raise_signal(signum)
        original(task, *args)

    monkeypatch.setattr(ClassificationTask, "validation_step", stop)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    outcome = scalablevit("validate", run)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert outcome.code == code
    assert "evaluated" not in outcome.err
    assert outcome.err.splitlines()[-1] == "scalablevit: error: stopped"


@pytest.mark.slow
def test_a_second_config_overrides_the_first_and_words_override_both(image_folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("model:\n  init_args:\n    label_smoothing: 0.3\n    drop_path_rate: 0.3\n")
    fit(image_folder, tmp_path / "run", "--config", mine, "--model.drop_path_rate=0.2", epochs=1)
    stored = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["model"]["init_args"]
    assert (stored["label_smoothing"], stored["drop_path_rate"]) == (0.3, 0.2)


@pytest.mark.slow
def test_the_run_folder_is_named_after_the_recipe(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = (
        "fit",
        "--config",
        "train_folder",
        *SMALL,
        "--data.root",
        image_folder,
        "--trainer.fast_dev_run=true",
    )
    outcome = scalablevit(*words)
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "runs" / "train_folder" / "model.safetensors").is_file()


@pytest.mark.slow
def test_bf16_and_global_batch(image_folder: Path, tmp_path: Path) -> None:
    """Eight images a step from batches of four: two steps an epoch, half the rate of lr_batch 16."""
    run = tmp_path / "run"
    fit(
        image_folder, run, "--precision", "bf16-mixed", "--model.global_batch", "8",
        "--model.optimizer.lr_batch", "16", "--model.schedule.warmup_epochs", "0",
        "--model.schedule.name", "constant",
    )  # fmt: skip
    assert [row["step"] for row in rows_of(run)] == ["1", "3"]
    assert float(rows_of(run)[0]["lr"]) == pytest.approx(5e-4)


def test_print_config_help_and_usage(image_folder: Path) -> None:
    printed = scalablevit("fit", "--config", "imagenet_small", "--print_config", "--seed", "3")
    assert printed.code == 0
    assert yaml.safe_load(printed.out)["seed_everything"] == 3
    assert yaml.safe_load(printed.out)["model"]["init_args"]["variant"] == "scalablevit_small"
    for command, start in (("fit", "fit --config"), ("validate", "validate RUN")):
        usage = scalablevit(command, "--help")
        assert usage.code == 0
        assert usage.out.startswith(f"usage: scalablevit {start}")


@pytest.mark.slow
def test_fine_tuning_infers_classes_and_swaps_the_head(
    image_folder: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "two"
    for part in ("train", "val"):
        for name in CLASSES[:2]:
            shutil.copytree(image_folder / part / name, data / part / name)
    tasks: list[ClassificationTask] = []
    original = ClassificationTask.on_fit_start
    monkeypatch.setattr(ClassificationTask, "on_fit_start", lambda task: (tasks.append(task), original(task))[1])
    weights = tmp_path / "weights"
    shutil.copytree(run, weights)
    outcome = fit(data, tmp_path / "run", "--model.weights", weights, recipe="finetune_folder", epochs=1)
    assert "head.fc.weight: (3, 128) -> (2, 128), freshly initialised" in outcome.out
    assert "layer_decay" not in outcome.err
    groups = tasks[0].trainer.optimizers[0].param_groups
    rates = sorted({group["initial_lr"] for group in groups})
    assert len(rates) > 5
    assert rates[0] < 0.5 * rates[-1]
    assert read_metadata(tmp_path / "run")["class_names"] == list(CLASSES[:2])
    # validate and resume read the checkpoint; the weights it began with may be gone
    shutil.rmtree(weights)
    assert scalablevit("validate", tmp_path / "run").code == 0
    resumed = scalablevit("fit", "--resume", tmp_path / "run", "--epochs", "2")
    assert resumed.code == 0, resumed.err
    stored = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
    assert stored["model"]["init_args"]["weights"] == str(weights)


@pytest.mark.slow
def test_layer_decay_without_weights_warns(image_folder: Path, tmp_path: Path) -> None:
    outcome = fit(image_folder, tmp_path / "run", recipe="finetune_folder", epochs=1)
    assert "warning: model.optimizer.layer_decay 0.8" in outcome.err


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--model.ema_decay=0.5",)], ids=["plain", "ema"])
def test_validate_gives_the_figure_of_the_results(
    image_folder: Path, run: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    folder = run
    if words:
        folder = tmp_path / "run"
        fit(image_folder, folder, *words)
    outcome = scalablevit("validate", folder, "--json")
    assert outcome.code == 0, outcome.err
    measured = json.loads(outcome.out)
    results = json.loads((folder / "results.json").read_text())
    assert measured["val/top1"] == pytest.approx(results["top1"], abs=1e-6)
    assert set(measured) == {"val/top1", "val/loss"}
    text = scalablevit("validate", folder, "--checkpoint", folder / "checkpoints" / "last.ckpt")
    assert text.code == 0
    assert text.out.splitlines()[0].split()[0] == "val/loss"


@pytest.mark.slow
def test_validate_takes_the_last_checkpoint_where_there_is_no_best(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "not validated yet"))
    best, last = (copy / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    said = f"warning: there is no {best}, which the first validation writes; evaluating {last}\n"
    assert said not in scalablevit("validate", copy).err
    best.unlink()
    named = scalablevit("validate", copy, "--checkpoint", last, "--json")
    assert (named.code, said in named.err) == (0, False)
    outcome = scalablevit("validate", copy, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.err.count(said) == 1
    assert outcome.out == named.out
    last.unlink()
    outcome = scalablevit("validate", copy)
    assert outcome.code == 1
    assert outcome.err == f"scalablevit: error: there is no checkpoint {best}; name one with --checkpoint\n"
