"""The whole path: a folder of images and masks becomes a run, resumes, predicts; two processes agree."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

from command_line import output_of as scalablevit
from run_metrics import learned_by
from scalablevit.cli import main
from scalablevit.segmentation import SegmentationTask, Segmenter, survey
from scalablevit.visualization.metrics_file import read_metrics

CLASSES = ("ground", "red thing", "grün", "never there")
COLOURS = ((90, 90, 90), (220, 40, 40), (40, 200, 60))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
RECIPE: dict[str, Any] = {
    "model": {
        "class_path": "scalablevit.segmentation.SegmentationTask",
        "init_args": {
            "variant": "scalablevit_atto",
            "segmenter": "upernet",
            "segmenter_options": {"channels": 32, "auxiliary_channels": 16},
            "drop_path_rate": 0.0,
            "optimizer": {"lr": 2e-3, "lr_batch": None, "weight_decay": 0.01},
            "schedule": {"name": "poly", "warmup_steps": 1, "warmup_lr": 1e-4, "min_lr": 0.0},
        },
    },
    "data": {
        "class_path": "scalablevit.segmentation.MaskFolderData",
        "init_args": {"crop_size": 32, "short_side": None, "long_side": None, "batch_size": 2, "num_workers": 0},
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False},
}


def write_folder(root: Path, *, num_train: int = 4, num_val: int = 3, side: int = 40, wider: int = 8) -> Path:
    """Coloured rectangles on noise, masks with a strip that is ignored; each image is `wider` than the last."""
    rng = np.random.default_rng(0)
    for part, count in (("train", num_train), ("val", num_val)):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((side, side + wider * i), dtype=np.uint8)
            for k in (1, 2):
                height, width = side * 2 // 5, side * 9 // 20
                top, left = rng.integers(0, np.array(mask.shape) - width)
                mask[top : top + height, left : left + width] = k
            pixels = np.array(COLOURS)[mask] + rng.integers(-30, 30, (*mask.shape, 3))
            mask[:, -3:] = 255
            Image.fromarray(pixels.astype(np.uint8)).save(root / part / "images" / f"{i}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{i}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def write_recipe(path: Path, **model: Any) -> Path:
    recipe = {**RECIPE, "model": {**RECIPE["model"], "init_args": {**RECIPE["model"]["init_args"], **model}}}
    path.write_text(yaml.safe_dump(recipe))
    return path


def scores_by_numpy(pairs: list[tuple[np.ndarray, np.ndarray]], K: int) -> tuple[float, float, list[float | None]]:
    """mIoU, pixel accuracy and IoU by class of (labels, mask) pairs."""
    confusion = np.zeros((K, K), dtype=np.int64)
    for labels, mask in pairs:
        assert labels.shape == mask.shape
        np.add.at(confusion, (mask[mask < K], labels[mask < K]), 1)
    inter, union = confusion.diagonal(), confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    ious = [int(i) / int(u) if u else None for i, u in zip(inter, union, strict=True)]
    known = [iou for iou in ious if iou is not None]
    return sum(known) / len(known), inter.sum() / confusion.sum(), ious


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 images to train on, 3 to validate. Not to be written to."""
    return write_folder(tmp_path_factory.mktemp("data") / "my scenes")


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs of two steps under UperNet. Not to be written to."""
    place = tmp_path_factory.mktemp("runs")
    recipe = write_recipe(place / "tiny.yaml")
    out, _ = scalablevit("fit", "--config", recipe, "--data.root", folder, "--run", place / "run")
    assert "mIoU" in out
    return place / "run"


def test_a_run_leaves_weights_results_and_images(run: Path) -> None:
    for name in ("model.safetensors", "results.json", "predictions.png", "curves.png", "recipe.yaml"):
        assert (run / name).stat().st_size > 0, name
    results = json.loads((run / "results.json").read_text())
    assert [row["class"] for row in results["classes"]] == list(CLASSES)
    assert results["count"] == 3
    assert results["unreadable"] == []
    assert results["classes"][3]["pixels"] == 0
    assert results["classes"][3]["accuracy"] is None
    rows = read_metrics(run / "metrics.csv")
    assert len(rows) == 2
    logged = {"train/loss", "val/loss", "val/miou", "val/accuracy", "val/mean_accuracy"}
    assert logged <= set(rows[0])
    assert max(row["val/miou"] for row in rows) == pytest.approx(results["miou"], rel=1e-5)


def test_figures_equal_a_count_over_saved_masks(run: Path, folder: Path, tmp_path: Path) -> None:
    """The labels go through PNG files; NumPy counts them against the mask files."""
    files = sorted((folder / "val" / "images").iterdir())
    pairs = []
    for prediction in Segmenter.load(run, device="cpu").predict(files, keep_images=True):
        prediction.output_images()["-mask"].save(tmp_path / prediction.path.name)
        labels = np.asarray(Image.open(tmp_path / prediction.path.name))
        pairs.append((labels, np.asarray(Image.open(folder / "val" / "masks" / prediction.path.name))))
    miou, accuracy, ious = scores_by_numpy(pairs, len(CLASSES))
    results = json.loads((run / "results.json").read_text())
    assert results["miou"] == pytest.approx(miou, abs=1e-12)
    assert results["accuracy"] == pytest.approx(accuracy, abs=1e-12)
    assert [row["iou"] for row in results["classes"]] == [None if x is None else pytest.approx(x) for x in ious]


def test_other_masks_are_measured_in_whole_with_the_classes_of_the_run(run: Path, folder: Path, tmp_path: Path) -> None:
    """Images beside masks without parts; "red thing" is lacking, and the others have other labels."""
    labels, order = {"grün": 0, "ground": 1}, [1, 255, 0]
    pairs = []
    for i, file in enumerate(sorted((folder / "train" / "images").iterdir())):
        for kind in ("images", "masks"):
            (tmp_path / "other" / kind).mkdir(parents=True, exist_ok=True)
        shutil.copy(file, tmp_path / "other" / "images" / f"{i}.png")
        mask = np.asarray(Image.open(folder / "train" / "masks" / file.name))
        stored = np.full_like(mask, 255)
        for k, label in enumerate(order):
            stored[mask == k] = label
        Image.fromarray(stored).save(tmp_path / "other" / "masks" / f"{i}.png")
        (prediction,) = Segmenter.load(run, device="cpu").predict([file])
        pairs.append((prediction.labels, np.where(mask == 1, 255, mask)))
    (tmp_path / "other" / "classes.txt").write_text("\n".join(labels) + "\n")
    out, said = scalablevit("validate", run, "--data.root", tmp_path / "other", "--json")
    assert "validation  4 images with masks (all that there are)" in said
    assert "2 of 4 classes never occur: 'red thing', 'never there'" in said
    miou, accuracy, _ = scores_by_numpy(pairs, len(CLASSES))
    measured = json.loads(out)
    assert measured["val/miou"] == pytest.approx(miou, abs=1e-6)
    assert measured["val/accuracy"] == pytest.approx(accuracy, abs=1e-6)


@pytest.mark.slow
def test_a_run_with_focal_and_dice_loss_and_weights_of_classes(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of the classes has no pixels."""
    monkeypatch.setattr(survey, "_MOST_TRAINING", 3)
    recipe = write_recipe(tmp_path / "tiny.yaml", focal_gamma=2.0, class_weights="balanced", dice_weight=0.5)
    said = scalablevit("fit", "--config", recipe, "--data.root", folder, "--run", tmp_path / "run", "--epochs", "1")
    total = len(list((folder / "train" / "masks").iterdir()))
    assert f"classes weighed by the pixels of 3 of {total} training masks, evenly spread" in said[0]
    (row,) = read_metrics(tmp_path / "run" / "metrics.csv")
    assert np.isfinite(row["train/loss"])
    assert abs(row["train/loss"] - read_metrics(run / "metrics.csv")[0]["train/loss"]) > 0.05


