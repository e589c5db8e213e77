"""Timing the two forms of each kind of layer, our kernel and PyTorch, on the device where they will run.

Whether a fused kernel pays depends on the layer's width and on the device; this asks the device, once. The answers are
kept in a file (`scalablevit.ops.measured`), and every network that leaves the choice open follows them.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from scalablevit.layers.block import Block
from scalablevit.layers.convolution import is_square
from scalablevit.layers.iwsa import InteractiveWindowSelfAttention
from scalablevit.layers.norm_linear import are_fusible
from scalablevit.layers.norm_reduce import can_reduce
from scalablevit.layers.peg import PositionalEncodingGenerator
from scalablevit.layers.ssa import ScalableSelfAttention
from scalablevit.ops import depthwise, feed_forward, measured, norm_depthwise, norm_linear
from scalablevit.ops.choice import Resolved
from scalablevit.ops.convolution import convolution
from scalablevit.ops.measured import Case, Task, Times
from scalablevit.ops.windows import pad_to_least
from scalablevit.safe_write import WriteError, write_json

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Run = Callable[[], object]
Form = Callable[..., Tensor | tuple[Tensor, Tensor]]
SecondsOf = Callable[[Run, torch.device], float]
"""Times calls of a function on a device: seconds of one."""

_WARM_UP, _ROUNDS = 3, 15
_CYCLES_AHEAD = 5_000_000  # of a device: some 3 ms, longer than a host takes to start what a layer computes
_unwritable: set[Path] = set()  # files of which it was said


class Layer(NamedTuple):
    """A layer that has two forms, with tensors as it gets them.

    Attributes:
        case: what its times are known by.
        forms: form -> a function of the tensors.
        make: makes map, branch and weights: one layer's at a time are in memory.
    """

    case: Case
    forms: dict[Resolved, Form]
    make: Callable[[], tuple[Tensor, ...]]


def measure_forms(
    model: nn.Module,
    images: Tensor,
    *,
    task: Task = "inference",
    dtype: torch.dtype | None = None,
    seconds_of: SecondsOf | None = None,
    environment: str | None = None,
) -> dict[str, Times]:
    """Time both forms of every layer of a network that may run as either, and keep the times in the file.

    What was measured before in this environment is not measured again. Weights, gradients and random states stay as
    they are. The network runs once without gradients, to see the sizes of its maps.

    Args:
        model: a network of images, on the device where it will run.
        images: (B, C, H, W), as it will get them.
        task: "training" times forward and backward.
        dtype: of the products; None: that of the images. Where it differs, the network runs under autocast, and its
            maps have the dtype that they have there.
        seconds_of: times a function on a device; None: by events of a CUDA device, elsewhere by the clock.
        environment: what times are kept under; None: that of the device.

    Returns:
        the cases measured now, by name; a case whose form fails is left out.
    """
    device, dtype = images.device, dtype or images.dtype
    if dtype not in (torch.bfloat16, torch.float16):
        return {}  # no kernel runs there unasked
    environment = measured.environment(device) if environment is None else environment
    seconds_of = seconds_of or _device_seconds
    known = measured.known().setdefault(environment, {})
    found: dict[str, Times] = {}
    layers: dict[str, Layer] = {}
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for module, shape, stream in _maps(model, images, dtype):
            for layer in _layers(module, shape, stream, dtype, device, task):
                layers.setdefault(layer.case.key(task), layer)
        tensors: tuple[Tensor, ...] = ()
        for key, layer in layers.items():
            if key in known:
                continue
            try:
                tensors = layer.make()
                found[key] = {
                    str(form): seconds_of(_call(function, tensors, task), device)
                    for form, function in layer.forms.items()
                }
            except (torch.OutOfMemoryError, TorchDynamoException):
                continue  # out of memory, or no compiler: the rule of the choice holds
            finally:
                tensors = ()
    if found:
        known.update(found)
        _write(environment, found)
    return found


def _write(environment: str, found: dict[str, Times]) -> None:
    """Add times to the file, beside what others have written since."""
    file = measured.path()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _alone(file):
            environments = measured.read()
            environments.setdefault(environment, {}).update(found)
            write_json(file, {"format": measured.FORMAT, "environments": environments})
    except (WriteError, OSError) as error:
        if file not in _unwritable:
            _unwritable.add(file)
            warnings.warn(f"the measured times serve this process alone: {error}", stacklevel=3)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Keep other processes from writing a file between our reading and our writing it; where the system can."""
    if fcntl is None:
        yield
        return
    with file.with_name(file.name + ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed
        yield


def _maps(model: nn.Module, images: Tensor, dtype: torch.dtype) -> list[tuple[nn.Module, tuple[int, ...], torch.dtype]]:
    """The modules that have layers with two forms; shape, (B, H, W, C), and dtype of the maps that reach them."""
    found: list[tuple[nn.Module, tuple[int, ...], torch.dtype]] = []

    def see(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.append((module, tuple(inputs[0].shape), inputs[0].dtype))

    kinds = Block | PositionalEncodingGenerator | ScalableSelfAttention
    handles = [m.register_forward_pre_hook(see) for m in model.modules() if isinstance(m, kinds)]
    try:
        with torch.no_grad(), _evaluating(model), torch.autocast(images.device.type, dtype, dtype != images.dtype):
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Keep running statistics and dropout out of it; every module gets its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _layers(
    module: nn.Module,
    shape: tuple[int, ...],
    stream: torch.dtype,
    dtype: torch.dtype,
    device: torch.device,
    task: Task,
) -> Iterator[Layer]:
    """The layers of a module that our kernels serve."""
    where: dict[str, Any] = {"device": device, "dtype": dtype, "implementation": "triton"}
    if isinstance(module, Block) and module.is_fusible():
        weights, attn = module.weights(dtype), module.attn
        C, hidden = shape[-1], weights.weight_1.shape[0]
        if feed_forward.select_implementation(dim=C, hidden_dim=hidden, **where).implementation == "triton":
            yield _feed_forward(weights, module.norm2.eps, shape, stream)
        # Together with what follows the attention, as the block computes it; in training it does not, unasked.
        if task == "training":
            return
        if isinstance(attn, InteractiveWindowSelfAttention) and are_fusible(module.norm1, attn.qkv):
            outputs = attn.qkv.out_features
            if norm_linear.select_implementation(dim=C, outputs=outputs, **where).implementation == "triton":
                yield _norm_linear(module.norm1, attn.qkv, shape, stream, dtype)
        if isinstance(attn, ScalableSelfAttention) and attn.has_trunk and can_reduce(module.norm1, attn.q, attn.reduce):
            patches: dict[str, Any] = {"outputs": attn.q.out_features, "side": attn.reduction}
            if norm_depthwise.select_implementation(dim=C, **patches, **where).implementation == "triton":
                yield _norm_reduce(module.norm1, attn.q, attn.reduce, shape, stream, dtype)
    conv = {PositionalEncodingGenerator: "conv", ScalableSelfAttention: "reduce"}.get(type(module))
    layer = None if conv is None else getattr(module, conv, None)
    if isinstance(layer, nn.Conv2d) and is_square(layer):
        if not layer.groups == layer.in_channels == layer.out_channels == shape[-1]:
            return
        sizes: dict[str, Any] = {
            "side": layer.kernel_size[0],
            "stride": layer.stride[0],
            "padding": layer.padding[0],
        }
        if depthwise.select_implementation(dim=shape[-1], **sizes, **where).implementation == "triton":
            yield _depthwise(layer, shape, stream, dtype, residual=isinstance(module, PositionalEncodingGenerator))


def _feed_forward(weights: feed_forward.Weights, eps: float, shape: tuple[int, ...], stream: torch.dtype) -> Layer:
    dtype, (hidden, C) = weights.weight_1.dtype, weights.weight_1.shape
    device, proj = weights.weight_1.device, weights.proj_weight

    def make() -> tuple[Tensor, ...]:
        x = torch.randn(shape, dtype=stream, device=device)
        branch = torch.randn(*shape[:-1], C if proj is None else proj.shape[1], dtype=dtype, device=device)
        return x, branch, *(part for part in weights if part is not None)

    def form(implementation: Resolved) -> Callable[..., Tensor]:
        def run(x: Tensor, branch: Tensor, *parts: Tensor) -> Tensor:
            of_layer = feed_forward.Weights(*parts)
            return feed_forward.feed_forward(x, branch, of_layer, eps=eps, implementation=implementation)

        return run

    case = _case("feed_forward", feed_forward.sizes_in_words(C, hidden), shape, stream, dtype)
    return Layer(case, {"triton": form("triton"), "torch": _compiled(form("torch"), device)}, make)


def _norm_linear(
    norm: nn.LayerNorm, linear: nn.Linear, shape: tuple[int, ...], stream: torch.dtype, dtype: torch.dtype
) -> Layer:
    def form(implementation: Resolved) -> Callable[..., Tensor]:
        def run(x: Tensor, *parts: Tensor) -> Tensor:
            norm_weight, norm_bias, weight, *rest = parts
            return norm_linear.norm_linear(
                x,
                norm_weight,
                norm_bias,
                weight,
                rest[0] if rest else None,
                eps=norm.eps,
                implementation=implementation,
            )

        return run

    device = linear.weight.device

    def make() -> tuple[Tensor, ...]:
        parts = (part.to(dtype) for part in (linear.weight, linear.bias) if part is not None)
        return torch.randn(shape, dtype=stream, device=device), norm.weight, norm.bias, *parts

    sizes = norm_linear.sizes_in_words(linear.in_features, linear.out_features)
    case = _case("norm_linear", sizes, shape, stream, dtype)
    return Layer(case, {"triton": form("triton"), "torch": _compiled(form("torch"), device)}, make)


def _compiled(form: Form, device: torch.device) -> Form:
    """PyTorch's form as it is in a compiled network, where norms and sums join what is around them."""
    return torch.compile(form, dynamic=False) if device.type == "cuda" else form


def _norm_reduce(
    norm: nn.LayerNorm,
    linear: nn.Linear,
    conv: nn.Conv2d,
    shape: tuple[int, ...],
    stream: torch.dtype,
    dtype: torch.dtype,
) -> Layer:
    def ours(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, taps, conv_bias = _with_biases(parts, linear, conv)
        return (
            norm_linear.by_kernel(x, norm_weight, norm_bias, weight, bias, eps=norm.eps),
            norm_depthwise.by_kernel(x, norm_weight, norm_bias, taps, conv_bias, eps=norm.eps),
        )

    def theirs(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, *parts: Tensor) -> tuple[Tensor, Tensor]:
        weight, bias, taps, conv_bias = _with_biases(parts, linear, conv)
        x = F.layer_norm(x, norm_weight.shape, norm_weight.to(x.dtype), norm_bias.to(x.dtype), norm.eps).to(dtype)
        patches = pad_to_least(x, conv.kernel_size[0])
        reduced = depthwise.depthwise_convolution(patches, taps, conv_bias, stride=conv.kernel_size[0])
        return F.linear(x, weight, bias), reduced

    device = linear.weight.device

    def make() -> tuple[Tensor, ...]:
        parts = (linear.weight, linear.bias, conv.weight, conv.bias)
        weights = (part.to(dtype) for part in parts if part is not None)
        return torch.randn(shape, dtype=stream, device=device), norm.weight, norm.bias, *weights

    sizes = norm_depthwise.sizes_in_words(linear.in_features, linear.out_features, conv.kernel_size[0])
    case = _case("norm_reduce", sizes, shape, stream, dtype)
    return Layer(case, {"triton": ours, "torch": _compiled(theirs, device)}, make)


def _with_biases(parts: tuple[Tensor, ...], *layers: nn.Linear | nn.Conv2d) -> list[Any]:
    """Weight and bias of each layer, None for a bias that it has not, from those that there are."""
    found: list[Any] = []
    left = list(parts)
    for layer in layers:
        found += [left.pop(0), None if layer.bias is None else left.pop(0)]
    return found


def _case(operator: str, sizes: str, shape: tuple[int, ...], stream: torch.dtype, dtype: torch.dtype) -> Case:
    return Case(operator, sizes, measured.most_tokens(torch.empty(shape, device="meta")), stream, dtype)


def _depthwise(
    conv: nn.Conv2d, shape: tuple[int, ...], stream: torch.dtype, dtype: torch.dtype, *, residual: bool
) -> Layer:
    assert not isinstance(conv.padding, str)
    side, stride, padding, C = conv.kernel_size[0], conv.stride[0], conv.padding[0], shape[-1]

    def make() -> tuple[Tensor, ...]:
        x = torch.randn(shape, dtype=stream, device=conv.weight.device)
        return x, *(part for part in (conv.weight, conv.bias) if part is not None)

    def ours(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        out = depthwise.convolve_by_kernel(x, weight, bias, stride=stride, padding=padding, residual=residual)
        return out if residual else out.to(dtype)

    def theirs(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        bias = None if bias is None else bias.to(dtype)
        out: Tensor = convolution(x.to(dtype), weight.to(dtype), bias, stride, padding, C)
        return x + out if residual else out

    case = _case("depthwise", depthwise.sizes_in_words(C, side, stride), shape, stream, dtype)
    return Layer(case, {"triton": ours, "torch": theirs}, make)


def _call(function: Form, tensors: tuple[Tensor, ...], task: Task) -> Run:
    """One call of a form for a task."""
    if task == "inference":

        def infer() -> None:
            with torch.no_grad():
                function(*tensors)

        return infer
    leaves = tuple(tensor.detach().requires_grad_() for tensor in tensors)

    def train() -> None:
        with torch.enable_grad():
            out = function(*leaves)
            assert isinstance(out, Tensor)  # of several no case is for training
            torch.autograd.grad(out, leaves, torch.ones_like(out))

    return train


def _device_seconds(run: Run, device: torch.device) -> float:
    """The median of several calls: between two events of a CUDA device, elsewhere by the clock."""
    times = []
    for i in range(_WARM_UP + _ROUNDS):
        seconds = _between_events(run, device) if device.type == "cuda" else _by_the_clock(run)
        if i >= _WARM_UP:
            times.append(seconds)
    return statistics.median(times)


def _between_events(run: Run, device: torch.device) -> float:
    """Seconds that the device computes: it waits until the host is ahead, or a small batch would time the host."""
    with torch.cuda.device(device):
        if hasattr(torch.cuda, "_sleep"):
            torch.cuda._sleep(_CYCLES_AHEAD)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _by_the_clock(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
