"""The Triton kernel of LayerNorm and linear layer against its definition, interpreted."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from interpreter import INTERPRETED, IS_INTERPRETED
from torch import Tensor, nn
from twin_checks import (
    assert_errs_no_more_than_eager,
    assert_normalised_in_fp32,
    assert_strides_do_not_matter,
    randn,
)

from scalablevit.layers import Block, InteractiveWindowSelfAttention, Mlp
from scalablevit.layers.norm_linear import are_fusible, normalise_and_project
from scalablevit.ops import fallback, layer_choice
from scalablevit.ops.norm_linear import norm_linear, reference

pytestmark = INTERPRETED
if IS_INTERPRETED:
    from scalablevit.ops.norm_linear import kernel

CASES = {
    "published": ((1, 5, 26, 64), 192),
    "odd widths": ((2, 3, 5, 24), 90),
    "wide": ((1, 3, 3, 256), 80),
    "one token": ((1, 1, 1, 17), 5),
    "no map": ((3, 130), 40),
}
ours, definition = (
    partial(function, eps=1e-6) for function in (partial(norm_linear, implementation="triton"), reference.norm_linear)
)


def make_inputs(case: str, *, bias: bool = True) -> dict[str, Tensor | None]:
    shape, outputs = CASES[case]
    C = shape[-1]
    return {
        "x": randn(shape, seed=1),
        "norm_weight": randn((C,), seed=2),
        "norm_bias": randn((C,), seed=3),
        "weight": randn((outputs, C), seed=4) * C**-0.5,
        "bias": randn((outputs,), seed=5) if bias else None,
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kernel_errs_no_more_than_eager(case: str, dtype: torch.dtype) -> None:
    assert_errs_no_more_than_eager(ours, definition, make_inputs(case), dtype)


def test_kernel_without_bias_errs_no_more_than_eager() -> None:
    assert_errs_no_more_than_eager(ours, definition, make_inputs("odd widths", bias=False), torch.bfloat16)


def test_a_map_in_fp32_is_normalised_in_fp32() -> None:
    assert_normalised_in_fp32(ours, definition, make_inputs("odd widths"))


def test_non_contiguous_input_gives_the_same() -> None:
    assert_strides_do_not_matter(ours, make_inputs("odd widths"))


@pytest.mark.parametrize("part", ["x", "norm_weight", "norm_bias", "weight", "bias"])
def test_a_width_that_does_not_fit_is_refused(part: str) -> None:
    inputs = {name: x.bfloat16() for name, x in make_inputs("odd widths").items()}
    inputs[part] = inputs[part][..., :-1]
    with pytest.raises(ValueError, match=r"fit"):
        ours(*inputs.values())


@pytest.mark.parametrize("learning", ["x", "norm_weight", "norm_bias", "weight", "bias"])
def test_frozen_inputs_get_no_gradient_and_others_the_same(learning: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {name: x.bfloat16().requires_grad_() for name, x in make_inputs("odd widths").items()}
    ours(*inputs.values()).square().sum().backward()
    masks, backward = [], torch.ops.aten.native_layer_norm_backward
    monkeypatch.setattr(
        torch.ops.aten, "native_layer_norm_backward", lambda *a: masks.append(a[-1]) or backward(*a), raising=False
    )
    for name, tensor in inputs.items():
        tensor.requires_grad_(name == learning)
    (alone,) = torch.autograd.grad(ours(*inputs.values()).square().sum(), [inputs[learning]])
    assert torch.equal(alone, inputs[learning].grad)
    assert all(sum(mask) == 1 for mask in masks)
    assert bool(masks) == (learning in ("x", "norm_weight", "norm_bias"))


def test_the_operator_passes_opcheck() -> None:
    for bias in (True, False):
        inputs = make_inputs("odd widths", bias=bias).values()
        leaves = (None if x is None else x.bfloat16().requires_grad_() for x in inputs)
        torch.library.opcheck(torch.ops.scalablevit.norm_linear.default, (*leaves, 1e-6), atol=2e-2, rtol=2e-2)


def test_a_kernel_that_cannot_be_built_costs_a_warning_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    def too_large(*_, **__):
        raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(fallback, "IS_INTERPRETED", False)
    monkeypatch.setattr(fallback, "_unbuildable", set())
    monkeypatch.setattr(kernel, "forward", too_large)
    with pytest.warns(UserWarning, match=r"LayerNorm and linear layer cannot be built .*OutOfRes") as w:
        ours(*(x.bfloat16() for x in make_inputs("odd widths").values()))
    assert len(w) == 1
    assert_errs_no_more_than_eager(ours, definition, make_inputs("odd widths"), torch.bfloat16)


def launches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found, forward = [], kernel.forward
    monkeypatch.setattr(kernel, "forward", lambda *a, **k: found.append(1) or forward(*a, **k))
    return found


def make_block() -> Block:
    torch.manual_seed(0)
    attn = InteractiveWindowSelfAttention(16, 2, window_size=3, implementation="triton")
    return Block(16, attn=attn, mlp=Mlp(16, 64), implementation="triton").bfloat16().eval()


def test_left_alone_it_runs_where_nothing_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its backward normalises again, which costs a training step more traffic than the forward saves."""
    found = launches(monkeypatch)
    monkeypatch.setattr(layer_choice, "DEFAULT", "triton")  # as a CUDA device would have it
    linear, norm, x = nn.Linear(16, 32).bfloat16(), nn.LayerNorm(16).bfloat16(), randn((2, 16), seed=1).bfloat16()
    normalise_and_project(norm, linear, x)
    assert found == []
    with torch.no_grad():
        normalise_and_project(norm, linear, x)
    assert found == [1]
    normalise_and_project(norm, linear, x, implementation="triton")
    assert found == [1, 1]


def test_a_norm_of_another_width_is_no_part_of_the_kernel() -> None:
    assert are_fusible(nn.LayerNorm(16), nn.Linear(16, 8))
    assert not are_fusible(nn.LayerNorm(8), nn.Linear(16, 8))
    assert not are_fusible(nn.LayerNorm((4, 16)), nn.Linear(16, 8))


def test_a_block_of_windows_normalises_in_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    found = launches(monkeypatch)
    block, x = make_block(), randn((2, 4, 3, 16), seed=1).bfloat16()
    fused = block(x)
    assert found == [1]
    for name in ("norm1", "attn.qkv"):  # who is watched is called
        seen: list[int] = []
        handle = block.get_submodule(name).register_forward_hook(lambda *_, s=seen: s.append(1))
        torch.testing.assert_close(block(x), fused, rtol=5e-2, atol=5e-2)
        assert seen, name
        handle.remove()
    block.norm1 = nn.Identity()
    assert not torch.allclose(block(x), fused, rtol=5e-2, atol=5e-2)
    assert found == [1]


def gradients(run: Callable[[], Tensor], block: Block) -> list[Tensor]:
    block.zero_grad()
    out = run()
    out.backward(randn(out.shape, seed=9).to(out.dtype))
    return [parameter.grad.clone() for parameter in (*block.norm1.parameters(), *block.attn.qkv.parameters())]


def test_the_gradients_of_a_block_are_those_of_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = launches(monkeypatch)
    block, x = make_block(), randn((2, 4, 3, 16), seed=1).bfloat16()
    fused = gradients(lambda: block(x), block)
    handle = block.norm1.register_forward_hook(lambda *_: None)
    plain = gradients(lambda: block(x), block)
    handle.remove()
    assert found == [1]
    for ours_, theirs in zip(fused, plain, strict=True):
        torch.testing.assert_close(ours_, theirs, rtol=5e-2, atol=3e-2 * theirs.abs().max().item())
