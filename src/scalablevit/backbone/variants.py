"""The variants: a line of numbers each, and what makes them known to timm."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from scalablevit.backbone.classifier import ScalableViT
from scalablevit.weights.classes import check_class_names
from scalablevit.weights.published_names import to_native_names


def _variant(
    embed_dims: tuple[int, ...],
    num_heads: tuple[int, ...],
    depths: tuple[int, ...],
    channel_ratios: tuple[float, ...],
    head: str = "published",
) -> dict[str, Any]:
    return dict(embed_dims=embed_dims, num_heads=num_heads, depths=depths, channel_ratios=channel_ratios, head=head)


# channels, heads, blocks and r_c of the stages
VARIANTS: dict[str, dict[str, Any]] = {
    # Of the paper, table 1.
    "scalablevit_small": _variant((64, 128, 256, 512), (2, 4, 8, 16), (2, 2, 20, 2), (1.25, 1.25, 1.25, 1.0)),
    "scalablevit_base": _variant((96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 14, 6), (2.0, 1.25, 1.25, 1.0)),
    "scalablevit_large": _variant((128, 256, 512, 1024), (4, 8, 16, 32), (2, 6, 12, 4), (0.25, 0.5, 1.0, 1.0)),
    # Our own, not in the paper: for small data, CPUs and tests. Their head is plain.
    "scalablevit_tiny": _variant((32, 64, 160, 320), (1, 2, 5, 10), (2, 2, 6, 2), (1.25, 1.25, 1.25, 1.0), "plain"),
    "scalablevit_nano": _variant((32, 64, 128, 256), (1, 2, 4, 8), (2, 2, 2, 2), (1.25, 1.25, 1.25, 1.0), "plain"),
    "scalablevit_atto": _variant((16, 32, 64, 128), (1, 2, 4, 8), (2, 2, 2, 2), (1.25, 1.25, 1.25, 1.0), "plain"),
}


# Whose published dense figures come from the scaled-value form of SSA; those of B and L come from the released one.
SCALED_VALUE_VARIANTS = ("scalablevit_small",)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """timm's hook: names of any published checkpoint become ours; class names must be as many as classes."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    check_class_names(state_dict, names, "the checkpoint beside timm's config.json")
    return to_native_names(state_dict)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 224 / 256,
        "interpolation": "bicubic",
        "fixed_input_size": False,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stages.0.patch_embed.proj",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


# No weights can be fetched by name: the authors' files are not on a hub. `pretrained=True` therefore raises in timm,
# unless a source is given: `local-dir:`, `hf-hub:`, or pretrained_cfg_overlay=dict(file=...).
default_cfgs = generate_default_cfgs({name: _cfg() for name in VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> ScalableViT:
    return build_model_with_cfg(
        ScalableViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=kwargs.pop("out_indices", (0, 1, 2, 3)), feature_cls="getter"),
        **{**VARIANTS[variant], **kwargs},
    )


@register_model
def scalablevit_small(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """ScalableViT-S: 32.0 M parameters, 4.2 G multiply-adds at 224 px."""
    return _create("scalablevit_small", pretrained, **kwargs)


@register_model
def scalablevit_base(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """ScalableViT-B: 81.9 M parameters, 8.6 G multiply-adds at 224 px."""
    return _create("scalablevit_base", pretrained, **kwargs)


@register_model
def scalablevit_large(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """ScalableViT-L: 109.3 M parameters, 14.7 G multiply-adds at 224 px."""
    return _create("scalablevit_large", pretrained, **kwargs)


@register_model
def scalablevit_tiny(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """Not in the paper."""
    return _create("scalablevit_tiny", pretrained, **kwargs)


@register_model
def scalablevit_nano(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """Not in the paper."""
    return _create("scalablevit_nano", pretrained, **kwargs)


@register_model
def scalablevit_atto(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """Not in the paper; the smallest, for demonstrations and tests."""
    return _create("scalablevit_atto", pretrained, **kwargs)
