"""Interactive window attention against its definition, and the definition against first principles."""

from functools import partial

import pytest
import torch
from torch import Tensor
from twin_checks import assert_errs_no_more_than_eager, randn

from scalablevit.ops import choice
from scalablevit.ops.window_attention import fused, gradient, reference, select_implementation, window_attention
from scalablevit.ops.window_attention.cost import products, traffic
from scalablevit.ops.window_attention.tiles import cannot_serve

CASES = {
    "published": {"B": 2, "H": 14, "W": 21, "heads": 2, "D": 32, "window": (7, 7)},
    "one token": {"B": 1, "H": 1, "W": 1, "heads": 1, "D": 4, "window": (1, 1)},
    "one window": {"B": 3, "H": 7, "W": 7, "heads": 3, "D": 8, "window": (7, 7)},
    "one head": {"B": 1, "H": 6, "W": 4, "heads": 1, "D": 5, "window": (3, 2)},
    "wide windows": {"B": 2, "H": 4, "W": 24, "heads": 2, "D": 8, "window": (2, 12)},
    "columns": {"B": 1, "H": 5, "W": 3, "heads": 2, "D": 3, "window": (5, 1)},
    "padded": {"B": 2, "H": 8, "W": 5, "heads": 2, "D": 4, "window": (7, 7)},
    "padded rows": {"B": 3, "H": 8, "W": 6, "heads": 2, "D": 8, "window": (3, 2)},
}
PADDED = ("padded", "padded rows")


def make_inputs(B: int, H: int, W: int, heads: int, D: int) -> dict[str, Tensor | None]:
    C = heads * D
    return {
        "qkv": randn((B, H, W, 3 * C), seed=1),
        "lim_weight": randn((C, 1, 3, 3), seed=2),
        "lim_bias": randn((C,), seed=3),
    }


def with_fill(function):
    """The same with `fill` as the last of its tensors."""

    def call(qkv: Tensor, weight: Tensor | None, bias: Tensor | None, fill: Tensor | None = None) -> Tensor:
        return function(qkv, weight, bias, fill=fill)

    return call


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
    if case in PADDED:
        inputs["fill"] = randn((3 * sizes["heads"] * sizes["D"],), seed=4)
    options = {"num_heads": sizes["heads"], "window_size": window}
    assert_errs_no_more_than_eager(
        with_fill(partial(fused.window_attention, **options)),
        with_fill(partial(reference.window_attention, **options)),
        inputs,
        dtype,
    )


