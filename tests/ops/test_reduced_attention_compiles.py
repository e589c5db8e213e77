"""The kernels of attention over reduced keys compile for GPUs that are not here, without spills, and fit them."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from scalablevit.ops.reduced_attention.limits import is_one_block

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="an interpreted kernel is no binary")

SHARED_MEMORY = 99 * 1024  # bytes a program may have on the cards of compute capability 8.6 and 8.9
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}


def resources(name: str, capability: int, dtype: torch.dtype, widths: tuple[int, int]) -> dict[str, int]:
    """Registers and bytes of stack of a thread, bytes of shared memory of a program."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from scalablevit.ops.reduced_attention import kernel

    tiles = kernel.choose_tiles(name, key_width=widths[0], value_width=widths[1], dtype=dtype)
    function = getattr(kernel, f"_{name}")
    constants = kernel.constants(*widths, tiles)
    signature, attributes = {}, {}
    for i, argument in enumerate(function.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument.startswith("scale"):
            signature[argument] = "fp32"
        elif argument in ("q", "k", "v", "out", "grad", "dq", "dk", "dv", "log_sums", "deltas"):
            is_sum = argument in ("dk", "dv", "log_sums", "deltas")
            signature[argument] = "*fp32" if is_sum else POINTERS[dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[argument] = "i32"
            if argument.endswith(("_row", "_image")):
                attributes[(i,)] = [["tt.divisibility", 16]]
    compiled = triton.compile(
        ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tiles.num_warps, "num_stages": tiles.num_stages},
    )
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(compiled.asm["cubin"])
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = {key.lower(): int(re.search(rf"{key}:(\d+)", usage)[1]) for key in ("REG", "STACK")}
    return {**found, "shared": compiled.metadata.shared}


def kernels_of(M: int, widths: tuple[int, int]) -> list[str]:
    if is_one_block(M, key_width=widths[0], value_width=widths[1]):
        return ["one_block_forward", "one_block_backward"]
    return ["forward", "backward_queries", "backward_keys"]


# The variant S at 224 px and at 800x1333, the widest heads, and what needs the most registers.
CASES = [
    (90, torch.bfloat16, 49, (40, 32)),
    (80, torch.bfloat16, 1050, (40, 32)),
    (80, torch.float16, 49, (64, 64)),
    (80, torch.float32, 49, (40, 32)),
    (80, torch.bfloat16, 49, (128, 128)),
]


@pytest.mark.parametrize(("capability", "dtype", "M", "widths"), CASES)
def test_kernels_fit(capability: int, dtype: torch.dtype, M: int, widths: tuple[int, int]) -> None:
    for name in kernels_of(M, widths):
        found = resources(name, capability, dtype, widths)
        assert found["shared"] <= SHARED_MEMORY, (name, found)
        assert found["stack"] == 0, (name, found)
