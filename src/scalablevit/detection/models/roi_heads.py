"""Heads of Mask R-CNN that learn masks only where there are some."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss, maskrcnn_loss


class OptionalMaskHeads(RoIHeads):
    """torchvision's RoI heads, where an object may have a box and no mask: it is then learnt by the box alone.

    A target may have `has_mask` (R,) bool beside `masks`; without it, all objects have a mask.
    """

    def forward(
        self,
        features: Mapping[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Detections in evaluation, losses in training; the other is empty."""
        if not self.training or targets is None:
            found: Any = super().forward(features, proposals, image_shapes, targets)
            return found
        proposals, matched, labels, regression_targets = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        class_logits, box_regression = self.box_predictor(self.box_head(pooled))
        loss_classifier, loss_box_reg = fastrcnn_loss(class_logits, box_regression, labels, regression_targets)
        chosen = [
            torch.where((label > 0) & _has_mask(target)[match])[0]
            for label, match, target in zip(labels, matched, targets, strict=True)
        ]
        rois = [proposal[rows] for proposal, rows in zip(proposals, chosen, strict=True)]
        mask_logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, rois, image_shapes)))
        loss_mask = maskrcnn_loss(
            mask_logits,
            rois,
            [target["masks"] for target in targets],
            [target["labels"] for target in targets],
            [match[rows] for match, rows in zip(matched, chosen, strict=True)],
        )
        losses = {"loss_classifier": loss_classifier, "loss_box_reg": loss_box_reg, "loss_mask": loss_mask}
        return [], losses


def _has_mask(target: Mapping[str, Tensor]) -> Tensor:
    """Which objects of an image have a mask, with one row at least: matches of an image without objects are 0."""
    has_mask = target.get("has_mask")
    if has_mask is None:
        has_mask = torch.ones(len(target["labels"]), dtype=torch.bool, device=target["labels"].device)
    return has_mask if len(has_mask) else has_mask.new_ones(1)
