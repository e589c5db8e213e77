"""Scalable self-attention as a layer: both value forms, reduced keys, small maps, knobs."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scalablevit.layers import ScalableSelfAttention


def by_definition(layer: ScalableSelfAttention, x: Tensor, channel_ratio: float) -> Tensor:
    """Equations 1 to 3 of the paper, one head and one image at a time."""
    _B, H, W, C = x.shape
    h, R = layer.num_heads, layer.reduction
    out = []
    for image in x:
        q, source = layer.q(image.reshape(H * W, C)), image.reshape(H * W, C)
        if R > 1:
            padded = image.new_zeros(max(H, R), max(W, R), C)
            padded[:H, :W] = image
            tokens = [
                torch.einsum("rsc,crs->c", padded[i * R : i * R + R, j * R : j * R + R], layer.reduce.weight[:, 0])
                for i in range(padded.shape[0] // R)
                for j in range(padded.shape[1] // R)
            ]
            source = torch.stack(tokens) + layer.reduce.bias
            source = source @ layer.expand.weight[:, :, 0, 0].T + layer.expand.bias
            source = F.gelu(F.layer_norm(source, source.shape[-1:], layer.norm.weight, layer.norm.bias, 1e-5))
        if hasattr(layer, "kv"):
            k, v = layer.kv(source).tensor_split([q.shape[-1]], dim=-1)
        else:
            k, v = layer.k(source), layer.v(source)
        heads = [
            ((a @ b.T) * (C / h * channel_ratio) ** -0.5).softmax(-1) @ c
            for a, b, c in zip(q.chunk(h, -1), k.chunk(h, -1), v.chunk(h, -1), strict=True)
        ]
        out.append(torch.cat(heads, dim=-1).view(H, W, -1))
    return layer.proj(torch.stack(out))


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 11),
    width=st.integers(1, 11),
    reduction=st.integers(1, 4),
    channel_ratio=st.sampled_from([0.5, 1.0, 1.25, 2.0]),
    scale_value=st.booleans(),
)
def test_any_size_follows_the_definition(
    height: int, width: int, reduction: int, channel_ratio: float, scale_value: bool
) -> None:
    layer = ScalableSelfAttention(
        8, 2, reduction=reduction, channel_ratio=channel_ratio, scale_value=scale_value
    ).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, height, width, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_definition(layer, x, channel_ratio))


def test_number_of_keys() -> None:
    """At 224 px every stage of the paper has 49; the stride floors; a small map still has one."""
    x = torch.randn(1, 56, 56, 4)
    assert ScalableSelfAttention(4, 1, reduction=8).reduced(x).shape == (1, 7, 7, 4)
    assert ScalableSelfAttention(4, 1, reduction=3).reduced(x[:, :10, :11]).shape == (1, 3, 3, 4)
    assert ScalableSelfAttention(4, 1, reduction=8).reduced(x[:, :1, :20]).shape == (1, 1, 2, 4)


def test_trailing_rows_reach_only_their_own_queries() -> None:
    layer = ScalableSelfAttention(4, 1, reduction=2)
    x = torch.randn(1, 5, 4, 4)
    changed = x.clone()
    changed[:, 4] += 1
    moved = (layer(x) - layer(changed)).abs().sum(-1)[0] > 1e-6
    assert not moved[:4].any()
    assert moved[4].all()


@pytest.mark.parametrize(
    ("scale_value", "names"), [(False, {"k", "v"}), (True, {"kv"})], ids=["released", "scaled-value"]
)
def test_value_forms_keep_their_published_matrices(scale_value: bool, names: set[str]) -> None:
    layer = ScalableSelfAttention(16, 4, reduction=2, channel_ratio=1.25, scale_value=scale_value)
    assert {name for name, _ in layer.named_children()} & {"k", "v", "kv"} == names
    assert layer.proj.in_features == (20 if scale_value else 16)
    assert {name for name, _ in ScalableSelfAttention(16, 4).named_children()} & {"k", "v", "kv"} == {"kv"}


def test_scale_follows_the_channel_ratio() -> None:
    assert ScalableSelfAttention(64, 2, channel_ratio=1.25).scale == pytest.approx(40**-0.5)
    assert ScalableSelfAttention(96, 3, channel_ratio=2.0).scale == pytest.approx(64**-0.5)


@pytest.mark.parametrize("knob", ["attn_drop", "proj_drop"])
def test_dropout_acts_in_training_only(knob: str) -> None:
    layer = ScalableSelfAttention(8, 2, reduction=2, **{knob: 0.5})
    x = torch.randn(1, 6, 6, 8)
    layer.train()
    assert not torch.allclose(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_qkv_bias_can_be_left_out() -> None:
    layer = ScalableSelfAttention(8, 2, reduction=2, qkv_bias=False)
    assert layer.q.bias is layer.k.bias is layer.v.bias is None
    assert layer.proj.bias is not None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_heads": 3}, "num_heads 3 must divide dim 8"),
        (
            {"num_heads": 4, "channel_ratio": 1.25},
            r"int\(dim \* channel_ratio\) = 10; change num_heads or channel_ratio 1.25",
        ),
        ({"num_heads": 2, "channel_ratio": 0.0}, "channel_ratio 0.0"),
        ({"num_heads": 2, "reduction": 0}, "reduction must be at least 1, got 0"),
    ],
    ids=str,
)
def test_bad_arguments_are_named(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ScalableSelfAttention(8, **arguments)
