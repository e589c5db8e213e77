"""Everything that needs a GPU, in one call of a few minutes: are the kernels right, and how fast is it all?

    python benchmarks/gpu.py --minutes 8 --output gpu.json

For a machine that is lent for minutes: it needs torch, triton and timm, no network, and nothing of this package
installed. Sections run in the order of their importance, each within its share of the time (what one leaves over, the
next ones have); the JSON is written after every step, and a short table comes last.

    agree       every kernel's output and gradients against fp64: off by at most twice what the definition is off in
                that precision; operators checked by torch; the whole network with kernels beside it without
    kernels     time of each kernel at the four stages, over the least that the memory allows
    inference   images a second, ours and peers under torch.compile, the plain definition in eager mode
    training    a step likewise
    warps       each kernel's time with other numbers of warps

`--smoke` runs all of it on a CPU at tiny sizes, with PyTorch's attention in the place of the kernels, or with the
kernels in Triton's interpreter where TRITON_INTERPRET=1 is set.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import statistics
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parents[1] / "src"
sys.path.insert(0, str(SOURCE))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from scalablevit.backbone import VARIANTS, ScalableViT  # noqa: E402
from scalablevit.bench.conditions import conditions  # noqa: E402
from scalablevit.bench.contenders import CannotMeasure, find_contender  # noqa: E402
from scalablevit.bench.throughput import Cell, Timing, measure_cell, write_json  # noqa: E402
from scalablevit.layers import set_attention  # noqa: E402
from scalablevit.ops import reduced_attention as reduced_room  # noqa: E402
from scalablevit.ops import window_attention as window_room  # noqa: E402
from scalablevit.ops.reduced_attention import cost as reduced_cost  # noqa: E402
from scalablevit.ops.window_attention import cost as window_cost  # noqa: E402

WINDOW = (7, 7)
# (part of the device's name, bytes a second of its memory, dense bf16 operations a second), as its maker says
DEVICES = (
    ("H200", 4.8e12, 989e12),
    ("H100 PCIe", 2.0e12, 756e12),
    ("H100 NVL", 3.9e12, 835e12),
    ("H100", 3.35e12, 989e12),
    ("A100", 2.04e12, 312e12),
)
# section -> its share of the time, in the order in which they run
SHARES = {"agree": 0.24, "kernels": 0.1, "inference": 0.31, "training": 0.31, "warps": 0.04}
# task -> peer -> (how many times as fast ours must be, what is aimed at)
TARGETS = {
    "inference": {
        "swin_tiny_patch4_window7_224": (2.2, 3.0),
        "twins_svt_small:4d": (1.65, 2.25),
        "plain:scalablevit_small@eager": (2.5, None),
    },
    "training": {"swin_tiny_patch4_window7_224": (1.9, 2.6), "twins_svt_small:4d": (1.45, 1.95)},
}
OURS = ("scalablevit_small", "scalablevit_small@optimized")
RIVALS = {
    "inference": (
        *OURS, "swin_tiny_patch4_window7_224", "twins_svt_small:4d", "plain:scalablevit_small@eager",
        "convnext_tiny", "twins_svt_small",
    ),
    "training": (
        OURS[0], "swin_tiny_patch4_window7_224", "twins_svt_small:4d", "plain:scalablevit_small@eager",
        "convnext_tiny",
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
        return (torch.float32,) if self.smoke else (torch.bfloat16, torch.float32, torch.float16)


def window_cases(setting: Setting) -> list[WindowCase]:
    """Whole windows, padded ones, fewer tokens than a window, odd widths, the first stage of a 800 x 1333 picture."""
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
    run: Callable[[dict[str, Tensor]], Tensor], inputs: dict[str, Tensor], dtype: torch.dtype
) -> dict[str, Tensor]:
    """The output and the gradient of every input, computed in `dtype`, given in fp64."""
    leaves = {name: x.to(dtype).detach().requires_grad_() for name, x in inputs.items()}
    out = run(leaves)
    generator = torch.Generator(out.device).manual_seed(9)
    gradient = torch.randn(out.shape, dtype=torch.float64, device=out.device, generator=generator)
    found = torch.autograd.grad(out, list(leaves.values()), gradient.to(dtype), allow_unused=True)
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


@contextlib.contextmanager
def fallbacks(notes: list[str]) -> Iterator[None]:
    """Collect the warnings by which a kernel says that PyTorch computes in its place."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    notes += [str(warning.message).splitlines()[0] for warning in caught if "instead" in str(warning.message)]


