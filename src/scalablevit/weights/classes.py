"""Count the classes that weights distinguish, and compare them with the names that come with them."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from scalablevit.weights.published_names import to_native_names
from scalablevit.weights.source import WeightsError

# layer -> how many more rows than classes it has: Mask R-CNN's have the background too
_ROWS = {
    "head.fc.weight": 0,
    "decoder.classifier.weight": 0,
    "auxiliary.classifier.weight": 0,
    "roi_heads.box_predictor.cls_score.weight": 1,
    "roi_heads.mask_predictor.mask_fcn_logits.weight": 1,
}
_PER_ANCHOR = "head.classification_head.cls_logits.weight"


def check_class_names(tensors: Mapping[str, Tensor], class_names: Sequence[str] | None, source: str) -> None:
    """Refuse a checkpoint whose class names are not as many as its weights distinguish.

    Raises:
        WeightsError: names both numbers.
    """
    if class_names is None:
        return
    for key, tensor in to_native_names(tensors).items():
        key = key.removeprefix("network.")
        rows, K = tensor.shape[0] if tensor.ndim else 0, len(class_names)
        if key in _ROWS and rows - _ROWS[key] != K:
            found = f"{rows - _ROWS[key]} classes"
        elif key == _PER_ANCHOR and rows % K:
            found = f"{rows} class scores a place, no multiple of {K}"
        else:
            continue
        raise WeightsError(
            f"{source} does not fit what it describes: its weights have {found} ({key}), its metadata names {K}. Its "
            "weights and its metadata are of different networks: take the file that one run wrote"
        )
