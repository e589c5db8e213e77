"""Runs of segmenters on networks of timm's registry."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from test_segmentation_fit import write_folder, write_recipe

from command_line import output_of as scalablevit
from scalablevit.weights import read_metadata

SWIN = {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "window_size": 4}


@pytest.mark.slow
def test_a_run_on_swin(tmp_path: Path) -> None:
    """Maps of channels last, images of many sizes; resumed, it ends where it would have, to the bit."""
    data = write_folder(tmp_path / "data")
    recipe = write_recipe(
        tmp_path / "recipe.yaml",
        variant="swin_tiny_patch4_window7_224",
        network_options=SWIN,
        ema_decay=0.9,
        drop_path_rate=0.2,
        schedule={"name": "constant", "warmup_steps": 0},
    )
    run, resumed = tmp_path / "run", tmp_path / "resumed"
    words = ("fit", "--config", recipe, "--data.root", data)
    scalablevit(*words, "--run", run)
    scalablevit(*words, "--run", resumed, "--epochs", "1")
    scalablevit("fit", "--resume", resumed, "--epochs", "2")
    states = [safetensors.torch.load_file(folder / "model.safetensors") for folder in (run, resumed)]
    assert states[0].keys() == states[1].keys()
    assert [key for key in states[0] if not torch.equal(states[0][key], states[1][key])] == []
    metadata = read_metadata(run)
    assert metadata["model_args"]["network_options"] == SWIN
    assert "timm_version" in metadata
    out, _ = scalablevit("predict", data / "val" / "images", "--weights", run)
    assert "2.png" in out
    scalablevit("validate", run)
    out, _ = scalablevit(*words, "--run", tmp_path / "tuned", "--epochs", "1", "--model.weights", run)
    assert "tensors matched" in out
