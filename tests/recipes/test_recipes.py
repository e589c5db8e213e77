"""Every packaged recipe, made tiny, trains, stops, resumes to the same result and predicts.

The numbers of the published ones are those of the paper.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import yaml
from tiny_runs import SMALL, assert_same_result, stop_at_batch, write_images

from command_line import scalablevit
from scalablevit import recipes
from scalablevit.data.builtin.scene_folders import write_ade20k, write_coco
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
        "name": "adamw",
        "momentum": 0.95,
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


@pytest.mark.parametrize("name", ["imagenet_small_mesa", "imagenet_small_distilled"])
def test_further_imagenet_recipes_add_what_they_say_and_nothing_else(name: str) -> None:
    recipe, published = (yaml.safe_load(recipe_text(which)) for which in (name, "imagenet_small"))
    model = recipe["model"]["init_args"]
    if name.endswith("mesa"):
        assert model.pop("mesa") == {"start": 0.25, "weight": 1.0, "temperature": 3.0}
        assert model.pop("ema_decay") == 0.9998
    else:
        teacher = model.pop("teacher")
        assert teacher.pop("name") == "swin_large_patch4_window7_224.ms_in22k_ft_in1k"
        assert teacher == {"temperature": 1.0, "weight": 1.0, "label_weight": 1.0}
        for also in ("swin_large_patch4_window7_224.ms_in22k_ft_in1k", "regnety_160.deit_in1k"):
            assert timm.is_model_pretrained(also)
            assert also in recipe_text(name).partition("\nmodel:")[0]
    assert recipe == published
    for word in ("# evidence", "# to prove", "# expected   not known: 83.1 %"):
        assert word in recipe_text(name)


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_says_what_it_is_for(name: str) -> None:
    header = recipe_text(name).split("\nmodel:")[0]
    assert len(recipe_title(name)) > 20
    for word in ("# hardware", "# time", "# expected", "# command", f"scalablevit fit --config {name}"):
        assert word in header
    assert "TODO" not in header
    assert find_recipe(name).is_file()


SIZES = ("small", "base", "large")
DETECTORS = [f"{kind}_{{}}_{schedule}" for kind in ("retinanet", "mask_rcnn") for schedule in ("1x", "3x")]
SEGMENTERS = ["semantic_fpn_{}_ade20k", "upernet_{}_ade20k"]


@pytest.mark.parametrize("pattern", [*DETECTORS, *SEGMENTERS])
def test_dense_recipes_differ_in_their_variant_alone(pattern: str) -> None:
    recipes = [yaml.safe_load(recipe_text(pattern.format(size))) for size in SIZES]
    for size, recipe in zip(SIZES, recipes, strict=True):
        assert recipe["model"]["init_args"].pop("variant") == f"scalablevit_{size}"
    assert recipes[0] == recipes[1] == recipes[2]


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
@pytest.mark.parametrize(("schedule", "epochs", "milestones"), [("1x", 12, [8, 11]), ("3x", 36, [27, 33])])
def test_detection_recipes_are_the_published_ones(kind: str, schedule: str, epochs: int, milestones: list[int]) -> None:
    recipe = resolved(f"{kind}_small_{schedule}")
    model, data, trainer = recipe["model"]["init_args"], recipe["data"]["init_args"], recipe["trainer"]
    assert model["detector"] == kind
    assert model["drop_path_rate"] == 0.2
    assert model["global_batch"] == 16
    assert model["optimizer"] == {
        "lr": 1e-4, "lr_batch": 16, "weight_decay": 1e-4 if (kind, schedule) == ("retinanet", "1x") else 0.05,
        "betas": [0.9, 0.999], "eps": 1e-8, "layer_decay": None, "name": "adamw", "momentum": 0.95,
    }  # fmt: skip
    assert (model["schedule"]["name"], model["schedule"]["milestones"]) == ("multistep", milestones)
    assert (model["schedule"]["gamma"], model["schedule"]["warmup_steps"]) == (0.1, 500)
    assert model["detector_options"] is None
    assert (data["min_size"], data["max_size"], data["masks"]) == (800, 1333, kind == "mask_rcnn")
    assert data["keep_empty"] is False
    augmentation = data["augmentation"]
    assert augmentation["hflip_prob"] == 0.5
    if schedule == "1x":
        assert augmentation["sizes"] is None
        assert augmentation["crop_prob"] == 0
    else:
        assert augmentation["sizes"] == list(range(480, 801, 32))
        assert augmentation["crop_prob"] == 0.5
    assert trainer["max_epochs"] == epochs
    assert 16 % data["batch_size"] == 0


@pytest.mark.parametrize(
    ("kind", "steps", "lr", "weight_decay", "power", "warmup"),
    [("semantic_fpn", 80_000, 1e-4, 1e-4, 0.9, 0), ("upernet", 160_000, 6e-5, 0.01, 1.0, 1500)],
)
def test_segmentation_recipes_are_the_published_ones(
    kind: str, steps: int, lr: float, weight_decay: float, power: float, warmup: int
) -> None:
    recipe = resolved(f"{kind}_small_ade20k")
    model, data, trainer = recipe["model"]["init_args"], recipe["data"]["init_args"], recipe["trainer"]
    assert model["segmenter"] == kind
    assert model["segmenter_options"] is None
    assert model["auxiliary_weight"] == 0.4
    assert model["global_batch"] == 16
    assert (model["optimizer"]["lr"], model["optimizer"]["lr_batch"]) == (lr, 16)
    assert model["optimizer"]["weight_decay"] == weight_decay
    schedule = model["schedule"]
    assert (schedule["name"], schedule["power"], schedule["warmup_steps"]) == ("poly", power, warmup)
    assert schedule["min_lr"] == 0
    assert data["reduce_zero_label"] is True
    assert (data["crop_size"], data["short_side"], data["long_side"]) == (512, 512, 2048)
    augmentation = data["augmentation"]
    assert (augmentation["scale"], augmentation["cat_max_ratio"]) == ([0.5, 2.0], 0.75)
    assert (augmentation["hflip_prob"], augmentation["photometric_prob"]) == (0.5, 0.5)
    assert (trainer["max_steps"], trainer["max_epochs"]) == (steps, -1)
    assert steps % trainer["val_check_interval"] == 0
    assert trainer["sync_batchnorm"] is True


def task_of(name: str) -> str:
    return str(yaml.safe_load(recipe_text(name))["model"]["class_path"]).split(".")[1]


def one_of_each_size(name: str) -> bool:
    """Not the larger variants of recipes that differ in nothing else: made tiny, they are the same."""
    pattern = name.replace("_base_", "_{}_").replace("_large_", "_{}_")
    return pattern not in (*DETECTORS, *SEGMENTERS)


def tiny(name: str, data: Path) -> list[str | Path]:
    """Words that make a recipe small enough for a test, and write the data that it needs."""
    recipe = yaml.safe_load(recipe_text(name))["model"]["init_args"]
    dense = (
        "--model.variant=scalablevit_atto", "--model.window_size=2", "--data.batch_size=4", "--data.num_workers=0",
        "--precision=32-true", "--trainer.accelerator=cpu", "--trainer.sync_batchnorm=false",
        "--trainer.enable_progress_bar=true",
    )  # fmt: skip
    match task_of(name):
        case "classification":
            write_images(data, num_train=3, num_val=2)
            if name == "train_multi_label":
                files = sorted(path.relative_to(data) for path in data.rglob("*.png"))
                rows = [f"{path},{path.parent.name}|any,{path.parts[0]}" for path in files]
                (data / "labels.csv").write_text("\n".join(["file,labels,split", *rows]) + "\n")
            return [*SMALL]
        case "detection":
            # eleven: without empty scenes there are still two steps an epoch
            write_coco(data, num_train=11, num_val=2, size=(40, 56))
            options = {"anchor_sizes": [8, 16, 32, 64, 128], "fpn_channels": 16, "head_norm": True}
            if recipe["detector"] == "mask_rcnn":
                options |= {"box_head_channels": 16, "mask_channels": 16, "box_batch_size_per_image": 8}
            sizes = ["--data.min_size=32", "--data.max_size=48"]
            if recipe_text(name).count("sizes:"):
                sizes.append("--data.augmentation.sizes=[24,32]")
            return [*dense, *sizes, f"--model.detector_options={json.dumps(options)}"]
        case "pretraining":
            write_images(data, num_train=3, num_val=2)  # a labelled folder will do
            own = ["--model.mask_patch_size=4"] if "mask_patch_size" in recipe else []
            words = [word for word in SMALL if not word.startswith("--model.head")]
            return [*words, "--data.image_size=32", *own]
        case _:
            write_ade20k(data, num_train=8, num_val=2, size=(40, 56))
            channels = {"fpn_channels": 16} if recipe["segmenter"] == "semantic_fpn" else {"auxiliary_channels": 16}
            options = {"channels": 16, **channels}
            sizes = ["--data.crop_size=32", "--data.short_side=32", "--data.long_side=48"]
            return [*dense, *sizes, f"--model.segmenter_options={json.dumps(options)}"]


@pytest.mark.slow
@pytest.mark.parametrize("name", filter(one_of_each_size, recipe_names()))
def test_a_recipe_trains_stops_resumes_and_predicts(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs of two steps; stopped after the first."""
    data = tmp_path / "data"
    small = tiny(name, data)
    recipe = resolved(name)
    words = ["fit", "--config", name, *small, "--data.root", data, "--epochs", "2"]
    # the recipe's warm-up is longer than the run
    words += ["--model.schedule.warmup_steps", "1", "--model.schedule.min_lr", "0"]
    words += ["--model.schedule.warmup_lr", "0"]
    if recipe["trainer"]["max_steps"] != -1:
        words += ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]
    if recipe["model"]["init_args"]["global_batch"] is not None:
        words += ["--model.global_batch", "8" if task_of(name) in ("classification", "pretraining") else "4"]
    needs_weights = recipe["model"]["init_args"]["optimizer"]["layer_decay"] is not None
    needs_teacher = recipe["model"]["init_args"].get("teacher") is not None
    if needs_weights or needs_teacher:
        images = write_images(tmp_path / "images", num_train=3, num_val=2)
        start = scalablevit("fit", "--config", "train_folder", *SMALL, "--data.root", images, "--epochs", "1",
                            "--run", tmp_path / "start")  # fmt: skip
        assert start.code == 0, start.err
        words += ["--model.teacher.name" if needs_teacher else "--model.weights", tmp_path / "start"]
    whole = scalablevit(*words, "--run", tmp_path / "whole")
    assert whole.code == 0, whole.err
    with monkeypatch.context() as patch:
        stop_at_batch(patch, 3)
        stopped = scalablevit(*words, "--run", tmp_path / "cut")
    assert stopped.code == 130, stopped.err
    resumed = scalablevit("fit", "--resume", tmp_path / "cut")
    assert resumed.code == 0, resumed.err
    assert_same_result(tmp_path / "cut", tmp_path / "whole")
    if task_of(name) == "pretraining":
        refused = scalablevit("predict", data, "--weights", tmp_path / "cut")
        assert refused.code == 1
        assert "pretrained without labels: it has no head" in refused.err
        return
    images = {"classification": "val", "detection": "val", "segmentation": "images/validation"}[task_of(name)]
    predicted = scalablevit("predict", data / images, "--weights", tmp_path / "cut")
    assert predicted.code == 0, predicted.err


