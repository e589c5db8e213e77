"""Recipes and documented commands for detectors: training and evaluation see images of the same sizes."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scalablevit.recipes import recipe_names, recipe_text

PAGE = Path(__file__).parents[2] / "docs" / "detection.md"
RECIPES = [name for name in recipe_names() if "scalablevit.detection.CocoData" in recipe_text(name)]
PUBLISHED = [name for name in RECIPES if name.endswith(("_1x", "_3x"))]
OPTION = re.compile(r"--data\.([\w.]+) ('[^']*'|[^\s`']+)")


def data_of(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load(recipe_text(name))["data"]["init_args"]
    return data


def header(name: str) -> str:
    """What a recipe says before its keys, as one line."""
    lines = recipe_text(name).split("\nmodel:")[0].splitlines()
    return " ".join(line.lstrip("# ") for line in lines)


def documented() -> list[tuple[str, str]]:
    """(recipe, options) of every place that says another `data.min_size`."""
    found = []
    for text in re.findall(r"^scalablevit fit .+$|`--data\.min_size [^`]+`", PAGE.read_text(), re.MULTILINE):
        if "--data.min_size" in text:
            named = re.search(r"--config (\w+)", text)
            found.append((named[1] if named else "finetune_retinanet", text))
    for name in RECIPES:
        pieces = header(name).split("--data.min_size ")[1:]
        found += [(name, f"--data.min_size {piece.split(' without weights ')[0]}") for piece in pieces]
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_measures_at_a_size_that_it_trains_at(name: str) -> None:
    data = data_of(name)
    sizes = data["augmentation"].get("sizes", [data["min_size"]])
    assert min(sizes) <= data["min_size"] <= max(sizes)
    assert max(sizes) <= data["max_size"]


@pytest.mark.parametrize(("recipe", "options"), documented(), ids=lambda text: text[:30])
def test_another_size_is_said_for_both(recipe: str, options: str) -> None:
    data = data_of(recipe)
    said = {key: yaml.safe_load(value.strip("'")) for key, value in OPTION.findall(options)}
    sizes = said["augmentation.sizes"]
    assert said["min_size"] != data["min_size"]
    assert min(sizes) < said["min_size"] < max(sizes)
    assert max(sizes) <= said["max_size"]
    if "digit_scenes" in options:  # a start for data of one's own
        assert said["builtin"] is None
        assert said["augmentation.hflip_prob"] == 0.5


def test_those_places_are_found() -> None:
    names = [name for name, _ in documented()]
    assert names.count("finetune_mask_rcnn") >= 2
    assert names.count("finetune_retinanet") >= 4
    assert "digit_scenes_mask_rcnn" in names


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes_evaluate_image_by_image(name: str) -> None:
    assert data_of(name)["val_batch_size"] == 1
    crops = data_of(name)["augmentation"].get("crop_prob", 0) > 0
    assert crops == name.endswith("_3x")
    differs = header(name).split("differs ")[1].split("command ")[0]
    assert ("crop" in differs) == crops
