"""An operator of ours goes the short way where nothing watches, and is PyTorch's operator where something does."""

import contextlib
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from scalablevit.ops.convolution import convolution, convolution_backward
from scalablevit.ops.operator import Operator

Calls = list[tuple[Any, ...]]


class Subclass(Tensor):
    pass


class SeesEverything(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def arguments(*, learns: bool = False) -> tuple[Any, ...]:
    torch.manual_seed(0)
    x, weight, bias = torch.randn(2, 5, 6, 4), torch.randn(8, 2, 3, 3), torch.randn(8)
    return *(part.requires_grad_(learns) for part in (x, weight, bias)), 1, 1, 2


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Calls of what torch.library has registered."""
    calls, overload = [], convolution.overload
    monkeypatch.setattr(convolution, "overload", lambda *a: calls.append(a) or overload(*a))
    return calls


def test_eager_mode_goes_the_short_way(registered: Calls) -> None:
    with torch.no_grad():
        convolution(*arguments(learns=True))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        convolution(*arguments())
    with torch.autograd.graph.save_on_cpu():
        convolution(*arguments(learns=True)).sum().backward()
    assert registered == []


@pytest.mark.parametrize("learning", [(True, True, True), (True, False, False), (False, True, False), (False,) * 3])
def test_both_ways_give_the_same(learning: tuple[bool, ...]) -> None:
    found = []
    for way in (convolution, convolution.overload):
        leaves = [part.detach().requires_grad_(does) for part, does in zip(arguments(), learning, strict=False)]
        out = way(*leaves, 1, 1, 2)
        assert out.requires_grad == any(learning)
        if out.requires_grad:
            out.square().sum().backward()
        found.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for short, long in zip(*found, strict=True):
        assert (short is None) == (long is None)
        assert short is None or torch.equal(short, long)


@contextlib.contextmanager
def profiled() -> Iterator[None]:
    with torch.autograd.profiler.profile() as seen:
        yield
    assert "scalablevit::convolution" in {event.name for event in seen.function_events}


WATCHERS: dict[str, Callable[[], Any]] = {
    "dispatch mode": SeesEverything,
    "fake tensors": lambda: torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True),
    "function mode": lambda: torch.device("cpu"),
    "profiler": profiled,
}


@pytest.mark.parametrize("watcher", WATCHERS)
def test_whoever_watches_sees_the_operator(watcher: str, registered: Calls) -> None:
    with WATCHERS[watcher]():
        convolution(*arguments())
    assert len(registered) == 1


@pytest.mark.parametrize("of", ["a subclass", "no memory"])
def test_tensors_of_another_kind_go_through_pytorch(of: str, registered: Calls) -> None:
    def turned(part: Tensor) -> Tensor:
        return part.as_subclass(Subclass) if of == "a subclass" else part.to("meta")

    out = convolution(*(turned(part) if isinstance(part, Tensor) else part for part in arguments()))
    assert out.shape == (2, 5, 6, 8)
    assert registered


def test_a_traced_graph_holds_the_operator() -> None:
    x, weight, bias, *rest = arguments()
    graph = make_fx(lambda x: convolution(x, weight, bias, *rest))(x)
    assert torch.ops.scalablevit.convolution.default in {node.target for node in graph.graph.nodes}


@pytest.mark.parametrize("learns", [True, False])
def test_forward_mode_gradients_are_not_dropped_in_silence(learns: bool) -> None:
    x, *rest = arguments(learns=learns)
    with forward_ad.dual_level(), pytest.raises((RuntimeError, NotImplementedError)):
        convolution(forward_ad.make_dual(x, torch.ones_like(x)), *rest)


def test_an_operator_without_gradients_says_so() -> None:
    x, weight, _, *rest = arguments(learns=True)
    grad = torch.ones(2, 5, 6, 8)
    with pytest.raises(RuntimeError, match=r"convolution_backward.* has no gradients"):
        convolution_backward(grad, x, weight, *rest, True, True)[0].sum().backward()


def test_second_gradients_name_the_operator() -> None:
    x, *rest = arguments(learns=True)
    (dx,) = torch.autograd.grad(convolution(x, *rest).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"convolution_backward.*second derivatives.*'reference'"):
        dx.sum().backward()


def test_a_compiled_graph_holds_the_operator() -> None:
    """Also where the sizes are symbols."""
    seen: list[Any] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.extend(node.target for node in graph.graph.nodes)
        return graph

    x, weight, bias, *rest = arguments()
    for dynamic in (False, True):
        torch.compiler.reset()
        compiled = torch.compile(
            lambda x: convolution(x, weight, bias, *rest), backend=backend, dynamic=dynamic, fullgraph=True
        )
        assert torch.equal(compiled(x), convolution(x, weight, bias, *rest))
        assert torch.ops.scalablevit.convolution.default in seen
        seen.clear()


ROOMS = ("window_attention", "reduced_attention", "feed_forward", "depthwise", "norm_linear", "norm_depthwise")


@pytest.mark.parametrize("room", ROOMS)
def test_the_operators_of_all_kernels_have_the_short_way(room: str) -> None:
    operators = import_module(f"scalablevit.ops.{room}.operators")
    found = {name: x for name, x in vars(operators).items() if isinstance(x, Operator)}
    assert room in found
    assert all((x._function is None) == name.endswith("_backward") for name, x in found.items())