@pytest.mark.slow
def test_validate_in_several_scales_with_flips(run: Path, folder: Path) -> None:
    single = json.loads(scalablevit("validate", run, "--json")[0])
    results = json.loads((run / "results.json").read_text())
    assert single["val/miou"] == pytest.approx(results["miou"], abs=1e-6)
    words = ("--model.inference.scales", "[0.5,0.75,1.0,1.25,1.5,1.75]", "--model.inference.flip", "true", "--json")
    several = json.loads(scalablevit("validate", run, *words)[0])
    files = sorted((folder / "val" / "images").iterdir())
    scales = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    predictions = list(Segmenter.load(run, device="cpu").predict(files, scales=scales, flip=True))
    masks = [np.asarray(Image.open(folder / "val" / "masks" / file.name)) for file in files]
    pairs = [(prediction.labels, mask) for prediction, mask in zip(predictions, masks, strict=True)]
    assert several["val/miou"] == pytest.approx(scores_by_numpy(pairs, len(CLASSES))[0], abs=1e-6)
    assert several["val/loss"] != pytest.approx(single["val/loss"], abs=1e-6)


@pytest.mark.slow
def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(
    run: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the middle of the second epoch."""
    recipe = write_recipe(tmp_path / "tiny.yaml")
    original = SegmentationTask.on_train_batch_start

    def stop(self: SegmentationTask, batch: Any, batch_idx: int) -> None:
        if self.current_epoch == 1 and batch_idx == 1:
            raise KeyboardInterrupt
        original(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "on_train_batch_start", stop)
    words = ["fit", "--config", recipe, "--data.root", folder, "--run", tmp_path / "run"]
    with contextlib.suppress(KeyboardInterrupt, SystemExit):
        main([str(word) for word in words])
    monkeypatch.undo()
    assert not (tmp_path / "run" / "model.safetensors").exists()
    scalablevit("fit", "--resume", tmp_path / "run")
    assert learned_by(tmp_path / "run") == learned_by(run)
    ours, theirs = (safetensors.torch.load_file(folder / "model.safetensors") for folder in (tmp_path / "run", run))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


def by_steps(steps: int, interval: int) -> tuple[str, ...]:
    """Words for a run whose length and validations are counted in optimizer steps."""
    words = ("--trainer.max_epochs=-1", f"--trainer.max_steps={steps}", f"--trainer.val_check_interval={interval}")
    return (*words, "--trainer.check_val_every_n_epoch=null")


@pytest.mark.slow
def test_the_last_of_accumulated_steps_is_validated_and_shipped(folder: Path, tmp_path: Path) -> None:
    """Two batches a step, one step an epoch; validation every second step and behind the third, the last."""
    recipe, run = write_recipe(tmp_path / "tiny.yaml"), tmp_path / "run"
    words = ("--data.root", folder, "--run", run, "--model.global_batch", "4", *by_steps(3, 2))
    scalablevit("fit", "--config", recipe, *words)
    rows = read_metrics(run / "metrics.csv")
    assert ["val/miou" in row for row in rows] == [False, True, True]
    scores = {int(row["epoch"]) + 1: row["val/miou"] for row in rows if "val/miou" in row}
    last, best = (torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True) for name in ("last", "best"))
    assert last["global_step"] == 3
    assert scores[best["global_step"]] == max(scores.values())
    results = json.loads((run / "results.json").read_text())
    assert results["miou"] == pytest.approx(max(scores.values()), rel=1e-5)
    shipped = safetensors.torch.load_file(run / "model.safetensors")
    for name, value in shipped.items():
        assert torch.equal(value, best["state_dict"][f"network.{name}"]), name


@pytest.mark.slow
def test_a_run_by_steps_that_is_stopped_at_an_epochs_end_goes_on_with_the_next(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of two steps, no validation at the end of the first."""
    recipe = write_recipe(tmp_path / "tiny.yaml")
    words = ["fit", "--config", recipe, "--data.root", folder, *by_steps(5, 3)]
    scalablevit(*words, "--run", tmp_path / "whole")
    original = SegmentationTask.on_train_batch_start

    def stop(self: SegmentationTask, batch: Any, batch_idx: int) -> None:
        if (self.current_epoch, batch_idx) == (0, 1):
            os.kill(os.getpid(), signal.SIGINT)
        original(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationTask, "on_train_batch_start", stop)
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in (*words, "--run", tmp_path / "cut")])
    assert stopped.value.code == 130
    monkeypatch.undo()
    scalablevit("fit", "--resume", tmp_path / "cut")
    assert learned_by(tmp_path / "cut") == learned_by(tmp_path / "whole")
    results = [(tmp_path / name / "results.json").read_text() for name in ("cut", "whole")]
    assert results[0] == results[1]
    ours, theirs = (safetensors.torch.load_file(tmp_path / run / "model.safetensors") for run in ("cut", "whole"))
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("segmenter", "options"),
    [
        ("semantic_fpn", {"channels": 32, "fpn_channels": 32}),
        ("upernet", {"channels": 32, "auxiliary_channels": 16}),
    ],
)
def test_a_few_images_are_learned_by_heart(segmenter: str, options: dict[str, int], tmp_path: Path) -> None:
    """Four images, which are the validation images too, in 100 steps from scratch."""
    # Sides of whole coarsest strides: what is evaluated is then what was learned, with nothing filled up.
    data = write_folder(tmp_path / "data", num_val=0, side=64, wider=0)
    shutil.rmtree(data / "val")
    shutil.copytree(data / "train", data / "val")
    optimizer = {"lr": 5e-3, "lr_batch": None, "weight_decay": 0.01}
    schedule = {"name": "poly", "warmup_steps": 10, "warmup_lr": 1e-4, "min_lr": 0.0}
    recipe = write_recipe(
        tmp_path / "tiny.yaml", segmenter=segmenter, segmenter_options=options, optimizer=optimizer, schedule=schedule
    )
    words = ("--data.crop_size=64", "--data.batch_size=4", "--data.augmentation=null", "--epochs=100")
    words = (*words, "--trainer.check_val_every_n_epoch=100", "--trainer.gradient_clip_val=1.0")
    scalablevit("fit", "--config", recipe, "--data.root", data, "--run", tmp_path / "run", *words)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["count"] == 4
    assert results["miou"] >= 0.9
    assert results["accuracy"] >= 0.95


