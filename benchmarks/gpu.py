"""Everything that needs a GPU, in one call of a few minutes: are the kernels right, and how fast is it all?

    python benchmarks/gpu.py --minutes 8 --output gpu.json

For a machine that is lent for minutes: it needs torch, triton and timm, no network, and nothing of this package
installed. Sections run in the order of their importance, each within its share of the time (what one leaves over, the
next ones have); the JSON is written after every step, and a short table comes last. The minutes are for all of it:
imports, compilations and what has to be cut off.

    agree       every kernel's output and gradients against fp64: off by at most twice what the definition is off in
                that precision; operators checked by torch; the whole network with kernels beside it without
    kernels     time of each kernel at the four stages in bf16, and at two in fp32, over the least that memory allows
    inference   images a second, ours and peers under torch.compile, the plain definition in eager mode
    training    a step likewise
    warps       each kernel's time with other numbers of warps

`--smoke` runs all of it on a CPU at tiny sizes, with PyTorch's attention in the place of the kernels, or with the
kernels in Triton's interpreter where TRITON_INTERPRET=1 is set.
"""

from __future__ import annotations

import time

START = time.perf_counter()  # importing takes seconds, and counts

import argparse  # noqa: E402
import contextlib  # noqa: E402
import functools  # noqa: E402
import itertools  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import statistics  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
import warnings  # noqa: E402
from collections.abc import Callable, Iterator, Sequence  # noqa: E402
from dataclasses import dataclass, replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

SOURCE = Path(__file__).parents[1] / "src"
sys.path.insert(0, str(SOURCE))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from layer_cases import OPERATORS as LAYER_OPERATORS  # noqa: E402
from layer_cases import FeedForwardCase, LayerCase, layer_cases, set_layers  # noqa: E402
from scalablevit.backbone import VARIANTS, ScalableViT  # noqa: E402
from scalablevit.bench.cells import Cell  # noqa: E402
from scalablevit.bench.conditions import conditions  # noqa: E402
from scalablevit.bench.contenders import CannotMeasure, find_contender  # noqa: E402
from scalablevit.bench.throughput import Watch, measure_cell  # noqa: E402
from scalablevit.bench.turns import Timing  # noqa: E402
from scalablevit.layers import set_attention  # noqa: E402
from scalablevit.ops import reduced_attention as reduced_room  # noqa: E402
from scalablevit.ops import window_attention as window_room  # noqa: E402
from scalablevit.ops.reduced_attention import cost as reduced_cost  # noqa: E402
from scalablevit.ops.window_attention import cost as window_cost  # noqa: E402
from scalablevit.safe_write import write_json  # noqa: E402

WINDOW = (7, 7)
# (part of the device's name, bytes a second of its memory, operations a second: dense bf16 in the tensor cores, and
# fp32 outside of them), as its maker says
DEVICES = (
    ("H200", 4.8e12, 989e12, 67e12),
    ("H100 PCIe", 2.0e12, 756e12, 51e12),
    ("H100 NVL", 3.9e12, 835e12, 60e12),
    ("H100", 3.35e12, 989e12, 67e12),
    ("A100", 2.04e12, 312e12, 19.5e12),
)
# section -> its share of the time, in the order in which they run
SHARES = {"agree": 0.2, "kernels": 0.1, "inference": 0.35, "training": 0.32, "warps": 0.03}
# Of the time, what sections get, and how far one may run over before it is cut off. The rest is for the cutting, which
# waits for whatever cannot be interrupted, and for the end.
PLANNED, OVERRUN = 0.93, 0.04
# task -> peer -> (how many times as fast ours must be, what is aimed at)
TARGETS = {
    "inference": {
        "swin_tiny_patch4_window7_224": (2.2, 3.0),
        "twins_svt_small:4d": (1.65, 2.25),
        "plain:scalablevit_small@eager": (2.5, None),
    },
    "training": {"swin_tiny_patch4_window7_224": (1.9, 2.6), "twins_svt_small:4d": (1.45, 1.95)},
}
OURS = "scalablevit_small"
# Folded and in CUDA graphs, which the peers are not given: a row of its own, which no ratio is made from.
PREPARED = "scalablevit_small@optimized"
# In the order of their importance: whoever comes late may find no time.
RIVALS = {
    "inference": (
        OURS, "plain:scalablevit_small@eager", "swin_tiny_patch4_window7_224", "twins_svt_small:4d", PREPARED,
        "convnext_tiny", "twins_svt_small",
    ),
    "training": (
        OURS, "plain:scalablevit_small@eager", "swin_tiny_patch4_window7_224", "twins_svt_small:4d", "convnext_tiny",
    ),
}  # fmt: skip
BATCHES = {"inference": (256, 64), "training": (128, 64)}
FLUSH_BYTES = 2**30


class TimeIsUp(BaseException):
    """A section has used its share; no Exception, so that nothing on the way takes it for a fault of its own."""


@dataclass(frozen=True)
class WindowCase:
    """Sizes of a window attention."""

    name: str
    B: int
    H: int
    W: int
    heads: int
    width: int
    window: tuple[int, int] = WINDOW


@dataclass(frozen=True)
class ReducedCase:
    """Sizes of an attention over reduced keys; `one_matrix`: k and v are slices of one."""

    name: str
    B: int
    N: int
    M: int
    heads: int
    key_width: int
    value_width: int
    one_matrix: bool = False


@dataclass(frozen=True)
class Setting:
    """Where and how this run computes."""

    device: str
    kernel: str  # implementation under test
    smoke: bool

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """The most important first; fp32 last, as nobody gets its kernels without asking."""
        return (torch.float32,) if self.smoke else (torch.bfloat16, torch.float16, torch.float32)


def window_cases(setting: Setting) -> list[WindowCase]:
    """Whole windows, padded ones, fewer tokens than a window, odd widths, the first stage of an 800 x 1333 image."""
    odd = [WindowCase("one token", 1, 1, 1, 1, 32), WindowCase("5 x 3 windows, width 24", 2, 11, 8, 3, 24, (5, 3))]
    if setting.smoke:
        return odd
    return [
        WindowCase("whole windows", 4, 28, 28, 4, 32),
        WindowCase("padded", 3, 23, 31, 8, 32),
        *odd,
        WindowCase("width 64", 2, 14, 14, 2, 64),
        WindowCase("stage 1 of 800 x 1333", 1, 200, 334, 2, 32),
    ]


