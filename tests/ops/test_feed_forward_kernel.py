"""The Triton kernel of the feed-forward half against its definition, interpreted (`test_kernels_interpreted.py`)."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from interpreter import INTERPRETED, IS_INTERPRETED
from torch import Tensor, nn
from twin_checks import assert_errs_no_more_than_eager, out_and_grads, randn

from scalablevit.layers import Block, InteractiveWindowSelfAttention, Mlp, ScalableSelfAttention
from scalablevit.ops import fallback
from scalablevit.ops.feed_forward import Weights, feed_forward, reference

pytestmark = INTERPRETED
if IS_INTERPRETED:
    from scalablevit.ops.feed_forward import backward_kernel, kernel

CASES = {
    "published": ((1, 5, 26, 64), 256),
    "odd widths": ((2, 3, 5, 24), 90),
    "wide": ((1, 3, 3, 256), 64),
    "one token": ((1, 1, 1, 32), 128),
    "no map": ((3, 17), 40),
}


def make_inputs(case: str) -> dict[str, Tensor | None]:
    shape, hidden = CASES[case]
    C = shape[-1]
    return {
        "x": randn(shape, seed=1),
        "branch": randn(shape, seed=2),
        "norm_weight": randn((C,), seed=3),
        "norm_bias": randn((C,), seed=4),
        "weight_1": randn((hidden, C), seed=5) * C**-0.5,
        "bias_1": randn((hidden,), seed=6),
        "weight_2": randn((C, hidden), seed=7) * hidden**-0.5,
        "bias_2": randn((C,), seed=8),
    }


def calls(**options) -> tuple[Callable[..., Tensor], Callable[..., Tensor]]:
    """Our kernel and the definition, of x, branch, and the weights one by one."""
    options = {"eps": 1e-6, **options}

    def of_weights(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda x, branch, *weights: function(x, branch, Weights(*weights), **options)

    return of_weights(partial(feed_forward, implementation="triton")), of_weights(reference.feed_forward)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_kernel_errs_no_more_than_eager(case: str, dtype: torch.dtype) -> None:
    assert_errs_no_more_than_eager(*calls(), make_inputs(case), dtype)


def make_projected_inputs(width: int) -> dict[str, Tensor | None]:
    inputs = make_inputs("odd widths")
    C = inputs["x"].shape[-1]
    return inputs | {
        "branch": randn((*inputs["x"].shape[:-1], width), seed=9),
        "proj_weight": randn((C, width), seed=10) * width**-0.5,
        "proj_bias": randn((C,), seed=11),
    }


@pytest.mark.parametrize("width", [24, 37, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_kernel_with_projection_errs_no_more_than_eager(dtype: torch.dtype, width: int) -> None:
    calls_with_scale = calls(branch_scale=torch.tensor([0.75, 0.0]))
    assert_errs_no_more_than_eager(*calls_with_scale, make_projected_inputs(width), dtype)


def test_half_a_projection_is_refused() -> None:
    tensors = [x.bfloat16() for x in make_inputs("odd widths").values()]
    with pytest.raises(ValueError, match="proj_weight and proj_bias go together"):
        calls()[0](*tensors, torch.ones(24, 24))


@pytest.mark.parametrize("name", ["branch", "weight_1", "bias_1", "weight_2", "proj_weight", "scale", "branch_scale"])
def test_a_tensor_that_does_not_fit_is_refused(name: str) -> None:
    inputs = {part: x.bfloat16() for part, x in make_projected_inputs(37).items()}
    scales = {"scale": torch.ones(2), "branch_scale": torch.ones(2)}
    of = scales if name in scales else inputs
    of[name] = of[name][:-1] if name == "proj_weight" else of[name][..., :-1]  # of its width the branch is told
    with pytest.raises(ValueError, match=rf"{name} \(.*\) must be \("):
        calls(**scales)[0](*inputs.values())


def test_a_map_of_another_width_is_refused() -> None:
    inputs = {part: x.bfloat16() for part, x in make_inputs("odd widths").items()}
    with pytest.raises(ValueError, match=r"must be \(23,\) for a map \(2, 3, 5, 23\)"):
        calls()[0](inputs.pop("x")[..., :-1], inputs.pop("branch")[..., :-1], *inputs.values())


@pytest.mark.parametrize("part", ["norm2", "mlp.fc1", "mlp.fc2"])
def test_a_layer_of_another_width_is_no_part_of_the_kernel(part: str) -> None:
    block = make_block("triton")
    assert block.is_fusible()
    others = {"norm2": nn.LayerNorm(8), "mlp.fc1": nn.Linear(8, 64), "mlp.fc2": nn.Linear(64, 1)}
    block.set_submodule(part, others[part])
    assert not block.is_fusible()


def test_padded_rows_add_nothing_to_gradients_without_eps() -> None:
    inputs = make_inputs("odd widths")
    found = out_and_grads(calls(eps=0.0)[0], inputs, torch.bfloat16)
    assert all(x is None or x.isfinite().all() for x in found.values())


def test_drop_path_that_drops_all_leaves_the_stream() -> None:
    block, x = make_block("triton", drop_path=1.0).bfloat16(), randn((2, 3, 5, 16), seed=1).bfloat16()
    assert torch.equal(block(x), x)


def test_kernel_without_a_branch_errs_no_more_than_eager() -> None:
    assert_errs_no_more_than_eager(*calls(), make_inputs("odd widths") | {"branch": None}, torch.bfloat16)


@pytest.mark.parametrize("which", [("branch_scale",), ("scale",), ("branch_scale", "scale")], ids=str)
def test_scales_of_images_err_no_more_than_eager(which: tuple[str, ...]) -> None:
    scales = {name: torch.tensor([0.0, 1.25]) for name in which}
    assert_errs_no_more_than_eager(*calls(**scales), make_inputs("odd widths"), torch.bfloat16)


def test_a_stream_in_fp32_stays_in_fp32() -> None:
    """As under autocast: the products alone are in half precision."""
    inputs = make_inputs("odd widths")
    mixed = {name: x.to(torch.bfloat16 if name == "branch" or "_1" in name or "_2" in name else torch.float32)
             for name, x in inputs.items()}  # fmt: skip
    ours, definition = calls()
    exact = definition(*(x.double() for x in mixed.values()))
    eager = definition(*mixed.values())
    found = ours(*mixed.values())
    assert found.dtype == eager.dtype == torch.float32
    assert (found - exact).abs().max() <= 2 * (eager - exact).abs().max()


def test_non_contiguous_input_gives_the_same() -> None:
    inputs = {name: x.bfloat16() for name, x in make_inputs("odd widths").items()}
    expected = calls()[0](*inputs.values())
    turned = {name: x.mT.contiguous().mT if x.dim() > 1 else torch.stack([x, x], 1)[:, 0] for name, x in inputs.items()}
    assert not any(x.is_contiguous() for x in turned.values())
    assert torch.equal(calls()[0](*turned.values()), expected)


def test_an_infinite_token_stays_alone() -> None:
    inputs = {name: x.bfloat16() for name, x in make_inputs("odd widths").items()}
    expected = calls()[0](*inputs.values())
    inputs["x"][0, 1, 2, 3] = torch.inf
    found = calls()[0](*inputs.values())
    assert found[0, 1, 2].isnan().any()
    found[0, 1, 2] = expected[0, 1, 2]
    assert torch.equal(found, expected)


def test_the_operator_passes_opcheck() -> None:
    x, branch, *weights = (x.bfloat16().requires_grad_() for x in make_inputs("odd widths").values())
    for scale in (None, torch.tensor([0.0, 1.25])):
        arguments = (x, branch, None, None, scale, *weights, scale, 1e-6)
        if scale is not None:
            projection = torch.randn(24, 24).bfloat16().requires_grad_(), torch.randn(24).bfloat16().requires_grad_()
            arguments = (x, branch, *projection, scale, *weights, scale, 1e-6)
        torch.library.opcheck(torch.ops.scalablevit.feed_forward.default, arguments, atol=2e-2, rtol=2e-2)
        with torch.no_grad():
            for with_weights in (False, True):
                backward = torch.ops.scalablevit.feed_forward_backward.default
                torch.library.opcheck(backward, (torch.randn(x.shape).bfloat16(), *arguments, with_weights))


def test_frozen_weights_cost_no_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = {name: x.bfloat16() for name, x in make_projected_inputs(37).items()}
    inputs["x"].requires_grad_()
    asked, backward = [], backward_kernel.backward

    def watched(*args, **options):
        found = backward(*args, **options)
        asked.append((options["with_weights"], found.hidden.numel()))
        return found

    monkeypatch.setattr(backward_kernel, "backward", watched)
    out = calls(scale=torch.tensor([1.25, 0.0]))[0](*inputs.values())
    grad = randn(out.shape, seed=9).bfloat16()
    (frozen,) = torch.autograd.grad(out, [inputs["x"]], grad)
    inputs["weight_2"].requires_grad_()
    out = calls(scale=torch.tensor([1.25, 0.0]))[0](*inputs.values())
    learning, _ = torch.autograd.grad(out, [inputs["x"], inputs["weight_2"]], grad)
    assert asked == [(False, 0), (True, out.numel() // 24 * 90)]
    assert torch.equal(frozen, learning)


def test_gradients_of_an_empty_batch_are_zero() -> None:
    inputs = {name: x.bfloat16().requires_grad_() for name, x in make_projected_inputs(37).items()}
    x, branch = (inputs[name][:0].detach().requires_grad_() for name in ("x", "branch"))
    calls()[0](x, branch, *list(inputs.values())[2:]).sum().backward()
    assert x.grad.shape == x.shape
    assert all(not weight.grad.any() for weight in list(inputs.values())[2:])


def test_a_kernel_that_cannot_be_built_costs_a_warning_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.runtime.errors import OutOfResources

    def too_large(*_, **__):
        raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(fallback, "IS_INTERPRETED", False)
    monkeypatch.setattr(fallback, "_unbuildable", set())
    monkeypatch.setattr(kernel, "forward", too_large)
    monkeypatch.setattr(backward_kernel, "backward", too_large)
    inputs, scales = make_projected_inputs(37), {"branch_scale": torch.tensor([0.75, 0.0])}
    with pytest.warns(UserWarning, match=r"feed-forward kernel cannot be built .*OutOfRes") as w:
        out_and_grads(calls()[0], inputs, torch.bfloat16)
    assert [str(warning.message).split(" cannot")[0] for warning in w] == [
        "the feed-forward kernel",
        "the backward of the feed-forward kernel",
    ]
    assert_errs_no_more_than_eager(*calls(**scales, scale=torch.tensor([1.5, 0.5])), inputs, torch.bfloat16)
    assert_errs_no_more_than_eager(*calls(), make_inputs("odd widths") | {"branch": None}, torch.bfloat16)


ATTENTIONS = {
    "any": lambda: nn.Linear(16, 16),
    "IWSA": lambda: InteractiveWindowSelfAttention(16, 2, window_size=3),
    "SSA": lambda: ScalableSelfAttention(16, 2, reduction=2, scale_value=True, channel_ratio=1.25),
}


def make_block(implementation: str, drop_path: float = 0.0, attn: str = "any") -> Block:
    torch.manual_seed(0)
    block = Block(16, attn=ATTENTIONS[attn](), mlp=Mlp(16, 64), drop_path=drop_path, implementation=implementation)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.3)
    return block


def block_results(block: Block, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(5)
    leaf = x.clone().requires_grad_()
    block.zero_grad()
    out = block(leaf)
    out.backward(randn(out.shape, seed=9).to(out.dtype))
    return {"out": out.detach(), "x": leaf.grad, **{name: p.grad for name, p in block.named_parameters()}}


@pytest.mark.parametrize("autocast", [False, True], ids=["bf16", "autocast"])
@pytest.mark.parametrize(("attn", "drop_path"), [("any", 0.0), ("any", 0.5), ("IWSA", 0.5), ("SSA", 0.0)])
def test_blocks_give_the_same_with_every_gradient(
    attn: str, drop_path: float, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drop path too: the same images are dropped under the same seed."""
    launches, forward = [], kernel.forward
    monkeypatch.setattr(kernel, "forward", lambda *a, **k: launches.append(1) or forward(*a, **k))
    x = randn((4, 3, 5, 16), seed=1).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if autocast:
            found, expected = (block_results(make_block(name, drop_path, attn), x) for name in ("triton", "torch"))
        else:
            found, expected = (
                block_results(make_block(name, drop_path, attn).bfloat16(), x.bfloat16())
                for name in ("triton", "torch")
            )
    assert len(launches) == 1
    for name, exact in expected.items():
        assert found[name].dtype == exact.dtype, name
        # The bias of the keys changes nothing: its gradient is noise.
        scale = 1 if name == "attn.k.bias" else exact.abs().max().item()
        torch.testing.assert_close(found[name], exact, rtol=5e-2, atol=3e-2 * scale, msg=lambda m, n=name: f"{n}: {m}")


