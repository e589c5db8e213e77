"""Networks with all kinds of layers, in a fraction of the exporters' time."""

from typing import Any

import pytest
import torch
from torch import nn

import scalablevit
from scalablevit.backbone import PyramidBackbone, ScalableViT
from scalablevit.detection.models import build_detector
from scalablevit.detection.models.settings import DetectorSettings
from scalablevit.segmentation.decoders import SemanticFPNDecoder, UperNetDecoder
from scalablevit.segmentation.models import SegmentationModel


def network(**options: object) -> nn.Module:
    """The smallest variant, with random weights and biases."""
    torch.manual_seed(0)
    model = scalablevit.scalablevit_atto(num_classes=5, **options).eval()
    with torch.no_grad():  # biases are zero at the start, and would hide what is done with them
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def tiny_classifier(num_classes: int = 3, stages: int = 2) -> ScalableViT:
    """Classifier of two or four stages."""
    torch.manual_seed(0)
    network = ScalableViT(
        embed_dims=(8, 8, 16, 16)[:stages], num_heads=(1, 1, 2, 2)[:stages], depths=(2,) + (1,) * (stages - 1),
        channel_ratios=(1.25, 1.0, 1.0, 1.0)[:stages], reductions=(4, 2, 1, 1)[:stages], head="plain",
        num_classes=num_classes,
    )  # fmt: skip
    return network.eval()


def tiny_segmenter(kind: str) -> nn.Module:
    """Semantic FPN or UperNet."""
    backbone = PyramidBackbone(tiny_classifier(stages=4))
    decoder: nn.Module
    if kind == "upernet":
        decoder = UperNetDecoder(backbone.channels, 3, hidden_channels=8, pool_sizes=(1, 2, 3, 6), dropout=0.1)
    else:
        decoder = SemanticFPNDecoder(backbone.channels, 3, fpn_channels=8, hidden_channels=8, dropout=0.1)
    return SegmentationModel(backbone, decoder, num_classes=3).eval()


def tiny_detector(kind: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """RetinaNet or Mask R-CNN whose scores are spread as those of a trained one are."""
    monkeypatch.setattr(
        DetectorSettings, "build_body", lambda self, variant: PyramidBackbone(tiny_classifier(stages=4))
    )
    small: dict[str, Any] = {"num_convs": 1}
    if kind == "mask_rcnn":
        small = {"box_head_channels": 16, "mask_channels": 8, "mask_convs": 1}
    torch.manual_seed(0)
    detector = build_detector(kind, "scalablevit_atto", 3, fpn_channels=8, **small, **options).eval()  # type: ignore[arg-type]
    spread = {
        "retinanet": {"head.classification_head.cls_logits": 0.3},
        "mask_rcnn": {
            "rpn.head.cls_logits": 0.3,
            "roi_heads.box_predictor.cls_score": 0.5,
            "roi_heads.mask_predictor.mask_fcn_logits": 0.5,
        },
    }
    for name, std in spread[kind].items():
        layer: Any = detector.get_submodule(name)
        nn.init.normal_(layer.weight, std=std)
        if name == "head.classification_head.cls_logits":
            nn.init.constant_(layer.bias, -2.0)
    return detector
