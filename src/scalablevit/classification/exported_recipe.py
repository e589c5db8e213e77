"""The recipe by which an exported classifier is evaluated."""

from collections.abc import Mapping
from typing import Any


def evaluation_recipe(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arguments of the task and of its data, from the metadata of an exported file.

    Returns:
        "model" and "data" -> arguments by name, apart from `root`.
    """
    given = metadata["preprocessing"]
    names = ("image_size", "crop_ratio", "interpolation", "mean", "std")
    data = {name: given[name] for name in names} | {"in_chans": len(given["mean"])}
    return {"model": {"variant": metadata["architecture"]}, "data": data | {"value_range": given.get("value_range")}}