def test_a_block_that_somebody_watches_or_changed_calls_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    launches, forward = [], kernel.forward
    monkeypatch.setattr(kernel, "forward", lambda *a, **k: launches.append(1) or forward(*a, **k))
    block, x = make_block("triton").bfloat16().eval(), torch.randn(1, 2, 3, 16).bfloat16()
    plain = block(x)
    for name in ("norm2", "mlp", "mlp.fc1", "mlp.fc2", "mlp.drop", "drop_path"):
        seen = []
        handle = block.get_submodule(name).register_forward_hook(lambda module, inputs, output, s=seen: s.append(1))
        torch.testing.assert_close(block(x), plain, rtol=5e-2, atol=5e-2)
        assert seen, name
        handle.remove()
    block.mlp.drop.p = 0.5
    assert torch.equal(block(x), plain), "dropout does nothing in evaluation"
    block.mlp.train()
    block(x)
    assert len(launches) == 2


def test_a_projection_that_somebody_watches_is_called() -> None:
    block, x = make_block("triton", attn="IWSA").bfloat16().eval(), torch.randn(1, 4, 3, 16).bfloat16()
    plain = block(x)
    for name in ("attn", "attn.proj", "attn.proj_drop"):
        seen = []
        handle = block.get_submodule(name).register_forward_hook(lambda module, inputs, output, s=seen: s.append(1))
        torch.testing.assert_close(block(x), plain, rtol=5e-2, atol=5e-2)
        assert seen, name
        handle.remove()


def test_the_block_compiles_to_one_graph_with_the_operator() -> None:
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    block = make_block("triton", 0.5).bfloat16()
    compiled = torch.compile(block, fullgraph=True, backend=backend)
    x = randn((2, 3, 5, 16), seed=1).bfloat16().requires_grad_()
    compiled(x).sum().backward()
    assert x.grad.isfinite().all()
    assert any("scalablevit.feed_forward" in target for target in graphs[0])
