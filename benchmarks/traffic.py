"""Count the bytes that compiled networks read and write on a GPU, without a GPU.

    python benchmarks/traffic.py                                        # the tables of docs/performance.md
    python benchmarks/traffic.py scalablevit_small --kernels 20         # and the kernels that move most
    python benchmarks/traffic.py scalablevit_small convnext_tiny --batch 1 --output mine.json

A network of this size is limited by memory bandwidth, so the bytes are most of what decides its speed there. Inductor
generates its code for an H100 from tensors without memory, and says of each kernel which buffers it reads and writes.
A kernel is taken to read and write each of them once. Of what inductor calls (matrix products, convolutions, our own
operators) inputs and outputs count once. Nothing is run: these are counts, not times.

In inference ours is what `scalablevit.optimize` compiles, others are what `torch.compile` makes of them. In training it
is forward and backward of all of them under `torch.compile`, without loss and optimizer. Weights and images are in
bf16. `:fused` after a name gives timm's networks their fused attention (`TIMM_FUSED_ATTN=2`). The script leans on
private parts of PyTorch; torch 2.11 and 2.14 have them.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import sys
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode

import scalablevit
from scalablevit.backbone import VARIANTS
from scalablevit.bench.conditions import conditions
from scalablevit.bench.contenders import build_contender, find_contender
from scalablevit.safe_write import write_json

RESULTS = Path(__file__).parent / "results"
OURS = "scalablevit_small"
FUSED = ":fused"
PEERS = (f"swin_tiny_patch4_window7_224{FUSED}", "twins_svt_small:4d", "convnext_tiny", f"plain:{OURS}")
TASKS = ("inference", "training")
_CAPABILITY = (9, 0)
_CPU, _GPU = torch.device("cpu"), torch.device("cuda", 0)
_TRANSPOSE_AT_LEAST = 2**20  # bytes: weights are smaller, maps of a batch are larger


class Kernel(NamedTuple):
    """A kernel of the compiled network.

    Attributes:
        operator: what inductor calls; empty for a kernel that it generates.
        moved: bytes read and written.
        transposed: bytes that are read across the layout in which they are written.
        origins: operators of PyTorch that it computes.
    """

    operator: str
    moved: int
    transposed: int
    origins: tuple[str, ...]


class _Counted(Exception):  # noqa: N818 - the count is done, nothing failed
    """Raised where the compiled code would be loaded."""


def count(label: str, task: str, *, batch: int, size: int) -> list[Kernel]:
    """Compile a network for an H100 and list its kernels; the process is of no other use afterwards, as torch caches.

    Args:
        label: a name of `scalablevit bench`, and `:fused` where timm's fused attention is wanted.
        task: "inference" or "training".
        batch: images of a batch.
        size: side of the images in pixels.
    """
    name, is_fused = label.removesuffix(FUSED), label.endswith(FUSED)
    found: list[Kernel] = []
    with ExitStack() as stack:
        stack.enter_context(_timm_fused_attention(is_fused))
        network = build_contender(find_contender(name), (size, size))
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        stack.enter_context(_h100(found))
        images = torch.empty(batch, 3, size, size, device="meta", dtype=torch.bfloat16)
        if task == "training":
            _train(network.train().to(torch.bfloat16), images, mode)
        else:
            _infer(network, images, mode, is_ours=name in VARIANTS)
    return found


def _infer(network: nn.Module, images: Tensor, mode: FakeTensorMode, *, is_ours: bool) -> None:
    """Compile the inference of a network; it ends where the compiled code would be loaded."""
    if is_ours:
        run = scalablevit.optimize(network, backend="compile", dtype=torch.bfloat16)
    else:
        run = torch.compile(network.eval().to(torch.bfloat16))
    with mode, torch.no_grad():
        _without_memory(run, mode, _GPU)
        try:
            run(_fake(images, mode, _GPU))
        except Exception as error:
            if not _is_counted(error):
                raise


def _train(network: nn.Module, images: Tensor, mode: FakeTensorMode) -> None:
    """Compile forward and backward of a network.

    Autograd's engine wants a driver for tensors of a GPU, even if they have no memory. So the graphs are recorded on
    the CPU, with the kernels chosen as on a GPU, and moved to one before inductor sees them.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func
    from torch._functorch.partitioners import min_cut_rematerialization_partition
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.fx_passes.joint_graph import joint_graph_passes

    from scalablevit.layers import convolution
    from scalablevit.ops import choice, layer_choice

    def partition(joint: Any, inputs: Any, **options: Any) -> Any:
        joint_graph_passes(joint)
        return min_cut_rematerialization_partition(joint, inputs, compiler="inductor", **options)

    def compile_for_gpu(graph: Any, inputs: Any) -> Any:
        _lower(copy.deepcopy(graph), inputs)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=compile_for_gpu,
        bw_compiler=compile_for_gpu,
        decompositions=select_decomp_table(),
        partition_fn=partition,
    )
    with ExitStack() as stack:
        for module, name, answer in (
            (choice, "IS_INTERPRETED", True),
            (choice, "DEFAULT", "triton"),
            (layer_choice, "IS_INTERPRETED", True),
            (layer_choice, "DEFAULT", "triton"),
            (convolution, "_is_compiled_for_cuda", lambda x: True),
        ):
            stack.enter_context(mock.patch.object(module, name, answer))
        stack.enter_context(mode)
        _without_memory(network, mode, _CPU)
        outputs = torch.compile(network, backend=backend)(_fake(images, mode, _CPU))
        outputs.backward(torch.empty_like(outputs))


