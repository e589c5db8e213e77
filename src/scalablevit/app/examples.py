"""Take example images from a run's validation set, where its data are still there."""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from scalablevit.app.models import Model
from scalablevit.data.check import evenly_spread
from scalablevit.data.stored_path import StoredPath
from scalablevit.tasks import load

_LARGEST_RECIPE = 500_000  # bytes


class Examples(NamedTuple):
    """Example images of a model.

    Fields:
        paths: image files of the validation set.
        remark: for the page: where they are from, or why there are none.
    """

    paths: list[Path]
    remark: str


def examples_of(model: Model, count: int) -> Examples:
    """Choose images of a model's validation set, evenly spread over it.

    Args:
        model: of the page.
        count: how many; 0: none.
    """
    if count < 1:
        return Examples([], "")
    if model.run is None:
        return Examples([], "No examples: the weights do not lie in a run folder.")
    try:
        root, settings = _data_of(model.run / "recipe.yaml")
    except (ValueError, OSError, yaml.YAMLError, RecursionError):
        return Examples([], "No examples: the run's recipe.yaml names no data that can be read.")
    if not root.exists():
        return Examples([], f"No examples: the run's data folder {root} is not there.")
    try:
        paths = load(model.entry.validation_images)(root, settings)
    except (ValueError, OSError, TypeError, AttributeError):  # a recipe with keys of another version, or changed data
        return Examples([], f"No examples: no validation images were found in {root}.")
    if not paths:
        return Examples([], f"No examples: no validation images were found in {root}.")
    if any(isinstance(path, StoredPath) for path in paths):
        return Examples([], f"No examples: the images of {root} lie in shards.")
    return Examples([paths[i] for i in evenly_spread(len(paths), count)], f"Examples: validation images of {root.name}")


def _data_of(recipe: Path) -> tuple[Path, dict[str, Any]]:
    """The data folder that a recipe names, and the other keys of its data."""
    if recipe.stat().st_size > _LARGEST_RECIPE:
        raise ValueError(f"{recipe} is too large for a recipe")
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    try:
        settings = dict(content["data"]["init_args"])
        root = Path(settings.pop("root")).expanduser()
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{recipe} names no data folder ({error})") from error
    return root, settings
