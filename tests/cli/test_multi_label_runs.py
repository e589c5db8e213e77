"""Several labels an image from end to end: check, fit, resume, validate, predict, export."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import SMALL, assert_same_result, fit, stop_at_batch, write_images

from command_line import scalablevit
from label_tables import CLASSES, write_labelled


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("data") / "my images", count=32)


@pytest.fixture(scope="module")
def tagger(labelled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs with everything on that mixes, weighs or averages. Not to be written to."""
    run = tmp_path_factory.mktemp("runs") / "tagger"
    fit(labelled, run, *EVERYTHING, recipe="train_multi_label")
    return run


EVERYTHING = (
    "--data.val_fraction=0.25",
    "--model.positive_weights=balanced",
    "--model.class_weights={cat: 2.0}",
    "--model.label_smoothing=0.1",
    "--model.mixup.mixup_alpha=0.4",
    "--model.ema_decay=0.9",
    "--model.mesa.start=0.2",
)


def test_a_run_writes_what_it_found(tagger: Path) -> None:
    results = json.loads((tagger / "results.json").read_text())
    assert 0 <= results["mAP"] <= 1
    assert [row["class"] for row in results["per_class"]] == list(CLASSES)
    assert {"average_precision", "precision", "recall", "f1", "support"} <= set(results["per_class"][0])
    assert {"average_precision.png", "predictions.png", "curves.png"} <= {file.name for file in tagger.iterdir()}


def test_an_interrupted_run_resumes_bit_exactly(
    labelled: Path, tagger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_at_batch(patched, 7)
        words = ("fit", "--config", "train_multi_label", "--data.root", labelled, "--run", run, "--epochs", "2")
        assert scalablevit(*words, *SMALL, *EVERYTHING).code == 130
    assert scalablevit("fit", "--resume", run).code == 0
    assert_same_result(run, tagger)


def test_validation_of_the_run_of_other_data_and_of_another_kind(labelled: Path, tagger: Path, tmp_path: Path) -> None:
    results = json.loads((tagger / "results.json").read_text())
    own = json.loads(scalablevit("validate", tagger, "--json").out)
    assert own["val/mAP"] == pytest.approx(results["mAP"], abs=1e-6)
    assert own["val/macro_f1"] == pytest.approx(results["macro_f1"] or 0.0, abs=1e-6)
    other = write_labelled(tmp_path / "other", rows=["0.png,dog", "1.png,cat|dog", "2.png,"])
    outcome = scalablevit("validate", tagger, "--data.root", other)
    assert outcome.code == 0, outcome.err
    assert "3 images" in outcome.err
    refused = scalablevit("validate", tagger, "--data.root", write_images(tmp_path / "folders"))
    assert refused.code == 1
    assert "there is no table of labels" in refused.err


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_two_processes_find_what_one_does(labelled: Path, tagger: Path) -> None:
    """The mean average precision ranks all images together, whichever process saw them."""
    alone = json.loads(scalablevit("validate", tagger, "--json").out)
    words = [sys.executable, "-m", "scalablevit", "validate", str(tagger), "--devices", "2", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    together = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=240)
    assert together.returncode == 0, together.stderr
    assert json.loads(together.stdout) == pytest.approx(alone, abs=1e-6)


def test_predictions_in_every_form(labelled: Path, tagger: Path, tmp_path: Path) -> None:
    images = [labelled / "images" / f"{i}.png" for i in range(3)]
    words = ("predict", *images, "--weights", tagger, "--threshold", "0")
    outcome = scalablevit(*words, "--json", "--save", tmp_path / "s")
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [len(row["predictions"]) for row in rows] == [3, 3, 3]
    assert all(0 <= entry["probability"] <= 1 for row in rows for entry in row["predictions"])
    assert {file.name for file in (tmp_path / "s").iterdir()} == {"0.png", "1.png", "2.png"}
    nothing = scalablevit("predict", images[0], "--weights", tagger, "--threshold", "1")
    assert nothing.out.splitlines()[1].split()[-1] == "nothing"
    written = scalablevit(*words, "--csv", tmp_path / "p.csv")
    assert written.code == 0, written.err
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 10
    assert scalablevit("predict", images[0], "--weights", tagger, "--embeddings", tmp_path / "e.csv").code == 0


def test_kinds_of_data_and_task_must_agree(labelled: Path, image_folder: Path, tmp_path: Path) -> None:
    for words, said in (
        (("--data.root", image_folder, "--config", "train_folder"), "learns any number of labels an image"),
        (("--data.root", labelled, "--config", "train_multi_label"), "learns one class an image"),
    ):
        other = "MultiLabelTask" if "train_folder" in words else "ClassificationTask"
        outcome = scalablevit(
            "fit", *words, "--model", f"scalablevit.classification.{other}", "--model.variant=scalablevit_atto",
            "--run", tmp_path / other, "--data.num_workers=0", "--data.image_size=16", "--trainer.accelerator=cpu",
            "--model.window_size=2",
        )  # fmt: skip
        assert outcome.code == 1
        assert said in outcome.err


def test_check_data_recognizes_the_table_and_takes_its_flags(labelled: Path, tmp_path: Path) -> None:
    outcome = scalablevit("check-data", labelled)
    assert "labels      in the column 'labels', separated by '|'" in outcome.out
    root = write_labelled(tmp_path / "data", header="file;cat;age", rows=["0.png;1;3", "1.png;0;4"])
    assert "'age' holds '3' in line 2" in scalablevit("check-data", root).out
    assert "one class only" in scalablevit("check-data", root, "--ignore-columns", "age").out


def test_a_folder_recipe_names_the_recipe_for_tables(labelled: Path, tmp_path: Path) -> None:
    outcome = scalablevit("fit", "--config", "train_folder", "--data.root", labelled, "--run", tmp_path / "run")
    assert "--config train_multi_label" in outcome.err


@pytest.mark.slow
def test_an_exported_file_predicts_and_validates_as_the_run(labelled: Path, tagger: Path, tmp_path: Path) -> None:
    run = shutil.copytree(tagger, tmp_path / "run")
    outcome = scalablevit("export", run, "--format", "torch", "--size", "16")
    assert outcome.code == 0, outcome.err
    file = next(run.glob("model*.pt2"))
    images = [labelled / "images" / f"{i}.png" for i in range(3)]
    ours, theirs = (
        [
            {entry["class"]: entry["probability"] for entry in json.loads(line)["predictions"]}
            for line in scalablevit("predict", *images, "--weights", w, "--threshold", "0", "--json").out.splitlines()
        ]
        for w in (run, file)
    )
    assert [len(row) for row in ours] == [3, 3, 3]
    assert theirs == [pytest.approx(row, abs=1e-4) for row in ours]
    inside = json.loads(scalablevit("validate", file, "--json").out)
    moved = shutil.move(file, tmp_path / file.name)
    shutil.copytree(labelled, tmp_path / "data")
    outside = scalablevit("validate", moved, "--json", "--data.root", tmp_path / "data")
    assert outside.code == 0, outside.err
    assert set(json.loads(outside.out)) == set(inside) == {"val/loss", "val/mAP", "val/macro_f1", "val/micro_f1"}
    own = json.loads(scalablevit("validate", run, "--json").out)
    assert inside == pytest.approx({name: own[name] for name in inside}, abs=1e-4)