# An all-ignored crop for one of two ranks, in the first step.
_ALL_IGNORED_ON_RANK_1 = """
import sys
import torch
from scalablevit.cli import main
from scalablevit.segmentation import SegmentationTask

original = SegmentationTask.training_step

def training_step(self, batch, batch_idx):
    if self.global_rank == 1:
        batch.masks.fill_(255)
    loss = original(self, batch, batch_idx)
    if self.global_rank == 1:
        assert loss.item() == 0.0
    return loss

SegmentationTask.training_step = training_step
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_two_processes_with_nothing_but_ignored_pixels_on_one(folder: Path, tmp_path: Path) -> None:
    """Batch size 1 under UperNet, whose pooling then makes a map of one pixel. 3 validation images: 2 and 1."""
    script = tmp_path / "ignored.py"
    script.write_text(_ALL_IGNORED_ON_RANK_1)
    recipe, run = write_recipe(tmp_path / "tiny.yaml"), tmp_path / "run"
    words = ("fit", "--config", recipe, "--data.root", folder, "--run", run, "--devices", "2", "--data.batch_size", "1")
    result = subprocess.run(
        [sys.executable, str(script), *map(str, words)], capture_output=True, text=True, env=ENVIRONMENT, timeout=240
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    rows = read_metrics(run / "metrics.csv")
    assert len(rows) == 2
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    results = json.loads((run / "results.json").read_text())
    assert results["count"] == 3
    # counted over both ranks during training, and by one process afterwards
    best = max(rows, key=lambda row: row["val/miou"])
    assert results["miou"] == pytest.approx(best["val/miou"], rel=1e-5)
    assert results["accuracy"] == pytest.approx(best["val/accuracy"], rel=1e-5)
    state = safetensors.torch.load_file(run / "model.safetensors")
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_fewer_validation_images_than_processes_end_the_run(tmp_path: Path) -> None:
    data, recipe = write_folder(tmp_path / "data", num_val=1), write_recipe(tmp_path / "tiny.yaml")
    words = ("fit", "--config", recipe, "--data.root", data, "--run", tmp_path / "run", "--devices", "2")
    result = subprocess.run(
        [sys.executable, "-m", "scalablevit", *map(str, words)],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=240,
    )  # fmt: skip
    assert result.returncode == 1
    assert "there are 1 validation images for 2 processes" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()
