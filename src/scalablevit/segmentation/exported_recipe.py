"""The recipe by which an exported segmentation network is evaluated."""

from collections.abc import Mapping
from typing import Any

from scalablevit.segmentation.label_map import LabelMap


def evaluation_recipe(metadata: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Arguments of the task and of its data, from the metadata of an exported file.

    Masks without a label map of their own have the labels of the training masks.

    Returns:
        "model" and "data" -> arguments by name, apart from `root`.
    """
    given = metadata["preprocessing"]
    data = {name: given[name] for name in ("short_side", "long_side", "mean", "std")}
    data |= {"in_chans": len(given["mean"]), "value_range": given.get("value_range")}
    if metadata.get("label_map") is not None:
        label_map = LabelMap.from_dict(metadata["label_map"])
        data["trained_label_map"] = label_map.to_dict()
        if label_map.entries is None:
            ignored = [int(label) for label in label_map.ignore_labels]
            data |= {"reduce_zero_label": label_map.reduce_zero_label, "ignore_labels": ignored}
    model = {name: metadata[name] for name in ("variant", "segmenter", "inference")}
    return {"model": model, "data": data}
