"""Attention over reduced keys against its definition."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from twin_checks import assert_errs_no_more_than_eager, out_and_grads, randn

from scalablevit.ops.reduced_attention import fused, operators, reduced_attention, reference, select_implementation
from scalablevit.ops.reduced_attention.cost import products, traffic
from scalablevit.ops.reduced_attention.limits import cannot_serve

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


@pytest.mark.parametrize("implementation", ["torch", "reference"])
def test_the_implementation_asked_for_runs(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = randn((1, 4, 6), seed=0)
    twins = {"torch": fused, "reference": reference}
    expected = fused.reduced_attention(x, x, x, num_heads=2, scale=0.5)
    for name, twin in twins.items():
        if name != implementation:
            monkeypatch.setattr(twin, "reduced_attention", lambda *_, **__: pytest.fail("the other one ran"))
    found = reduced_attention(x, x, x, num_heads=2, scale=0.5, implementation=implementation)
    torch.testing.assert_close(found, expected)


def test_the_choice_names_the_obstacle() -> None:
    cpu = {"device": torch.device("cpu"), "dtype": torch.float32, "implementation": "auto"}
    assert select_implementation(key_width=40, value_width=32, **cpu).implementation == "torch"
    cuda = {"device": torch.device("cuda"), "dtype": torch.float32, "implementation": "reference"}
    assert select_implementation(key_width=40, value_width=32, **cuda).reason == "asked for"
    with pytest.raises(ValueError, match="must be one of auto, triton, torch, reference, got 'cuda'"):
        select_implementation(
            key_width=40, value_width=32, device=torch.device("cpu"), dtype=torch.float32, implementation="cuda"
        )
    with pytest.raises(ValueError, match="got 'cuda'"):
        reduced_attention(*[torch.zeros(1, 4, 6)] * 3, num_heads=2, scale=1.0, implementation="cuda")


def test_heads_too_wide_for_the_kernel_are_named() -> None:
    assert cannot_serve(key_width=128, value_width=128) is None
    assert cannot_serve(key_width=32, value_width=129) == "the kernel serves head widths up to 128, not 129"


@pytest.mark.parametrize("M", [5, 70])
def test_the_backward_without_a_kernel_is_that_of_the_definition(M: int) -> None:
    inputs = make_inputs(1030, M, 2, 5, 3)
    expected = out_and_grads(partial(reference.reduced_attention, num_heads=2, scale=0.3), inputs, torch.float32)
    q, k, v = (x.float() for x in inputs.values() if x is not None)
    found = operators._plain_backward(randn((2, 1030, 6), seed=99).float(), q, k, v, 2, 0.3)
    for name, grad in zip(("dq", "dk", "dv"), found, strict=True):
        torch.testing.assert_close(grad.double(), expected[name], rtol=1e-4, atol=1e-4)


def test_cost_of_one_token_and_head() -> None:
    head = {"num_heads": 1, "key_width": 40, "value_width": 32}
    per_token = {
        (M, backward): traffic(1, 101, M, itemsize=2, backward=backward, **head)
        - traffic(1, 100, M, itemsize=2, backward=backward, **head)
        for M in (49, 1050)
        for backward in (False, True)
    }
    # In: q, output's gradient. Out: output, dq. With many keys each thing twice, and rows of 4 bytes: sums out; sums
    # in, pairs of a sum and a delta out and in.
    assert per_token == {(49, False): 144, (49, True): 224, (1050, False): 148, (1050, True): 3 * 144 + 20}
    assert products(2, 3, 5, **head) == 2 * 3 * 5 * 72
    assert products(2, 3, 5, backward=True, **head) == 2 * 3 * 5 * (3 * 40 + 2 * 32)
    assert products(2, 3, 500, backward=True, **head) == 2 * 3 * 500 * (4 * 40 + 3 * 32)


@pytest.mark.parametrize(
    ("widths", "device", "expected"),
    [
        ((40, 32), "cpu", (40, 40)),  # the CPU's kernel wants one width
        ((40, 32), "cuda", (40, 32)),
        ((20, 32), "cuda", (32, 32)),  # no multiple of 8
        ((5, 3), "cuda", (8, 8)),
    ],
)
def test_widths_are_padded_to_what_fused_kernels_take(
    widths: tuple[int, int], device: str, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def attention(q: Tensor, k: Tensor, v: Tensor, **_: float) -> Tensor:
        seen.append((q.shape[-1], v.shape[-1]))
        assert k.shape[-1] == q.shape[-1]
        return q.new_empty((*q.shape[:-1], v.shape[-1]))

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    with FakeTensorMode():
        q, k, v = (
            torch.empty(2, n, 2 * width, device=device)
            for n, width in zip((9, 4, 4), (widths[0], *widths), strict=True)
        )
        assert fused.reduced_attention(q, k, v, num_heads=2, scale=0.1).shape == (2, 9, 2 * widths[1])
    assert seen == [expected]