@pytest.mark.parametrize("case", PADDED)
@pytest.mark.parametrize("function", [fused.window_attention, reference.window_attention], ids=["fused", "reference"])
def test_padded_tokens_are_those_of_a_map_padded_by_hand(function, case: str) -> None:
    sizes = dict(CASES[case])
    (rows, columns), heads = sizes.pop("window"), sizes["heads"]
    qkv, weight, bias = make_inputs(**sizes).values()
    B, H, W, C3 = qkv.shape
    options = {"num_heads": heads, "window_size": (rows, columns)}
    for fill in (randn((C3,), seed=4), None):
        padded = qkv.new_zeros(B, -(-H // rows) * rows, -(-W // columns) * columns, C3)
        padded += 0 if fill is None else fill
        padded[:, :H, :W] = qkv
        expected = function(padded, weight, bias, **options)[:, :H, :W]
        torch.testing.assert_close(function(qkv, weight, bias, fill=fill, **options), expected)


@pytest.mark.parametrize("lim", [True, False], ids=["lim", "no lim"])
@pytest.mark.parametrize("case", ["published", *PADDED])
def test_written_out_gradient_is_autograds(case: str, lim: bool) -> None:
    sizes = dict(CASES[case])
    options = {"num_heads": sizes["heads"], "window_size": sizes.pop("window")}
    qkv, weight, bias = make_inputs(**sizes).values()
    fill = randn((qkv.shape[-1],), seed=4) if case in PADDED else None
    leaves = [qkv, *([weight, bias] if lim else []), *([] if fill is None else [fill])]
    for leaf in leaves:
        leaf.requires_grad_()
    out = reference.window_attention(
        qkv, weight if lim else None, bias if lim else None, fill=fill, **options
    )  # (B, H, W, C)
    grad = randn(out.shape, seed=9)
    dqkv, *others = torch.autograd.grad(out, leaves, grad)
    with torch.no_grad():
        found, sums = gradient.backward(grad, qkv, weight if lim else None, fill, **options, with_sums=True)
        same, nothing = gradient.backward(grad, qkv, weight if lim else None, fill, **options, with_sums=False)
    torch.testing.assert_close(found, dqkv)
    torch.testing.assert_close(same, dqkv)
    assert nothing.shape == (0,)
    C = out.shape[-1]
    expected = torch.zeros(12, C, dtype=torch.float64)
    if lim:
        expected[:9], expected[9] = others[0].view(C, 9).t(), others[1]
    if fill is not None:
        assert not others[-1][:C].any()
        expected[10:] = others[-1][C:].view(2, C)
    torch.testing.assert_close(sums, expected.float())


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
    with pytest.raises(ValueError, match=r"fill must be one token of qkv, \(12,\), got \(4,\)"):
        window_attention(qkv, None, None, num_heads=2, window_size=(4, 3), fill=torch.zeros(4))
    with pytest.raises(ValueError, match="implementation must be one of auto, triton, torch, reference, got 'cuda'"):
        window_attention(qkv, None, None, num_heads=2, window_size=(4, 3), implementation="cuda")


def test_implementations_are_called_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = randn((1, 5, 4, 12), seed=0)
    called = []
    for module in (fused, reference):
        monkeypatch.setattr(module, "window_attention", lambda *_, name=module.__name__, **__: called.append(name))
    monkeypatch.setattr(choice, "_said", set())
    call = partial(window_attention, qkv, None, None, num_heads=2, window_size=(3, 3))
    for name in ("reference", "torch", "auto"):
        call(implementation=name)
    with pytest.warns(UserWarning, match="our attention kernels do not run: .*; PyTorch computes instead"):
        call(implementation="triton")
    assert [name.rsplit(".")[-1] for name in called] == ["reference", "fused", "fused", "fused"]


def test_what_cannot_be_served_is_said() -> None:
    said = partial(cannot_serve, dtype=torch.bfloat16)
    assert said(window_size=(7, 7), head_width=32) is None
    assert said(window_size=(16, 8), head_width=64) is None
    assert said(window_size=(12, 12), head_width=32) == "the kernel serves windows of up to 128 tokens, not 144"
    assert said(window_size=(7, 7), head_width=160) == "the kernel serves heads of up to 128 channels, not 160"
    assert said(window_size=(16, 8), head_width=65) == (
        "windows of 128 tokens with heads of 65 channels take too many registers in bfloat16"
    )
    said = partial(cannot_serve, dtype=torch.float32)
    assert said(window_size=(7, 7), head_width=64) is None
    for window, width in [((7, 7), 65), ((13, 5), 16)]:
        assert "too many registers in float32" in said(window_size=window, head_width=width)
    chosen = select_implementation(
        head_width=256, window_size=(7, 7), device=torch.device("cpu"), dtype=torch.float32, implementation="triton"
    )
    assert chosen.implementation == "torch"
    assert "CUDA device, not cpu" in chosen.reason or "not installed" in chosen.reason


def test_cost_of_one_window() -> None:
    assert traffic(1, 7, 7, dim=64, itemsize=2) == 49 * 64 * 2 * 4
    assert traffic(1, 7, 7, dim=64, itemsize=2, backward=True) == 49 * 64 * 2 * 7
    assert products(1, 7, 7, dim=64, window_size=(7, 7)) == 2 * 49 * 49 * 64 + 9 * 49 * 64
    assert products(1, 5, 6, dim=64, window_size=(7, 7), lim=False, backward=True) == 5 * 49 * 49 * 64