def _lower(graph: Any, inputs: Any) -> None:
    """Move a graph to a GPU and let inductor generate its code."""
    from torch._guards import detect_fake_mode
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.virtualized import V
    from torch.fx.passes.fake_tensor_prop import FakeTensorProp

    class Propagated(FakeTensorProp):
        """A convolution has another layout on a GPU than on the CPU, where its result could be viewed."""

        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            is_view = target is torch.ops.aten.view.default
            return super().call_function(torch.ops.aten.reshape.default if is_view else target, args, kwargs)

    for node in graph.graph.nodes:
        if node.op == "call_function" and "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": _GPU}
    graph.recompile()
    mode = detect_fake_mode(inputs)
    moved = [_fake(x, mode, _GPU) if isinstance(x, Tensor) else x for x in inputs]
    with mode, torch.no_grad(), V.set_fake_mode(mode):
        Propagated(graph, mode).propagate_dont_convert_inputs(*moved)
        try:
            compile_fx_inner(graph, moved)
        except Exception as error:
            if not _is_counted(error):
                raise


def _is_counted(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, _Counted):
            return True
        error = error.__cause__ or error.__context__
    return False


def _fake(x: Tensor, mode: FakeTensorMode, device: torch.device) -> Tensor:
    empty = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
    return FakeTensor(mode, empty, device)


def _without_memory(network: nn.Module, mode: FakeTensorMode, device: torch.device) -> None:
    """Replace all parameters and buffers by tensors of a device that have no memory."""
    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(
                    _fake(parameter, mode, device), requires_grad=parameter.requires_grad
                )
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = _fake(buffer, mode, device)


@contextmanager
def _timm_fused_attention(is_fused: bool) -> Iterator[None]:
    """Switch timm's experimental fused attention on, which networks read while they are built."""
    from timm.layers import set_fused_attn

    set_fused_attn(True, experimental=is_fused)
    yield
    set_fused_attn(True)


