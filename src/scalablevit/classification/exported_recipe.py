"""The recipe by which an exported classifier is evaluated."""

from collections.abc import Mapping
from typing import Any


def evaluation_recipe(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arguments of the task and of its data, from the metadata of an exported file.

    Returns:
        "model" and "data" -> arguments by name, apart from `root`; and "classes" -> the same parts' classes, where they
        are not those of the task's entry.
    """
    given = metadata["preprocessing"]
    names = ("image_size", "crop_ratio", "interpolation", "mean", "std")
    data = {name: given[name] for name in names} | {"in_chans": len(given["mean"])}
    data["value_range"] = given.get("value_range")
    parts: dict[str, dict[str, Any]] = {"model": {"variant": metadata["architecture"]}, "data": data}
    if metadata.get("multi_label"):
        package = "scalablevit.classification"
        parts["classes"] = {
            "model": f"{package}.multi_label_task:MultiLabelTask",
            "data": f"{package}.table_data:ImageTableData",
        }
    return parts
