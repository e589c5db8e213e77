"""What people type out of habit gets what was meant, or one line that says how."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from untrained import write_classifier

from command_line import scalablevit
from scalablevit.bench import throughput
from scalablevit.cli.entry import COMMANDS, module_of
from scalablevit.cli.familiar import KEYS
from scalablevit.cli.run_words import split
from scalablevit.cli.words import device

RUN = ("--run", "--resume")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "there is no command 'train'; train with scalablevit fit --config"),
        (["val", "x"], "scalablevit validate RUN"),
        (["test"], "scalablevit validate RUN"),
        (["eval"], "scalablevit validate RUN"),
        (["detect", "a.jpg"], "scalablevit predict IMAGE ... --weights RUN"),
        (["resume"], "scalablevit fit --resume RUN"),
        (["fti"], "did you mean fit?"),
        (["--epochs", "3", "fit", "--config", "digits"], "scalablevit fit --epochs 3 --config digits"),
        (["--config", "digits"], "the command comes first: scalablevit fit --config digits"),
        (["--lr", "3"], "the command comes first: scalablevit COMMAND --lr"),
        (["predict", "a.jpg", "--weights", "w", "--conf", "0.3"], "no flag --conf; use --threshold"),
        (["predict", "--source", "a.jpg"], "name it without a flag: scalablevit predict IMAGE"),
        (["predict", "a.jpg", "--model", "w"], "no flag --model; use --weights"),
        (["predict", "a.jpg", "--batch", "2"], "no flag --batch; use --batch-size"),
        (["predict", "a.jpg", "--treshold", "2"], "no flag --treshold; did you mean --threshold?"),
        (["check-data", "--data", "x"], "name it without a flag: scalablevit check-data"),
        (["check-data", "x", "--val-fracton", "1"], "did you mean --val-fraction?"),
        (["info", "--imgsz", "3"], "no flag --imgsz; use --size"),
        (["info", "--num-classes", "3"], "no flag --num-classes; use --classes"),
        (["bench", "--batch-size", "3"], "no flag --batch-size; use --batch"),
        (["recipes", "--lst"], "scalablevit recipes has no flag --lst"),
        (["fit", "--batch-siz", "3"], "there is no key --batch-siz; did you mean --batch-size?"),
        (["fit", "--resum=runs/a"], "there is no key --resum; did you mean --resume?"),
        (["validate", "run", "--checkpont", "x"], "there is no key --checkpont; did you mean --checkpoint?"),
        (["fit", "nothing"], "'nothing' is not understood"),
        (["validate", "--json"], "the run folder comes first"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line_says_how(words: list[str], message: str) -> None:
    outcome = scalablevit(*words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("scalablevit: error: ")
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("command", [name for name in COMMANDS if hasattr(module_of(name), "parser")])
def test_every_command_names_the_nearest_flag(command: str) -> None:
    flag = max(module_of(command).parser().flags(), key=len)
    outcome = scalablevit(command, flag[:-1] + "x")
    assert outcome.code == 2
    assert f"did you mean {flag}?" in outcome.err


def test_short_flags_of_fit() -> None:
    words = [
        "--lr",
        "1e-3",
        "--batch-size=8",
        "--batch_size",
        "4",
        "--weights",
        "W",
        "--data",
        "images",
        "--device=gpu",
    ]
    assert split(words, values=RUN).keys == [
        *("--model.optimizer.lr", "1e-3", "--data.batch_size=8", "--data.batch_size", "4", "--model.weights", "W"),
        *("--data.root", "images", "--trainer.accelerator", "gpu"),
    ]
    keys = ["--data", "scalablevit.detection.CocoData", "--model", "scalablevit_small", "--device", "0,1"]
    expected = ["--data", keys[1], "--model.variant", keys[3], "--trainer.devices", "0,1"]
    assert split(keys, values=RUN).keys == expected
    assert split(["--model.seed", "1"], values=RUN).keys == ["--model.seed", "1"]
    assert all(flag.startswith("--") and key.count(".") <= 2 for flag, key in KEYS.items())


class TrainingError(ValueError):
    """Ends a command where training would begin."""


@pytest.fixture
def trained_with(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Arguments of `TrainingCommand`, which does nothing."""
    calls: list[Any] = []

    def take(self: object, verb: str, recipes: list[Path], keys: list[str], **options: Any) -> None:
        calls.append((verb, [path.name for path in recipes], keys, options))
        raise TrainingError("taken")

    monkeypatch.setattr("scalablevit.training.command.TrainingCommand.__init__", take)
    return calls


