"""`ScalableViT` itself: sizes, channels, heads, precision, knobs, and what it refuses."""

import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scalablevit.backbone import VARIANTS, ScalableViT

ATTO = VARIANTS["scalablevit_atto"]
# Two stages of a few channels: for what does not depend on depth.
MINI: dict[str, Any] = {
    "embed_dims": (8, 16),
    "num_heads": (2, 2),
    "depths": (2, 2),
    "channel_ratios": (1.25, 1.0),
    "reductions": (2, 1),
    "head": "plain",
    "num_classes": 4,
}


def lively(model: ScalableViT) -> ScalableViT:
    """Weights far from the initialisation, under which every part of the network shows in the logits."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        std = 0.3 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        nn.init.normal_(parameter, std=std, generator=generator)
    return model


@cache
def atto() -> ScalableViT:
    return ScalableViT(**ATTO, num_classes=3).eval()


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 130), width=st.integers(1, 130))
@example(height=1, width=1)
@example(height=1, width=130)
@example(height=28, width=32)
def test_any_height_and_width(height: int, width: int) -> None:
    model = atto()
    x = torch.randn(1, 3, height, width)
    with torch.inference_mode():
        assert model(x).isfinite().all()
        maps = model.forward_intermediates(x, intermediates_only=True)
    strides = (4, 8, 16, 32)
    assert [m.shape[2:] for m in maps] == [(math.ceil(height / s), math.ceil(width / s)) for s in strides]


@pytest.mark.parametrize("in_chans", [1, 3, 4])
def test_any_number_of_channels(in_chans: int) -> None:
    model = ScalableViT(**MINI, in_chans=in_chans)
    assert model(torch.randn(2, in_chans, 32, 32)).shape == (2, 4)
    with pytest.raises(ValueError, match=rf"images must be \(B, {in_chans}, H, W\), got \(2, 5, 32, 32\).*in_chans"):
        model(torch.randn(2, 5, 32, 32))


@pytest.mark.parametrize("head", ["published", "plain"])
def test_no_classes_gives_pooled_normalised_features(head: Any) -> None:
    model = lively(ScalableViT(**{**ATTO, "head": head}, num_classes=0)).eval()
    x = torch.randn(2, 3, 64, 96)
    features = model(x)
    assert features.shape == (2, 128)
    torch.testing.assert_close(features, model.forward_features(x).mean(dim=(1, 2)))
    assert not [name for name in model.state_dict() if name.startswith("head")]


def test_published_head_has_its_hidden_layer() -> None:
    model = ScalableViT(**{**MINI, "head": "published"})
    shapes = {name: tuple(p.shape) for name, p in model.head.named_parameters() if p.ndim == 2}
    assert shapes == {"hidden.weight": (4096, 16), "fc.weight": (4, 4096)}
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 4)


@pytest.mark.parametrize("head", ["published", "plain"])
def test_reset_classifier(head: Any) -> None:
    model = ScalableViT(**{**MINI, "head": head}).double()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    before = model.head.fc.weight
    model.reset_classifier(7)
    assert model(x).shape == (2, 7)
    assert model.num_classes == 7
    assert model.get_classifier() is model.head.fc
    assert model.head.fc.weight is not before
    assert model.head.fc.weight.std().item() == pytest.approx(0.02, rel=0.3)
    model.reset_classifier(0)
    assert model(x).shape == (2, 16)
    model.reset_classifier(5, "max")
    assert model(x).shape == (2, 5)
    model.reset_classifier(5, "")
    assert model(x).shape == (2, 4, 4, 5)


def test_initialisation() -> None:
    model = ScalableViT(**ATTO)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and module.weight.numel() > 2000:
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.15), name
            assert module.weight.abs().max() < 0.2
        elif isinstance(module, nn.Conv2d) and module.weight.numel() > 500:
            fan_out = module.kernel_size[0] ** 2 * module.out_channels / module.groups
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.2), name
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert not module.bias.any(), name


def test_blocks_alternate_and_drop_path_rises_linearly() -> None:
    model = ScalableViT(**ATTO, drop_path_rate=0.7)
    blocks = [block for stage in model.stages for block in stage.blocks]
    assert [type(b.attn).__name__[0] for b in blocks] == ["I", "S"] * 4  # Interactive..., Scalable...
    rates = [getattr(b.drop_path, "p", getattr(b.drop_path, "drop_prob", 0.0)) for b in blocks]
    assert rates == pytest.approx([0.1 * i for i in range(8)])
    assert [s.blocks[1].attn.reduction for s in model.stages] == [8, 4, 2, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("size", [(64, 96), (33, 50)], ids=str)
def test_autocast_trains_without_nan(dtype: torch.dtype, size: tuple[int, int]) -> None:
    model = ScalableViT(**ATTO, num_classes=5)
    x = torch.randn(2, 3, *size)
    exact = model(x)
    with torch.autocast("cpu", dtype=dtype):
        logits = model(x)
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), exact, rtol=0.1, atol=0.02)
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_runs_in_other_precisions(dtype: torch.dtype) -> None:
    model = ScalableViT(**MINI).to(dtype)
    assert model(torch.randn(1, 3, 40, 40, dtype=dtype)).dtype == dtype


def test_gradients_reach_every_parameter() -> None:
    model = ScalableViT(**ATTO, num_classes=5)
    model(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_grad_checkpointing_gives_equal_gradients() -> None:
    gradients = []
    for enable in (False, True):
        model = lively(ScalableViT(**ATTO, num_classes=5))
        model.set_grad_checkpointing(enable)
        assert model.grad_checkpointing is enable
        kept: list[Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t) or t, lambda t: t):
            loss = model(torch.ones(1, 3, 64, 64)).square().sum()
        loss.backward()
        gradients.append(({n: p.grad for n, p in model.named_parameters()}, sum(t.numel() for t in kept)))
    (plain, saved_plain), (recomputed, saved_recomputed) = gradients
    assert saved_recomputed < saved_plain / 3
    for name, grad in plain.items():
        torch.testing.assert_close(recomputed[name], grad, msg=lambda m, n=name: f"{n}: {m}")


SHAPED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # Same parameters, other result.
    "window_size": ({"window_size": 7}, {"window_size": 5}),
    "window rows and columns": ({"window_size": (2, 5)}, {"window_size": (5, 2)}),
    "window per stage": ({"window_size": 7}, {"window_size": [7, 4]}),
    "global_pool": ({}, {"global_pool": "max"}),
    # Fewer parameters.
    "lim": ({}, {"lim": False}),
    "peg": ({}, {"peg": False}),
    "qkv_bias": ({}, {"qkv_bias": False}),
}


@pytest.mark.parametrize("case", SHAPED)
def test_every_knob_changes_the_result(case: str) -> None:
    first, second = ({**MINI, **options} for options in SHAPED[case])
    model, other = lively(ScalableViT(**first)).eval(), ScalableViT(**second).eval()
    result = other.load_state_dict(model.state_dict(), strict=False)
    assert not result.missing_keys
    x = torch.randn(2, 3, 50, 70)
    assert not torch.allclose(model(x), other(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"scale_value": True},
        {"pattern": ("ssa", "iwsa")},
        {"pattern": ("iwsa",)},
        {"mlp_ratio": 2.0},
        {"channel_ratios": (1.0, 1.0)},
        {"reductions": (4, 1)},
        {"depths": (2, 3)},
        {"embed_dims": (8, 32)},
        {"head": "published"},
        {"num_classes": 9},
        {"in_chans": 2},
    ],
    ids=str,
)
def test_knobs_of_shape_change_the_parameters(options: dict[str, Any]) -> None:
    def shapes(model: ScalableViT) -> dict[str, torch.Size]:
        return {name: p.shape for name, p in model.named_parameters()}

    assert shapes(ScalableViT(**MINI)) != shapes(ScalableViT(**{**MINI, **options}))


def test_heads_change_the_result() -> None:
    model = lively(ScalableViT(**MINI)).double().eval()
    other = ScalableViT(**{**MINI, "num_heads": (1, 1)}).double().eval()
    other.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 50, 70, dtype=torch.float64)
    assert (model(x) - other(x)).abs().max() > 1e-5


@pytest.mark.parametrize("knob", ["drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"])
def test_dropout_acts_in_training_only(knob: str) -> None:
    model = lively(ScalableViT(**{**MINI, knob: 0.5}))
    x = torch.randn(8, 3, 32, 32)
    assert not torch.allclose(model(x), model(x))
    model.eval()
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("part", ["iwsa", "ssa"])
def test_attention_dropout_reaches_both_attentions(part: str) -> None:
    model = lively(ScalableViT(**{**MINI, "pattern": (part,)}, attn_drop_rate=0.5))
    x = torch.randn(2, 3, 32, 32)
    assert not torch.allclose(model(x), model(x))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depths": (2, 2, 2)}, r"depths must have one value per stage \(2\), got \[2, 2, 2\]"),
        ({"num_heads": (2,)}, "num_heads must have one value per stage"),
        ({"channel_ratios": (1.0,)}, "channel_ratios must have one value per stage"),
        ({"reductions": (1,)}, "reductions must have one value per stage"),
        ({"in_chans": 0}, "in_chans must be at least 1, got 0"),
        ({"num_classes": -1}, "num_classes must be at least 0, got -1"),
        ({"head": "big"}, "head must be 'published' or 'plain', got 'big'"),
        ({"global_pool": "min"}, "global_pool must be 'avg', 'max' or '', got 'min'"),
        ({"pattern": ("iwsa", "sra")}, r"pattern must be made of 'iwsa' and 'ssa', got \['iwsa', 'sra'\]"),
        ({"pattern": ()}, "pattern must be made of"),
        ({"drop_rate": 1.0}, r"drop_rate must be in \[0, 1\), got 1.0"),
        ({"attn_drop_rate": -0.1}, r"attn_drop_rate must be in \[0, 1\), got -0.1"),
        ({"window_size": 0}, r"window_size must be at least 1 token .* got \(0, 0\)"),
        ({"window_size": [7, 7, 7]}, r"window_size must be .* one per stage \(2\), got \[7, 7, 7\]"),
        ({"num_heads": (3, 2)}, "dim 8 must be a multiple of num_heads 3"),
        ({"reductions": (0, 1)}, "reduction must be at least 1, got 0"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ScalableViT(**{**MINI, **options})


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(3, 32, 32), r"images must be \(B, 3, H, W\), got \(3, 32, 32\)"),
        (torch.zeros(1, 3, 0, 32), r"at least 1 pixel high and wide, got \(1, 3, 0, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "floating-point.*uint8"),
    ],
    ids=["unbatched", "empty", "bytes"],
)
def test_bad_images_are_named(images: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ScalableViT(**MINI)(images)
