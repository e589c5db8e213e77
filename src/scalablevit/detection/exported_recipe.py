"""The recipe by which an exported detector is evaluated."""

from collections.abc import Mapping
from typing import Any


def evaluation_recipe(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arguments of the task and of its data, from the metadata of an exported file.

    Returns:
        "model" and "data" -> arguments by name, apart from `root`.
    """
    given = metadata["preprocessing"]
    data = {name: given[name] for name in ("min_size", "max_size", "mean", "std")}
    data |= {"value_range": given.get("value_range"), "masks": metadata["detector"] == "mask_rcnn"}
    return {"model": {"variant": metadata["variant"], "detector": metadata["detector"]}, "data": data}
