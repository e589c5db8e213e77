"""The kernels of window attention compile for GPUs without one, and their resources leave them fast there."""

import os
from pathlib import Path

import pytest
import torch

from kernel_resources import GPUS, Resources, build, load_widths, programs_per_multiprocessor, resources
from kernel_resources import window_launches as launches
from scalablevit.ops.window_attention.tiles import cannot_serve

pytest.importorskip("triton")
# Compiling takes minutes where something else computes.
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
    pytest.mark.timeout(1800),
]

LEAST_SHARED_MEMORY = 99 * 1024  # bytes that a block may have on every card since compute capability 8.0


def spill_share(taken: Resources, moved: int) -> float:
    """Time of the L1 cache for what spills, as a fraction of the time of the memory for `moved` bytes.

    What spills is written and read once in the L1 cache. That has at least 7 times the bandwidth of the memory:
    128 bytes a cycle and multiprocessor are 19.5 TB/s beside 2.0 TB/s on an A100, and 33 TB/s beside 4.8 TB/s on an
    H200.
    """
    return 2 * taken.spilled * 32 * taken.num_warps / (7 * moved)


@pytest.mark.slow
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("capability", [80, 90])
def test_windows_of_the_paper_keep_the_memory_busy(
    capability: int, dtype: torch.dtype, backward: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many registers a kernel takes is Triton's affair; what has to follow from them is asserted here."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert cannot_serve(window_size=(7, 7), head_width=32, dtype=dtype) is None
    taken = resources(launches(capability, dtype, (7, 7), 32)[backward], capability, tmp_path)
    assert taken.shared <= LEAST_SHARED_MEMORY
    tile = 49 * 32 * dtype.itemsize  # bytes of q of one window and head; k, v, the output and gradients are as large
    reads, moves = (4, 7) if backward else (3, 4)
    assert spill_share(taken, moves * tile) <= 0.05
    gpu = GPUS[capability]
    programs = programs_per_multiprocessor(taken, gpu)
    assert programs * reads * tile >= gpu.bytes_in_flight
    assert programs * taken.num_warps >= 8, "two warps for each of the four schedulers"


@pytest.mark.slow
@pytest.mark.parametrize("size", [(56, 56), (57, 57)], ids=["whole", "padded"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_every_load_is_wide(
    dtype: torch.dtype, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LIM's weights lay nine apart once: 24 loads of 4 bytes a row of taps, where 6 of 16 do."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    for launch in launches(90, dtype, (7, 7), 32, size=size):
        widths = load_widths(build(launch, 90).asm["ptx"])
        assert widths, launch.name
        assert set(widths) == {16}, launch.name


def test_occupancy_follows_from_registers_shared_memory_and_warps() -> None:
    """The numbers are those of NVIDIA's occupancy calculator."""
    gpu = GPUS[90]
    assert programs_per_multiprocessor(Resources(128, 0, 12288, 4), gpu) == 4
    assert programs_per_multiprocessor(Resources(129, 0, 12288, 4), gpu) == 3, "registers come in units of 256 a warp"
    assert programs_per_multiprocessor(Resources(255, 0, 12288, 8), gpu) == 1
    assert programs_per_multiprocessor(Resources(32, 0, 98304, 4), gpu) == 2, "shared memory"
    assert programs_per_multiprocessor(Resources(32, 0, 0, 16), gpu) == 4, "at most 64 warps"
    assert programs_per_multiprocessor(Resources(16, 0, 0, 1), gpu) == 32, "at most 32 programs"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "window", "D"), [(torch.bfloat16, (16, 8), 64), (torch.float32, (8, 8), 64)], ids=str
)
def test_the_largest_that_is_served_fits_every_card(
    dtype: torch.dtype, window: tuple[int, int], D: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert cannot_serve(window_size=window, head_width=D, dtype=dtype) is None
    taken = resources(launches(80, dtype, window, D)[1], 80, tmp_path)
    assert taken.shared <= LEAST_SHARED_MEMORY
    assert spill_share(taken, 7 * window[0] * window[1] * D * dtype.itemsize) <= 0.25


def test_images_of_all_sizes_share_kernels() -> None:
    first = launches(90, torch.bfloat16, (7, 7), 32)
    for launch in first:
        assert launch.multiples_of_16 == {"stride_b", "stride_y", "stride_x"}  # what makes loads wide
    for B, size, heads in [(16, (16, 48), 2), (1, (1, 1), 2), (3, (25, 112), 2), (1, (112, 3), 16), (5, (8, 5), 1)]:
        assert launches(90, torch.bfloat16, (7, 7), 32, B=B, size=size, heads=heads) == first
