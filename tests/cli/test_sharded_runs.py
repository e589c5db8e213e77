"""FSDP2: a run goes on from DDP's checkpoint, and DDP from its; averages and the optimizer's state come along."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import SMALL, weights_of, write_images

SCRIPT = Path(__file__).with_name("ranks_that_end.py")


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_a_run_changes_between_ddp_and_fsdp2(tmp_path: Path) -> None:
    """5 images a class to validate: two batches on one rank, and one with fewer on the other."""
    data = write_images(tmp_path / "data", num_train=11, num_val=3)

    def case(name: str, run: str, *words: str) -> dict[str, object]:
        return {"name": name, "rank": 0, "words": [*words, "--trainer.num_sanity_val_steps", "0"]}

    def new(run: str, epochs: int) -> list[str]:
        common = ["--config", "train_folder", *SMALL, "--data.root", str(data), "--run", str(tmp_path / run)]
        common += ["--model.ema_decay", "0.9", "--threads", "1", "--trainer.gradient_clip_val", "1"]
        return [*common, "--epochs", str(epochs), "--model.schedule.name", "constant"]

    resumed = ["--resume", str(tmp_path / "turns")]
    cases = [
        case("whole", "whole", *new("whole", 3)),
        case("ddp", "turns", *new("turns", 1)),
        case("fsdp2", "turns", *resumed, "--epochs", "2", "--trainer.strategy", "fsdp2"),
        case("ddp again", "turns", *resumed, "--epochs", "3", "--trainer.strategy", "ddp"),
    ]
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    words = [sys.executable, str(SCRIPT), str(tmp_path / "cases.json"), str(tmp_path / "results.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    for name, result in results.items():
        assert result["codes"] == [0, 0], name + "\n".join(result["err"])
    turns, whole = (torch.load(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("turns", "whole"))
    assert turns["global_step"] == whole["global_step"] == 12
    for part in ("state_dict", "current_model_state"):  # the averaged weights, and those in training
        for name, value in whole[part].items():
            torch.testing.assert_close(turns[part][name], value, rtol=1e-4, atol=1e-6, msg=f"{part} {name}")
    ours, theirs = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (turns, whole))
    assert ours.keys() == theirs.keys()
    for key, moments in theirs.items():
        torch.testing.assert_close(ours[key]["exp_avg"], moments["exp_avg"], rtol=1e-3, atol=1e-7)
    assert weights_of(tmp_path / "turns").keys() == weights_of(tmp_path / "whole").keys()
