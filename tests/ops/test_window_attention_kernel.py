"""The Triton kernels of window attention against their definition, interpreted (`test_kernels_interpreted.py`)."""

from functools import partial

import pytest
import torch
from interpreter import INTERPRETED, IS_INTERPRETED
from torch import Tensor, nn
from twin_checks import assert_errs_no_more_than_eager, assert_finite_where_defined, out_and_grads, randn

from scalablevit.layers import InteractiveWindowSelfAttention
from scalablevit.ops import choice, fallback
from scalablevit.ops.window_attention import operators, reference, window_attention

pytestmark = INTERPRETED
if IS_INTERPRETED:
    from scalablevit.ops.window_attention import kernel

CASES = {
    "published, padded": {"B": 1, "H": 13, "W": 6, "heads": 2, "D": 32, "window": (7, 7)},
    "published, whole": {"B": 1, "H": 7, "W": 14, "heads": 1, "D": 32, "window": (7, 7)},
    "one token": {"B": 1, "H": 1, "W": 1, "heads": 1, "D": 4, "window": (1, 1)},
    "one token of a window": {"B": 1, "H": 1, "W": 1, "heads": 2, "D": 3, "window": (2, 2)},
    "odd widths, padded": {"B": 1, "H": 5, "W": 6, "heads": 2, "D": 5, "window": (3, 4)},
    "rows whole, columns padded": {"B": 1, "H": 6, "W": 6, "heads": 1, "D": 5, "window": (3, 4)},
    "columns whole, rows padded": {"B": 1, "H": 5, "W": 8, "heads": 1, "D": 5, "window": (3, 4)},
    "odd widths, whole": {"B": 1, "H": 6, "W": 8, "heads": 1, "D": 5, "window": (3, 4)},
    "columns": {"B": 2, "H": 5, "W": 3, "heads": 1, "D": 17, "window": (5, 1)},
}
TINY = ("one token", "one token of a window")  # too few numbers to compare largest errors in half precision


def make_inputs(B: int, H: int, W: int, heads: int, D: int, window: tuple[int, int]) -> dict[str, Tensor | None]:
    C = heads * D
    return {
        "qkv": randn((B, H, W, 3 * C), seed=1),
        "lim_weight": randn((C, 1, 3, 3), seed=2),
        "lim_bias": randn((C,), seed=3),
        "fill": randn((3 * C,), seed=4) if H % window[0] or W % window[1] else None,
    }


def calls(case: str):
    """Our kernel and the definition, of (qkv, lim_weight, lim_bias, fill)."""
    options = {"num_heads": CASES[case]["heads"], "window_size": CASES[case]["window"]}

    def with_fill(function):
        return lambda qkv, weight, bias, fill: function(qkv, weight, bias, fill=fill, **options)

    ours = with_fill(partial(window_attention, implementation="triton"))
    return ours, with_fill(reference.window_attention)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        (case, dtype)
        for case in CASES
        for dtype in (torch.float32, torch.bfloat16, torch.float16)
        if case not in TINY or dtype == torch.float32
    ],
    ids=str,
)
def test_kernel_errs_no_more_than_eager(case: str, dtype: torch.dtype) -> None:
    assert_errs_no_more_than_eager(*calls(case), make_inputs(**CASES[case]), dtype)


@pytest.mark.parametrize("absent", [("lim_bias",), ("lim_weight", "lim_bias"), ("fill",)], ids=str)
def test_kernel_without_a_part_errs_no_more_than_eager(absent: tuple[str, ...]) -> None:
    case = "odd widths, padded"
    inputs = {name: None if name in absent else x for name, x in make_inputs(**CASES[case]).items()}
    assert_errs_no_more_than_eager(*calls(case), inputs, torch.float32)


@pytest.mark.parametrize("windows", [2, 3, 100])
def test_several_windows_of_a_program_sum_to_the_same(windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "windows_per_program", lambda *_: windows)
    case = "odd widths, padded"  # 4 windows
    assert_errs_no_more_than_eager(*calls(case), make_inputs(**CASES[case]), torch.float32)