@contextmanager
def _h100(found: list[Kernel]) -> Iterator[None]:
    """Make PyTorch compile for an H100 that is not there, and note kernels instead of loading them."""
    import torch._dynamo.device_interface as interface
    import torch._inductor.compile_fx as compile_fx
    import torch._inductor.config as inductor
    import torch._inductor.graph as graph
    import triton

    from scalablevit.ops import choice, measured, probe

    gpu = types.SimpleNamespace(
        name="NVIDIA H100 80GB HBM3",
        major=9,
        minor=0,
        multi_processor_count=132,
        total_memory=80 * 2**30,
        L2_cache_size=50 * 2**20,
        regs_per_multiprocessor=65536,
        max_threads_per_multi_processor=2048,
        max_threads_per_block=1024,
        shared_memory_per_block=49152,
        shared_memory_per_block_optin=232448,
        shared_memory_per_multiprocessor=233472,
        warp_size=32,
        clock_rate=1755000,
        memory_clock_rate=2619000,
        memory_bus_width=5120,
        is_integrated=0,
        gcnArchName="",
        uuid="none",
    )

    def note(lowered: Any) -> None:
        lowered.codegen()
        found.extend(kernel for node in lowered.scheduler.nodes if (kernel := _kernel(node)) is not None)
        raise _Counted

    def always(answer: Any) -> Callable[..., Any]:
        return lambda *_, **__: answer

    cuda = interface.CudaInterface
    # Of torch.cuda itself `is_available` is false: dynamo would ask the device for its random state. Left alone it
    # counts devices where Lightning, once imported, has set PYTORCH_NVML_BASED_CUDA_CHECK.
    driver = types.SimpleNamespace(
        is_available=always(True), current_device=always(0), get_device_capability=always(_CAPABILITY)
    )
    answers: list[tuple[Any, str, Any]] = [
        (torch.cuda, "is_available", always(False)),
        (torch.cuda, "is_initialized", always(False)),
        (torch.cuda, "_lazy_init", always(None)),
        (torch.cuda, "set_device", always(None)),
        (torch.cuda, "device_count", always(1)),
        (torch.cuda, "current_device", always(0)),
        (torch.cuda, "get_device_properties", always(gpu)),
        (torch.cuda, "_get_device_properties", always(gpu)),
        (torch.cuda, "get_device_capability", always(_CAPABILITY)),
        (torch.cuda, "is_bf16_supported", always(True)),
        (torch._C, "_cuda_getCurrentRawStream", always(0)),
        (cuda, "is_available", staticmethod(always(True))),
        (cuda, "current_device", staticmethod(always(0))),
        (cuda, "get_compute_capability", staticmethod(always(90))),
        (cuda, "get_raw_stream", staticmethod(always(0))),
        (cuda, "is_bf16_supported", staticmethod(always(True))),
        (cuda.Worker, "get_device_properties", staticmethod(always(gpu))),
        (compile_fx, "_check_triton_bf16_support", always(None)),
        (graph.GraphLowering, "compile_to_module", note),
        (type(triton.runtime.driver), "active", _Driver()),
        (nn.functional, "scaled_dot_product_attention", _attention),
        (choice, "cuda", driver),
        (measured, "known", always({})),  # times of a real device, if this machine has one
    ]
    with ExitStack() as stack:
        for owner, name, answer in answers:
            stack.enter_context(mock.patch.object(owner, name, answer, create=True))
        stack.enter_context(mock.patch.dict(interface.caching_worker_device_properties, {"cuda": [gpu]}))
        stack.enter_context(mock.patch.dict(probe._failures, {0: None}))
        settings = {"compile_threads": 1, "shape_padding": False, "force_disable_caches": True}
        stack.enter_context(inductor.patch(settings))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


class _Driver:
    """As much of Triton's driver as inductor asks for while it generates code."""

    utils = types.SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 232448, "multiprocessor_count": 132}
    )

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        return torch.cuda


# PyTorch's fused attention asks the driver which of its kernels can serve. This one stands for all of them: it reads
# queries, keys and values once, and in the backward also the output and its gradient.
@torch.library.custom_op("traffic::attention", mutates_args=())
def _fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    raise NotImplementedError


@_fused.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return q.new_empty((v.shape[0], q.shape[2], v.shape[1], v.shape[3])).transpose(1, 2)