def agree(setting: Setting, save: Callable[[dict[str, Any]], None], left: Callable[[], float]) -> dict[str, Any]:
    """Section: kernels and network against definitions."""
    given = left()
    found: dict[str, Any] = {"cases": [], "fallbacks": [], "opcheck": {}, "network": []}
    todo: list[tuple[str, Any, dict[str, Tensor], Callable[..., Tensor]]] = [
        *(("window", case, window_inputs(case, setting), run_window) for case in window_cases(setting)),
        *(("reduced", case, reduced_inputs(case, setting), run_reduced) for case in reduced_cases(setting)),
    ]
    # with TF32, fp32 would be far from fp64 without any kernel
    with fallbacks(found["fallbacks"]), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        # Precision by precision, so that the one that matters most has seen all cases when the time runs out.
        for dtype, (op, case, inputs, run) in itertools.product(setting.dtypes, todo):
            if left() < 0.25 * given:
                found["not_reached"] = len(setting.dtypes) * len(todo) - len(found["cases"])
                break
            row: dict[str, Any] = {"op": op, "case": case.name, "dtype": str(dtype).removeprefix("torch.")}
            try:
                row |= errors(lambda x, how, c=case, r=run: r(c, x, how), inputs, dtype, setting)
            # One kernel that does not compile must not hide what the others do.
            except Exception as error:
                row |= {"ok": False, "error": one_line(error)}
            found["cases"].append(row)
            save(found)
        for name, check in (("opcheck", opchecks), ("network", networks)):
            try:
                found[name] = check(setting)
            except Exception as error:
                found[name] = {"error": one_line(error)}
            save(found)
        if left() > 15 and not setting.smoke:
            found["compiled"] = compiled_network(setting)
    found["ok"] = (
        all(row["ok"] for row in found["cases"])
        and (setting.smoke or any(row.get("kernel_ran") for row in found["cases"]))
        and not found["fallbacks"]
        and all(value == "ok" for value in found["opcheck"].values())
        and isinstance(found["network"], list)
        and all(row["ok"] for row in found["network"])
        and found.get("compiled", {"ok": True})["ok"]
    )
    return found


def errors(
    run: Callable[[dict[str, Tensor], str], Tensor], inputs: dict[str, Tensor], dtype: torch.dtype, setting: Setting
) -> dict[str, Any]:
    """How far output and gradients are off, over what is allowed, and whether an operator of ours made them."""
    exact = out_and_grads(lambda x: run(x, "reference"), inputs, torch.float64)
    eager = out_and_grads(lambda x: run(x, "reference"), inputs, dtype)
    with Recorder() as recorder:
        ours = out_and_grads(lambda x: run(x, setting.kernel), inputs, dtype)
    found = {name: excess(ours[name], eager[name], exact[name]) for name in exact}
    return {"excess": found, "ok": max(found.values()) <= 1, "kernel_ran": bool(recorder.calls)}


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
    """Logits and all gradients joined to one vector, in fp64; bf16 and fp16 by autocast."""
    model.zero_grad(set_to_none=True)
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype in (torch.bfloat16, torch.float16)):
        logits = model(images)
    weights = torch.linspace(-1, 1, logits.numel(), device=images.device, dtype=logits.dtype).view_as(logits)
    (logits * weights).sum().backward()
    grads = torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
    return {"logits": logits.detach().double(), "gradients": grads}


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
        images = randn(2, 3, *size, seed=5, setting=setting)
        set_attention(model, "reference")
        exact = logits_and_grads(model.double(), images, torch.float64)
        model.float()
        for dtype in setting.dtypes:
            row: dict[str, Any] = {"size": list(size), "dtype": str(dtype).removeprefix("torch.")}
            for implementation in ("torch", setting.kernel):
                set_attention(model, implementation)
                got = logits_and_grads(model, images.float(), dtype)
                row[implementation] = {k: ((got[k] - exact[k]).norm() / exact[k].norm()).item() for k in exact}
            ours, theirs = row[setting.kernel], row["torch"]
            # a rounding error of fp32 beside twice the other's, as both may be lucky
            row["ok"] = all(ours[k] <= 2 * theirs[k] + 1e-5 for k in exact)
            found.append(row)
    return found


