"""Parameters of the paper's variants: how many, and that every published name and shape has its place."""

from typing import Any

import pytest
import torch

import scalablevit
from scalablevit.backbone import VARIANTS, ScalableViT

Shapes = dict[str, dict[str, tuple[int, ...]]]


def millions(model: torch.nn.Module) -> float:
    return round(sum(p.numel() for p in model.parameters()) / 1e6, 1)


@pytest.mark.parametrize(
    ("variant", "options", "expected"),
    [
        ("scalablevit_small", {}, 32.0),
        ("scalablevit_small", {"scale_value": True}, 32.4),
        ("scalablevit_base", {}, 81.9),
        ("scalablevit_large", {}, 109.3),
    ],
    ids=str,
)
def test_classifier_parameters_in_millions(variant: str, options: dict[str, Any], expected: float) -> None:
    with torch.device("meta"):
        assert millions(ScalableViT(**VARIANTS[variant], **options)) == expected


@pytest.mark.parametrize("variant", ["scalablevit_tiny", "scalablevit_nano", "scalablevit_atto"])
def test_our_own_variants_are_small_and_have_a_plain_head(variant: str) -> None:
    with torch.device("meta"):
        model = ScalableViT(**VARIANTS[variant])
    assert millions(model) < 10
    assert [name for name, _ in model.head.named_parameters()] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize(
    "name", ["released_small", "released_base", "released_large", "dense_small", "dense_base", "dense_large"]
)
def test_every_published_name_and_shape_has_its_place(name: str, reference_shapes: Shapes) -> None:
    kind, size = name.split("_")
    published = {key: torch.zeros(()).expand(shape) for key, shape in reference_shapes[name].items()}  # one number each
    with torch.device("meta"):
        if kind == "released":
            model: torch.nn.Module = ScalableViT(**VARIANTS[f"scalablevit_{size}"])
        else:
            scale_value = any(key.startswith("blocks.0.1.attn.kv.") for key in published)
            model = scalablevit.create_backbone(f"scalablevit_{size}", scale_value=scale_value)
    model.to_empty(device="cpu")  # no time lost on an initialisation
    report = scalablevit.load_weights(model, published)
    assert sorted(report.matched) == sorted(model.state_dict())
    assert len(report.matched) == len(published)
    assert not (report.adapted)
    assert not (report.fresh)
    assert not (report.ignored)
