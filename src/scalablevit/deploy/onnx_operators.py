"""ONNX operators of torchvision's operators: those of onnxscript itself differ from release to release."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_INT64 = 7  # onnx.TensorProto.INT64
_ALL_BOXES = 2**31 - 1


def translations() -> dict[Any, Callable[..., Any]]:
    """Return what `torch.onnx.export` takes as `custom_translation_table`, for the operators of detectors."""
    import torchvision  # noqa: F401  # registers them
    from onnxscript import opset18 as op

    def nms(boxes: Any, scores: Any, iou_threshold: float) -> Any:
        """Boxes (R, 4) and scores (R,) to the rows that stay, the highest score first."""
        selected = op.NonMaxSuppression(
            op.Unsqueeze(boxes, [0]), op.Unsqueeze(scores, [0, 1]), op.Constant(value_int=_ALL_BOXES), iou_threshold
        )  # (kept, 3): image, class and row
        return op.Reshape(op.Slice(selected, [2], [3], [1]), [-1])

    def roi_align(
        features: Any,
        rois: Any,
        spatial_scale: float,
        pooled_height: int,
        pooled_width: int,
        sampling_ratio: int,
        aligned: bool,
    ) -> Any:
        """Maps (B, C, H, W) and rois (R, 5), each with the row of its image first, to (R, C, height, width)."""
        return op.RoiAlign(
            features,
            op.Slice(rois, [1], [5], [1]),
            op.Cast(op.Squeeze(op.Slice(rois, [0], [1], [1]), [1]), to=_INT64),
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            spatial_scale=spatial_scale,
            output_height=pooled_height,
            output_width=pooled_width,
            sampling_ratio=sampling_ratio,
        )

    operators = torch.ops.torchvision
    return {operators.nms.default: nms, operators.roi_align.default: roi_align}