@torch.library.custom_op("traffic::attention_backward", mutates_args=())
def _fused_backward(
    grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    raise NotImplementedError


@_fused_backward.register_fake
def _(grad: Tensor, out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, mask, out = ctx.saved_tensors
    d_mask = grad.new_empty(mask.shape) if ctx.needs_input_grad[3] else None
    return *_fused_backward(grad, out, q, k, v, mask), d_mask


_fused.register_autograd(_backward, setup_context=_save)


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **_: Any) -> Tensor:
    if q.dim() != 4:  # PyTorch has no fused kernel for it
        return torch.softmax(q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5, -1) @ v
    out: Tensor = _fused(q, k, v, attn_mask)
    return out


def _kernel(node: Any) -> Kernel | None:
    """What inductor says of a node of its schedule; None where nothing is launched."""
    inner = getattr(node, "node", None)
    operator = str(getattr(inner, "op_overload", None) or getattr(inner, "python_kernel_name", None) or "")
    moved = max(int(node.get_read_write_buffers_sizes()), 0) if type(node).__name__ != "NopKernelSchedulerNode" else 0
    if not moved and not operator:
        return None
    origins = {
        str(origin.target) for part in node.get_nodes() for origin in (getattr(part.node, "origins", None) or ())
    }
    return Kernel(operator, moved, 0 if operator else _transposed(node), tuple(sorted(origins)))


def _transposed(node: Any) -> int:
    """Bytes of a generated kernel's inputs whose innermost dimension is not the one that it writes innermost."""
    from torch._inductor.dependencies import MemoryDep
    from torch._inductor.virtualized import V

    found: dict[str, int] = {}
    for part in node.get_nodes():
        deps = part.read_writes
        writes = [dep for dep in deps.writes if isinstance(dep, MemoryDep)]
        for write in writes:
            inner = _innermost(write)
            for read in deps.reads:
                if not isinstance(read, MemoryDep) or inner is None or inner not in read.index.free_symbols:
                    continue
                other = _innermost(read)
                moved = V.graph.get_dep_size_hint(read)
                if other is not None and other != inner and moved >= _TRANSPOSE_AT_LEAST:
                    found[read.name] = moved
    return sum(found.values())


def _innermost(dep: Any) -> Any:
    """The variable over which neighbours in memory are visited; None where there is none."""
    for variable, length in zip(dep.var_names, dep.size, strict=True):
        step = dep.index.subs(variable, variable + 1) - dep.index
        if length != 1 and step == 1:
            return variable
    return None


def summary(kernels: list[Kernel], batch: int) -> dict[str, Any]:
    """Sums over a network's kernels.

    Args:
        kernels: from `count`.
        batch: images of the batch.
    """
    moved = sum(kernel.moved for kernel in kernels)
    return {
        "generated": sum(not kernel.operator for kernel in kernels),
        "called": dict(Counter(kernel.operator for kernel in kernels if kernel.operator)),
        "bytes": moved,
        "bytes_per_image": moved // batch,
        "transposed_bytes": sum(kernel.transposed for kernel in kernels),
    }


def measure(label: str, task: str, batch: int, size: int, most: int = 0) -> dict[str, Any]:
    """Count, and print; to be called in a process of its own."""
    kernels = count(label, task, batch=batch, size=size)
    found = summary(kernels, batch)
    calls = sum(found["called"].values())
    print(
        f"{label + ', ' + task:46}{found['generated']:5} generated{calls:5} called{found['bytes'] / 1e9:8.2f} GB"
        f"{found['bytes_per_image'] / 1e6:7.1f} MB an image{found['transposed_bytes'] / 1e9:7.2f} GB transposed"
    )
    for kernel in sorted(kernels, key=lambda kernel: -kernel.moved)[:most]:
        what = kernel.operator or "generated: " + " ".join(kernel.origins)
        print(f"    {kernel.moved / 1e9:7.3f} GB{'  transposes' if kernel.transposed else ''}  {what}")
    sys.stdout.flush()
    return found


def main(arguments: list[str] | None = None) -> int:
    """Read the flags, count each network in a process of its own, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL", default=[OURS, *PEERS], help="default: S and its peers")
    parser.add_argument("--task", choices=TASKS, help="default: both")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--kernels", type=int, default=0, metavar="N", help="list the N kernels that move most")
    parser.add_argument("--output", type=Path, help="JSON file; default: traffic.json beside the other results")
    args = parser.parse_args(arguments)
    is_default = args.models == parser.get_default("models") and args.task is None
    result: dict[str, Any] = {"benchmark": "traffic", **conditions("cpu"), "batch": args.batch, "size": args.size}
    result["target"] = "H100"
    for task in [args.task] if args.task else TASKS:
        result[task] = {}
        for label in args.models:
            # A process each: what is compiled and cached for one must not colour the next.
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                result[task][label] = process.submit(measure, label, task, args.batch, args.size, args.kernels).result()
    path = args.output or (RESULTS / "traffic.json" if is_default else None)
    if path is not None:
        write_json(path, result)
        print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
