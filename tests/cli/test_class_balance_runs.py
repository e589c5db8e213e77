"""Runs that count rare classes more resume to the bit, as others do."""

from pathlib import Path

import pytest
from tiny_runs import assert_same_result, fit, stop_at_batch, write_images

from command_line import scalablevit


@pytest.mark.slow
def test_weights_of_classes_focal_loss_and_balanced_sampling_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9, 6 and 3 images of the classes; stopped within the second epoch."""
    data = write_images(tmp_path / "data", num_train=9)
    for number, name in ((6, "grün"), (3, "red")):
        for path in sorted((data / "train" / name).iterdir())[number:]:
            path.unlink()
    words = ("--model.class_weights", "[1.0,1.5,2.0]", "--model.focal_gamma", "2.0", "--data.sampling", "balanced")
    fit(data, tmp_path / "whole", *words)
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 7)
        with pytest.raises(AssertionError):
            fit(data, tmp_path / "cut", *words)
    assert not (tmp_path / "cut" / "model.safetensors").exists()
    resumed = scalablevit("fit", "--resume", tmp_path / "cut")
    assert resumed.code == 0, resumed.err
    assert_same_result(tmp_path / "whole", tmp_path / "cut")
    assert "corrects twice" not in resumed.err