def reduced_cases(setting: Setting) -> list[ReducedCase]:
    """49 keys as at 224 px, as slices of one matrix, few and odd, one token, a thousand as at 800 x 1333."""
    odd = [ReducedCase("one token", 1, 1, 1, 1, 40, 32), ReducedCase("33 queries, 7 keys", 2, 33, 7, 3, 24, 40, True)]
    if setting.smoke:
        return odd
    return [
        ReducedCase("49 keys", 4, 784, 49, 4, 40, 32),
        ReducedCase("49 keys, one matrix", 3, 200, 49, 8, 40, 40, True),
        *odd,
        ReducedCase("width 64", 2, 130, 77, 2, 64, 64),
        ReducedCase("stage 1 of 800 x 1333", 1, 200 * 334, 25 * 41, 2, 40, 32),
    ]


def stages(batch: int) -> list[tuple[WindowCase, ReducedCase]]:
    """The attentions of S at 224 px, stage by stage."""
    numbers = VARIANTS["scalablevit_small"]
    found = []
    for i, (dim, heads) in enumerate(zip(numbers["embed_dims"], numbers["num_heads"], strict=True)):
        side, key_width = 56 >> i, int(dim * numbers["channel_ratios"][i]) // heads
        found.append(
            (
                WindowCase(f"stage {i + 1}", batch, side, side, heads, dim // heads),
                ReducedCase(f"stage {i + 1}", batch, side * side, 49, heads, key_width, dim // heads),
            )
        )
    return found


def randn(*shape: int, seed: int, setting: Setting) -> Tensor:
    """Normal numbers in fp64, the same for the same seed."""
    generator = torch.Generator(setting.device).manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, device=setting.device, generator=generator)


def window_inputs(case: WindowCase, setting: Setting) -> dict[str, Tensor]:
    """qkv, LIM's weight and bias, and what padded tokens hold."""
    C = case.heads * case.width
    return {
        "qkv": randn(case.B, case.H, case.W, 3 * C, seed=0, setting=setting),
        "lim_weight": randn(C, 1, 3, 3, seed=1, setting=setting) / 3,
        "lim_bias": randn(C, seed=2, setting=setting),
        "fill": randn(3 * C, seed=3, setting=setting),
    }


def run_window(case: WindowCase, inputs: dict[str, Tensor], implementation: str) -> Tensor:
    """The public function."""
    return window_room.window_attention(
        inputs["qkv"],
        inputs["lim_weight"],
        inputs["lim_bias"],
        num_heads=case.heads,
        window_size=case.window,
        fill=inputs["fill"],
        implementation=implementation,  # type: ignore[arg-type]
    )


def reduced_inputs(case: ReducedCase, setting: Setting) -> dict[str, Tensor]:
    """q, and k and v, or the matrix of which both are slices."""
    keys, values = case.heads * case.key_width, case.heads * case.value_width
    q = randn(case.B, case.N, keys, seed=0, setting=setting)
    kv = randn(case.B, case.M, keys + values, seed=1, setting=setting)
    if case.one_matrix:
        return {"q": q, "kv": kv}
    return {"q": q, "k": kv[..., :keys].contiguous(), "v": kv[..., keys:].contiguous()}


def run_reduced(case: ReducedCase, inputs: dict[str, Tensor], implementation: str) -> Tensor:
    """The public function."""
    keys = case.heads * case.key_width
    k, v = (inputs["kv"][..., :keys], inputs["kv"][..., keys:]) if "kv" in inputs else (inputs["k"], inputs["v"])
    return reduced_room.reduced_attention(
        inputs["q"],
        k,
        v,
        num_heads=case.heads,
        scale=case.key_width**-0.5,
        implementation=implementation,  # type: ignore[arg-type]
    )


def out_and_grads(
    run: Callable[[dict[str, Tensor]], Tensor],
    inputs: dict[str, Tensor],
    dtype: torch.dtype,
    rounded_to: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """The output and the gradient of every input, computed in `dtype`, given in fp64.

    Inputs and the gradient that flows in are rounded to `rounded_to` first, so that all see the same numbers.
    """
    rounded_to = rounded_to or dtype
    leaves = {name: x.to(rounded_to).to(dtype).detach().requires_grad_() for name, x in inputs.items()}
    out = run(leaves)
    generator = torch.Generator(out.device).manual_seed(9)
    gradient = torch.randn(out.shape, dtype=torch.float64, device=out.device, generator=generator)
    gradient = gradient.to(rounded_to).to(dtype)
    found = torch.autograd.grad(out, list(leaves.values()), gradient, allow_unused=True)
    grads = {
        f"d {name}": (torch.zeros_like(leaf) if grad is None else grad).double()
        for (name, leaf), grad in zip(leaves.items(), found, strict=True)
    }
    return {"out": out.detach().double(), **grads}


def excess(value: Tensor, eager: Tensor, exact: Tensor) -> float:
    """Largest error over what is allowed: twice the definition's own, and a rounding error beside it."""
    largest = max(1.0, exact.abs().max().item())
    allowed = 2 * (eager - exact).abs().max().item() + 1e-6 * largest
    error = (value - exact).abs().max().item()
    return error / allowed if torch.isfinite(value).all() else float("inf")


# how a kernel says that it cannot be had, in `scalablevit.ops`
_FALLBACK = "PyTorch computes instead"


@contextlib.contextmanager
def fallbacks(notes: list[str]) -> Iterator[None]:
    """Add to `notes` every warning by which a kernel says that PyTorch computes in its place, as it comes."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def keep(message: Warning | str, *args: Any, **kwargs: Any) -> None:
            if _FALLBACK in str(message):
                notes.append(str(message).splitlines()[0])
            else:
                show(message, *args, **kwargs)

        warnings.filterwarnings("always", message=f"(?s).*{_FALLBACK}")
        warnings.showwarning = keep
        yield


def agree(setting: Setting, save: Callable[[dict[str, Any]], None], left: Callable[[], float]) -> dict[str, Any]:
    """Section: kernels and network against definitions."""
    given = left()
    found: dict[str, Any] = {"verdict": "partial", "cases": [], "fallbacks": []}
    numbers = functools.partial(randn, setting=setting)
    todo: list[tuple[str, Any, dict[str, Tensor], Callable[..., Tensor]]] = [
        *(("window", case, window_inputs(case, setting), run_window) for case in window_cases(setting)),
        *(("reduced", case, reduced_inputs(case, setting), run_reduced) for case in reduced_cases(setting)),
        *(
            (LAYER_OPERATORS[type(case)], case, case.inputs(numbers), run_layer)
            for case in layer_cases(is_smoke=setting.smoke)
        ),
    ]
    found["not_reached"] = len(setting.dtypes) * len(todo)

    def keep() -> None:
        found["verdict"] = verdict(found, setting)
        save(found)

    # with TF32, fp32 would be far from fp64 without any kernel
    with fallbacks(found["fallbacks"]), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        # Precision by precision, so that the one that matters most has seen all cases when the time runs out.
        for dtype, (op, case, inputs, run) in itertools.product(setting.dtypes, todo):
            if left() < 0.3 * given:
                break
            row: dict[str, Any] = {"op": op, "case": case.name, "dtype": str(dtype).removeprefix("torch.")}
            try:
                row["kernel_promised"] = is_promised(case, dtype, setting)
                row |= errors(
                    lambda x, how, c=case, r=run: r(c, x, how), inputs, dtype, setting, backward=op != "norm_linear"
                )
            # One kernel that does not compile must not hide what the others do.
            except Exception as error:
                row |= {"ok": False, "error": one_line(error)}
            found["cases"].append(row)
            found["not_reached"] -= 1
            keep()
        checks = [("opcheck", opchecks), ("network", networks)]
        if left() > 15 and not setting.smoke:
            checks.append(("compiled", compiled_network))
        for name, check in checks:
            try:
                found[name] = check(setting)
            except Exception as error:
                found[name] = {"error": one_line(error)}
            keep()
    return found


def verdict(found: dict[str, Any], setting: Setting) -> str:
    """Of the section `agree` as far as it has come: "wrong"; "partial", of what was not all reached; or "ok"."""
    cases, checks, compiled = found["cases"], found.get("opcheck"), found.get("compiled")
    networks_found = found.get("network", [])
    is_right = (
        all(row["ok"] and row["kernel_ran"] == row["kernel_promised"] for row in cases)
        and not found["fallbacks"]
        and (checks is None or all(value == "ok" for value in checks.values()))
        # The operators that were checked are those that ran.
        and (checks is None or bool(checks) or setting.kernel != "triton")
        and isinstance(networks_found, list)
        and all(row["ok"] for row in networks_found)
        and (compiled is None or compiled.get("ok", False))
    )
    if not is_right:
        return "wrong"
    is_whole = not found["not_reached"] and checks is not None and networks_found
    return "ok" if is_whole and (setting.smoke or compiled is not None) else "partial"


def run_layer(case: LayerCase, inputs: dict[str, Tensor], implementation: str) -> Tensor:
    """The public function."""
    return case.run(inputs, implementation)


def is_promised(case: WindowCase | ReducedCase | LayerCase, dtype: torch.dtype, setting: Setting) -> bool:
    """Whether the kernel says that it serves the case."""
    where: dict[str, Any] = {
        "device": torch.device(setting.device),
        "dtype": dtype,
        "implementation": setting.kernel,
    }
    if isinstance(case, WindowCase):
        choice = window_room.select_implementation(head_width=case.width, window_size=case.window, **where)
    elif isinstance(case, ReducedCase):
        choice = reduced_room.select_implementation(key_width=case.key_width, value_width=case.value_width, **where)
    else:
        choice = case.choice(**where)
    return choice.implementation == "triton"


def errors(
    run: Callable[[dict[str, Tensor], str], Tensor],
    inputs: dict[str, Tensor],
    dtype: torch.dtype,
    setting: Setting,
    *,
    backward: bool = True,
) -> dict[str, Any]:
    """How far output and gradients are off, over what is allowed, and whether operators of ours made both.

    `backward`: the gradients are made by an operator of ours too.
    """
    exact = out_and_grads(lambda x: run(x, "reference"), inputs, torch.float64, rounded_to=dtype)
    eager = out_and_grads(lambda x: run(x, "reference"), inputs, dtype)
    # On a GPU the backward has a thread of its own, where this thread's recorder does not listen.
    with Recorder() as recorder, torch.autograd.set_multithreading_enabled(False):
        ours = out_and_grads(lambda x: run(x, setting.kernel), inputs, dtype)
    found = {name: excess(ours[name], eager[name], exact[name]) for name in exact}
    directions = {"backward" in name for name in recorder.calls}
    return {"excess": found, "ok": max(found.values()) <= 1, "kernel_ran": directions == {False, backward}}


class Recorder(TorchDispatchMode):
    """Keeps every call of an operator of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func.namespace == "scalablevit":
            self.calls.setdefault(f"{func}", (func, args, kwargs or {}))
        return func(*args, **(kwargs or {}))


def opchecks(setting: Setting) -> dict[str, str]:
    """torch's own checks of each operator, in bf16: operator -> "ok", or what is wrong."""
    found = {}
    window = WindowCase("padded", 2, 9, 8, 2, 32)
    few, many = ReducedCase("49 keys", 2, 40, 49, 2, 40, 32), ReducedCase("200 keys", 2, 40, 200, 2, 40, 32)
    sizes: list[tuple[Any, Callable[..., Tensor], dict[str, Tensor]]] = [
        (window, run_window, window_inputs(window, setting)),
        (few, run_reduced, reduced_inputs(few, setting)),
        (many, run_reduced, reduced_inputs(many, setting)),
    ]
    numbers = functools.partial(randn, setting=setting)
    # Factors of images have no gradients, which opcheck would miss.
    odd_cases = [
        replace(x, drop_path=False) if isinstance(x, FeedForwardCase) else x for x in layer_cases(is_smoke=True)
    ]
    sizes += [(case, run_layer, case.inputs(numbers)) for case in odd_cases]
    for case, run, inputs in sizes:
        leaves = {name: x.to(torch.bfloat16).requires_grad_() for name, x in inputs.items()}
        # On a GPU the backward has a thread of its own, where this thread's recorder does not listen.
        with Recorder() as recorder, torch.autograd.set_multithreading_enabled(False):
            run(case, leaves, setting.kernel).sum().backward()
        for name, (operator, args, kwargs) in recorder.calls.items():
            is_backward = "backward" in name
            fresh = [
                x.detach().clone().requires_grad_(not is_backward and x.is_floating_point())
                if isinstance(x, Tensor)
                else x
                for x in args
            ]
            try:
                torch.library.opcheck(operator, tuple(fresh), kwargs)
                found[f"{name}, {case.name}"] = "ok"
            except Exception as error:
                found[f"{name}, {case.name}"] = one_line(error)
    return found


def logits_and_grads(model: nn.Module, images: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Logits with and without gradients, and all gradients joined to one vector, in fp64; bf16 and fp16 by autocast.

    Some kernels run in inference only.
    """
    model.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        with torch.no_grad():
            inferred = model(images)
        logits = model(images)
    weights = torch.linspace(-1, 1, logits.numel(), device=images.device, dtype=logits.dtype).view_as(logits)
    (logits * weights).sum().backward()
    grads = torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
    return {"inference": inferred.double(), "logits": logits.detach().double(), "gradients": grads}


def networks(setting: Setting) -> list[dict[str, Any]]:
    """The network with kernels and without, each against fp64: root mean square errors, relative."""
    found = []
    name, sizes = ("scalablevit_atto", [(16, 20)]) if setting.smoke else ("scalablevit_small", [(224, 224), (250, 333)])
    torch.manual_seed(0)
    model = ScalableViT(num_classes=10, **VARIANTS[name])
    for parameter in model.parameters():  # not the initialisation, whose biases are 0
        nn.init.normal_(parameter, std=0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    model.to(setting.device)
    for size in sizes:
        images = randn(2, 3, *size, seed=5, setting=setting).float().double()  # all see the same numbers
        set_kernels(model, "reference")
        exact = logits_and_grads(model.double(), images, torch.float64)
        model.float()
        for dtype in setting.dtypes:
            row: dict[str, Any] = {"size": list(size), "dtype": str(dtype).removeprefix("torch.")}
            for implementation in ("torch", setting.kernel):
                set_kernels(model, implementation)
                got = logits_and_grads(model, images.float(), dtype)
                row[implementation] = {k: ((got[k] - exact[k]).norm() / exact[k].norm()).item() for k in exact}
            ours, theirs = row[setting.kernel], row["torch"]
            # a rounding error of fp32 beside twice the other's, as both may be lucky
            row["ok"] = all(ours[k] <= 2 * theirs[k] + 1e-5 for k in exact)
            found.append(row)
    return found


def set_kernels(model: nn.Module, implementation: str) -> None:
    """Set the implementation of everything that has a kernel."""
    set_attention(model, implementation)  # type: ignore[arg-type]
    set_layers(model, implementation)  # type: ignore[arg-type]


def compiled_network(setting: Setting, backend: str = "inductor") -> dict[str, Any]:
    """The smallest variant as one graph, its kernels beside PyTorch's attention, in bf16, and which operators it holds.

    Close numbers are no proof: PyTorch's attention would give them too.
    """
    torch.manual_seed(0)
    model = ScalableViT(num_classes=10, **VARIANTS["scalablevit_atto"]).to(setting.device)
    images = torch.randn(4, 3, *((16, 40) if setting.smoke else (120, 224)), device=setting.device)
    operators: set[str] = set()
    try:
        set_kernels(model, setting.kernel)
        eager = logits_and_grads(model, images, torch.bfloat16)
        torch.compiler.reset()
        network = torch.compile(model, fullgraph=True, backend=recording_backend(operators, then=backend))
        compiled = logits_and_grads(network, images, torch.bfloat16)
    except Exception as error:
        return {"ok": False, "error": one_line(error)}
    off = {k: ((compiled[k] - eager[k]).norm() / eager[k].norm()).item() for k in eager}
    found = {"ok": max(off.values()) < 0.05, "difference": off, "operators": sorted(operators)}
    missing = [name for name in OPERATORS if setting.kernel == "triton" and f"scalablevit.{name}" not in operators]
    if missing:
        found |= {"ok": False, "error": f"the compiled graph does not hold {', '.join(missing)} of ours"}
    return found


OPERATORS = ("window_attention", "reduced_attention", "feed_forward", "depthwise", "norm_linear", "norm_depthwise")
"""Operators of ours that a compiled network holds where kernels run."""


def recording_backend(operators: set[str], then: str) -> Callable[[Any, Any], Any]:
    """A backend of torch.compile that adds to `operators` the names of ours in a graph before `then` compiles it."""

    def compile_graph(graph: Any, inputs: Any) -> Any:
        ours = (x.target for x in graph.graph.nodes if getattr(x.target, "namespace", None) == "scalablevit")
        operators.update(f"{operator}".removesuffix(".default") for operator in ours)
        return torch._dynamo.lookup_backend(then)(graph, inputs)

    return compile_graph


class Timed(NamedTuple):
    """Seconds of a call on the device, and how it was timed.

    "graph": captured in a CUDA graph, which takes no time of the CPU's between kernels. "events": called while the
    device is busy emptying its caches, which hides a third of a millisecond of the CPU's time; a call that takes the
    CPU longer shows it. "clock": on a CPU.
    """

    seconds: float
    how: str


def seconds_of(run: Callable[[], object], setting: Setting, *, rounds: int = 20, as_graph: bool = True) -> Timed:
    """Median time of one call on the device, with cold caches; on a GPU, call it inside of `side_stream`."""
    for _ in range(2):
        run()
    if setting.device != "cuda":
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return Timed(statistics.median(times), "clock")
    replay = captured(run) if as_graph else None
    call, how = (run, "events") if replay is None else (replay, "graph")
    call()
    # Empties the L2 cache, and keeps the GPU busy while the CPU queues the call.
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for start_event, end_event in pairs:
        flush.zero_()
        start_event.record()
        call()
        end_event.record()
    torch.cuda.synchronize()
    milliseconds = statistics.median(start_event.elapsed_time(end_event) for start_event, end_event in pairs)
    return Timed(milliseconds / 1000, how)


def captured(run: Callable[[], object]) -> Callable[[], object] | None:
    """Replays what `run` queues on the current stream; None where that cannot be captured. It ran before."""
    graph = torch.cuda.CUDAGraph()
    try:
        # The backward in this thread, where the stream that captures is the current one.
        with (
            torch.autograd.set_multithreading_enabled(False),
            torch.cuda.graph(graph, stream=torch.cuda.current_stream()),
        ):
            run()
    # Whatever in it a graph cannot hold: it is timed as it is then, and the result says so.
    except Exception as error:
        print(f"timed by events, as it cannot be captured: {one_line(error)}", file=sys.stderr)
        torch.cuda.synchronize()
        return None
    return graph.replay


@contextlib.contextmanager
def side_stream(setting: Setting) -> Iterator[None]:
    """A stream of its own, as the default one cannot be captured; nothing on a CPU."""
    if setting.device != "cuda":
        yield
        return
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        yield
    torch.cuda.synchronize()


def limits(setting: Setting, dtype: torch.dtype) -> tuple[float, float]:
    """Bytes and operations a second of this device; not known: those of an H100, and the name says what it is."""
    name = torch.cuda.get_device_name() if setting.device == "cuda" else "none"
    if not any(part in name for part, *_ in DEVICES):
        name = "H100"
    _, moves, dense, fp32 = next(figures for figures in DEVICES if figures[0] in name)
    return moves, fp32 if dtype == torch.float32 else dense


def copy_bandwidth(setting: Setting) -> float:
    """Bytes a second that a plain copy reaches: what can be had of the memory's figure."""
    count = 2**20 if setting.smoke else 2**30
    source = torch.zeros(count, dtype=torch.int8, device=setting.device)
    target = torch.empty_like(source)
    return 2 * count / seconds_of(lambda: target.copy_(source), setting, rounds=10).seconds


def kernel_runs(
    op: str, case: Any, setting: Setting, implementation: str, dtype: torch.dtype
) -> dict[str, Callable[[], object]]:
    """direction -> the public function, or its backward through autograd."""
    make, run = (window_inputs, run_window) if op == "window" else (reduced_inputs, run_reduced)
    leaves = {k: x.to(dtype).requires_grad_() for k, x in make(case, setting).items()}
    if op == "window":
        del leaves["fill"]  # no padding at 224 px: it would get no gradient
        leaves["fill"] = torch.zeros(3 * case.heads * case.width, dtype=dtype, device=setting.device)
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]
    out = run(case, leaves, implementation)
    gradient = torch.randn_like(out)

    def forward() -> None:
        with torch.no_grad():
            run(case, leaves, implementation)

    return {"forward": forward, "backward": lambda: torch.autograd.grad(out, wanted, gradient, retain_graph=True)}


def floor_of(op: str, case: Any, *, backward: bool, setting: Setting, dtype: torch.dtype) -> float:
    """Seconds below which the memory, and what multiplies numbers of `dtype`, allow nothing."""
    moves, computes = limits(setting, dtype)
    if op == "window":
        dim = case.heads * case.width
        traffic = window_cost.traffic(case.B, case.H, case.W, dim=dim, itemsize=dtype.itemsize, backward=backward)
        products = window_cost.products(
            case.B, case.H, case.W, dim=dim, window_size=case.window, lim=False, backward=backward
        )
    else:
        sizes = {"num_heads": case.heads, "key_width": case.key_width, "value_width": case.value_width}
        traffic = reduced_cost.traffic(case.B, case.N, case.M, **sizes, itemsize=dtype.itemsize, backward=backward)
        products = reduced_cost.products(case.B, case.N, case.M, **sizes, backward=backward)
    return max(traffic / moves, 2 * products / computes)


def kernels(setting: Setting, save: Callable[[dict[str, Any]], None], left: Callable[[], float]) -> dict[str, Any]:
    """Section: each kernel's time over its floor."""
    batch = 1 if setting.smoke else 128
    todo: list[tuple[torch.dtype, tuple[Any, Any]]] = [
        (torch.bfloat16, (WindowCase("tiny", 1, 7, 7, 1, 16), ReducedCase("tiny", 1, 9, 4, 1, 24, 16)))
    ]
    if not setting.smoke:
        # In fp32 products run outside the tensor cores: two stages tell whether the kernels are worth asking for.
        todo = [(torch.bfloat16, cases) for cases in stages(batch)]
        todo += [(torch.float32, cases) for cases in stages(batch)[::2]]
    with side_stream(setting):
        found: dict[str, Any] = {"batch": batch, "copy_bandwidth": copy_bandwidth(setting), "rows": []}
        found["bandwidth"], _ = limits(setting, torch.bfloat16)
        # What lies between two events around a graph that does next to nothing; it is in every time.
        nothing = torch.zeros(1, device=setting.device)
        found["empty_seconds"] = seconds_of(nothing.zero_, setting).seconds
        for dtype, cases in todo:
            for op, case in zip(("window", "reduced"), cases, strict=True):
                if found["rows"] and left() < 5:
                    return found | {"note": "no time left for all of it"}
                try:
                    found["rows"] += kernel_rows(op, case, dtype, setting)
                # One kernel that does not compile must not hide what the others do.
                except Exception as error:
                    row = {"op": op, "stage": case.name, "dtype": str(dtype).removeprefix("torch.")}
                    found["rows"].append(row | {"error": one_line(error)})
                save(found)
    return found


def kernel_rows(op: str, case: Any, dtype: torch.dtype, setting: Setting) -> list[dict[str, Any]]:
    """Of one kernel, a row for each direction: its launch alone, the public function around it, and PyTorch's."""
    plain = kernel_runs(op, case, setting, "torch", dtype)
    public = kernel_runs(op, case, setting, setting.kernel, dtype)
    launches: dict[str, Callable[[], object]] = public
    if setting.kernel == "triton":
        make: Callable[..., list[Launch]] = window_launches if op == "window" else reduced_launches
        launches = {launch.direction: lambda run=launch.run: run(None) for launch in make(case, setting, dtype)}
    rows = []
    for direction in ("forward", "backward"):
        floor = floor_of(op, case, backward=direction == "backward", setting=setting, dtype=dtype)
        ours, theirs = seconds_of(launches[direction], setting), seconds_of(plain[direction], setting)
        called = seconds_of(public[direction], setting, as_graph=False)
        rows.append(
            {
                "op": op,
                "stage": case.name,
                "direction": direction,
                "dtype": str(dtype).removeprefix("torch."),
                "floor_seconds": floor,
                "seconds": ours.seconds,  # of the launch
                "torch_seconds": theirs.seconds,
                "called_seconds": called.seconds,  # of the function, in eager mode
                "timed_by": {"seconds": ours.how, "torch_seconds": theirs.how, "called_seconds": called.how},
                "over_floor": ours.seconds / floor,
            }
        )
    return rows


def throughput(
    task: str, setting: Setting, save: Callable[[dict[str, Any]], None], left: Callable[[], float]
) -> dict[str, Any]:
    """Section: a task's images a second, batch size by batch size, all contenders in turns."""
    found: dict[str, Any] = {"cells": []}
    if setting.smoke:
        labels: Sequence[str] = ("scalablevit_atto", "plain:scalablevit_atto@eager")
        todo = [Cell((16, 16), "fp32", "eager", task, 1)]  # type: ignore[arg-type]
    else:
        labels = RIVALS[task]
        todo = [Cell((224, 224), "bf16", "compile", task, batch) for batch in BATCHES[task]]  # type: ignore[arg-type]
    timing = Timing(rounds=2, warm_up=1, passes=1) if setting.smoke else Timing(rounds=10, warm_up=3, passes=3)
    for cell in todo:
        if found["cells"] and left() < 30:
            break
        earlier = found["cells"]

        def keep(measured: dict[str, Any], earlier: list[dict[str, Any]] = earlier) -> None:
            found["cells"] = [*earlier, measured]
            found["best"], found["ratios"] = best(found["cells"]), ratios(task, found["cells"])
            save(found)

        def left_to_warm_up(number: int = len(earlier)) -> float:
            so_far = found["cells"][number]["contenders"] if len(found["cells"]) > number else {}
            return left() - seconds_of_turns(so_far, timing)

        watch = Watch(
            around=lambda contender, left=left_to_warm_up: given_up_after(left()),  # type: ignore[misc]
            on_ready=keep,
            is_over=lambda: left() < 0,
        )
        contenders = [find_contender(label) for label in labels]
        device = torch.device(setting.device)
        keep(measure_cell(contenders, cell, device, timing=timing, memory=not setting.smoke, watch=watch))
    return found


def seconds_of_turns(contenders: dict[str, dict[str, Any]], timing: Timing) -> float:
    """What the turns of those that are ready will take, and a little more."""
    medians = [figures["spread"]["median"] for figures in contenders.values() if "spread" in figures]
    return 1 + 1.2 * timing.rounds * (timing.passes or 1) * sum(medians)


@contextlib.contextmanager
def given_up_after(seconds: float) -> Iterator[None]:
    """For building and warming up a contender: it is left out when its time is up, so that the others are timed."""
    if seconds <= 0:
        raise CannotMeasure("no time left")
    try:
        with stopped_after(seconds):
            yield
    except TimeIsUp as error:
        raise CannotMeasure(f"not ready after {seconds:.0f} s, no time left") from error


def rate_of(cell: dict[str, Any], label: str) -> float:
    """Images a second; 0 where there is no such figure."""
    rate: float = cell["contenders"].get(label, {}).get("images_per_second", 0.0)
    return rate


def best(measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """label -> its highest images a second, and at which batch."""
    found: dict[str, dict[str, float]] = {}
    for label in dict.fromkeys(label for cell in measured for label in cell["contenders"]):
        fastest = max(measured, key=lambda cell: rate_of(cell, label))
        if rate_of(fastest, label):
            found[label] = {"images_per_second": rate_of(fastest, label), "batch": fastest["batch"]}
    return found


def ratios(task: str, measured: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """peer -> how many times as fast ours is, and what it shall be.

    In the mode of the peers, each at its best of the batch sizes that both did.
    """
    found: dict[str, dict[str, float | None]] = {}
    for label in best(measured):
        both = [cell for cell in measured if rate_of(cell, label) and rate_of(cell, OURS)]
        if both and label not in (OURS, PREPARED):
            ours, theirs = (max(rate_of(cell, name) for cell in both) for name in (OURS, label))
            least, aim = TARGETS[task].get(label, (None, None))
            found[label] = {"ratio": ours / theirs, "least": least, "aim": aim}
    return found


def warps(setting: Setting, save: Callable[[dict[str, Any]], None], left: Callable[[], float]) -> dict[str, Any]:
    """Section: each kernel's time with other numbers of warps than its tiles say, at the first and the third stage."""
    if setting.device != "cuda":
        return {"note": "needs a GPU"}
    found: dict[str, Any] = {"rows": []}
    with side_stream(setting):
        for window, reduced in stages(128)[::2]:
            launches = window_launches(window, setting, torch.bfloat16)
            launches += reduced_launches(reduced, setting, torch.bfloat16)
            for label, own, run in ((f"{x.kernel} {x.direction}", x.tiles, x.run) for x in launches):
                row: dict[str, Any] = {"kernel": label, "own": own.num_warps, "seconds": {}}
                for num_warps in (1, 2, 4, 8):
                    if left() < 2:
                        return found | {"note": "no time left for all of it"}
                    is_tuple = hasattr(own, "_replace")
                    tiles = own._replace(num_warps=num_warps) if is_tuple else replace(own, num_warps=num_warps)
                    try:
                        row["seconds"][str(num_warps)] = seconds_of(lambda r=run, t=tiles: r(t), setting).seconds
                    # Too few warps for a tile may not compile: the others do.
                    except Exception as error:
                        row["seconds"][str(num_warps)] = one_line(error)
                found["rows"].append(row)
                save(found)
    return found


class Launch(NamedTuple):
    """One direction of a kernel: its own tiles, and a launch with other ones (None: with its own)."""

    kernel: str
    direction: str
    tiles: Any
    run: Callable[[Any], object]


def window_launches(case: WindowCase, setting: Setting, dtype: torch.dtype) -> list[Launch]:
    """Both directions, without the operator and autograd around them."""
    from scalablevit.ops.window_attention import kernel
    from scalablevit.ops.window_attention.tiles import tiles

    x = {k: value.to(dtype) for k, value in window_inputs(case, setting).items()}
    sizes: dict[str, Any] = {"num_heads": case.heads, "window_size": case.window}
    grad = torch.randn_like(x["qkv"][..., : case.heads * case.width]).contiguous()
    L, name = case.window[0] * case.window[1], f"window {case.name}"
    return [
        Launch(
            name,
            "forward",
            tiles(L, case.width, dtype, backward=False),
            lambda t: kernel.forward(x["qkv"], x["lim_weight"], x["lim_bias"], None, **sizes, override=t),
        ),
        Launch(
            name,
            "backward",
            tiles(L, case.width, dtype, backward=True),
            lambda t: kernel.backward(grad, x["qkv"], x["lim_weight"], None, **sizes, with_sums=True, override=t),
        ),
    ]


def reduced_launches(case: ReducedCase, setting: Setting, dtype: torch.dtype) -> list[Launch]:
    """As `window_launches`, of attention over reduced keys that are one block."""
    from scalablevit.ops.reduced_attention import kernel

    x = {k: value.to(dtype) for k, value in reduced_inputs(case, setting).items()}
    q, k, v = x["q"], x["k"], x["v"]
    out = q.new_empty(*q.shape[:2], v.shape[-1])
    log_sums = q.new_empty(0, dtype=torch.float32)  # one block of keys needs none
    options: dict[str, Any] = {"num_heads": case.heads, "scale": case.key_width**-0.5}
    widths: dict[str, Any] = {"key_width": case.key_width, "value_width": case.value_width, "dtype": dtype}
    grad, name = torch.randn_like(out), f"reduced {case.name}"
    return [
        Launch(
            name,
            "forward",
            kernel.choose_tiles("one_block_forward", **widths),
            lambda t: kernel.forward(q, k, v, out, log_sums, **options, tiles=t),
        ),
        Launch(
            name,
            "backward",
            kernel.choose_tiles("one_block_backward", **widths),
            lambda t: kernel.backward(grad, q, k, v, None, log_sums, **options, tiles=() if t is None else (t,)),
        ),
    ]


def one_line(error: BaseException) -> str:
    """An error, short."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise `TimeIsUp` in the middle of whatever runs then; of two, one inside the other, the earlier one counts."""

    def stop(number: int, frame: Any) -> None:
        raise TimeIsUp

    start = time.perf_counter()
    outer, interval = signal.getitimer(signal.ITIMER_REAL)
    seconds = max(min(seconds, outer or seconds), 0.01)
    earlier = signal.signal(signal.SIGALRM, stop)
    # Again after a while: raised inside of a destructor, it is lost.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        if outer:
            signal.setitimer(signal.ITIMER_REAL, max(outer - (time.perf_counter() - start), 0.1), interval)


SECTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "agree": agree,
    "kernels": kernels,
    "inference": lambda *args: throughput("inference", *args),
    "training": lambda *args: throughput("training", *args),
    "warps": warps,
}


def run_sections(
    names: Sequence[str],
    setting: Setting,
    *,
    minutes: float,
    output: Path,
    commit: str | None,
    start: float | None = None,
) -> Any:
    """All sections of `names`, in order; returns the result as it is written to `output`.

    The minutes count from `start`, of the clock `time.perf_counter`; None: from now.
    """
    start = time.perf_counter() if start is None else start
    result: dict[str, Any] = {"benchmark": "gpu", **conditions(setting.device), "smoke": setting.smoke}
    result |= {"commit": commit or result["commit"], "minutes": minutes, "sections": {}}
    whole = sum(SHARES[name] for name in names)
    used = 0.0
    for name in names:
        used += SHARES[name] / whole
        # What earlier sections left over is theirs who come later, and so is what they ran over.
        end = start + 60 * minutes * PLANNED * used
        begin = time.perf_counter()
        notes: list[str] = []

        def left(end: float = end) -> float:
            return end - time.perf_counter()

        def save(found: dict[str, Any], name: str = name) -> None:
            result["sections"][name] = found
            write_json(output, result)

        print(f"{name}: up to {left():.0f} s", file=sys.stderr, flush=True)
        try:
            with stopped_after(left() + 60 * minutes * OVERRUN), fallbacks(notes):
                save(SECTIONS[name](setting, save, left))
        except TimeIsUp:
            result["sections"].setdefault(name, {})["note"] = "cut off: its time was up"
        # The other sections shall run whatever is wrong with this one.
        except Exception as error:
            traceback.print_exc()
            result["sections"].setdefault(name, {})["error"] = one_line(error)
        section = result["sections"][name]
        section["fallbacks"] = [*section.get("fallbacks", []), *notes]
        section["section_seconds"] = time.perf_counter() - begin
        result["seconds"] = time.perf_counter() - start
        write_json(output, result)
    return result


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{result['device']}, torch {result['torch']}, triton {result['triton']}, commit {result['commit']}"]
    for name, section in result["sections"].items():
        lines.append(
            f"\n{name}: {section['section_seconds']:.0f} s {section.get('error') or section.get('note') or ''}"
        )
        lines += [f"  {line}" for line in TABLES.get(name, lambda section: [])(section)]
        lines += [f"  {line}" for line in fallback_lines(section)]
    return "\n".join(lines)


def fallback_lines(section: dict[str, Any]) -> list[str]:
    """Kernels in whose place PyTorch computed unasked."""
    return [f"FELL BACK: {note}" for note in section.get("fallbacks", [])]


def agree_lines(section: dict[str, Any]) -> list[str]:
    """What is wrong, what was not reached, and what holds."""
    cases = section.get("cases", [])
    lines = [
        f"verdict: {section.get('verdict', 'partial')}",
        f"{sum(row['ok'] for row in cases)} of {len(cases)} cases within twice the definition's own error",
    ]
    for row in cases:
        if not row["ok"]:
            why = row.get("error") or {name: round(value, 2) for name, value in row["excess"].items() if value > 1}
            lines.append(f"WRONG {row['op']}, {row['case']}, {row['dtype']}: {why}")
    if section.get("not_reached"):
        lines.append(f"{section['not_reached']} further cases were not reached in time")
    without = [row for row in cases if row.get("kernel_ran") is False]
    for is_promised, what in (
        (True, "WRONG, no kernel ran where one serves"),
        (False, "no kernel serves, so none ran"),
    ):
        names = [f"{x['op']} {x['case']} {x['dtype']}" for x in without if x["kernel_promised"] == is_promised]
        if names:
            lines.append(f"{what}: {'; '.join(names)}")
    checks = section.get("opcheck")
    if checks is None:
        lines.append("torch's check of the operators was not reached in time")
    else:
        lines.append(f"opcheck: {sum(value == 'ok' for value in checks.values())} of {len(checks)} operators pass")
        lines += [f"WRONG {name}: {value}" for name, value in checks.items() if value != "ok"]
    networks_found = section.get("network", [])
    if isinstance(networks_found, dict):
        lines.append(f"WRONG network: {networks_found['error']}")
    elif not networks_found:
        lines.append("the whole network was not reached in time")
    else:
        for row in networks_found:
            lines.append(f"{'network' if row['ok'] else 'WRONG network'}, {network_errors(row)}")
    compiled = section.get("compiled")
    if compiled is not None:
        found = compiled.get("error") or of_each(compiled["difference"])
        lines.append(f"{'' if compiled.get('ok') else 'WRONG '}compiled network beside eager: {found}")
    return lines


def network_errors(row: dict[str, Any]) -> str:
    """Relative root mean square errors against fp64, of each implementation."""
    found = "; ".join(f"{key}: {of_each(row[key])}" for key in row if isinstance(row[key], dict))
    return f"{row['size'][0]} x {row['size'][1]}, {row['dtype']}, relative errors by attention: {found}"


def of_each(values: dict[str, float]) -> str:
    """Name and figure, one after the other."""
    return ", ".join(f"{name} {value:.1e}" for name, value in values.items())


def kernels_lines(section: dict[str, Any]) -> list[str]:
    """Microseconds over the floor."""
    rows = section.get("rows", [])
    if not rows:
        return []
    lines = [
        kernels_conditions(section),
        f"{'':37}{'us':>9}{'floor us':>10}{'ratio':>7}{'torch us':>10}{'called us':>11}",
    ]
    for row in rows:
        label = f"{row['dtype']} {row['op']} {row['stage']}"
        if "error" in row:
            lines.append(f"FAILED {label}: {row['error']}")
            continue
        lines.append(
            f"{label + ' ' + row['direction']:37}{1e6 * row['seconds']:9.1f}{1e6 * row['floor_seconds']:10.1f}"
            f"{row['over_floor']:7.2f}{1e6 * row['torch_seconds']:10.1f}{1e6 * row['called_seconds']:11.1f}"
        )
    return lines


def kernels_conditions(section: dict[str, Any]) -> str:
    """What was timed, and how."""
    rows = [row for row in section["rows"] if "error" not in row]
    by = [
        f"{what} by {', '.join(dict.fromkeys(row['timed_by'][key] for row in rows))}"
        for key, what in (
            ("seconds", "launches"),
            ("torch_seconds", "PyTorch's attention"),
            ("called_seconds", "calls"),
        )
    ]
    return (
        f"batch {section['batch']}, caches emptied before each; timed: {'; '.join(by)}; nothing at all takes "
        f"{1e6 * section['empty_seconds']:.1f} us; floor at {section['bandwidth'] / 1e12:.2f} TB/s, of which a copy "
        f"reaches {100 * section['copy_bandwidth'] / section['bandwidth']:.0f} %"
    )


def throughput_lines(section: dict[str, Any]) -> list[str]:
    """Images a second, best of the batch sizes, and how many times as fast ours is."""
    lines = []
    for label, found in section.get("best", {}).items():
        line = f"{label:34}{found['images_per_second']:10.1f} images/s at batch {found['batch']:<4}"
        ratio = section["ratios"].get(label)
        if ratio is not None:
            line += f" ours x {ratio['ratio']:.2f}"
        if ratio is not None and ratio["least"] is not None:
            aim = "" if ratio["aim"] is None else f", aim {ratio['aim']}"
            line += f" (least {ratio['least']}{aim}: {'met' if ratio['ratio'] >= ratio['least'] else 'MISSED'})"
        lines.append(line)
    return lines + left_out_lines(section)


def left_out_lines(section: dict[str, Any]) -> list[str]:
    """Contenders without figures, and cells that were cut off."""
    lines = []
    for cell in section.get("cells", []):
        if not cell["in_turns"]:
            lines.append(f"batch {cell['batch']} was cut off before the turns: each was timed alone")
        for label, found in cell["contenders"].items():
            if "note" in found:
                lines.append(f"batch {cell['batch']}, {label}: {found['note']}")
    return lines


def warps_lines(section: dict[str, Any]) -> list[str]:
    """Microseconds by number of warps; those that the tiles say are starred."""
    lines = []
    for row in section.get("rows", []):
        times = (
            f"{count}{'*' if int(count) == row['own'] else ''}: "
            + (f"{1e6 * value:.1f} us" if isinstance(value, float) else "fails")
            for count, value in row["seconds"].items()
        )
        lines.append(f"{row['kernel']:28}{'   '.join(times)}")
    return lines


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "agree": agree_lines,
    "kernels": kernels_lines,
    "inference": throughput_lines,
    "training": throughput_lines,
    "warps": warps_lines,
}


def main(argv: Sequence[str] | None = None, start: float | None = None) -> int:
    """Read the flags, run, print, write; 1 where a kernel is wrong or was replaced, or a section failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8, help="for all of it, from the start (default: 8)")
    parser.add_argument("--only", nargs="+", choices=list(SHARES), metavar="SECTION", help=f"of {', '.join(SHARES)}")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on a CPU, without kernels")
    parser.add_argument("--commit", help="to be written down where this is no checkout")
    folder = Path(os.environ.get("OUT", "."))
    parser.add_argument("--output", type=Path, default=folder / "gpu.json", help="JSON file (default: $OUT/gpu.json)")
    args = parser.parse_args(argv)
    if args.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {args.minutes}")
    if not args.smoke and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --smoke runs a small part of it on a CPU")
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    setting = Setting("cuda", "triton", False)
    if args.smoke:
        setting = Setting("cpu", "triton" if interpreted else "torch", True)
    names = [name for name in SHARES if not args.only or name in args.only]
    result = run_sections(names, setting, minutes=args.minutes, output=args.output, commit=args.commit, start=start)
    print(table(result))
    print(f"\nwritten to {args.output}")
    sections = result["sections"].values()
    is_wrong = any("error" in x or x["fallbacks"] or x.get("verdict") == "wrong" for x in sections)
    return 1 if is_wrong else 0


if __name__ == "__main__":
    sys.exit(main(start=START))
