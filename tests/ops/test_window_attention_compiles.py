"""The kernels of window attention compile for GPUs without one, and fit: nothing spilled, little shared memory."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from scalablevit.ops.window_attention.tiles import SUM_ROWS, cannot_serve, tiles

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the compiler's own")

LEAST_SHARED_MEMORY = 99 * 1024  # bytes that a block may have on every card since compute capability 8.0
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


def resources(
    capability: int, dtype: torch.dtype, window: tuple[int, int], D: int, *, backward: bool, tmp_path: Path
) -> tuple[int, int, int]:
    """Registers of a thread, its stack (where registers spill) and shared memory of a block, both in bytes."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from scalablevit.ops.window_attention import kernel

    assert cannot_serve(window_size=window, head_width=D, dtype=dtype) is None
    tile = tiles(window[0] * window[1], D, dtype, backward=backward)
    constants = {"D": D, "ROWS": window[0], "COLUMNS": window[1], "BLOCK_L": tile.tokens, "BLOCK_D": tile.channels}
    constants |= {"HAS_FILL": True, "HAS_LIM": True}
    constants |= {"HAS_SUMS": True, "ROWS_OF_SUMS": SUM_ROWS} if backward else {"HAS_BIAS": True}
    function = kernel._backward_kernel if backward else kernel._forward_kernel
    signature, multiples_of_16 = {}, {}
    for i, name in enumerate(function.arg_names):
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("out", "dout", "qkv", "dqkv"):
            signature[name] = TYPES[dtype]
        elif name in ("sums", "fill", "weight", "bias"):
            signature[name] = "*fp32"
        else:
            signature[name] = "fp32" if name.startswith("scale") else "i32"
        if signature[name].startswith("*") or name.startswith("stride"):
            multiples_of_16[(i,)] = [["tt.divisibility", 16]]
    built = triton.compile(
        ASTSource(fn=function, signature=signature, constexprs=constants, attrs=multiples_of_16),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tile.num_warps, "num_stages": tile.num_stages},
    )
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(built.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return int(found[1]), int(found[2]), built.metadata.shared


@pytest.mark.parametrize(
    ("capability", "dtype", "backward", "most_registers"),
    [
        (80, torch.bfloat16, False, 168),  # three blocks of 128 threads on a multiprocessor of 65,536 registers
        (80, torch.bfloat16, True, 255),
        (80, torch.float32, True, 255),
        (90, torch.bfloat16, False, 128),  # four
        (90, torch.bfloat16, True, 184),
        (90, torch.float16, True, 184),
        (90, torch.float32, True, 255),
    ],
    ids=str,
)
def test_windows_of_the_paper_fit_without_spilling(
    capability: int,
    dtype: torch.dtype,
    backward: bool,
    most_registers: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    registers, stack, shared = resources(capability, dtype, (7, 7), 32, backward=backward, tmp_path=tmp_path)
    assert stack == 0
    assert registers <= most_registers
    assert shared <= LEAST_SHARED_MEMORY


@pytest.mark.parametrize(
    ("dtype", "window", "D"), [(torch.bfloat16, (16, 8), 64), (torch.float32, (8, 8), 64)], ids=str
)
def test_the_largest_that_is_served_fits_every_card(
    dtype: torch.dtype, window: tuple[int, int], D: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    _, stack, shared = resources(80, dtype, window, D, backward=True, tmp_path=tmp_path)
    assert shared <= LEAST_SHARED_MEMORY
    assert stack <= 256  # a few numbers a thread may wait in the L1 cache
