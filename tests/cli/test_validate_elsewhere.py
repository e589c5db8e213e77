"""A finished run is evaluated on a folder that has no validation part, and lacks one of the classes."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from tiny_runs import CLASSES

from command_line import output_of as scalablevit
from scalablevit.classification import Classifier
from scalablevit.classification.predict import Prediction
from scalablevit.data.images import read_image


def predicted(run: Path, files: list[Path]) -> list[Prediction]:
    return list(Classifier.load(run, device="cpu").predict(files, top=len(CLASSES)))


@pytest.mark.parametrize("place", [".", "train", "val"])
def test_all_images_are_measured_as_predict_sees_them(run: Path, tmp_path: Path, place: str) -> None:
    """The classes that are there come in another order than the network's: "grün" is lacking."""
    rng, targets = np.random.default_rng(0), {}
    for name in ("red", "blue sky"):
        folder = tmp_path / "other" / place / name
        folder.mkdir(parents=True)
        for i in range(7 if name == "red" else 4):
            Image.fromarray(rng.integers(0, 256, (20, 18, 3), dtype=np.uint8)).save(folder / f"{i}.png")
            targets[folder / f"{i}.png"] = CLASSES.index(name)
    out, err = scalablevit("validate", run, "--data.root", tmp_path / "other", "--json")
    assert "validation  11 images" in err
    assert "evaluated   11 images" in err
    assert "1 of 3 classes have no images: 'grün'; their accuracy is not measured" in err
    found = [dict(zip(p.classes, p.probabilities, strict=True)) for p in predicted(run, list(targets))]
    scores = np.array([[one[name] for name in CLASSES] for one in found])
    expected, measured = np.array(list(targets.values())), json.loads(out)
    assert measured["val/top1"] == pytest.approx((scores.argmax(1) == expected).mean(), abs=1e-6)
    loss = -np.log(scores[np.arange(len(expected)), expected]).mean()
    assert measured["val/loss"] == pytest.approx(loss, rel=1e-4)


def test_a_run_is_evaluated_at_a_larger_size(run: Path, image_folder: Path) -> None:
    """As published networks are: trained at one size, tested at a larger one with more of the image."""
    out, err = scalablevit("validate", run, "--data.image_size", "24", "--data.crop_ratio", "1.0", "--json")
    assert "input       3 x 24 x 24" in err
    classifier = Classifier.load(run, device="cpu")
    transform = replace(classifier.preprocessing, image_size=(24, 24), crop_ratio=1.0).eval_transform()
    losses = []
    for k, name in enumerate(CLASSES):
        for file in sorted((image_folder / "val" / name).iterdir()):
            with torch.no_grad():
                logits = classifier.network(transform(read_image(file))[None])
            losses.append(F.cross_entropy(logits, torch.tensor([k])).item())
    assert json.loads(out)["val/loss"] == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.slow
def test_a_run_that_validated_on_some_batches_is_evaluated_on_all(run: Path, tmp_path: Path) -> None:
    """`export --int8` measures by the same command: a loss on two batches would say nothing.

    Processes of their own: another library's `Optional[Union[float, int]]`, where it comes first in a process, has
    Python's typing read the Trainer's `1` batch as 1.0, all of them.
    """
    short = shutil.copytree(run, tmp_path / "short")
    recipe = yaml.safe_load((short / "recipe.yaml").read_text())

    def validate(*words: str) -> str:
        command = [sys.executable, "-m", "scalablevit", "validate", str(short), "--json", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results.append(json.loads(done.stdout))
        return done.stderr

    results = [json.loads(scalablevit("validate", run, "--json")[0])]
    for limits in ({"limit_val_batches": 1}, {"overfit_batches": 1, "limit_val_batches": 0.5, "fast_dev_run": True}):
        changed = {**recipe, "trainer": {**recipe["trainer"], **limits}}
        (short / "recipe.yaml").write_text(yaml.safe_dump(changed))
        err = validate()
        assert results[-1] == results[0]
        for name in limits:
            assert f"the run was trained with trainer.{name}" in err
        assert "all validation images are evaluated" in err
        assert "evaluated   9 images" in err
    changed = {**recipe, "trainer": {**recipe["trainer"], "fast_dev_run": True}}
    (short / "recipe.yaml").write_text(yaml.safe_dump(changed))
    err = validate("--trainer.limit_val_batches", "1", "--trainer.fast_dev_run", "false")
    assert "evaluated   4 images" in err
    (tmp_path / "less.yaml").write_text("trainer: {limit_val_batches: 2, fast_dev_run: false}\n")
    err = validate("--config", str(tmp_path / "less.yaml"))
    assert "evaluated   8 images" in err
    assert "was trained with" not in err
