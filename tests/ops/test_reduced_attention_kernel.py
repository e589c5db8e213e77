"""The Triton kernels of attention over reduced keys against their definition (`test_kernels_interpreted.py`)."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from interpreter import INTERPRETED, IS_INTERPRETED
from torch import Tensor
from twin_checks import assert_errs_no_more_than_eager, assert_finite_where_defined, out_and_grads, randn

from scalablevit.layers import ScalableSelfAttention
from scalablevit.ops import choice, fallback
from scalablevit.ops.reduced_attention import operators, reduced_attention, reference, select_implementation
from scalablevit.ops.reduced_attention.limits import is_one_block

pytestmark = INTERPRETED
if IS_INTERPRETED:
    from scalablevit.ops.reduced_attention import kernel

# tokens, keys, heads, width of a head's queries and keys, and of its values
CASES = {
    "S": (100, 49, 2, 40, 32),
    "S, scaled values": (70, 49, 1, 40, 40),
    "L, narrow keys": (130, 4, 2, 8, 32),
    "one key": (12, 1, 2, 5, 3),
    "one token": (1, 1, 1, 2, 4),
    "more keys than tokens": (3, 17, 2, 4, 6),
    "a block of keys, full": (33, 64, 1, 64, 64),
    "S, many keys": (50, 130, 2, 40, 32),
    "many keys, one token": (1, 65, 1, 16, 40),
    "wide": (20, 30, 1, 80, 128),
}
FP32_ERRORS = 8  # rounding errors of the largest score; the definition itself was found to make 6
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
triton_attention = partial(reduced_attention, implementation="triton")


def make_inputs(N: int, M: int, heads: int, D: int, Dv: int) -> dict[str, Tensor | None]:
    return {
        "q": randn((2, N, heads * D), seed=1),
        "k": randn((2, M, heads * D), seed=2),
        "v": randn((2, M, heads * Dv), seed=3),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kernel_errs_no_more_than_eager(case: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(run: Callable) -> Callable:
        return lambda *args, **kwargs: calls.append(run.__name__) or run(*args, **kwargs)

    monkeypatch.setattr(kernel, "forward", counted(kernel.forward))
    monkeypatch.setattr(kernel, "backward", counted(kernel.backward))
    options = {"num_heads": CASES[case][2], "scale": 0.21}
    assert_errs_no_more_than_eager(
        partial(triton_attention, **options),
        partial(reference.reduced_attention, **options),
        make_inputs(*CASES[case]),
        dtype,
    )
    assert calls == ["forward", "backward"]


def test_both_families_of_kernels_are_tested() -> None:
    found = {is_one_block(M, key_width=D, value_width=Dv) for _, M, _, D, Dv in CASES.values()}
    assert found == {True, False}


@pytest.mark.parametrize("M", [9, 70])
def test_softmax_of_large_scores_neither_overflows_nor_vanishes(M: int) -> None:
    inputs = make_inputs(20, M, 1, 16, 16)
    inputs["q"] *= 50  # scores in the hundreds, where exp2 ends at 128
    options = {"num_heads": 1, "scale": 1.0}
    found = out_and_grads(partial(triton_attention, **options), inputs, torch.float32)
    exact = out_and_grads(partial(reference.reduced_attention, **options), inputs, torch.float64)
    for name in exact:
        torch.testing.assert_close(found[name], exact[name], rtol=1e-3, atol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("M", [9, 70, 130])
def test_scores_of_minus_infinity_have_no_weight(M: int) -> None:
    """Products of finite numbers overflow: those with the first keys, which are a whole block of the online softmax."""
    inputs = {name: x.clone() for name, x in make_inputs(20, M, 1, 16, 16).items()}
    inputs["q"][..., 0] = 1e25
    inputs["k"][..., 0] = 0
    inputs["k"][:, : 64 if M > 64 else 5, 0] = -1e25
    options = {"num_heads": 1, "scale": 0.3}
    definition = partial(reference.reduced_attention, **options)
    assert out_and_grads(definition, inputs, torch.float32)["out"].isfinite().all()
    assert_finite_where_defined(partial(triton_attention, **options), definition, inputs)


@pytest.mark.parametrize("M", [9, 70])
@pytest.mark.parametrize("name", ["k", "v"])
def test_an_infinite_key_or_value_stays_where_it_is(name: str, M: int) -> None:
    inputs = {name: x.clone() for name, x in make_inputs(20, M, 1, 16, 16).items()}  # 20 queries fill no tile
    inputs["q"][..., 0] = -1 - inputs["q"][..., 0].abs()
    inputs[name][0, 2, 0] = torch.inf
    options = {"num_heads": 1, "scale": 0.3}
    assert_finite_where_defined(
        partial(triton_attention, **options), partial(reference.reduced_attention, **options), inputs
    )


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("name", ["q", "k", "v"])
@pytest.mark.parametrize("M", [9, 130])
def test_what_is_no_number_reaches_what_it_reaches_by_definition(M: int, name: str, number: float) -> None:
    inputs = {name: x.clone() for name, x in make_inputs(20, M, 1, 16, 16).items()}
    inputs[name][0, -1, 0] = number
    options = {"num_heads": 1, "scale": 0.3}
    assert_finite_where_defined(
        partial(triton_attention, **options), partial(reference.reduced_attention, **options), inputs
    )


@pytest.mark.parametrize("M", [9, 70, 130])
def test_a_query_whose_scores_are_all_minus_infinity_is_nan_alone(M: int) -> None:
    inputs = {name: x.clone() for name, x in make_inputs(20, M, 1, 16, 16).items()}
    inputs["q"][..., 0] = 0
    inputs["q"][0, 3, 0] = 3e38
    inputs["k"][..., 0] = -2
    options = {"num_heads": 1, "scale": 0.3}
    definition = partial(reference.reduced_attention, **options)
    assert out_and_grads(definition, inputs, torch.float32)["out"].isnan().sum() == 16
    assert_finite_where_defined(partial(triton_attention, **options), definition, inputs)


@pytest.mark.parametrize("largest", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("M", [49, 130])
def test_in_fp32_errors_grow_with_scores_as_the_definitions_do(M: int, largest: float) -> None:
    """A score of S is off by S / 2^24 and more, and its weight by that share: of all that a result adds up.

    Twice eager does not hold here: it keeps its weights for the backward, and many keys make them anew.
    """
    inputs = make_inputs(20, M, 1, 16, 16)
    inputs["q"] = inputs["q"] * (largest / (inputs["q"] @ inputs["k"].mT * 0.3).abs().max())
    options = {"num_heads": 1, "scale": 0.3}
    definition = partial(reference.reduced_attention, **options)
    exact = out_and_grads(definition, inputs, torch.float64, given_in=torch.float32)
    found = out_and_grads(partial(triton_attention, **options), inputs, torch.float32)
    q, k, v = (x.float().double() for x in inputs.values())
    weights, grad = (q @ k.mT * 0.3).softmax(-1), randn((2, 20, 16), seed=99).float().double()
    of_weights = grad @ v.mT
    of_scores = 0.3 * weights * (of_weights.abs() + (weights * of_weights).sum(-1, keepdim=True).abs())
    added = {
        "out": weights @ v.abs(),
        "dq": of_scores @ k.abs(),
        "dk": of_scores.mT @ q.abs(),
        "dv": weights.mT @ grad.abs(),
    }
    for name, x in added.items():
        allowed = FP32_ERRORS * (1 + largest) * 2**-24 * x + 1e-30
        assert ((found[name] - exact[name]).abs() / allowed).max() <= 1, name


@pytest.mark.parametrize("M", [9, 70])
def test_slices_of_one_matrix_are_read_where_they_lie(M: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kv = randn((2, M, 2 * 40 + 2 * 32), seed=5).float().requires_grad_()
    q = randn((2, 20, 80), seed=6).float()
    k, v = kv.split((80, 64), dim=-1)
    expected = reference.reduced_attention(q, k, v, num_heads=2, scale=0.1)
    (expected_grad,) = torch.autograd.grad(expected.square().sum(), kv)
    monkeypatch.setattr(Tensor, "contiguous", lambda *_, **__: pytest.fail("a copy"))
    found = triton_attention(q, k, v, num_heads=2, scale=0.1)
    (grad,) = torch.autograd.grad(found.square().sum(), kv)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(grad, expected_grad)


@pytest.mark.parametrize("M", [9, 70])
def test_any_strides_will_do(M: int) -> None:
    q, k, v = (randn((2, n, 32), seed=n).float() for n in (20, M, M))
    expected = reference.reduced_attention(q, k, v, num_heads=2, scale=0.3)
    strided = [x.permute(2, 0, 1).contiguous().permute(1, 2, 0).requires_grad_() for x in (q, k, v)]
    assert all(x.stride(-1) != 1 for x in strided)
    found = triton_attention(*strided, num_heads=2, scale=0.3)
    torch.testing.assert_close(found, expected)
    grads = torch.autograd.grad(found.sum(), strided)  # a gradient with strides of zero
    expected = reference.reduced_attention(*strided, num_heads=2, scale=0.3)
    torch.testing.assert_close(grads, torch.autograd.grad(expected.sum(), strided), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("M", [9, 70])
def test_any_number_of_shares_and_any_tiles_give_the_same(M: int) -> None:
    q, k, v = (randn((2, n, 16), seed=n).float() for n in (100, M, M))
    grad = randn((2, 100, 16), seed=1).float()
    one_block = is_one_block(M, key_width=16, value_width=16)
    options = {"num_heads": 1, "scale": 0.2}
    out, log_sums = operators.reduced_attention(q, k, v, *options.values())
    expected = kernel.backward(grad, q, k, v, out, log_sums, **options, num_shares=1)
    for num_shares in (2, 3, 1000):
        found = kernel.backward(grad, q, k, v, out, log_sums, **options, num_shares=num_shares)
        torch.testing.assert_close(found, expected)
    tiles = kernel.Tiles(16, 64 if one_block else 32, 4, 1)
    found = kernel.backward(grad, q, k, v, out, log_sums, **options, tiles=(tiles,) * (2 - one_block))
    torch.testing.assert_close(found, expected)
    again = torch.full_like(out, torch.nan)
    kernel.forward(q, k, v, again, torch.empty_like(log_sums), **options, tiles=tiles)
    torch.testing.assert_close(again, out)


@pytest.mark.parametrize(("B", "N", "M"), [(0, 5, 3), (0, 5, 70), (2, 0, 3), (2, 0, 70), (2, 5, 0)])
def test_nothing_gives_nothing(B: int, N: int, M: int) -> None:
    q, k, v = (torch.ones(B, n, 8, requires_grad=True) for n in (N, M, M))
    out = triton_attention(q, k, v, num_heads=2, scale=1.0)
    assert torch.equal(out, torch.zeros(B, N, 8))
    out.sum().backward()
    for x in (q, k, v):
        assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("M", [9, 70])
def test_opcheck(M: int) -> None:
    torch.use_deterministic_algorithms(False)
    kv = randn((1, M, 32), seed=1).float()
    for needs_grad in (False, True):
        q = randn((1, 20, 16), seed=2).float().requires_grad_(needs_grad)
        k, v = (x.detach().requires_grad_(needs_grad) for x in kv.split((16, 16), dim=-1))
        torch.library.opcheck(torch.ops.scalablevit.reduced_attention.default, (q, k, v, 2, 0.3))
    out, log_sums = operators.reduced_attention(q.detach(), k.detach(), v.detach(), 2, 0.3)
    inputs = (x.detach() for x in (out, q, k, v, out, log_sums))
    torch.library.opcheck(torch.ops.scalablevit.reduced_attention_backward.default, (*inputs, 2, 0.3))


@pytest.mark.parametrize("M", [9, 70])
def test_compiles_without_a_break(M: int) -> None:
    layer = partial(triton_attention, num_heads=1, scale=0.3)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=True)
    for N in (20, 33):
        inputs = make_inputs(N, M, 1, 5, 6)
        found = out_and_grads(compiled, inputs, torch.float32)
        expected = out_and_grads(layer, inputs, torch.float32)
        for name in expected:
            torch.testing.assert_close(found[name], expected[name])


def test_second_derivatives_are_refused() -> None:
    q, k, v = (randn((1, 5, 4), seed=i).float().requires_grad_() for i in range(3))
    out = triton_attention(q, k, v, num_heads=1, scale=0.3)
    (dq,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="has no gradients, so second derivatives do not exist"):
        dq.sum().backward()


@pytest.mark.parametrize("M", [9, 70])
def test_a_kernel_that_cannot_be_built_costs_no_run(M: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    def fail(*_: object, **__: object) -> None:
        raise OutOfResources(200, 100, "shared memory")

    monkeypatch.setattr(fallback, "_unbuildable", set())
    monkeypatch.setattr(fallback, "IS_INTERPRETED", False)  # an error of the interpreter would be the kernel's own
    inputs = make_inputs(20, M, 2, 8, 6)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return operators.reduced_attention(q, k, v, 2, 0.2)[0]

    options = {"num_heads": 2, "scale": 0.2}
    expected = out_and_grads(partial(reference.reduced_attention, **options), inputs, torch.float32)
    for broken in ("forward", "backward"):
        fallback._unbuildable.clear()
        with monkeypatch.context() as patch:
            patch.setattr(kernel, broken, fail)
            with pytest.warns(UserWarning, match="cannot be built for cpu, torch.float32, key_width 8, value_width 6"):
                found = out_and_grads(run, inputs, torch.float32)
            again = out_and_grads(run, inputs, torch.float32)  # where a second warning would be an error
        for name in expected:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(again[name], expected[name], rtol=1e-5, atol=1e-6)


def test_other_errors_of_a_kernel_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("an illegal memory access")

    monkeypatch.setattr(kernel, "forward", fail)
    q = torch.ones(1, 4, 8)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        triton_attention(q, q, q, num_heads=1, scale=1.0)


def test_tensors_of_several_dtypes_go_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "forward", lambda *_, **__: pytest.fail("the kernel ran"))
    monkeypatch.setattr(choice, "_said", set())
    q = torch.ones(1, 4, 8)
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.warns(UserWarning, match="q, k and v of one dtype; PyTorch computes"),
    ):
        assert triton_attention(q, q.bfloat16(), q.bfloat16(), num_heads=1, scale=1.0).dtype == torch.bfloat16


def test_wide_heads_and_dropout_go_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "forward", lambda *_, **__: pytest.fail("the kernel ran"))
    monkeypatch.setattr(choice, "_said", set())
    q = torch.ones(1, 4, 136)
    with pytest.warns(UserWarning, match="head widths up to 128, not 136; PyTorch computes instead"):
        torch.testing.assert_close(triton_attention(q, q, q, num_heads=1, scale=1.0), q)
    with pytest.warns(UserWarning, match="no dropout of attention weights; PyTorch computes instead"):
        triton_attention(q, q, q, num_heads=2, scale=1.0, dropout=0.5)


def test_it_takes_a_word_to_interpret() -> None:
    sizes = {"key_width": 8, "value_width": 8, "device": torch.device("cpu"), "dtype": torch.float32}
    assert select_implementation(**sizes, implementation="triton").implementation == "triton"
    assert select_implementation(**sizes).implementation == ("torch" if choice.DEFAULT == "auto" else choice.DEFAULT)


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("scale_value", [False, True], ids=["released form", "scaled-value form"])
def test_the_layer_is_the_same_on_the_kernel(scale_value: bool, autocast: bool) -> None:
    found = {}
    x = randn((2, 9, 10, 16), seed=3).float()
    grad = randn(x.shape, seed=4).float()
    for implementation in ("torch", "triton"):
        torch.manual_seed(0)
        layer = ScalableSelfAttention(
            16, 2, reduction=2, channel_ratio=1.25, scale_value=scale_value, implementation=implementation
        )
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = layer(leaf)
        out.backward(grad.to(out.dtype))
        found[implementation] = {"out": out, "x": leaf.grad, **{n: p.grad for n, p in layer.named_parameters()}}
    tolerance = {"rtol": 0.05, "atol": 0.05} if autocast else {"rtol": 1e-4, "atol": 1e-5}
    for name, expected in found["torch"].items():
        torch.testing.assert_close(found["triton"][name], expected, **tolerance, msg=lambda m, n=name: f"{n}: {m}")
