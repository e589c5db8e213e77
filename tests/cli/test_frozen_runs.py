"""Runs with a frozen backbone: it stays as it came, and interrupted runs resume to the bit."""

from pathlib import Path

import pytest
import torch
from tiny_runs import assert_same_result, fit, stop_at_batch, weights_of, write_images

from command_line import scalablevit


@pytest.mark.slow
def test_a_frozen_backbone_stays_and_one_that_is_released_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eighteen images: five steps an epoch; stopped in the frozen epoch's fourth."""
    data, start = write_images(tmp_path / "data"), tmp_path / "start"
    warned = fit(data, start, "--model.freeze.stages=1", epochs=1).err
    assert "model.freeze keeps layers as they were initialised: give weights" in warned
    said = fit(data, tmp_path / "probe", f"--model.weights={start}", "--model.freeze", "{}", epochs=1)
    assert "frozen      the backbone, 0.6 M parameters, in the whole run" in said.out
    assert "model.freeze" not in said.err
    before, after = weights_of(start), weights_of(tmp_path / "probe")
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"head"}

    words = (f"--model.weights={start}", "--model.freeze.epochs=1", "--model.freeze.stages=2")
    fit(data, tmp_path / "whole", *words)
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 4)
        with pytest.raises(AssertionError):
            fit(data, tmp_path / "cut", *words)
    refused = scalablevit("fit", "--resume", tmp_path / "cut", "--model.freeze.epochs", "2")
    assert refused.code == 1
    assert "--resume cannot change model.freeze.epochs from 1 to 2" in refused.err
    resumed = scalablevit("fit", "--resume", tmp_path / "cut")
    assert resumed.code == 0, resumed.err
    assert_same_result(tmp_path / "whole", tmp_path / "cut")
    whole = weights_of(tmp_path / "whole")
    assert not torch.equal(whole["stages.0.patch_embed.proj.weight"], before["stages.0.patch_embed.proj.weight"])
