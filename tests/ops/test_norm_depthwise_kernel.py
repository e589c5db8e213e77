"""The Triton kernel of LayerNorm and patches against its definition, interpreted."""

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

from scalablevit.layers import Block, Mlp, ScalableSelfAttention
from scalablevit.layers.norm_reduce import can_reduce, normalise_project_and_reduce
from scalablevit.ops import fallback, layer_choice
from scalablevit.ops.norm_depthwise import norm_depthwise, reference

pytestmark = INTERPRETED
if IS_INTERPRETED:
    from scalablevit.ops.norm_depthwise import kernel
    from scalablevit.ops.norm_linear import kernel as norm_linear_kernel

CASES = {
    "published, rows and columns left over": ((1, 17, 11, 64), 8),
    "odd width": ((2, 9, 14, 20), 4),
    "odd side": ((2, 6, 7, 33), 3),
    "wide": ((1, 2, 6, 256), 2),
    "smaller than a patch": ((2, 3, 9, 24), 4),
    "one token": ((1, 1, 1, 17), 2),
}
ours, definition = (
    partial(function, eps=1e-6)
    for function in (partial(norm_depthwise, implementation="triton"), reference.norm_depthwise)
)


def make_inputs(case: str, *, bias: bool = True) -> dict[str, Tensor | None]:
    shape, side = CASES[case]
    C = shape[-1]
    return {
        "x": randn(shape, seed=1),
        "norm_weight": randn((C,), seed=2),
        "norm_bias": randn((C,), seed=3),
        "weight": randn((C, 1, side, side), seed=4) / side,
        "bias": randn((C,), seed=5) if bias else None,
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kernel_errs_no_more_than_eager(case: str, dtype: torch.dtype) -> None:
    assert_errs_no_more_than_eager(ours, definition, make_inputs(case), dtype)


def test_kernel_without_bias_errs_no_more_than_eager() -> None:
    assert_errs_no_more_than_eager(ours, definition, make_inputs("odd side", bias=False), torch.bfloat16)


def test_a_map_in_fp32_is_normalised_in_fp32() -> None:
    assert_normalised_in_fp32(ours, definition, make_inputs("odd width"))


def test_non_contiguous_input_gives_the_same() -> None:
    assert_strides_do_not_matter(ours, make_inputs("odd width"))


def test_a_map_without_images_gives_none() -> None:
    x, *weights = (x.bfloat16() for x in make_inputs("odd width").values())
    assert ours(x[:0], *weights).shape == (0, 2, 3, 20)


@pytest.mark.parametrize("part", ["x", "norm_weight", "norm_bias", "weight", "bias"])
def test_a_width_that_does_not_fit_is_refused(part: str) -> None:
    inputs = {name: x.bfloat16() for name, x in make_inputs("odd width").items()}
    inputs[part] = inputs[part][:-1] if part == "weight" else inputs[part][..., :-1]
    with pytest.raises(ValueError, match=r"fit"):
        ours(*inputs.values())


@pytest.mark.parametrize("learning", ["x", "norm_weight", "norm_bias", "weight", "bias"])
def test_frozen_inputs_get_no_gradient_and_others_the_same(learning: str) -> None:
    inputs = {name: x.bfloat16().requires_grad_() for name, x in make_inputs("odd width").items()}
    ours(*inputs.values()).square().sum().backward()
    for name, tensor in inputs.items():
        tensor.requires_grad_(name == learning)
    (alone,) = torch.autograd.grad(ours(*inputs.values()).square().sum(), [inputs[learning]])
    assert torch.equal(alone, inputs[learning].grad)


def test_the_operator_passes_opcheck() -> None:
    for case, bias in (("odd side", True), ("smaller than a patch", False)):
        x, *norm, weight, bias_ = (None if x is None else x.bfloat16() for x in make_inputs(case, bias=bias).values())
        taps = weight.flatten(1).t().contiguous()
        leaves = (None if x is None else x.requires_grad_() for x in (x, *norm, taps, bias_))
        operator = torch.ops.scalablevit.norm_depthwise.default
        torch.library.opcheck(operator, (*leaves, weight.shape[-1], 1e-6), atol=2e-2, rtol=2e-2)


def test_a_kernel_that_cannot_be_built_costs_a_warning_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    def too_large(*_, **__):
        raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(fallback, "IS_INTERPRETED", False)
    monkeypatch.setattr(fallback, "_unbuildable", set())
    monkeypatch.setattr(kernel, "forward", too_large)
    with pytest.warns(UserWarning, match=r"LayerNorm and patches cannot be built .*OutOfRes") as w:
        ours(*(x.bfloat16() for x in make_inputs("odd width").values()))
    assert len(w) == 1
    assert_errs_no_more_than_eager(ours, definition, make_inputs("odd width"), torch.bfloat16)


def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Launches of the two kernels that normalise."""
    found: list[str] = []
    for name, room in (("patches", kernel), ("queries", norm_linear_kernel)):
        forward = room.forward
        monkeypatch.setattr(room, "forward", lambda *a, n=name, f=forward, **k: found.append(n) or f(*a, **k))
    return found


def make_block(**options: object) -> Block:
    torch.manual_seed(0)
    attn = ScalableSelfAttention(16, 2, reduction=2, channel_ratio=1.25, implementation="triton", **options)
    return Block(16, attn=attn, mlp=Mlp(16, 64), implementation="triton").bfloat16().eval()


def test_left_alone_they_run_where_nothing_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    found = launches(monkeypatch)
    monkeypatch.setattr(layer_choice, "DEFAULT", "triton")  # as a CUDA device would have it
    block, x = make_block(), randn((1, 2, 4, 16), seed=1).bfloat16()
    parts = block.norm1, block.attn.q, block.attn.reduce, x
    assert normalise_project_and_reduce(*parts) is None
    assert found == []
    with torch.no_grad():
        queries, reduced = normalise_project_and_reduce(*parts)
    assert (queries.shape, reduced.shape) == ((1, 2, 4, 20), (1, 1, 2, 16))
    assert sorted(found) == ["patches", "queries"]


@torch.no_grad()
@pytest.mark.parametrize("shape", [(2, 4, 3, 16), (1, 1, 5, 16)], ids=["", "smaller than a patch"])
def test_a_block_normalises_in_the_kernels(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    found = launches(monkeypatch)
    block, x = make_block(), (3 * randn(shape, seed=1) + 2).bfloat16()
    fused = block(x)
    assert sorted(found) == ["patches", "queries"]
    for name in ("norm1", "attn.q", "attn.reduce", "attn.expand"):  # who is watched is called
        seen: list[int] = []
        handle = block.get_submodule(name).register_forward_hook(lambda *_, s=seen: s.append(1))
        torch.testing.assert_close(block(x), fused, rtol=5e-2, atol=5e-2)
        assert seen == [1], name
        handle.remove()
    block.norm1 = nn.Identity()
    assert not torch.allclose(block(x), fused, rtol=5e-2, atol=5e-2)
    assert len(found) == 2


def test_what_the_kernels_do_not_do_is_left_to_the_layers() -> None:
    attn, norm = ScalableSelfAttention(16, 2, reduction=2), nn.LayerNorm(16)
    assert can_reduce(norm, attn.q, attn.reduce)
    for conv in (
        nn.Conv2d(16, 16, 2, stride=2),
        nn.Conv2d(16, 16, 3, stride=3, padding=1, groups=16),
        nn.Conv2d(16, 16, 3, stride=2, groups=16),
        nn.Conv2d(16, 32, 2, stride=2, groups=16),
        nn.Identity(),
    ):
        assert not can_reduce(norm, attn.q, conv)
    assert not can_reduce(nn.LayerNorm(8), attn.q, attn.reduce)
    assert not can_reduce(norm, nn.Identity(), attn.reduce)


def test_a_block_that_learns_keeps_to_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = launches(monkeypatch)
    make_block()(randn((2, 5, 4, 16), seed=1).bfloat16()).sum().backward()
    assert found == []
