"""Measure what the Triton kernels take of a GPU (registers, spills, shared memory), without a GPU.

    python benchmarks/kernel_resources.py

Triton compiles for a compute capability, and NVIDIA's `cuobjdump`, which Triton ships, reads the binary. The numbers
belong to a version of Triton: the result's name says which. From them follow the programs that a multiprocessor holds
at once; `tests/ops/test_*_compiles.py` asserts only what the design needs of them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from scalablevit.bench.conditions import conditions
from scalablevit.safe_write import write_json

RESULTS = Path(__file__).parent / "results"


class Launch(NamedTuple):
    """A kernel as a launch specialises it: by types, compile-time constants, and multiples of 16."""

    name: str
    function: Any
    signature: dict[str, str]
    constants: dict[tuple[int, ...], Any]
    attributes: dict[tuple[int, ...], Any]
    num_warps: int
    num_stages: int

    @property
    def full_name(self) -> str:
        """Name with the use, where one kernel has two: flipped taps give a depthwise convolution's gradient."""
        is_flipped = any(
            found is True and self.function.arg_names[path[0]] == "FLIPPED" for path, found in self.constants.items()
        )
        return f"{self.name}, flipped" if is_flipped else self.name

    @property
    def multiples_of_16(self) -> set[str]:
        """Names of the numbers (not pointers) that the kernel may assume to be multiples of 16."""
        names = [self.function.arg_names[path[0]] for path, found in self.attributes.items() if found]
        return {name for name in names if not self.signature[name].startswith("*")}


class Resources(NamedTuple):
    """What one program of a kernel takes.

    Attributes:
        registers: of a thread.
        spilled: bytes of a thread that wait in local memory for want of registers.
        shared: bytes of shared memory of a program.
        num_warps: warps of a program, of 32 threads.
        loads: instructions of a thread that read from global memory, as they stand in the code: once for a loop.
    """

    registers: int
    spilled: int
    shared: int
    num_warps: int
    loads: int = 0


class Gpu(NamedTuple):
    """What a multiprocessor has, and how fast the memory is.

    Attributes:
        shared: bytes of shared memory of a multiprocessor.
        warps: most warps of a multiprocessor.
        bytes_in_flight: bytes that each multiprocessor must have requested at any time to keep the memory busy:
            bandwidth times latency, divided by the number of multiprocessors (Little's law).
    """

    shared: int
    warps: int
    bytes_in_flight: float


_LATENCY = 500e-9  # seconds that a load from the memory of a loaded GPU takes
GPUS = {
    80: Gpu(164 * 1024, 64, 2.04e12 * _LATENCY / 108),  # A100 80 GB
    90: Gpu(228 * 1024, 64, 4.8e12 * _LATENCY / 132),  # H200
    120: Gpu(100 * 1024, 48, 1.79e12 * _LATENCY / 170),  # RTX 5090
}
"""Compute capability -> the fastest card of that kind."""


