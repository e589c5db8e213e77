"""The Triton kernels of depthwise convolution against their definition, interpreted (`test_kernels_interpreted.py`)."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from interpreter import INTERPRETED, IS_INTERPRETED
from torch import Tensor, nn
from twin_checks import assert_errs_no_more_than_eager, out_and_grads, randn

from scalablevit.layers import PositionalEncodingGenerator, ScalableSelfAttention
from scalablevit.ops import fallback
from scalablevit.ops.depthwise import depthwise_convolution, operators, reference

pytestmark = INTERPRETED
if IS_INTERPRETED:
    from scalablevit.ops.depthwise import kernel

CASES = {
    "PEG": {"B": 2, "H": 9, "W": 11, "C": 20, "side": 3, "stride": 1, "residual": True},
    "PEG, several blocks of channels": {"B": 1, "H": 3, "W": 5, "C": 130, "side": 3, "stride": 1, "residual": True},
    "without residual": {"B": 1, "H": 4, "W": 6, "C": 16, "side": 5, "stride": 1, "residual": False},
    "one token": {"B": 1, "H": 1, "W": 1, "C": 3, "side": 3, "stride": 1, "residual": True},
    "patches of 8, rows and columns left over": {"B": 1, "H": 17, "W": 11, "C": 16, "side": 8, "stride": 8},
    "patches of 2": {"B": 2, "H": 6, "W": 7, "C": 70, "side": 2, "stride": 2},
    "one patch": {"B": 1, "H": 4, "W": 4, "C": 5, "side": 4, "stride": 4},
}


def make_inputs(case: str) -> dict[str, Tensor | None]:
    B, H, W, C, side = (CASES[case][name] for name in ("B", "H", "W", "C", "side"))
    return {
        "x": randn((B, H, W, C), seed=1),
        "weight": randn((C, 1, side, side), seed=2),
        "bias": randn((C,), seed=3),
    }


def calls(case: str) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Our kernel and the definition, of (x, weight, bias)."""
    stride = CASES[case]["stride"]
    options = {"stride": stride, "residual": CASES[case].get("residual", False)}
    options["padding"] = CASES[case]["side"] // 2 if stride == 1 else 0
    ours = partial(depthwise_convolution, implementation="triton", **options)
    return ours, partial(reference.depthwise_convolution, **options)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (case, dtype)
        for case in CASES
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
        if case != "one token" or dtype == torch.float32  # too few numbers to compare largest errors
    ],
    ids=str,
)
def test_kernel_errs_no_more_than_eager(case: str, dtype: torch.dtype) -> None:
    assert_errs_no_more_than_eager(*calls(case), make_inputs(case), dtype)


def test_kernel_without_bias_errs_no_more_than_eager() -> None:
    assert_errs_no_more_than_eager(*calls("PEG"), make_inputs("PEG") | {"bias": None}, torch.float32)


@pytest.mark.parametrize("programs", [1, 5])
def test_shares_sum_to_the_same(programs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_MOST_PROGRAMS", programs)
    monkeypatch.setattr(kernel, "summed_tokens", lambda channels: 16)
    assert_errs_no_more_than_eager(*calls("PEG"), make_inputs("PEG"), torch.float32)


def test_non_contiguous_input_gives_the_same() -> None:
    inputs = make_inputs("PEG")
    ours, definition = calls("PEG")
    wide = torch.cat([inputs["x"], inputs["x"]], dim=-1)[..., 20:]  # channels of a wider map
    turned = inputs["x"].permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)  # (B, C, H, W) in memory
    for x in (wide, turned):
        assert not x.is_contiguous()
        weight = inputs["weight"].mT.contiguous().mT
        bias = torch.stack([inputs["bias"], inputs["bias"]], 1)[:, 0]
        assert not weight.is_contiguous()
        assert not bias.is_contiguous()
        out = ours(x.float(), weight.float(), bias.to(torch.float32))
        expected = definition(inputs["x"], inputs["weight"], inputs["bias"]).float()
        torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)
        assert out.is_contiguous()


def test_operators_pass_opcheck() -> None:
    for case in ("one token", "one patch"):
        inputs = [x.float() for x in make_inputs(case).values()]
        taps = inputs[1].flatten(1).t().contiguous()
        side, stride = CASES[case]["side"], CASES[case]["stride"]
        sizes = (side, stride, side // 2 if stride == 1 else 0, CASES[case].get("residual", False))
        leaves = [x.clone().requires_grad_() for x in (inputs[0], taps, inputs[2])]
        torch.library.opcheck(torch.ops.scalablevit.depthwise.default, (*leaves, *sizes))
        grad = operators.depthwise(inputs[0], taps, inputs[2], *sizes)
        for with_sums in (True, False):
            arguments = (grad, inputs[0], taps, *sizes, with_sums)
            torch.library.opcheck(torch.ops.scalablevit.depthwise_backward.default, arguments)


@pytest.mark.parametrize("case", ["PEG", "patches of 8, rows and columns left over"])
def test_a_kernel_that_cannot_be_built_costs_a_warning_not_the_run(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    def too_large(*_, **__):
        raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(fallback, "IS_INTERPRETED", False)
    monkeypatch.setattr(fallback, "_unbuildable", set())
    monkeypatch.setattr(kernel, "forward", too_large)
    monkeypatch.setattr(kernel, "backward", too_large)
    ours, definition = calls(case)
    with pytest.warns(UserWarning, match=r"depthwise kernel cannot be built .*OutOfRes") as w:
        out_and_grads(ours, make_inputs(case), torch.bfloat16)
    assert len(w) == 2
    assert_errs_no_more_than_eager(ours, definition, make_inputs(case), torch.bfloat16)


def layer_results(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    out.backward(randn(out.shape, seed=9).to(out.dtype))
    return {"out": out.detach(), "x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}


def make_peg(implementation: str) -> nn.Module:
    torch.manual_seed(0)
    return PositionalEncodingGenerator(12, implementation=implementation)


def make_ssa(implementation: str) -> nn.Module:
    torch.manual_seed(0)
    layer = ScalableSelfAttention(12, 2, reduction=4, implementation="torch")
    layer.reduce_implementation = implementation
    return layer


@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "autocast"])
@pytest.mark.parametrize("make", [make_peg, make_ssa])
def test_layers_give_the_same_with_every_gradient(
    make: Callable[[str], nn.Module], autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    launches, forward = [], kernel.forward
    monkeypatch.setattr(kernel, "forward", lambda *a, **k: launches.append(1) or forward(*a, **k))
    x = randn((2, 9, 10, 12), seed=1).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        expected = layer_results(make("torch"), x)
        assert not launches
        found = layer_results(make("triton"), x)
    assert launches
    for name, exact in expected.items():
        assert found[name].dtype == exact.dtype
        scale = max(exact.abs().max().item(), 1)  # the bias of the keys changes nothing: its gradient is noise
        # Autocast rounds what the kernel keeps in fp32.
        rtol, atol = (5e-2, 2e-2 * scale) if autocast else (1e-4, 1e-5 * scale)
        torch.testing.assert_close(found[name], exact, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def test_a_watched_layer_is_called() -> None:
    layer, x = make_peg("triton"), torch.randn(1, 5, 4, 12)
    plain = layer(x)
    handle = layer.conv.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert not torch.allclose(layer(x), plain)
    handle.remove()
    torch.testing.assert_close(layer(x), plain)