def compiled_network(setting: Setting) -> dict[str, Any]:
    """The smallest variant as one graph, its kernels beside PyTorch's attention, in bf16."""
    torch.manual_seed(0)
    model = ScalableViT(num_classes=10, **VARIANTS["scalablevit_atto"]).to(setting.device)
    images = torch.randn(4, 3, 120, 224, device=setting.device)
    try:
        set_attention(model, setting.kernel)
        eager = logits_and_grads(model, images, torch.bfloat16)
        torch.compiler.reset()
        compiled = logits_and_grads(torch.compile(model, fullgraph=True), images, torch.bfloat16)
    except Exception as error:
        return {"ok": False, "error": one_line(error)}
    off = {k: ((compiled[k] - eager[k]).norm() / eager[k].norm()).item() for k in eager}
    return {"ok": max(off.values()) < 0.05, "difference": off}


def seconds_of(run: Callable[[], object], setting: Setting, rounds: int = 20) -> float:
    """Median time of one call on the device, with cold caches."""
    for _ in range(2):
        run()
    if setting.device != "cuda":
        times = []
        for _ in range(3):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    # Empties the L2 cache, and keeps the GPU busy while the CPU queues the call: launching is not what is measured.
    flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(rounds)]
    for start_event, end_event in pairs:
        flush.zero_()
        start_event.record()
        run()
        end_event.record()
    torch.cuda.synchronize()
    return statistics.median(start_event.elapsed_time(end_event) for start_event, end_event in pairs) / 1000


def limits(setting: Setting) -> tuple[float, float]:
    """Bytes and bf16 operations a second of this device; not known: those of an H100, and the name says what it is."""
    name = torch.cuda.get_device_name() if setting.device == "cuda" else "none"
    return next(((moves, computes) for part, moves, computes in DEVICES if part in name), (3.35e12, 989e12))


def copy_bandwidth(setting: Setting) -> float:
    """Bytes a second that a plain copy reaches: what can be had of the memory's figure."""
    count = 2**20 if setting.smoke else 2**30
    source = torch.zeros(count, dtype=torch.int8, device=setting.device)
    target = torch.empty_like(source)
    return 2 * count / seconds_of(lambda: target.copy_(source), setting, rounds=10)


def kernel_runs(
    op: str, case: Any, setting: Setting, implementation: str
) -> tuple[Callable[[], object], Callable[[], object]]:
    """(forward, backward) in bf16."""
    make, run = (window_inputs, run_window) if op == "window" else (reduced_inputs, run_reduced)
    leaves = {k: x.to(torch.bfloat16).requires_grad_() for k, x in make(case, setting).items()}
    if op == "window":
        del leaves["fill"]  # no padding at 224 px: it would get no gradient
        leaves["fill"] = torch.zeros(3 * case.heads * case.width, dtype=torch.bfloat16, device=setting.device)
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]
    out = run(case, leaves, implementation)
    gradient = torch.randn_like(out)

    def forward() -> None:
        with torch.no_grad():
            run(case, leaves, implementation)

    return forward, lambda: torch.autograd.grad(out, wanted, gradient, retain_graph=True)


def floor_of(op: str, case: Any, *, backward: bool, setting: Setting) -> float:
    """Seconds below which the memory and the tensor cores allow nothing, in bf16."""
    moves, computes = limits(setting)
    if op == "window":
        dim = case.heads * case.width
        traffic = window_cost.traffic(case.B, case.H, case.W, dim=dim, itemsize=2, backward=backward)
        products = window_cost.products(
            case.B, case.H, case.W, dim=dim, window_size=case.window, lim=False, backward=backward
        )
    else:
        sizes = {"num_heads": case.heads, "key_width": case.key_width, "value_width": case.value_width}
        traffic = reduced_cost.traffic(case.B, case.N, case.M, **sizes, itemsize=2, backward=backward)
        products = reduced_cost.products(case.B, case.N, case.M, **sizes, backward=backward)
    return max(traffic / moves, 2 * products / computes)


