"""RetinaNet on a ScalableViT pyramid, built from torchvision's parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision.models.detection.retinanet import RetinaNet, RetinaNetHead
from torchvision.ops import Conv2dNormActivation
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from scalablevit.detection.models.anchors import ASPECT_RATIOS, FixedStrideAnchors
from scalablevit.detection.models.image_transform import ImageTransform
from scalablevit.detection.models.layer_groups import LayerGroups
from scalablevit.detection.models.precision import outputs_in_float32
from scalablevit.detection.models.pyramid import PyramidWithFPN, group_norm
from scalablevit.detection.models.settings import RetinaNetSettings, check_whole


class ScalableRetinaNet(LayerGroups, RetinaNet):
    """torchvision's RetinaNet as `retinanet` builds it.

    Attributes:
        first_label: label of class 0.
        class_layers: prefixes of the names of parameters that depend on the classes.
    """

    first_label = 0
    class_layers = ("head.classification_head.cls_logits.",)


def retinanet(name: str, num_classes: int = 80, **options: Any) -> ScalableRetinaNet:
    """Build a RetinaNet on ScalableViT; the defaults are the published model.

    The network takes a list of images (C, H_i, W_i), float in 0..1, of any sizes. In training, with a list of targets
    (`boxes` (R, 4) corners xyxy in pixels of the given image and `labels` (R,) int64 in 0..num_classes-1; R may be
    0), it returns a dict of losses, and images keep their size. In evaluation it returns a dict for each image with
    `boxes` (R, 4), `labels` (R,) and `scores` (R,), best first, in the pixels of the image.

    Args:
        name: variant, such as "scalablevit_small".
        num_classes: K, without a background.
        options: fields of `RetinaNetSettings`, such as `min_size=640`.

    Raises:
        ValueError: no such variant or option, or an argument out of range.

    Source: Focal Loss for Dense Object Detection, arXiv:1708.02002.
    """
    settings = RetinaNetSettings.from_options(options)
    check_whole("num_classes", num_classes, least=1)
    sizes = [(size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))) for size in settings.anchor_sides()]
    body = settings.build_body(name)
    channels = settings.fpn_channels
    norm_layer = group_norm if settings.head_norm else None
    backbone = PyramidWithFPN(
        body,
        channels,
        first_stage=1,
        extra_blocks=LastLevelP6P7(body.channels[-1], channels),
        norm_layer=norm_layer,
    )
    head = RetinaNetHead(channels, len(sizes[0]) * len(ASPECT_RATIOS), num_classes)
    # torchvision fixes the number of convolutions, and initialises only a norm that is a BatchNorm.
    head.classification_head.conv = _tower(channels, settings.num_convs, norm_layer)
    head.regression_head.conv = _tower(channels, settings.num_convs, norm_layer)
    head.register_forward_hook(outputs_in_float32)
    model = ScalableRetinaNet(
        backbone,
        num_classes,
        anchor_generator=FixedStrideAnchors(sizes, settings.strides),
        head=head,
        score_thresh=settings.score_thresh,
        nms_thresh=settings.nms_thresh,
        detections_per_img=settings.detections_per_image,
        fg_iou_thresh=settings.fg_iou_thresh,
        bg_iou_thresh=settings.bg_iou_thresh,
        topk_candidates=settings.topk_candidates,
    )
    model.transform = ImageTransform(settings.min_size, settings.max_size, settings.mean, settings.std)
    return model


def _tower(channels: int, depth: int, norm_layer: Callable[[int], nn.Module] | None) -> nn.Sequential:
    """Convolutions of the head, initialised as torchvision's: normal of std 0.01, bias 0."""
    tower = nn.Sequential(*(Conv2dNormActivation(channels, channels, norm_layer=norm_layer) for _ in range(depth)))
    for layer in tower.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return tower
