"""`fit --checkpoint-every`: a run that is killed within an epoch ends, once resumed, with the same bits."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_runs import SMALL, assert_same_result, fit, words_of, write_images

from command_line import scalablevit
from scalablevit.training.module import TrainingModule
from scalablevit.visualization.metrics_file import read_metrics


class Killed(BaseException):
    """What ends a run without a chance to save."""


def kill_at_batch(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """Let a run end at the start of its `batch`-th training batch, once, as SIGKILL would."""
    original, begun = TrainingModule.on_train_batch_start, []

    def and_kill(self: TrainingModule, *args: Any) -> None:
        begun.append(True)
        if len(begun) == batch:
            raise Killed
        original(self, *args)

    monkeypatch.setattr(TrainingModule, "on_train_batch_start", and_kill)


@pytest.mark.slow
def test_a_killed_run_with_all_of_it_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accumulation, averaged weights, MESA and mixing; 18 images, batches of 2, steps of 4."""
    data = write_images(tmp_path / "data")
    words = ("--data.batch_size=2", "--model.global_batch=4", "--model.ema_decay=0.9", "--model.mesa.start=0.1")
    fit(data, tmp_path / "whole", *words)
    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        kill_at_batch(patch, 14)
        with pytest.raises(Killed):
            fit(data, cut, *words, "--checkpoint-every", "2 steps", "--keep-checkpoints", "1")
    assert yaml.safe_load((cut / "recipe.yaml").read_text())["checkpoint_every"] == "2 steps"
    saved = torch.load(cut / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 6  # within the second epoch, which begins at step 4
    assert [path.name for path in (cut / "checkpoints").glob("step-*")] == ["step-6.ckpt"]
    (cut / "checkpoints" / ".last.ckpt.abcd_123.tmp").write_bytes(bytes(2_000_000))
    outcome = scalablevit("fit", "--resume", cut, "--checkpoint-every", "1h")
    assert outcome.code == 0, outcome.err
    assert f"removed 1 unfinished file of 2.0 MB that killed writes left in {cut}" in outcome.err
    assert "changed     checkpoint_every: 2 steps -> 1h" in outcome.out
    assert_same_result(cut, tmp_path / "whole")
    timed = json.loads((tmp_path / "whole" / "timing.json").read_text())["epochs"][-1]
    row = read_metrics(tmp_path / "whole" / "metrics.csv")[-1]
    assert row["images_per_second"] == pytest.approx(16 / timed["training_seconds"], rel=0.2)
    assert 0 < row["data_wait"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("spoil", ["truncate", "folder"])
def test_the_command_that_a_damaged_checkpoint_names_works(
    spoil: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run, words = write_images(tmp_path / "data"), tmp_path / "run", ("--checkpoint-every", "3steps")
    with monkeypatch.context() as patch:
        kill_at_batch(patch, 8)  # in the second of two epochs of 4 batches
        with pytest.raises(Killed):
            fit(data, run, *words, "--keep-checkpoints", "1")
    last = run / "checkpoints" / "last.ckpt"
    if spoil == "folder":
        last.unlink()
        last.mkdir()
    else:
        last.write_bytes(last.read_bytes()[:5000])
    outcome = scalablevit("fit", "--resume", run)
    assert outcome.code == 1
    assert "is whole (step" in outcome.err
    command = outcome.err.partition("to resume from it: ")[2].partition(". Whole too: ")[0].strip()
    again = scalablevit(*words_of(command))
    assert again.code == 0, again.err
    assert "last.ckpt is kept as" in again.out
    assert last.is_file()
    fit(data, tmp_path / "whole")
    assert_same_result(run, tmp_path / "whole")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--checkpoint-every", "0m"), "must be a time above 0, at most 366d; got '0m'"),
        (("--checkpoint-every", "-1steps"), "must be a whole number of steps, at least 1; got '-1steps'"),
        (("--checkpoint-every",), "--checkpoint-every needs a value"),
        (("--keep-checkpoints", "--seed", "3"), "--keep-checkpoints needs a value"),
        (("--checkpoint-every", "10"), "it lacks a unit"),
        (("--checkpoint-every", "ten minutes"), "got 'ten minutes': it is neither"),
        (("--keep-checkpoints", "-1"), "--keep-checkpoints (keep_checkpoints) must be 0 to 10,000, got -1"),
        (("--logger", "wandbb"), "there is no 'wandbb'; did you mean wandb?"),
        (("--logger", "no_such_package.Logger"), "there is no module no_such_package"),
        (("--trainer.logger", "true", "--logger", "neptune"), "Neptune was shut down"),
    ],
)
def test_values_that_cannot_be_are_named(words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    outcome = scalablevit(
        "fit", "--config", "train_folder", *SMALL, "--data.root", data, "--run", tmp_path / "r", *words
    )
    assert outcome.code == (2 if "needs a value" in said else 1)
    assert said in outcome.err
    assert not (tmp_path / "r").exists()