def kernels(setting: Setting, save: Callable[[dict[str, Any]], None], left: Callable[[], float]) -> dict[str, Any]:
    """Section: each kernel's time over its floor."""
    batch = 1 if setting.smoke else 128
    todo = [(WindowCase("tiny", 1, 7, 7, 1, 16), ReducedCase("tiny", 1, 9, 4, 1, 24, 16))]
    todo = todo if setting.smoke else stages(batch)
    found: dict[str, Any] = {"batch": batch, "dtype": "bfloat16", "copy_bandwidth": copy_bandwidth(setting), "rows": []}
    found["bandwidth"], found["operations"] = limits(setting)
    for cases in todo:
        for op, case in zip(("window", "reduced"), cases, strict=True):
            times: dict[str, dict[str, float]] = {"forward": {}, "backward": {}}
            for implementation in dict.fromkeys((setting.kernel, "torch")):
                for direction, run in zip(times, kernel_runs(op, case, setting, implementation), strict=True):
                    times[direction][implementation] = seconds_of(run, setting)
            for direction, values in times.items():
                floor = floor_of(op, case, backward=direction == "backward", setting=setting)
                found["rows"].append(
                    {
                        "op": op,
                        "stage": case.name,
                        "direction": direction,
                        "floor_seconds": floor,
                        "seconds": values[setting.kernel],
                        "torch_seconds": values["torch"],
                        "over_floor": values[setting.kernel] / floor,
                    }
                )
            save(found)
            if left() < 5:
                found["note"] = "no time left"
                return found
    return found


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
        # Of the time that is left, a part belongs to the rounds.
        contenders = [while_there_is_time(find_contender(label), lambda: left() - 20) for label in labels]
        found["cells"].append(
            measure_cell(contenders, cell, torch.device(setting.device), timing=timing, memory=not setting.smoke)
        )
        found["best"] = best(found["cells"])
        found["ratios"] = ratios(task, found["best"])
        save(found)
    return found


def while_there_is_time(contender: Any, left: Callable[[], float]) -> Any:
    """The contender, left out once the time is up: compiling takes half a minute for each."""

    def build(size: tuple[int, int]) -> nn.Module:
        if left() < 0:
            raise CannotMeasure("no time left")
        return contender.build(size)

    return replace(contender, build=build)


