"""Runs of pretraining resume to the bit, their results are those of their weights, their faults have a message."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import SMALL, assert_same_result, fit, stop_at_batch, weights_of, write_images

from command_line import scalablevit
from scalablevit.pretraining.task import PretrainingTask

WORDS = [
    *(word for word in SMALL if not word.startswith("--model.head")),
    "--data.image_size=32",
    "--model.ema_decay=0.9",
]
WORDS += ["--model.schedule.warmup_steps=1", "--model.schedule.warmup_lr=0", "--model.schedule.min_lr=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), num_train=6, num_val=2)


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("teacher") / "teacher"
    fit(data, run, epochs=1)
    return run


def words(kind: str, data: Path, teacher: Path | None = None) -> list[str | Path]:
    own = ["--model.mask_patch_size=4"] if kind == "masked" else [f"--model.teacher.name={teacher}"]
    return ["fit", "--config", f"pretrain_{kind}", *WORDS, *own, "--data.root", data, f"--data.labelled_root={data}"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["masked", "distill"])
def test_a_run_that_stopped_resumes_to_the_bit(
    kind: str, data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = [*words(kind, data, teacher), "--epochs", "2"]
    whole = scalablevit(*common, "--run", tmp_path / "whole")
    assert whole.code == 0, whole.err
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 9)  # in the second epoch
        assert scalablevit(*common, "--run", tmp_path / "cut").code == 130
    resumed = scalablevit("fit", "--resume", tmp_path / "cut")
    assert resumed.code == 0, resumed.err
    assert_same_result(tmp_path / "cut", tmp_path / "whole")
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    assert results["knn_bank"] == 18
    assert results["knn_queries"] == 6
    assert 0 <= results["knn_top1"] <= 1
    assert "val/knn_top1" in (tmp_path / "whole" / "metrics.csv").read_text()
    assert ("reconstructions.png" in whole.out) == (kind == "masked")
    assert "fit --config finetune_folder" in whole.out
    assert not any(name.startswith("head.") for name in weights_of(tmp_path / "whole"))
    evaluated = scalablevit("validate", tmp_path / "whole", "--json")
    assert evaluated.code == 0, evaluated.err
    # the averaged weights of the best epoch, by the same masks
    assert json.loads(evaluated.out)["val/loss"] == pytest.approx(results["loss"], rel=1e-5)


def test_neighbours_are_those_of_the_averaged_weights(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[float]] = {"neighbours": [], "loss": []}

    def noted(name: str, method: str) -> None:
        original = getattr(PretrainingTask, method)

        def spy(self: PretrainingTask, *arguments: Any) -> Any:
            network = self.network if name == "loss" else arguments[0]
            seen[name].append(sum(float(p.double().abs().sum()) for p in network.parameters()))
            return original(self, *arguments)

        monkeypatch.setattr(PretrainingTask, method, spy)

    noted("neighbours", "_neighbours")
    noted("loss", "validation_step")
    outcome = scalablevit(*words("masked", data), "--epochs", "1", "--run", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert seen["neighbours"][0] == seen["loss"][-1]
    moved = shutil.copytree(data, tmp_path / "moved")
    again = scalablevit("fit", "--resume", tmp_path / "run", "--epochs", "2", "--data.labelled_root", moved)
    assert again.code == 0, again.err
    next((moved / "val").rglob("*.png")).unlink()
    refused = scalablevit("fit", "--resume", tmp_path / "run", "--epochs", "3", "--data.labelled_root", moved)
    assert refused.code == 1
    assert "data.labelled_root holds other images or classes" in refused.err


@pytest.mark.parametrize("kind", ["masked", "distill"])
def test_weights_of_half_precision_are_trained_and_measured(
    kind: str, data: Path, teacher: Path, tmp_path: Path
) -> None:
    own = ["--precision", "bf16-true", "--model.ema_decay=null", "--epochs", "1"]
    outcome = scalablevit(*words(kind, data, teacher), *own, "--run", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert 0 <= json.loads((tmp_path / "run" / "results.json").read_text())["knn_top1"] <= 1


@pytest.mark.slow
def test_two_processes_mask_each_image_as_one_does(data: Path, tmp_path: Path) -> None:
    """Same images, masks and mean gradient: the same weights, but for the order of sums."""
    common = [*words("masked", data), "--model.ema_decay=null", "--epochs", "1", "--data.val_fraction=0.25"]
    assert scalablevit(*common, "--run", tmp_path / "one").code == 0
    words_of_two = [*common, "--devices", "2", "--data.batch_size", "2", "--run", tmp_path / "two"]
    result = subprocess.run(
        [sys.executable, "-m", "scalablevit", *map(str, words_of_two)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    expected, found = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--data.root=none"], "none: the data folder does not exist"),
        (["--model.mask_patch_size=6"], "model.mask_patch_size 6 does not fit"),
        (["--data.image_size=40"], "data.image_size 40 x 40: sides must be multiples of 32"),
        (["--model.mask_ratio=1"], "model.mask_ratio must lie in (0, 1), got 1.0"),
        (["--model.teacher.name=x"], "there is no key model.teacher"),
        (["--model.label_smoothing=0.1"], "there is no key model.label_smoothing"),
        (
            ["--data.labelled_root=nowhere"],
            "nowhere: the data folder does not exist; check the path given as data.labelled",
        ),
    ],
    ids=lambda value: value[0].partition("=")[0].lstrip("-") if isinstance(value, list) else "",
)
def test_faults_have_a_message(changed: list[str], said: str, data: Path, tmp_path: Path) -> None:
    outcome = scalablevit(*words("masked", data), *changed, "--run", tmp_path / "run")
    assert outcome.code == 1
    assert said in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ([], "model.teacher.name is missing"),
        (["--model.teacher.name=nowhere"], "nowhere"),
        (["--model.teacher.weight=1"], "model.teacher.weight 1 weighs logits of classes"),
        (["--model.teacher.label_weight=1"], "model.teacher.label_weight 1 weighs labels"),
        (["--model.teacher.pooled_weight=0", "--model.teacher.dense_weight=0"], "teaches nothing"),
    ],
    ids=["missing", "unknown", "logits", "labels", "nothing"],
)
def test_faults_of_a_teacher_have_a_message(changed: list[str], said: str, data: Path, tmp_path: Path) -> None:
    outcome = scalablevit(
        *("fit", "--config", "pretrain_distill", *WORDS, "--data.root", data, "--run", tmp_path / "run", *changed)
    )
    assert outcome.code == 1
    assert said in outcome.err