@pytest.fixture
def a_run(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("recipe.yaml", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "model.safetensors"):
        (run / name).touch()
    return run


def test_a_file_whose_name_begins_with_a_dash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-x.png").touch()
    outcome = scalablevit("predict", "-x.png", "--weights", "w")
    assert outcome.code == 2
    assert "-x.png is taken for a flag; to name the file, write ./-x.png" in outcome.err


@pytest.mark.parametrize("part", ["checkpoints", "checkpoints/last.ckpt", "recipe.yaml"])
@pytest.mark.parametrize("command", ["info", "export", "bench"])
def test_a_part_of_a_run_names_the_run(command: str, part: str, a_run: Path) -> None:
    outcome = scalablevit(command, a_run / part)
    assert outcome.code == 1
    assert f"{a_run / part} is a part of a run; name the run: {a_run}" in outcome.err


def test_predicting_names_the_run_of_a_checkpoint(tmp_path: Path) -> None:
    run = write_classifier(tmp_path / "run", ["a", "b"])
    (run / "checkpoints").mkdir()
    torch.save({}, run / "checkpoints" / "last.ckpt")
    outcome = scalablevit("predict", tmp_path, "--weights", run / "checkpoints" / "last.ckpt")
    assert f"last.ckpt is a checkpoint to resume from; predicting takes its run: {run}" in outcome.err


def test_the_folder_of_checkpoints_stands_for_its_run(trained_with: list[Any], a_run: Path) -> None:
    scalablevit("fit", "--resume", a_run / "checkpoints")
    scalablevit("validate", a_run / "checkpoints")
    assert [call[3]["run"] for call in trained_with] == [a_run, a_run]


def test_a_run_is_no_data(a_run: Path) -> None:
    outcome = scalablevit("check-data", a_run)
    assert outcome.code == 2
    assert f"{a_run} is a run, not data" in outcome.err


def test_a_run_resumes_by_its_last_checkpoint(trained_with: list[Any], a_run: Path) -> None:
    scalablevit("fit", "--resume", a_run / "checkpoints" / "last.ckpt")
    assert trained_with[0][3]["run"] == a_run
    assert trained_with[0][3]["checkpoint"] is None
    best = a_run / "checkpoints" / "best.ckpt"
    scalablevit("fit", "--resume", best)
    assert (trained_with[1][3]["run"], trained_with[1][3]["checkpoint"]) == (a_run, best)
    other = scalablevit("fit", "--resume", a_run / "model.safetensors")
    assert other.code == 1
    assert "--resume RUN" in other.err
    assert "--model.weights" in other.err


def test_a_recipe_may_be_named_without_a_flag(trained_with: list[Any], a_run: Path) -> None:
    scalablevit("fit", "digits", "--epochs", "1")
    assert trained_with[0][1:3] == (["digits.yaml"], ["--trainer.max_epochs", "1"])
    assert f"scalablevit fit --resume {a_run}" in scalablevit("fit", a_run).err
    assert f"--config train_folder --data.root {a_run.parent}" in scalablevit("fit", a_run.parent).err


def test_runs_to_validate_may_be_named_as_elsewhere(trained_with: list[Any], a_run: Path) -> None:
    best, last = a_run / "checkpoints" / "best.ckpt", a_run / "checkpoints" / "last.ckpt"
    for words, checkpoint in (
        ((a_run,), best),
        (("--weights", a_run), best),
        (("--weights", a_run / "model.safetensors"), best),
        ((last,), last),
        (("--checkpoint", last), last),
        ((a_run, "--weights", last), last),
        ((a_run, "--ckpt", last), last),
    ):
        trained_with.clear()
        scalablevit("validate", *words)
        assert [(call[3]["run"], call[3]["checkpoint"]) for call in trained_with] == [(a_run, checkpoint)], words


@pytest.mark.slow
def test_info_and_bench_take_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_classifier(tmp_path / "run", ["cat", "dog", "\x1b[31mred"])
    told = scalablevit("info", run, "--json")
    (variant, cost), *_ = json.loads(told.out).items()
    assert variant == "scalablevit_atto"
    expected = json.loads(scalablevit("info", "scalablevit_atto", "--classes", "3", "--json").out)["scalablevit_atto"]
    assert cost["parameters"] == expected["parameters"]
    assert r"3 classes (cat, dog, \x1b[31mred)" in told.err
    monkeypatch.setattr(throughput, "prepare", lambda *args, **options: lambda: None)
    words = ("--size", "32", "--batch", "1", "--rounds", "2", "--warm-up", "1", "--device", "cpu")
    measured = scalablevit("bench", run, *words)
    assert measured.code == 0, measured.err
    assert "scalablevit_atto" in measured.out


def test_device_gpu() -> None:
    assert (device("gpu"), device("cuda:1"), device("cpu")) == ("cuda", "cuda:1", "cpu")
