"""What launches would have Triton compile on a GPU, found and compiled on a machine without one."""

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest


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
    def multiples_of_16(self) -> set[str]:
        """Numbers, not pointers, of which the kernel may rely on that."""
        names = [self.function.arg_names[path[0]] for path, found in self.attributes.items() if found]
        return {name for name in names if not self.signature[name].startswith("*")}


class Resources(NamedTuple):
    """Registers of a thread, its stack (where registers spill) and shared memory of a program, both in bytes."""

    registers: int
    stack: int
    shared: int


@contextmanager
def recorded(capability: int) -> Iterator[list[Launch]]:
    """Launches of any kernel go into the list instead of to a GPU of that compute capability, and write nothing."""
    import triton
    from triton.backends.compiler import GPUTarget

    class Gpu:
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

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(triton.runtime.driver), "active", Gpu())
        patch.setattr(triton.knobs.runtime, "jit_cache_hook", record)
        yield found


def resources(launch: Launch, capability: int, folder: Path) -> Resources:
    """Compile what was recorded, with files in `folder`, and see what it takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    built = triton.compile(
        ASTSource(launch.function, launch.signature, launch.constants, launch.attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": launch.num_warps, "num_stages": launch.num_stages},
    )
    binary = folder / "kernel.cubin"
    binary.write_bytes(built.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return Resources(int(found[1]), int(found[2]), built.metadata.shared)
