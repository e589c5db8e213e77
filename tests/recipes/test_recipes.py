"""Every packaged recipe, made tiny, trains, stops, resumes to the same result and predicts.

The numbers of the published ones are those of the paper.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_runs import SMALL, assert_same_result, scalablevit, stop_at_batch, write_pictures

from scalablevit.recipes import find_recipe, recipe_names, recipe_text, recipe_title


def resolved(name: str, *words: str) -> dict[str, Any]:
    """The recipe with every value, as LightningCLI reads it."""
    printed = scalablevit("fit", "--config", name, "--print_config", *words)
    assert printed.code == 0, printed.err
    return yaml.safe_load(printed.out)


@pytest.mark.parametrize(("size", "drop_path"), [("small", 0.2), ("base", 0.5), ("large", 0.5)])
def test_imagenet_recipes_are_the_published_ones(size: str, drop_path: float) -> None:
    recipe = resolved(f"imagenet_{size}")
    model, data, trainer = recipe["model"]["init_args"], recipe["data"]["init_args"], recipe["trainer"]
    assert model["variant"] == f"scalablevit_{size}"
    assert model["drop_path_rate"] == drop_path
    assert model["head"] == "published"
    assert model["scale_value"] is False
    assert model["window_size"] == 7
    assert model["weights"] is None
    assert model["global_batch"] == 1024
    assert model["label_smoothing"] == 0.1
    assert model["ema_decay"] is None
    assert model["mixup"] == {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5}
    assert model["optimizer"] == {
        "lr": 1e-3, "lr_batch": 1024, "weight_decay": 0.05, "betas": [0.9, 0.999], "eps": 1e-8,
        "layer_decay": None,
    }  # fmt: skip
    schedule = model["schedule"]
    assert (schedule["name"], schedule["warmup_epochs"], schedule["warmup_steps"]) == ("cosine", 5.0, None)
    assert (schedule["warmup_lr"], schedule["min_lr"]) == (1e-6, 1e-5)
    assert data["image_size"] == 224
    assert data["crop_ratio"] == 0.875
    assert data["interpolation"] == "bicubic"
    assert (data["in_chans"], data["mean"], data["std"]) == (3, None, None)
    assert data["augmentation"] == {
        "scale": [0.08, 1.0], "ratio": [0.75, pytest.approx(4 / 3)], "hflip_prob": 0.5, "vflip_prob": 0.0,
        "rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.4, "grayscale_prob": 0.0,
        "erasing_prob": 0.25, "erasing_mode": "pixel", "erasing_count": 1,
    }  # fmt: skip
    assert trainer["max_epochs"] == 300
    assert trainer["gradient_clip_val"] == 5.0
    assert trainer["gradient_clip_algorithm"] in (None, "norm")
    assert 1024 % data["batch_size"] == 0


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_is_for(name: str) -> None:
    header = recipe_text(name).split("\nmodel:")[0]
    assert len(recipe_title(name)) > 20
    for word in ("# hardware", "# expected", "# command", f"scalablevit fit --config {name}"):
        assert word in header
    assert find_recipe(name).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_trains_stops_resumes_and_predicts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs of two steps; stopped after the first."""
    data = write_pictures(tmp_path / "data", num_train=3, num_val=2)
    recipe = resolved(name)
    words = ["fit", "--config", name, *SMALL, "--data.root", data, "--epochs", "2"]
    # the recipe's warm-up is longer than the run
    words += ["--model.schedule.warmup_steps", "1", "--model.schedule.min_lr", "0"]
    words += ["--model.schedule.warmup_lr", "0"]
    if recipe["model"]["init_args"]["global_batch"] is not None:
        words += ["--model.global_batch", "8"]
    if recipe["model"]["init_args"]["optimizer"]["layer_decay"] is not None:
        start = scalablevit("fit", "--config", "train_folder", *SMALL, "--data.root", data, "--epochs", "1",
                            "--run", tmp_path / "start")  # fmt: skip
        assert start.code == 0, start.err
        words += ["--model.weights", tmp_path / "start"]
    whole = scalablevit(*words, "--run", tmp_path / "whole")
    assert whole.code == 0, whole.err
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 3)
        stopped = scalablevit(*words, "--run", tmp_path / "cut")
    assert stopped.code == 130, stopped.err
    resumed = scalablevit("fit", "--resume", tmp_path / "cut")
    assert resumed.code == 0, resumed.err
    assert_same_result(tmp_path / "cut", tmp_path / "whole")
    predicted = scalablevit("predict", data / "val", "--weights", tmp_path / "cut")
    assert predicted.code == 0, predicted.err


def test_the_built_in_digits_train(tmp_path: Path) -> None:
    words = ("fit", "--config", "digits", "--data.root", tmp_path / "digits", "--trainer.accelerator", "cpu")
    limits = ("--epochs", "1", "--trainer.limit_train_batches", "2", "--data.batch_size", "16")
    outcome = scalablevit(*words, *limits, "--run", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "training    1,438 pictures" in outcome.out