def programs_per_multiprocessor(taken: Resources, gpu: Gpu) -> int:
    """Compute how many programs of a kernel a multiprocessor holds at once.

    Registers go to warps in units of 256, and each quarter of a multiprocessor has 16,384; a program reserves 1 KiB of
    shared memory on top of its own.
    """
    of_a_warp = -(-taken.registers * 32 // 256) * 256
    warps = min(4 * (16384 // of_a_warp), gpu.warps)
    return min(warps // taken.num_warps, gpu.shared // (taken.shared + 1024), 32)


@contextmanager
def recorded(capability: int) -> Iterator[list[Launch]]:
    """Record all kernel launches in a list; nothing is compiled, run or written."""
    import triton
    from triton.backends.compiler import GPUTarget

    class Driver:
        def get_current_device(self) -> int:
            return -capability

        def get_current_stream(self, device: int) -> int:
            return 0

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", capability, 32)

    found: list[Launch] = []

    def record(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        launch = Launch(
            fn.name.rsplit(".")[-1],
            fn.jit_function,
            dict(compile["signature"]),
            dict(compile["constants"]),
            dict(compile["configs"][0]),
            compile["num_warps"],
            compile["num_stages"],
        )
        found.append(launch)
        return True  # neither compile nor launch

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(type(triton.runtime.driver), "active", Driver()))
        stack.enter_context(mock.patch.object(triton.knobs.runtime, "jit_cache_hook", record))
        yield found


def build(launch: Launch, capability: int) -> Any:
    """Compile a recorded launch; `asm` of the result has its code at every level."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    return triton.compile(
        ASTSource(launch.function, launch.signature, launch.constants, launch.attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": launch.num_warps, "num_stages": launch.num_stages},
    )


_LOAD = re.compile(
    r"ld\.global\S*?(?:\.v(\d))?\.[bus](\d+)\s|cp\.async\.c[ag]\.shared\.global \[[^]]*\], \[[^]]*\], (\w+)"
)


def load_widths(ptx: str) -> list[int]:
    """Bytes that each load from global memory reads for a thread, into registers or shared memory, in order."""
    return [
        int(copied, 0) if copied else int(vector or 1) * int(bits) // 8 for vector, bits, copied in _LOAD.findall(ptx)
    ]


def resources(launch: Launch, capability: int, folder: Path) -> Resources:
    """Compile a recorded launch, with files in `folder`, and read what it takes."""
    import triton

    built = build(launch, capability)
    binary = folder / "kernel.cubin"
    binary.write_bytes(built.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    loads = len(load_widths(built.asm["ptx"]))
    return Resources(int(found[1]), int(found[2]), built.metadata.shared, launch.num_warps, loads)


def window_launches(
    capability: int,
    dtype: torch.dtype,
    window: tuple[int, int],
    D: int,
    *,
    B: int = 1,
    size: tuple[int, int] = (57, 57),
    heads: int = 2,
) -> list[Launch]:
    """Record a forward and a backward of window attention under autocast: parameters are in fp32."""
    from scalablevit.ops.window_attention import kernel

    C = heads * D
    options: dict[str, Any] = {"num_heads": heads, "window_size": window}
    qkv, grad = torch.empty(B, *size, 3 * C, dtype=dtype), torch.empty(B, *size, C, dtype=dtype)
    weight, bias, fill = torch.empty(C, 1, 3, 3), torch.empty(C), torch.empty(3 * C)
    with recorded(capability) as found:
        kernel.forward(qkv, weight, bias, fill, **options)
        kernel.backward(grad, qkv, weight, fill, **options, with_sums=True)
    assert [launch.name for launch in found] == ["_forward_kernel", "_backward_kernel"]
    return found


def reduced_launches(
    capability: int, dtype: torch.dtype, M: int, widths: tuple[int, int], *, B: int = 1, N: int = 3136, heads: int = 2
) -> list[Launch]:
    """Record a forward and a backward of attention over M reduced keys."""
    from scalablevit.ops.reduced_attention import kernel

    D, Dv = widths
    options: dict[str, Any] = {"num_heads": heads, "scale": 0.2}
    q, out = torch.empty(B, N, heads * D, dtype=dtype), torch.empty(B, N, heads * Dv, dtype=dtype)
    k, v = torch.empty(B, M, heads * (D + Dv), dtype=dtype).split((heads * D, heads * Dv), dim=-1)
    log_sums = torch.empty(B, heads, N)
    with recorded(capability) as found:
        kernel.forward(q, k, v, out, log_sums, **options)
        kernel.backward(torch.empty_like(out), q, k, v, out, log_sums, **options)
    return found


def feed_forward_launches(
    capability: int, dtype: torch.dtype, C: int, *, stream: torch.dtype | None = None, drop_path: bool = False
) -> list[Launch]:
    """Record a forward and a backward of a block's feed-forward half with its projection, of 4 C hidden channels."""
    from scalablevit.ops.feed_forward import Weights, backward_kernel, kernel

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype)

    x, scale = torch.empty(2, 56, 56, C, dtype=stream or dtype), torch.empty(2) if drop_path else None
    weights = Weights(
        empty(C), empty(C), empty(4 * C, C), empty(4 * C), empty(C, 4 * C), empty(C), empty(C, C), empty(C)
    )
    options: dict[str, Any] = {"eps": 1e-6, "branch_scale": scale, "scale": scale}
    with recorded(capability) as found:
        kernel.forward(x, empty(2, 56, 56, C), weights, **options)
        backward_kernel.backward(torch.empty_like(x), x, empty(2, 56, 56, C), weights, **options)
    assert [launch.name for launch in found] == ["_forward_kernel", "_backward_kernel"]
    return found


def norm_linear_launches(
    capability: int, dtype: torch.dtype, C: int, *, stream: torch.dtype | None = None
) -> list[Launch]:
    """Record the LayerNorm with queries, keys and values behind it."""
    from scalablevit.ops.norm_linear import kernel

    x, weight = torch.empty(2, 56, 56, C, dtype=stream or dtype), torch.empty(3 * C, C, dtype=dtype)
    norm = torch.empty(C, dtype=stream or dtype)
    with recorded(capability) as found:
        kernel.forward(x, norm, norm, weight, torch.empty(3 * C, dtype=dtype), eps=1e-6)
    assert len(found) == 1
    return found


def norm_depthwise_launches(
    capability: int,
    dtype: torch.dtype,
    C: int,
    side: int,
    *,
    stream: torch.dtype | None = None,
    B: int = 1,
    size: tuple[int, int] = (56, 56),
) -> list[Launch]:
    """Record the LayerNorm with SSA's patches behind it."""
    from scalablevit.ops.norm_depthwise import kernel

    x, norm = torch.empty(B, *size, C, dtype=stream or dtype), torch.empty(C, dtype=stream or dtype)
    taps, bias = torch.empty(side * side, C, dtype=dtype), torch.empty(C, dtype=dtype)
    with recorded(capability) as found:
        kernel.forward(x, norm, norm, taps, bias, side=side, eps=1e-6)
    assert len(found) == 1
    return found


def depthwise_launches(
    capability: int,
    dtype: torch.dtype,
    C: int,
    side: int,
    stride: int,
    *,
    B: int = 1,
    size: tuple[int, int] = (56, 56),
) -> list[Launch]:
    """Record forward, gradient of the map and sums of a depthwise convolution: PEG's, or one that cuts patches."""
    from scalablevit.ops.depthwise import kernel

    x, taps, bias = (torch.empty(*shape, dtype=dtype) for shape in ((B, *size, C), (side * side, C), (C,)))
    options: dict[str, Any] = {"side": side, "stride": stride, "padding": side // 2 if stride == 1 else 0}
    options["residual"] = stride == 1
    with recorded(capability) as found:
        out = kernel.forward(x, taps, bias, **options)
        kernel.backward(out, x, taps, **options, with_sums=True)
    assert len(found) == 3
    return found


CAPABILITIES = (80, 90, 120)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WINDOWS = (((7, 7), 32),)
"""Windows and head widths of the paper."""
REDUCED = ((49, (40, 32)), (1050, (40, 32)), (49, (64, 64)), (49, (128, 128)))
"""Keys and head widths: S at 224 pixels and at 800 x 1333, wider heads, and the widest."""
FEED_FORWARD = (64, 128, 256)
"""Channels of the stages of S that the kernels of the feed-forward half and of the LayerNorm before qkv serve."""
DEPTHWISE = ((64, 3, 1), (64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 3, 1))
"""Channels, sides and strides: PEG, and the patches of SSA in three stages of S."""
PATCHES = tuple((C, side) for C, side, stride in DEPTHWISE if stride > 1)
"""Channels and sides of the patches that a LayerNorm comes before."""


def measure(folder: Path) -> list[dict[str, Any]]:
    """Compile every case, and return its figures."""
    found = []
    for capability, dtype in itertools.product(CAPABILITIES, DTYPES):
        cases: list[tuple[str, Sequence[Launch]]] = [
            (f"window_attention {window[0]} x {window[1]}, {D} channels", window_launches(capability, dtype, window, D))
            for window, D in WINDOWS
        ]
        cases += [
            (f"reduced_attention {M} keys, {D} and {Dv} channels", reduced_launches(capability, dtype, M, (D, Dv)))
            for M, (D, Dv) in REDUCED
        ]
        cases += [
            (
                f"depthwise {side} x {side}, stride {stride}, {C} channels",
                depthwise_launches(capability, dtype, C, side, stride),
            )
            for C, side, stride in DEPTHWISE
        ]
        if dtype.itemsize == 2:  # the kernel multiplies nothing else
            cases += [(f"feed_forward {C} channels", feed_forward_launches(capability, dtype, C)) for C in FEED_FORWARD]
            cases += [(f"norm_linear {C} channels", norm_linear_launches(capability, dtype, C)) for C in FEED_FORWARD]
            cases += [
                (f"norm_depthwise {side} x {side}, {C} channels", norm_depthwise_launches(capability, dtype, C, side))
                for C, side in PATCHES
            ]
        for case, launches in cases:
            for launch in launches:
                taken = resources(launch, capability, folder)
                found.append(
                    {
                        "case": case,
                        "kernel": launch.full_name,
                        "capability": capability,
                        "dtype": str(dtype).removeprefix("torch."),
                        **taken._asdict(),
                        "programs": programs_per_multiprocessor(taken, GPUS[capability]),
                    }
                )
    return found


def main() -> None:
    """Read the flags, compile, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help=f"JSON file; default {RESULTS.name}/kernel_resources-VERSION.json")
    args = parser.parse_args()
    version = importlib.metadata.version("triton")
    path = args.output or RESULTS / f"kernel_resources-triton-{version}.json"
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict("os.environ", TRITON_CACHE_DIR=f"{folder}/cache"):
        kernels = measure(Path(folder))
    result = {"benchmark": "kernel_resources", **conditions("cpu"), "kernels": kernels}
    write_json(path, result)
    print(f"{'':84}{'registers':>10}{'spilled':>9}{'shared':>9}{'loads':>7}{'programs':>10}")
    for row in kernels:
        case = f"sm_{row['capability']} {row['dtype']} {row['case']} {row['kernel'].strip('_')}"
        print(
            f"{case:84}{row['registers']:>10}{row['spilled']:>9}{row['shared']:>9}{row['loads']:>7}{row['programs']:>10}"
        )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
