"""Interactive window self-attention as a layer: padding, cropping, windows, knobs."""

import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scalablevit.layers import InteractiveWindowSelfAttention
from scalablevit.ops import choice
from scalablevit.ops.window_attention import reference


def by_definition(layer: InteractiveWindowSelfAttention, x: Tensor) -> Tensor:
    """Zero-pad, qkv, attention and LIM on the padded map, crop, proj; with slicing, without `F.pad`."""
    B, H, W, C = x.shape
    rows, columns = layer.window_size
    padded = x.new_zeros(B, -(-H // rows) * rows, -(-W // columns) * columns, C)
    padded[:, :H, :W] = x
    out = reference.window_attention(
        layer.qkv(padded),
        None if layer.lim is None else layer.lim.weight,
        None if layer.lim is None else layer.lim.bias,
        num_heads=layer.num_heads,
        window_size=layer.window_size,
    )
    return layer.proj(out[:, :H, :W])


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 16),
    width=st.integers(1, 16),
    window=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    lim=st.booleans(),
)
def test_any_size_and_window_follow_the_definition(height: int, width: int, window: tuple[int, int], lim: bool) -> None:
    layer = InteractiveWindowSelfAttention(6, 2, window_size=window, lim=lim).double()
    x = torch.randn(2, height, width, 6, dtype=torch.float64)
    torch.testing.assert_close(layer(x), by_definition(layer, x))


def test_padded_tokens_take_part() -> None:
    """They carry the bias of qkv and are not masked, as in the published code."""
    layer = InteractiveWindowSelfAttention(4, 1, window_size=3, lim=False)
    x = torch.randn(1, 2, 2, 4)
    before = layer(x)
    nn.init.normal_(layer.qkv.bias)
    bias = layer.qkv.bias.detach().clone()
    after = layer(x)
    assert not torch.allclose(before, after)
    tokens = torch.cat([x.flatten(1, 2), torch.zeros(1, 5, 4)], dim=1)
    q, k, v = layer.qkv(tokens).split(4, dim=-1)
    expected = layer.proj((q @ k.mT / 2).softmax(-1) @ v)[:, :4].view(1, 2, 2, 4)
    assert torch.equal(bias, layer.qkv.bias)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("change", [{"window_size": 2}, {"lim": False}, {"qkv_bias": False}, {"num_heads": 1}], ids=str)
def test_every_setting_changes_the_result(change: dict) -> None:
    settings = {"num_heads": 2, "window_size": 3, "lim": True, "qkv_bias": True}
    layer = InteractiveWindowSelfAttention(4, **settings)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    other = InteractiveWindowSelfAttention(4, **{**settings, **change})
    other.load_state_dict({k: v for k, v in layer.state_dict().items() if k in other.state_dict()})
    x = torch.randn(1, 6, 6, 4)
    assert not torch.allclose(layer(x), other(x))


@pytest.mark.parametrize("knob", ["attn_drop", "proj_drop"])
def test_dropout_acts_in_training_only(knob: str) -> None:
    layer = InteractiveWindowSelfAttention(4, 2, window_size=3, **{knob: 0.5})
    x = torch.randn(1, 6, 6, 4)
    layer.train()
    assert not torch.allclose(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_windows_change_later() -> None:
    layer = InteractiveWindowSelfAttention(4, 2, window_size=3)
    other = InteractiveWindowSelfAttention(4, 2, window_size=(2, 5))
    other.load_state_dict(layer.state_dict())
    x = torch.randn(1, 6, 6, 4)
    assert not torch.allclose(layer(x), other(x))
    layer.set_window_size((2, 5))
    assert torch.equal(layer(x), other(x))


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="dim 10 must be a multiple of num_heads 4"):
        InteractiveWindowSelfAttention(10, 4)
    with pytest.raises(ValueError, match=r"window_size must be at least 1 token .* \(7, 0\)"):
        InteractiveWindowSelfAttention(8, 4, window_size=(7, 0))


def test_kernels_asked_for_in_vain_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_said", set())
    layer = InteractiveWindowSelfAttention(4, 2, window_size=3, implementation="triton")
    with pytest.warns(UserWarning, match="our attention kernels do not run: .*; PyTorch computes instead"):
        compiled = torch.compile(layer, backend="eager", fullgraph=True)(torch.randn(1, 4, 4, 4))
    assert compiled.shape == (1, 4, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(torch.randn(1, 4, 4, 4))
