"""Runs with a teacher and with MESA: they resume to the bit, with the same teacher alone; ranks share its images."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch
from tiny_runs import SMALL, assert_same_result, fit, stop_at_batch, weights_of, write_images

from command_line import scalablevit
from run_metrics import learned_by
from scalablevit.training.teacher import Teacher

# Of each rank: a line for each image that the teacher is shown.
RECORDING = """
import os, sys, zlib
from pathlib import Path
from scalablevit.cli import main
from scalablevit.training.teacher import Teacher
view = Teacher.view
def recorded(self, images):
    shown = view(self, images)
    with open(os.environ["SHOWN"] + os.environ.get("LOCAL_RANK", "0"), "a") as file:
        file.writelines(f"{zlib.crc32(image.numpy().tobytes())}\\n" for image in shown)
    return shown
Teacher.view = recorded
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), num_train=8)


@pytest.fixture(scope="module")
def taught(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to learn from."""
    run = tmp_path_factory.mktemp("teacher") / "teacher"
    fit(data, run, epochs=1)
    return run


def words(teacher: Path) -> tuple[str, ...]:
    return (
        f"--model.teacher.name={teacher}",
        "--model.teacher.temperature=2",
        "--model.teacher.pooled_weight=1",
        "--model.teacher.dense_weight=1",
        "--model.teacher.size=24",
        "--model.ema_decay=0.9",
        "--model.mesa.start=0.3",
        "--model.mixup.prob=1",
    )


@pytest.mark.slow
def test_a_taught_run_resumes_to_the_bit_with_its_teacher_alone(
    data: Path, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve steps; stopped in the eighth, when the average teaches since the fifth."""
    said = fit(data, tmp_path / "whole", *words(taught)).out
    assert "M parameters" in said.partition("teacher  ")[2].splitlines()[0]
    assert "from 30% of the run on the averaged weights teach" in said
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 8)
        with pytest.raises(AssertionError):
            fit(data, cut, *words(taught))
    stored = torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["taught_by"]["name"] == str(taught)
    own = {name.split(".")[0] for name in (*stored["state_dict"], *stored["current_model_state"])}
    assert own == {"network", "distillation"}
    assert sum(name.startswith("distillation.") for name in stored["state_dict"]) == 4

    other = tmp_path / "other"
    fit(data, other, "--seed", "3", epochs=1)
    refused = scalablevit("fit", "--resume", cut, "--model.teacher.name", other)
    assert refused.code == 1
    assert "other is not the teacher that the run was trained with" in refused.err
    refused = scalablevit("fit", "--resume", cut, "--model.teacher", "null")
    assert refused.code == 1
    assert "model.teacher" in refused.err

    moved = taught.rename(tmp_path / "moved")
    refused = scalablevit("fit", "--resume", cut)
    assert refused.code == 1
    assert str(taught) in refused.err
    try:
        resumed = scalablevit("fit", "--resume", cut, "--model.teacher.name", moved)
    finally:
        moved.rename(taught)
    assert resumed.code == 0, resumed.err
    assert_same_result(tmp_path / "whole", cut)
    assert not any(name.startswith("distillation") for name in weights_of(cut))
    validated = scalablevit("validate", cut, "--json")
    assert validated.code == 0, validated.err
    assert "WeightAveraging" not in validated.err


@pytest.mark.slow
def test_the_average_teaches_from_its_share_on(data: Path, tmp_path: Path) -> None:
    """A run in which it begins late equals one without, up to there."""
    fit(data, tmp_path / "without", "--model.ema_decay=0.9")
    fit(data, tmp_path / "late", "--model.ema_decay=0.9", "--model.mesa.start=0.99")
    fit(data, tmp_path / "half", "--model.ema_decay=0.9", "--model.mesa.start=0.5")
    rows = {name: learned_by(tmp_path / name) for name in ("without", "half")}
    assert rows["without"][0] == rows["half"][0]
    assert rows["without"][1] != rows["half"][1]
    assert_same_result(tmp_path / "without", tmp_path / "late")


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_two_processes_show_the_teacher_the_same_images_as_one(
    data: Path, taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--model.teacher.name", taught, "--model.ema_decay", "0.9", "--model.mesa.start", "0"]
    common += ["--model.drop_path_rate", "0", "--threads", "1"]
    alone, shown = tmp_path / "one", []
    view = Teacher.view

    def recorded(self: Teacher, images: torch.Tensor) -> torch.Tensor:
        made = view(self, images)
        shown.extend(str(zlib.crc32(image.numpy().tobytes())) for image in made)
        return made

    monkeypatch.setattr(Teacher, "view", recorded)
    fit(data, alone, *common, epochs=1)

    script, run = tmp_path / "recording.py", tmp_path / "two"
    script.write_text(RECORDING)
    words = ["fit", "--config", "train_folder", *SMALL, "--data.root", data, "--run", run, "--epochs", "1", *common]
    result = subprocess.run(
        [sys.executable, str(script), *map(str, words), "--devices", "2", "--data.batch_size", "2"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "SHOWN": str(tmp_path / "shown-")},
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    ranks = [(tmp_path / f"shown-{rank}").read_text().split() for rank in (0, 1)]
    assert len(shown) == 24
    # ranks take turns in the one common order
    assert [image for together in zip(*ranks, strict=True) for image in together] == shown
    expected, found = weights_of(alone), weights_of(run)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("recipe", ["demo_detection", "demo_segmentation"])
@pytest.mark.parametrize("key", ["teacher.name", "mesa.start"])
def test_dense_tasks_say_that_they_have_no_teacher(recipe: str, key: str, tmp_path: Path) -> None:
    refused = scalablevit("fit", "--config", recipe, f"--model.{key}", "1", "--data.root", tmp_path / "none")
    assert refused.code == 1
    assert f"there is no key model.{key}; classification alone learns from a teacher" in refused.err