def best(measured: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """label -> its highest images a second, and at which batch."""
    found: dict[str, dict[str, float]] = {}
    for cell in measured:
        for label, figures in cell["contenders"].items():
            rate = figures.get("images_per_second", 0.0)
            if rate > found.get(label, {"images_per_second": 0.0})["images_per_second"]:
                found[label] = {"images_per_second": rate, "batch": cell["batch"]}
    return found


def ratios(task: str, rates: dict[str, dict[str, float]]) -> dict[str, dict[str, float | None]]:
    """peer -> how many times as fast ours is, the better of its modes, and what it shall be."""
    ours = max((rates[label]["images_per_second"] for label in OURS if label in rates), default=None)
    return {
        label: {
            "ratio": ours / rates[label]["images_per_second"],
            "least": TARGETS[task].get(label, (None, None))[0],
            "aim": TARGETS[task].get(label, (None, None))[1],
        }
        for label in rates
        if ours is not None and label not in OURS
    }


def warps(setting: Setting, save: Callable[[dict[str, Any]], None], left: Callable[[], float]) -> dict[str, Any]:
    """Section: each kernel's time with other numbers of warps than its tiles say, at the first and the third stage."""
    if setting.device != "cuda":
        return {"note": "needs a GPU"}
    found: dict[str, Any] = {"rows": []}
    for window, reduced in stages(128)[::2]:
        for label, own, run in (*window_launches(window, setting), *reduced_launches(reduced, setting)):
            row: dict[str, Any] = {"kernel": label, "own": own.num_warps, "seconds": {}}
            for num_warps in (1, 2, 4, 8):
                if left() < 2:
                    return found | {"note": "no time left"}
                tiles = (
                    own._replace(num_warps=num_warps) if hasattr(own, "_replace") else replace(own, num_warps=num_warps)
                )
                try:
                    row["seconds"][str(num_warps)] = seconds_of(lambda r=run, t=tiles: r(t), setting)
                # Too few warps for a tile may not compile: the others do.
                except Exception as error:
                    row["seconds"][str(num_warps)] = one_line(error)
            found["rows"].append(row)
            save(found)
    return found


def window_launches(case: WindowCase, setting: Setting) -> list[tuple[str, Any, Callable[[Any], object]]]:
    """(label, own tiles, launch with other tiles) of both directions, in bf16."""
    from scalablevit.ops.window_attention import kernel
    from scalablevit.ops.window_attention.tiles import tiles

    x = {k: value.to(torch.bfloat16) for k, value in window_inputs(case, setting).items()}
    sizes: dict[str, Any] = {"num_heads": case.heads, "window_size": case.window}
    grad = torch.randn_like(x["qkv"][..., : case.heads * case.width]).contiguous()
    L = case.window[0] * case.window[1]
    return [
        (
            f"window {case.name} forward",
            tiles(L, case.width, torch.bfloat16, backward=False),
            lambda t: kernel.forward(x["qkv"], x["lim_weight"], x["lim_bias"], None, **sizes, override=t),
        ),
        (
            f"window {case.name} backward",
            tiles(L, case.width, torch.bfloat16, backward=True),
            lambda t: kernel.backward(grad, x["qkv"], x["lim_weight"], None, **sizes, with_sums=True, override=t),
        ),
    ]


def reduced_launches(case: ReducedCase, setting: Setting) -> list[tuple[str, Any, Callable[[Any], object]]]:
    """As `window_launches`, of attention over reduced keys."""
    from scalablevit.ops.reduced_attention import kernel

    x = {k: value.to(torch.bfloat16) for k, value in reduced_inputs(case, setting).items()}
    q, k, v = x["q"], x["k"], x["v"]
    out = q.new_empty(*q.shape[:2], v.shape[-1])
    log_sums = q.new_empty(0, dtype=torch.float32)  # one block of keys needs none
    options: dict[str, Any] = {"num_heads": case.heads, "scale": case.key_width**-0.5}
    widths: dict[str, Any] = {"key_width": case.key_width, "value_width": case.value_width, "dtype": torch.bfloat16}
    grad = torch.randn_like(out)
    return [
        (
            f"reduced {case.name} forward",
            kernel.choose_tiles("one_block_forward", **widths),
            lambda t: kernel.forward(q, k, v, out, log_sums, **options, tiles=t),
        ),
        (
            f"reduced {case.name} backward",
            kernel.choose_tiles("one_block_backward", **widths),
            lambda t: kernel.backward(grad, q, k, v, None, log_sums, **options, tiles=(t,)),
        ),
    ]


def one_line(error: BaseException) -> str:
    """An error, short."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Raise `TimeIsUp` in the middle of whatever runs then."""

    def stop(number: int, frame: Any) -> None:
        raise TimeIsUp

    earlier = signal.signal(signal.SIGALRM, stop)
    timer = signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        signal.setitimer(signal.ITIMER_REAL, *timer)


SECTIONS: dict[str, Callable[..., dict[str, Any]]] = {
    "agree": agree,
    "kernels": kernels,
    "inference": lambda *args: throughput("inference", *args),
    "training": lambda *args: throughput("training", *args),
    "warps": warps,
}


def run_sections(names: Sequence[str], setting: Setting, *, minutes: float, output: Path, commit: str | None) -> Any:
    """All sections of `names`, in order; returns the result as it is written to `output`."""
    start = time.perf_counter()
    result: dict[str, Any] = {"benchmark": "gpu", **conditions(setting.device), "smoke": setting.smoke}
    result |= {"commit": commit or result["commit"], "minutes": minutes, "sections": {}}
    whole = sum(SHARES[name] for name in names)
    used = 0.0
    for name in names:
        used += SHARES[name] / whole
        end = start + 60 * minutes * used  # what earlier sections left over is theirs who come later
        begin = time.perf_counter()

        def left(end: float = end) -> float:
            return end - time.perf_counter()

        def save(found: dict[str, Any], name: str = name) -> None:
            result["sections"][name] = found
            write_json(output, result)

        print(f"{name}: up to {left():.0f} s", file=sys.stderr, flush=True)
        try:
            # a compilation cannot be foreseen: half as long again, before it is cut off
            with stopped_after(max(left(), 1) + (0.1 * 60 * minutes)):
                save(SECTIONS[name](setting, save, left))
        except TimeIsUp:
            result["sections"].setdefault(name, {})["note"] = "cut off: its time was up"
        # The other sections shall run whatever is wrong with this one.
        except Exception as error:
            traceback.print_exc()
            result["sections"].setdefault(name, {})["error"] = one_line(error)
        result["sections"][name]["section_seconds"] = time.perf_counter() - begin
        write_json(output, result)
    return result


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    lines = [f"{result['device']}, torch {result['torch']}, triton {result['triton']}, commit {result['commit']}"]
    for name, section in result["sections"].items():
        lines.append(
            f"\n{name}: {section['section_seconds']:.0f} s {section.get('error') or section.get('note') or ''}"
        )
        lines += TABLES.get(name, lambda section: [])(section)
    return "\n".join(lines)


def agree_table(section: dict[str, Any]) -> list[str]:
    """What is wrong, or that nothing is."""
    lines = []
    cases = section.get("cases", [])
    lines.append(f"  {sum(row['ok'] for row in cases)} of {len(cases)} cases within twice the definition's own error")
    for row in cases:
        if not row["ok"]:
            why = row.get("error") or {name: round(value, 2) for name, value in row["excess"].items() if value > 1}
            lines.append(f"  WRONG {row['op']}, {row['case']}, {row['dtype']}: {why}")
    if "not_reached" in section:
        lines.append(f"  {section['not_reached']} further cases were not reached in time")
    without = [f"{row['op']} {row['case']} {row['dtype']}" for row in cases if row.get("kernel_ran") is False]
    if without:
        lines.append(f"  no kernel serves, PyTorch computed: {'; '.join(without)}")
    lines += [f"  FELL BACK {note}" for note in section.get("fallbacks", [])]
    checks = section.get("opcheck", {})
    lines.append(f"  opcheck: {sum(value == 'ok' for value in checks.values())} of {len(checks)} operators pass")
    lines += [f"  WRONG {name}: {value}" for name, value in checks.items() if value != "ok"]
    networks_found = section.get("network", [])
    if isinstance(networks_found, dict):
        return [*lines, f"  WRONG network: {networks_found['error']}"]
    for row in networks_found:
        errors = {
            key: ", ".join(f"{name} {value:.1e}" for name, value in row[key].items())
            for key in row
            if isinstance(row[key], dict)
        }
        lines.append(f"  {'network' if row['ok'] else 'WRONG network'} {row['size']} {row['dtype']}: {errors}")
    if "compiled" in section:
        lines.append(f"  {'' if section['compiled']['ok'] else 'WRONG '}compiled network: {section['compiled']}")
    return lines


def kernels_table(section: dict[str, Any]) -> list[str]:
    """Microseconds over the floor."""
    rows = section.get("rows", [])
    if not rows:
        return []
    copies = section["copy_bandwidth"] / section["bandwidth"]
    lines = [
        f"  batch {section['batch']}, {section['dtype']}; floor at {section['bandwidth'] / 1e12:.2f} TB/s, "
        f"of which a copy reaches {100 * copies:.0f} %",
        f"  {'':28}{'us':>9}{'floor us':>10}{'ratio':>7}{'torch us':>10}",
    ]
    for row in rows:
        label = f"{row['op']} {row['stage']} {row['direction']}"
        lines.append(
            f"  {label:28}{1e6 * row['seconds']:9.1f}{1e6 * row['floor_seconds']:10.1f}{row['over_floor']:7.2f}"
            f"{1e6 * row['torch_seconds']:10.1f}"
        )
    return lines


def throughput_table(section: dict[str, Any]) -> list[str]:
    """Images a second, best of the batch sizes, and how many times as fast ours is."""
    lines = []
    for label, found in section.get("best", {}).items():
        line = f"  {label:34}{found['images_per_second']:10.1f} images/s at batch {found['batch']:<4}"
        ratio = section["ratios"].get(label)
        if ratio is not None:
            line += f" ours x {ratio['ratio']:.2f}"
        if ratio is not None and ratio["least"] is not None:
            aim = "" if ratio["aim"] is None else f", aim {ratio['aim']}"
            line += f" (least {ratio['least']}{aim}: {'met' if ratio['ratio'] >= ratio['least'] else 'MISSED'})"
        lines.append(line)
    for cell in section.get("cells", []):
        for label, found in cell["contenders"].items():
            if "note" in found:
                lines.append(f"  batch {cell['batch']}, {label}: {found['note']}")
    return lines


def warps_table(section: dict[str, Any]) -> list[str]:
    """Microseconds by number of warps; those that the tiles say are starred."""
    lines = []
    for row in section.get("rows", []):
        times = (
            f"{count}{'*' if int(count) == row['own'] else ''}: "
            + (f"{1e6 * value:.1f} us" if isinstance(value, float) else "fails")
            for count, value in row["seconds"].items()
        )
        lines.append(f"  {row['kernel']:28}{'   '.join(times)}")
    return lines


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "agree": agree_table,
    "kernels": kernels_table,
    "inference": throughput_table,
    "training": throughput_table,
    "warps": warps_table,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Read the flags, run, print, write; 1 where a kernel is wrong or a section failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8, help="for all of it (default: 8)")
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
    result = run_sections(names, setting, minutes=args.minutes, output=args.output, commit=args.commit)
    print(table(result))
    print(f"\nwritten to {args.output}")
    sections = result["sections"].values()
    return 1 if any("error" in section or section.get("ok") is False for section in sections) else 0


if __name__ == "__main__":
    sys.exit(main())