def test_large_scores_do_not_overflow() -> None:
    case = "odd widths, padded"
    inputs = make_inputs(**CASES[case])
    inputs["qkv"] = inputs["qkv"] * 100
    ours, definition = (out_and_grads(call, inputs, torch.float32) for call in calls(case))
    for name in definition:
        torch.testing.assert_close(ours[name], definition[name], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("place", [(1, 1), (0, 0), (5, 7)], ids=["inside", "first", "last"])
@pytest.mark.parametrize("part", ["key", "value"])
def test_an_infinite_key_or_value_stays_in_its_window(part: str, place: tuple[int, int]) -> None:
    """And of LIM's taps, a value at the border of the map reaches those alone that lie inside."""
    case = "odd widths, whole"  # 12 tokens fill no tile
    inputs = make_inputs(**CASES[case])
    qkv = inputs["qkv"].clone()
    qkv[..., 0] = -1 - qkv[..., 0].abs()
    qkv[0, *place, 5 if part == "key" else 10] = torch.inf
    assert_finite_where_defined(*calls(case), {**inputs, "qkv": qkv})


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("part", ["query", "key", "value"])
@pytest.mark.parametrize("case", ["odd widths, whole", "odd widths, padded"])
def test_what_is_no_number_reaches_what_it_reaches_by_definition(case: str, part: str, number: float) -> None:
    inputs = make_inputs(**CASES[case])
    qkv = inputs["qkv"].clone()
    qkv[0, 1, 2, qkv.shape[-1] // 3 * ("query", "key", "value").index(part)] = number
    assert_finite_where_defined(*calls(case), {**inputs, "qkv": qkv})


def test_a_hooked_or_adapted_layer_is_called_beside_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = InteractiveWindowSelfAttention(8, 2, window_size=3, implementation="triton")
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x, runs, run = torch.randn(1, 5, 4, 8), [], operators.window_attention
    monkeypatch.setattr(operators, "window_attention", lambda *args: runs.append(args[1] is not None) or run(*args))
    plain = layer(x)
    for name in ("lim", "qkv"):
        handle = layer.get_submodule(name).register_forward_hook(lambda module, inputs, output: output)
        torch.testing.assert_close(layer(x), plain, rtol=1e-4, atol=1e-4)
        handle.remove()
        handle = layer.get_submodule(name).register_forward_hook(lambda module, inputs, output: 2 * output)
        changed = layer(x)
        layer.implementation = "reference"
        torch.testing.assert_close(changed, layer(x), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(changed, plain)
        layer.implementation = "triton"
        handle.remove()
    assert runs == [True, *[False] * 4], "the kernel computes LIM only where nobody watches"


def test_non_contiguous_input_gives_the_same() -> None:
    case = "odd widths, padded"
    ours, _ = calls(case)
    inputs = {name: x.float() for name, x in make_inputs(**CASES[case]).items()}
    qkv = inputs["qkv"]
    expected = out_and_grads(ours, inputs, torch.float32)
    wide = torch.cat([qkv, torch.full_like(qkv, torch.nan)], dim=-1)
    tall = torch.stack([qkv, torch.full_like(qkv, torch.nan)], dim=2).flatten(1, 2)
    views = {
        "channels": wide[..., : qkv.shape[-1]],
        "rows": tall[:, : 2 * qkv.shape[1]].unflatten(1, (-1, 2))[:, :, 0],
        "transposed": qkv.transpose(1, 2).contiguous().transpose(1, 2),
        "channels first": qkv.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    }
    for name, view in views.items():
        assert not view.is_contiguous(), name
        assert torch.equal(view, qkv)
        leaves = {**inputs, "qkv": view}
        leaves = {key: x.detach().requires_grad_() for key, x in leaves.items()}
        assert leaves["qkv"].stride() == view.stride()
        out = ours(*leaves.values())
        grad = randn(out.shape, seed=99).float()
        out.backward(grad.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0))
        assert torch.equal(out.double(), expected["out"])
        for key, leaf in leaves.items():
            assert torch.equal(leaf.grad.double(), expected[f"d{key}"]), (name, key)


def test_fill_of_a_map_of_whole_windows_has_no_gradient_and_no_effect() -> None:
    case = "published, whole"
    inputs = make_inputs(**CASES[case])
    ours, _ = calls(case)
    without = out_and_grads(ours, inputs, torch.float32)
    found = out_and_grads(ours, {**inputs, "fill": randn((96,), seed=4)}, torch.float32)
    assert not found.pop("dfill").any()
    assert all(torch.equal(found[name], without[name]) for name in without)


def test_only_wanted_gradients_are_computed() -> None:
    case = "odd widths, padded"
    inputs = {name: x.float() for name, x in make_inputs(**CASES[case]).items()}
    ours, _ = calls(case)
    expected = out_and_grads(ours, inputs, torch.float32)
    inputs["qkv"].requires_grad_()
    out = ours(*inputs.values())
    grad = randn(out.shape, seed=99).float()
    out.backward(grad)
    assert torch.equal(inputs["qkv"].grad.double(), expected["dqkv"])
    _, sums = operators.window_attention_backward(
        grad, inputs["qkv"].detach(), inputs["lim_weight"], inputs["fill"], 2, 3, 4, False
    )
    assert sums.shape == (0,)


def test_empty_batches_need_no_launch() -> None:
    case = "odd widths, padded"
    inputs = make_inputs(**{**CASES[case], "B": 0})
    ours, _ = calls(case)
    found = out_and_grads(ours, inputs, torch.float32)
    assert found["out"].shape == (0, 5, 6, 10)
    assert found["dqkv"].shape == (0, 5, 6, 30)
    for name in ("dlim_weight", "dlim_bias", "dfill"):
        assert not found[name].any()


@pytest.mark.parametrize("case", TINY)
def test_operators_keep_the_rules_of_torch(case: str) -> None:
    sizes = CASES[case]
    inputs = [None if x is None else x.float().requires_grad_() for x in make_inputs(**sizes).values()]
    rest = (sizes["heads"], *sizes["window"])
    torch.library.opcheck(torch.ops.scalablevit.window_attention.default, (*inputs, *rest))
    qkv, weight, _, fill = (None if x is None else x.detach() for x in inputs)
    grad = torch.randn(*qkv.shape[:3], qkv.shape[3] // 3)
    for with_sums in (True, False):
        arguments = (grad, qkv, weight, fill, *rest, with_sums)
        torch.library.opcheck(torch.ops.scalablevit.window_attention_backward.default, arguments)


def test_a_second_derivative_is_refused() -> None:
    case = "one token of a window"
    inputs = [x.float().requires_grad_() for x in make_inputs(**CASES[case]).values()]
    (first,) = torch.autograd.grad(calls(case)[0](*inputs).square().sum(), inputs[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="has no gradients, so second derivatives do not exist"):
        first.sum().backward()


def test_under_autocast_gradients_have_their_parameters_dtypes() -> None:
    case = "odd widths, padded"
    ours, definition = calls(case)
    inputs = {name: x.float() for name, x in make_inputs(**CASES[case]).items()}
    inputs["qkv"] = inputs["qkv"].bfloat16()
    leaves = {name: x.requires_grad_() for name, x in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(*leaves.values())
    assert out.dtype == torch.bfloat16
    out.float().square().sum().backward()
    exact = {name: x.detach().double().requires_grad_() for name, x in leaves.items()}
    expected = definition(*exact.values())
    expected.square().sum().backward()
    torch.testing.assert_close(out.double(), expected, rtol=2e-2, atol=2e-2)
    for name, leaf in leaves.items():
        assert leaf.grad.dtype == leaf.dtype
        scale = exact[name].grad.abs().max().item()
        torch.testing.assert_close(leaf.grad.double(), exact[name].grad, rtol=2e-2, atol=1e-2 * scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_kernel_that_cannot_be_built_costs_a_warning_not_the_run(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    from triton.runtime.errors import OutOfResources

    launches = []

    def too_large(*_, **__):
        launches.append(1)
        raise OutOfResources(300_000, 232_448, "shared memory")

    monkeypatch.setattr(fallback, "IS_INTERPRETED", False)
    monkeypatch.setattr(fallback, "_unbuildable", set())
    monkeypatch.setattr(kernel, "forward", too_large)
    monkeypatch.setattr(kernel, "backward", too_large)
    case = "odd widths, padded"
    inputs = make_inputs(**CASES[case])
    ours, definition = calls(case)
    with (
        pytest.warns(
            UserWarning, match=r"(forward|backward) kernel of window attention cannot be built .*OutOfRes"
        ) as w,
        torch.autocast("cpu", torch.bfloat16),
    ):
        out_and_grads(ours, inputs, dtype)
    assert len(w) == 2
    assert_errs_no_more_than_eager(ours, definition, inputs, dtype)
    assert len(launches) == 2


def test_an_error_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_, **__):
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(kernel, "forward", wrong)
    case = "one token"
    with pytest.raises(RuntimeError, match="illegal"):
        calls(case)[0](*(None if x is None else x.float() for x in make_inputs(**CASES[case]).values()))


def layer_gradients(layer: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    layer.zero_grad()
    out = layer(x)
    out.backward(randn(out.shape, seed=9).to(out.dtype))
    return {"out": out.detach(), "x": x.grad, **{name: p.grad for name, p in layer.named_parameters()}}


def make_layer(implementation: str, **options) -> InteractiveWindowSelfAttention:
    torch.manual_seed(0)
    layer = InteractiveWindowSelfAttention(12, 2, window_size=(3, 4), implementation=implementation, **options)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.5)
    return layer


@pytest.mark.parametrize("options", [{}, {"lim": False}, {"qkv_bias": False}], ids=str)
@pytest.mark.parametrize("size", [(4, 6), (3, 8)], ids=str)
def test_the_layer_gives_the_same_with_every_gradient(
    size: tuple[int, int], options: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = randn((1, *size, 12), seed=1).float()
    expected = layer_gradients(make_layer("torch", **options), x)
    by_definition = layer_gradients(make_layer("reference", **options), x)
    launches = []
    forward = kernel.forward
    monkeypatch.setattr(kernel, "forward", lambda *a, **k: launches.append(1) or forward(*a, **k))
    found = layer_gradients(make_layer("triton", **options), x)
    assert launches
    assert not options.get("qkv_bias", True) or "qkv.bias" in found
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(by_definition[name], expected[name], rtol=1e-4, atol=1e-4)


def test_the_layer_under_autocast_drops_to_its_dtype() -> None:
    x = randn((1, 5, 5, 12), seed=1).float()
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = (layer_gradients(make_layer(name), x) for name in ("triton", "torch"))
    assert found["out"].dtype == torch.bfloat16
    for name in expected:
        assert found[name].dtype == expected[name].dtype
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(found[name], expected[name], rtol=5e-2, atol=2e-2 * scale)


def test_dropout_of_attention_weights_runs_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_said", set())
    layer = make_layer("triton", attn_drop=0.5)
    x = randn((1, 5, 5, 12), seed=1).float()
    with pytest.warns(UserWarning, match="no dropout of attention weights; PyTorch computes instead"):
        assert not torch.allclose(layer(x), layer(x))
    torch.testing.assert_close(layer.eval()(x), make_layer("torch").eval()(x), rtol=1e-4, atol=1e-4)


def test_the_layer_compiles_to_one_dynamic_graph() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    layer, plain = make_layer("triton"), make_layer("torch")
    graphs = []

    def backend(graph, inputs):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=backend)
    # torch 2.11 compiles maps of a single row or column of windows once more.
    one_window = [(2, 4, 3), (3, 2, 5)] if torch.torch_version.TorchVersion(torch.__version__) >= "2.14" else []
    for size in [*one_window, (2, 4, 5), (3, 5, 7)]:
        x = randn((*size, 12), seed=1).float()
        expected = layer_gradients(plain, x)
        leaf = x.clone().requires_grad_()
        layer.zero_grad()
        out = compiled(leaf)
        out.backward(randn(out.shape, seed=9).float())
        torch.testing.assert_close(leaf.grad, expected["x"], rtol=1e-4, atol=1e-4)
        for name, parameter in layer.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert any("scalablevit.window_attention" in target for target in graphs[0])


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of PyTorch's attention
def test_transforms_of_the_layer_run_on_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_said", set())
    layer, plain = make_layer("triton"), make_layer("torch")
    images = randn((2, 1, 4, 6, 12), seed=1).float()

    def loss(layer: nn.Module, parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x,)).square().sum()

    parameters = dict(plain.named_parameters())
    per_image = torch.vmap(torch.func.grad(partial(loss, layer)), in_dims=(None, 0))
    with pytest.warns(
        UserWarning, match="transforms of torch.func and for forward-mode derivatives; PyTorch computes instead"
    ):
        found = per_image({name: x.detach() for name, x in parameters.items()}, images)
    for i, image in enumerate(images):
        expected = torch.autograd.grad(loss(plain, parameters, image), list(parameters.values()))
        torch.testing.assert_close([x[i] for x in found.values()], list(expected), rtol=1e-4, atol=1e-4)


def test_batched_gradients_are_those_one_by_one() -> None:
    case = "odd widths, padded"
    leaves = [x.float().requires_grad_() for x in make_inputs(**CASES[case]).values()]
    out = calls(case)[0](*leaves)
    grads = randn((2, *out.shape), seed=5).float()
    found = torch.autograd.grad(out, leaves, grads, is_grads_batched=True, retain_graph=True)
    for i, grad in enumerate(grads):
        expected = torch.autograd.grad(out, leaves, grad, retain_graph=True)
        torch.testing.assert_close([x[i] for x in found], list(expected))
