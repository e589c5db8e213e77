"""Mask R-CNN on a ScalableViT pyramid, built from torchvision's parts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNN, MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from scalablevit.detection.models.anchors import ASPECT_RATIOS, FixedStrideAnchors, ProposalNetwork
from scalablevit.detection.models.image_transform import ImageTransform
from scalablevit.detection.models.layer_groups import LayerGroups
from scalablevit.detection.models.paste import paste_masks as paste
from scalablevit.detection.models.precision import outputs_in_float32
from scalablevit.detection.models.pyramid import PyramidWithFPN, group_norm
from scalablevit.detection.models.roi_align import AlignedRoIAlign
from scalablevit.detection.models.roi_heads import OptionalMaskHeads
from scalablevit.detection.models.settings import MaskRCNNSettings, check_whole


class ScalableMaskRCNN(LayerGroups, MaskRCNN):
    """torchvision's Mask R-CNN as `mask_rcnn` builds it.

    Attributes:
        first_label: label of class 0; label 0 is the background.
        class_layers: prefixes of the names of parameters that depend on the classes.
    """

    first_label = 1
    class_layers = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.mask_fcn_logits.")

    def forward(
        self,
        images: Sequence[Tensor],
        targets: Sequence[Mapping[str, Tensor]] | None = None,
        *,
        paste_masks: bool = True,
    ) -> Any:
        """Compute losses in training, detections in evaluation; see `mask_rcnn`.

        Args:
            images: (C, H_i, W_i) each, float in 0..1.
            targets: for training.
            paste_masks: give `masks` (R, H, W) bool in evaluation; otherwise `mask_probs` (R, 28, 28), which
                `paste_mask` turns into masks one at a time: R masks of a large image may not fit into memory.
        """
        outputs = super().forward(images, targets)
        if self.training or not paste_masks:
            return outputs
        for image, found in zip(images, outputs, strict=True):
            found["masks"] = paste(found.pop("mask_probs"), found["boxes"], (image.shape[1], image.shape[2]))
        return outputs


def mask_rcnn(name: str, num_classes: int = 80, **options: Any) -> ScalableMaskRCNN:
    """Build a Mask R-CNN on ScalableViT; the defaults are the published model.

    The network takes what that of `retinanet` takes. Targets also have `masks` (R, H, W) uint8, and labels are
    1..num_classes, as 0 is the background (`first_label`). Objects where `has_mask` (R,) bool is False teach the boxes
    alone. In evaluation the dict of each image also has `masks`
    (R, H, W) bool in the pixels of the image, see `ScalableMaskRCNN.forward`.

    Args:
        name: variant, such as "scalablevit_small".
        num_classes: K, without the background.
        options: fields of `MaskRCNNSettings`, such as `min_size=640`.

    Raises:
        ValueError: no such variant or option, or an argument out of range.

    Source: Mask R-CNN, arXiv:1703.06870.
    """
    settings = MaskRCNNSettings.from_options(options)
    check_whole("num_classes", num_classes, least=1)
    body = settings.build_body(name)
    channels = settings.fpn_channels
    norm_layer = group_norm if settings.head_norm else None
    backbone = PyramidWithFPN(body, channels, first_stage=0, extra_blocks=LastLevelMaxPool(), norm_layer=norm_layer)
    anchors = FixedStrideAnchors([(size,) for size in settings.anchor_sides()], settings.strides)
    rpn_head = RPNHead(channels, len(ASPECT_RATIOS), conv_depth=settings.rpn_convs)
    rpn_head.register_forward_hook(outputs_in_float32)
    model = ScalableMaskRCNN(
        backbone,
        rpn_anchor_generator=anchors,
        rpn_head=rpn_head,
        **_heads(settings, num_classes + 1),  # the background is label 0
    )
    made = model.roi_heads
    model.roi_heads = OptionalMaskHeads(
        made.box_roi_pool,
        made.box_head,
        made.box_predictor,
        settings.box_fg_iou_thresh,
        settings.box_fg_iou_thresh,
        settings.box_batch_size_per_image,
        settings.box_positive_fraction,
        None,  # torchvision's weights of the four offsets
        settings.score_thresh,
        settings.nms_thresh,
        settings.detections_per_image,
        made.mask_roi_pool,
        made.mask_head,
        made.mask_predictor,
    )
    model.rpn = ProposalNetwork(
        anchors,
        rpn_head,
        settings.rpn_fg_iou_thresh,
        settings.rpn_bg_iou_thresh,
        settings.rpn_batch_size_per_image,
        0.5,  # largest share of anchors on objects among those learnt from
        dict(training=settings.rpn_pre_nms_top_n_train, testing=settings.rpn_pre_nms_top_n_test),
        dict(training=settings.rpn_post_nms_top_n_train, testing=settings.rpn_post_nms_top_n_test),
        settings.rpn_nms_thresh,
    )
    model.transform = ImageTransform(settings.min_size, settings.max_size, settings.mean, settings.std)
    return model


def _heads(settings: MaskRCNNSettings, num_labels: int) -> dict[str, nn.Module]:
    """The heads for boxes and masks, by torchvision's argument names."""
    channels, hidden = settings.fpn_channels, settings.box_head_channels
    box_head: nn.Module = TwoMLPHead(channels * 7 * 7, hidden)
    if settings.head_norm:
        box_head = _normalised_box_head(channels * 7 * 7, hidden)
    box_predictor = FastRCNNPredictor(hidden, num_labels)
    norm_layer = group_norm if settings.head_norm else None
    mask_head = MaskRCNNHeads(channels, (settings.mask_channels,) * settings.mask_convs, 1, norm_layer=norm_layer)
    mask_predictor = MaskRCNNPredictor(settings.mask_channels, settings.mask_channels, num_labels)
    # Small first outputs, as in Detectron: torchvision's give a network trained from scratch a loss to unlearn first.
    for layer, spread in (
        (box_predictor.cls_score, 0.01),
        (box_predictor.bbox_pred, 0.001),
        (mask_predictor.mask_fcn_logits, 0.001),
    ):
        nn.init.normal_(layer.weight, std=spread)
        nn.init.zeros_(layer.bias)
    for outputs in (box_predictor, mask_predictor):
        outputs.register_forward_hook(outputs_in_float32)
    return dict(
        box_roi_pool=AlignedRoIAlign(7),
        box_head=box_head,
        box_predictor=box_predictor,
        # torchvision reads the masks to learn with pixel i at coordinate i, not i + 0.5. What is learnt for a box is
        # the mask half a pixel further on, so that evaluation asks for the box half a pixel back.
        mask_roi_pool=AlignedRoIAlign(14, eval_shift=-0.5),
        mask_head=mask_head,
        mask_predictor=mask_predictor,
    )


def _normalised_box_head(in_features: int, channels: int) -> nn.Sequential:
    """torchvision's TwoMLPHead with norms."""
    return nn.Sequential(
        OrderedDict(
            flatten=nn.Flatten(),
            fc6=nn.Linear(in_features, channels),
            norm6=nn.LayerNorm(channels),
            relu6=nn.ReLU(inplace=True),
            fc7=nn.Linear(channels, channels),
            norm7=nn.LayerNorm(channels),
            relu7=nn.ReLU(inplace=True),
        )
    )
