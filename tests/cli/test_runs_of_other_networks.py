"""Runs of networks of timm's registry, from the command line."""

import json
from pathlib import Path

import pytest
from tiny_runs import SMALL, assert_same_result, fit, stop_at_batch, weights_of, write_images

from command_line import scalablevit
from scalablevit.weights import read_metadata


@pytest.mark.slow
def test_a_run_of_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fit with averaging and layer decay, stop and resume to the bit, validate, predict, start from its weights."""
    data = write_images(tmp_path / "data")
    words = ["--model.variant=test_efficientnet", "--data.image_size=32", "--model.ema_decay=0.9"]
    words += ["--model.optimizer.layer_decay=0.7"]
    run, stopped = tmp_path / "run", tmp_path / "stopped"
    outcome = fit(data, run, *words)
    assert "test_efficientnet" in outcome.out
    assert "model.window_size 2 has no effect" in outcome.err
    stop_at_batch(monkeypatch, 6)
    begun = scalablevit(
        *("fit", "--config", "train_folder", *SMALL, "--data.root", data, "--run", stopped),
        *("--epochs", "2", *words),
    )
    assert begun.code != 0
    assert not (stopped / "model.safetensors").exists()
    monkeypatch.undo()
    assert scalablevit("fit", "--resume", stopped).code == 0
    assert_same_result(run, stopped)
    assert read_metadata(run)["model_args"]["num_classes"] == 3
    validated = scalablevit("validate", "--run", run)
    results = json.loads((run / "results.json").read_text())
    assert f"{results['top1']:.4f}" in validated.out
    predicted = scalablevit("predict", data / "val" / "red", "--weights", run)
    assert predicted.code == 0
    assert "pic 0.png" in predicted.out
    tuned = fit(data, tmp_path / "tuned", *words, "--model.weights", run, epochs=1)
    assert "tensors matched" in tuned.out
    assert weights_of(tmp_path / "tuned").keys() == weights_of(run).keys()
