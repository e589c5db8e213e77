"""Run folders are not mixed, metrics survive crashes and resumes, curves are drawn."""

import csv
import json
import math
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.training.environment import git_state
from scalablevit.training.metrics_csv import CSVMetrics
from scalablevit.training.run import Run
from scalablevit.training.run_folder import RunFolder, claim
from scalablevit.visualization.curves import plot_curves
from scalablevit.visualization.metrics_file import read_metrics


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    folder = claim(tmp_path / "a" / "run", resume=False)
    assert folder.checkpoints.is_dir()
    folder.release()
    folder = claim(folder.path, resume=False)  # nothing has begun yet
    folder.release()
    folder.checkpoints.mkdir(parents=True)
    folder.recipe.write_text("model: {}\n")
    with pytest.raises(ValueError, match="already holds a run: remove it, or name another folder by --run"):
        claim(folder.path, resume=False)
    with pytest.raises(ValueError, match=r"nothing to resume .*last\.ckpt is missing"):
        claim(folder.path, resume=True)
    folder.last.write_bytes(b"")
    with pytest.raises(ValueError, match=r"already holds a run: resume it \(.* fit --resume .*/a/run\), or name"):
        claim(folder.path, resume=False)
    assert claim(folder.path, resume=True).last == tmp_path / "a" / "run" / "checkpoints" / "last.ckpt"
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file: name another folder"):
        claim(tmp_path / "file", resume=False)


def test_the_environment_is_written_and_kept_on_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_environment(seed=3)
    first = json.loads(folder.environment.read_text())
    assert first["seed"] == 3
    assert set(first["versions"]) == {"python", "torch", "torchvision", "timm", "lightning", "scalablevit"}
    assert os.uname().nodename not in first.values()
    folder.write_environment(seed=4)
    folder.write_environment(seed=5)
    third = json.loads(folder.environment.read_text())
    assert third["seed"] == 5
    assert [entry["seed"] for entry in third["earlier"]] == [3, 4]


def test_the_commit_and_whether_it_was_changed(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "a").write_text("1")
    for words in (["init", "-q"], ["add", "a"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    state = git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {**state, "dirty": True}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_a_fit_and_its_resume_write_one_row_an_epoch(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    options: dict[str, Any] = {"log_every_n_steps": 2}
    make_trainer(tmp_path, logger=CSVMetrics(path), max_epochs=2, **options).fit(ToyTask(), datamodule=ToyData())
    first = rows(path)
    assert [row["epoch"] for row in first] == ["0", "1"]
    for row in first:
        assert set(row) == {"epoch", "step", "lr", "train/loss", "val/loss"}
        assert all(row.values())
    make_trainer(tmp_path, logger=CSVMetrics(path), max_epochs=4, **options).fit(
        ToyTask(), datamodule=ToyData(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert [row["epoch"] for row in rows(path)] == ["0", "1", "2", "3"]
    assert rows(path)[:2] == first


def test_epochs_run_again_are_replaced(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    before = CSVMetrics(path)
    for epoch in range(4):
        before.log_metrics({"epoch": epoch, "val/loss": 1.0 + epoch}, step=epoch)
    after = CSVMetrics(path)  # resumed from the end of epoch 0
    after.log_metrics({"epoch": 1, "val/loss": 7.0, "val/top1": 0.5}, step=1)
    assert read_metrics(path) == [
        {"epoch": 0, "step": 0, "val/loss": 1.0},
        {"epoch": 1, "step": 1, "val/loss": 7.0, "val/top1": 0.5},
    ]


def test_a_full_disk_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.csv"
    logger = CSVMetrics(path)
    logger.log_metrics({"epoch": 0, "val/loss": 1.0})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        logger.log_metrics({"epoch": 1, "val/loss": 2.0})
    assert "No space left on device" in caplog.text
    assert len(rows(path)) == 1
    logger.finalize("success")
    assert len(rows(path)) == 2


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,val/loss\n0,1\n1,abc\n")
    with pytest.raises(ValueError, match=r"metrics\.csv line 3"):
        read_metrics(path)
    path.write_text("time,loss\n0,1\n")
    with pytest.raises(ValueError, match="no column epoch"):
        read_metrics(path)


@pytest.mark.parametrize("epochs", [1, 20])
def test_curves(epochs: int, tmp_path: Path) -> None:
    logger = CSVMetrics(tmp_path / "metrics.csv")
    for e in range(epochs):
        values = {"train/loss": math.exp(-e / 5), "val/loss": math.nan if e == 3 else math.exp(-e / 6)}
        logger.log_metrics({"epoch": e, "lr": 1e-3, "val/top1": 1 - math.exp(-e / 4), **values})
    logger.finalize("success")
    plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 3 * image.height
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 20) or []}
    assert {(0, 114, 178), (213, 94, 0)} <= colours  # the two losses' lines


def test_curves_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step\n")
    with pytest.raises(ValueError, match="holds no epoch yet"):
        plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")


def test_a_damaged_log_does_not_make_a_failure_of_a_finished_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = RunFolder(tmp_path)
    folder.metrics.write_text("null")
    module = SimpleNamespace(write_results=lambda *_: ["top-1 90%"])
    data = SimpleNamespace(example_inputs=lambda: ["a.png"])
    Run(folder, module=module, data=data, trainer=None, recipe_text="", seed=0).write_results()  # type: ignore[arg-type]
    assert "has no column epoch; no curves are drawn" in caplog.text
    assert "top-1 90%" in (said := capsys.readouterr().out)
    assert "predict a.png" in said
