"""The kernels of window attention compile for GPUs without one, and fit: nothing spilled, little shared memory."""

import os
from pathlib import Path

import pytest
import torch
from launches import Launch, recorded, resources

from scalablevit.ops.window_attention.tiles import cannot_serve

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the compiler's own")

LEAST_SHARED_MEMORY = 99 * 1024  # bytes that a block may have on every card since compute capability 8.0


def launches(
    capability: int,
    dtype: torch.dtype,
    window: tuple[int, int],
    D: int,
    *,
    B: int = 1,
    size: tuple[int, int] = (57, 57),
    heads: int = 2,
) -> list[Launch]:
    """Of a forward and a backward under autocast, with all that the kernels can do: parameters are in fp32."""
    from scalablevit.ops.window_attention import kernel

    assert cannot_serve(window_size=window, head_width=D, dtype=dtype) is None
    C = heads * D
    options = {"num_heads": heads, "window_size": window}
    qkv, grad = torch.empty(B, *size, 3 * C, dtype=dtype), torch.empty(B, *size, C, dtype=dtype)
    weight, bias, fill = torch.empty(C, 1, 3, 3), torch.empty(C), torch.empty(3 * C)
    with recorded(capability) as found:
        kernel.forward(qkv, weight, bias, fill, **options)
        kernel.backward(grad, qkv, weight, fill, **options, with_sums=True)
    assert [launch.name for launch in found] == ["_forward_kernel", "_backward_kernel"]
    return found


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
    taken = resources(launches(capability, dtype, (7, 7), 32)[backward], capability, tmp_path)
    assert taken.stack == 0
    assert taken.registers <= most_registers
    assert taken.shared <= LEAST_SHARED_MEMORY


@pytest.mark.parametrize(
    ("dtype", "window", "D"), [(torch.bfloat16, (16, 8), 64), (torch.float32, (8, 8), 64)], ids=str
)
def test_the_largest_that_is_served_fits_every_card(
    dtype: torch.dtype, window: tuple[int, int], D: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    taken = resources(launches(80, dtype, window, D)[1], 80, tmp_path)
    assert taken.shared <= LEAST_SHARED_MEMORY
    assert taken.stack <= 256  # a few numbers a thread may wait in the L1 cache


def test_pictures_of_all_sizes_share_kernels() -> None:
    first = launches(90, torch.bfloat16, (7, 7), 32)
    for launch in first:
        assert launch.multiples_of_16 == {"stride_b", "stride_y", "stride_x"}  # what makes loads wide
    for B, size, heads in [(16, (16, 48), 2), (1, (1, 1), 2), (3, (25, 112), 2), (1, (112, 3), 16), (5, (8, 5), 1)]:
        assert launches(90, torch.bfloat16, (7, 7), 32, B=B, size=size, heads=heads) == first
