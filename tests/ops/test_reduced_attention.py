"""Attention over reduced keys against its definition."""

from functools import partial

import pytest
import torch
from torch import Tensor
from twin_checks import assert_errs_no_more_than_eager, randn

from scalablevit.ops.reduced_attention import fused, reduced_attention, reference

# tokens, keys, heads, width of a head's queries and keys, and of its values
CASES = {
    "S": (100, 49, 2, 40, 32),
    "equal widths": (25, 9, 3, 8, 8),
    "L, narrow keys": (30, 4, 4, 8, 32),
    "one key": (12, 1, 2, 5, 3),
    "one token": (1, 1, 1, 2, 4),
    "more keys than tokens": (3, 17, 2, 4, 6),
}


def make_inputs(N: int, M: int, heads: int, D: int, Dv: int) -> dict[str, Tensor | None]:
    return {
        "q": randn((2, N, heads * D), seed=1),
        "k": randn((2, M, heads * D), seed=2),
        "v": randn((2, M, heads * Dv), seed=3),
    }


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_fused_errs_no_more_than_eager(case: str, dtype: torch.dtype) -> None:
    options = {"num_heads": CASES[case][2], "scale": 0.21}
    assert_errs_no_more_than_eager(
        partial(fused.reduced_attention, **options),
        partial(reference.reduced_attention, **options),
        make_inputs(*CASES[case]),
        dtype,
    )


def test_keys_and_values_cut_from_one_matrix_give_the_same() -> None:
    kv = randn((2, 9, 2 * 40 + 2 * 32), seed=5)
    q = randn((2, 30, 80), seed=6)
    k, v = kv.split((80, 64), dim=-1)
    torch.testing.assert_close(
        fused.reduced_attention(q, k, v, num_heads=2, scale=0.1),
        reference.reduced_attention(q, k, v, num_heads=2, scale=0.1),
    )


@pytest.mark.parametrize("function", [fused.reduced_attention, reference.reduced_attention], ids=["fused", "reference"])
def test_dropout_and_scale_take_part(function) -> None:
    q, k, v = (randn((1, 20, 8), seed=i) for i in range(3))
    plain = function(q, k, v, num_heads=2, scale=0.5)
    assert not torch.allclose(plain, function(q, k, v, num_heads=2, scale=0.25))
    assert not torch.allclose(plain, function(q, k, v, num_heads=2, scale=0.5, dropout=0.5))
    assert not torch.allclose(plain, function(q, k, v, num_heads=1, scale=0.5))


def test_bad_arguments_are_named() -> None:
    x = torch.zeros(1, 4, 6)
    with pytest.raises(ValueError, match=r"num_heads 4 must divide the widths of q \(6\) and v \(6\)"):
        reduced_attention(x, x, x, num_heads=4, scale=1.0)
    with pytest.raises(ValueError, match=r"num_heads 3 must divide the widths of q \(6\) and v \(4\)"):
        reduced_attention(x, x, x[..., :4], num_heads=3, scale=1.0)
