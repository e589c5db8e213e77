"""The network: stages, the classifier `ScalableViT`, its variants, and the pyramid for dense tasks.

Source: ScalableViT: Rethinking the Context-oriented Generalization of Vision Transformer, arXiv:2203.10790.
"""

from scalablevit.backbone.classifier import ScalableViT
from scalablevit.backbone.images import check_images
from scalablevit.backbone.layer_groups import groups_below, layer_groups, peg_weights
from scalablevit.backbone.pyramid import PyramidBackbone, create_backbone
from scalablevit.backbone.settings import BlockOptions, BlockSettings, WindowSize
from scalablevit.backbone.stage import Stage, typed
from scalablevit.backbone.variants import (
    SCALED_VALUE_VARIANTS,
    VARIANTS,
    checkpoint_filter_fn,
    default_cfgs,
    scalablevit_atto,
    scalablevit_base,
    scalablevit_large,
    scalablevit_nano,
    scalablevit_small,
    scalablevit_tiny,
)

__all__ = [
    "SCALED_VALUE_VARIANTS",
    "VARIANTS",
    "BlockOptions",
    "BlockSettings",
    "PyramidBackbone",
    "ScalableViT",
    "Stage",
    "WindowSize",
    "check_images",
    "checkpoint_filter_fn",
    "create_backbone",
    "default_cfgs",
    "groups_below",
    "layer_groups",
    "peg_weights",
    "scalablevit_atto",
    "scalablevit_base",
    "scalablevit_large",
    "scalablevit_nano",
    "scalablevit_small",
    "scalablevit_tiny",
    "typed",
]
