"""Exported detectors with the interface of those in PyTorch: a list of images in, the objects of each out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from scalablevit.data.resizing import resized_size
from scalablevit.deploy.exported import ExportedNetwork
from scalablevit.detection.models.image_transform import ImageTransform
from scalablevit.detection.transforms import Preprocessing
from scalablevit.weights import WeightsError


class ExportedDetector(nn.Module):
    """An exported detector, with the resizing that its graph leaves to the caller.

    Args:
        exported: the open file.
        preprocessing: sizes that images are resized to.

    Attributes:
        first_label: label of class 0.
        score_thresh: objects score above it; not below the file's own.
        nms_thresh: highest IoU of two boxes of a class; a part of the file.
        detections_per_img: most objects of an image; a part of the file.

    Raises:
        WeightsError: the file does not describe what it detects.
    """

    first_label = 0

    def __init__(self, exported: ExportedNetwork, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.exported = exported
        self.num_classes = len(exported.metadata["class_names"])
        self.transform = ImageTransform(
            preprocessing.min_size, preprocessing.max_size, preprocessing.mean, preprocessing.std
        )
        facts = exported.metadata.get("detections")
        self.score_thresh = self._lowest_score = self._number(facts, "score_threshold")
        self.nms_thresh = self._nms_iou = self._number(facts, "nms_iou", above_zero=True)
        self.detections_per_img = int(self._number(facts, "detections_per_image", most=10**6))
        if not {"scores", "labels", "boxes"} <= set(exported.output_names):
            raise WeightsError(f"{exported.path} is no detector: its outputs are {', '.join(exported.output_names)}")

    @property
    def lowest_score(self) -> float:
        """Score that every object of the file lies above."""
        return self._lowest_score

    @property
    def origin(self) -> str:
        """File and runtime."""
        return self.exported.origin

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Find objects in images, one by one.

        Args:
            images: (C, H_i, W_i) each, float in 0..1.

        Returns:
            for each image `scores` (R,), `labels` (R,), `boxes` (R, 4) xyxy in its pixels, and of Mask R-CNN
            `mask_probs` (R, 28, 28); the highest score first.

        Raises:
            ValueError: a threshold that the file cannot have.
        """
        if self.score_thresh < self._lowest_score:
            raise ValueError(
                f"{self.exported.path} gives no objects that score below {self._lowest_score:g}, its threshold when it "
                f"was exported: threshold {self.score_thresh:g} needs the run"
            )
        if self.nms_thresh != self._nms_iou:
            raise ValueError(
                f"{self.exported.path} suppresses overlaps above {self._nms_iou:g} in its graph: nms_iou "
                f"{self.nms_thresh:g} needs the run"
            )
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> dict[str, Tensor]:
        size = (image.shape[1], image.shape[2])
        shown = self._shown(*size)
        pixels = F.interpolate(
            image[None].cpu().float(), shown, mode="bilinear", align_corners=False, antialias=True
        )  # (1, C, h, w)
        fixed = self.exported.fixed_size
        if fixed is not None and fixed != shown:  # the network pads by zeros, which are the mean
            canvas = pixels.new_tensor(self.transform.mean)[None, :, None, None].repeat(1, 1, *fixed)
            canvas[:, :, : shown[0], : shown[1]] = pixels
            pixels = canvas
        found = dict(zip(self.exported.output_names, self.exported.compute(pixels), strict=True))
        labels = found["labels"].long()
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise WeightsError(
                f"{self.exported.path} does not fit what it describes: it finds class {int(labels.max())}, its "
                f"metadata names {self.num_classes}; export the run again"
            )
        keep = found["scores"] > self.score_thresh
        kept = {"scores": found["scores"][keep], "labels": labels[keep]}
        bounds = found["boxes"].new_tensor([shown[1], shown[0], shown[1], shown[0]])
        kept["boxes"] = found["boxes"][keep].clamp(min=0).minimum(bounds)
        if "masks" in found:
            kept["masks"] = found["masks"][keep][:, None]  # (R, 1, 28, 28), as torchvision's
        (result,) = self.transform.postprocess([kept], [shown], [size])
        return result

    def _shown(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which the graph sees an image."""
        shown = self.transform.resized(height, width)
        fixed = self.exported.fixed_size
        if fixed is None or (shown[0] <= fixed[0] and shown[1] <= fixed[1]):
            return shown
        factor = min(fixed[0] / height, fixed[1] / width)
        height, width = resized_size(height, width, short_side=None, long_side=None, factor=factor)
        return min(height, fixed[0]), min(width, fixed[1])

    def _number(self, facts: Any, name: str, *, most: float = 1, above_zero: bool = False) -> float:
        value = facts.get(name) if isinstance(facts, Mapping) else None
        fits = isinstance(value, int | float) and 0 <= value <= most and not (above_zero and value == 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not fits:
            raise WeightsError(
                f"{self.exported.path}: its metadata is damaged: detections.{name} is missing or no number in "
                f"0..{most:g}; export the run again"
            )
        return float(value) if math.isfinite(value) else 0.0
