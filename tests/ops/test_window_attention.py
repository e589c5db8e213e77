"""Interactive window attention against its definition, and the definition against first principles."""

from functools import partial

import pytest
import torch
from torch import Tensor
from twin_checks import assert_errs_no_more_than_eager, randn

from scalablevit.ops.window_attention import fused, reference, window_attention

CASES = {
    "published": {"B": 2, "H": 14, "W": 21, "heads": 2, "D": 32, "window": (7, 7)},
    "one token": {"B": 1, "H": 1, "W": 1, "heads": 1, "D": 4, "window": (1, 1)},
    "one window": {"B": 3, "H": 7, "W": 7, "heads": 3, "D": 8, "window": (7, 7)},
    "one head": {"B": 1, "H": 6, "W": 4, "heads": 1, "D": 5, "window": (3, 2)},
    "wide windows": {"B": 2, "H": 4, "W": 24, "heads": 2, "D": 8, "window": (2, 12)},
    "columns": {"B": 1, "H": 5, "W": 3, "heads": 2, "D": 3, "window": (5, 1)},
}


def make_inputs(B: int, H: int, W: int, heads: int, D: int) -> dict[str, Tensor | None]:
    C = heads * D
    return {
        "qkv": randn((B, H, W, 3 * C), seed=1),
        "lim_weight": randn((C, 1, 3, 3), seed=2),
        "lim_bias": randn((C,), seed=3),
    }


@pytest.mark.parametrize("lim", ["lim", "lim without bias", "no lim"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_fused_errs_no_more_than_eager(case: str, dtype: torch.dtype, lim: str) -> None:
    sizes = dict(CASES[case])
    window = sizes.pop("window")
    inputs = make_inputs(**sizes)
    if lim != "lim":
        inputs["lim_bias"] = None
    if lim == "no lim":
        inputs["lim_weight"] = None
    options = {"num_heads": sizes["heads"], "window_size": window}
    assert_errs_no_more_than_eager(
        partial(fused.window_attention, **options),
        partial(reference.window_attention, **options),
        inputs,
        dtype,
    )


def test_non_contiguous_input_gives_the_same() -> None:
    inputs = make_inputs(2, 14, 7, 2, 4)
    qkv = inputs["qkv"]
    assert qkv is not None
    strided = qkv.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    assert not strided.is_contiguous()
    for function in (fused.window_attention, reference.window_attention):
        call = partial(function, lim_weight=inputs["lim_weight"], lim_bias=inputs["lim_bias"])
        torch.testing.assert_close(
            call(strided, num_heads=2, window_size=(7, 7)), call(qkv, num_heads=2, window_size=(7, 7))
        )


@pytest.mark.parametrize("function", [fused.window_attention, reference.window_attention], ids=["fused", "reference"])
def test_windows_do_not_see_each_other_but_through_lim(function) -> None:
    qkv = randn((1, 6, 6, 12), seed=0)
    kernel, bias = randn((4, 1, 3, 3), seed=1), randn((4,), seed=2)
    changed = qkv.clone()
    changed[:, 0, 0] += 1  # a token of the upper left window, away from its border
    options = {"num_heads": 2, "window_size": (3, 3)}
    moved = (function(qkv, None, None, **options) - function(changed, None, None, **options)).abs().sum(-1)[0] > 0
    assert moved[:3, :3].all()
    assert moved.sum() == 9
    changed = qkv.clone()
    changed[:, 2, 2] += 1  # its corner, which LIM carries to all four windows
    moved = (function(qkv, kernel, bias, **options) - function(changed, kernel, bias, **options)).abs().sum(-1)[0] > 0
    expected = torch.zeros(6, 6, dtype=torch.bool)
    expected[:4, :4] = True
    expected[3, 0] = expected[0, 3] = False
    assert torch.equal(moved, expected)


@pytest.mark.parametrize("function", [fused.window_attention, reference.window_attention], ids=["fused", "reference"])
def test_dropout_drops_attention_weights(function) -> None:
    qkv = torch.ones(1, 7, 7, 3 * 8)
    options = {"num_heads": 2, "window_size": (7, 7)}
    assert torch.allclose(function(qkv, None, None, **options), torch.ones(1, 7, 7, 8))
    dropped = function(qkv, None, None, **options, dropout=0.5)
    # The sum of the kept of 49 equal weights, times 2: multiples of 2 / 49 that scatter around 1.
    assert torch.allclose(dropped * 49 / 2, (dropped * 49 / 2).round(), atol=1e-3)
    assert 0.05 < dropped.std() < 0.3
    assert abs(dropped.mean() - 1) < 0.1


def test_bad_arguments_are_named() -> None:
    qkv = torch.zeros(1, 6, 6, 12)
    with pytest.raises(ValueError, match=r"12 channels, which is not 3 x num_heads \(3\)"):
        window_attention(qkv, None, None, num_heads=3, window_size=(3, 3))
    with pytest.raises(ValueError, match=r"window_size must be at least 1 .* got \(0, 3\)"):
        window_attention(qkv, None, None, num_heads=2, window_size=(0, 3))
    with pytest.raises(ValueError, match=r"6x6 tokens is not a whole number of \(4, 3\) windows"):
        window_attention(qkv, None, None, num_heads=2, window_size=(4, 3))