@pytest.mark.slow
def test_the_built_in_digits_train(tmp_path: Path) -> None:
    words = ("fit", "--config", "digits", "--data.root", tmp_path / "digits", "--trainer.accelerator", "cpu")
    limits = ("--epochs", "1", "--trainer.limit_train_batches", "2", "--data.batch_size", "16")
    outcome = scalablevit(*words, *limits, "--run", tmp_path / "run")
    assert outcome.code == 0, outcome.err
    assert "training    1,438 images" in outcome.out


def test_recipes_lie_in_a_folder_per_task() -> None:
    folder = Path(recipes.__file__).parent
    for file in folder.rglob("*.yaml"):
        text = file.read_text().partition("\n---\n")[2] or file.read_text()
        assert f"class_path: scalablevit.{file.parent.name}." in text, file


@pytest.mark.parametrize("name", ["imagenet_base", "retinanet_large_1x", "semantic_fpn_small_ade20k"])
def test_a_recipe_of_several_in_a_file_is_printed_whole(name: str) -> None:
    printed = scalablevit("recipes", name).out
    assert printed == recipe_text(name) == find_recipe(name).read_text()
    assert "$" not in printed
    assert "---" not in printed
    assert printed.startswith("# ")
    size = next(size for size in SIZES if f"_{size}" in name)
    assert f"ScalableViT-{size[0].upper()}" in recipe_title(name)
    assert find_recipe(name).stem == name
