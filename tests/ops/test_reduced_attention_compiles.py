"""The kernels of attention over reduced keys compile for GPUs without one, spill nothing, and fit them."""

import os
from pathlib import Path

import pytest
import torch

from kernel_resources import GPUS, build, load_widths, programs_per_multiprocessor, resources
from kernel_resources import reduced_launches as launches

pytest.importorskip("triton")
# Compiling takes minutes where something else computes.
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
    pytest.mark.timeout(1800),
]

SHARED_MEMORY = 99 * 1024  # bytes a program may have on the cards of compute capability 8.6 and 8.9


# The variant S at 224 px and at 800x1333, the widest heads, and what needs the most registers.
CASES = [
    (90, torch.bfloat16, 49, (40, 32)),
    (80, torch.bfloat16, 1050, (40, 32)),
    (80, torch.float16, 49, (64, 64)),
    (80, torch.float32, 49, (40, 32)),
    (80, torch.bfloat16, 49, (128, 128)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("capability", "dtype", "M", "widths"), CASES)
def test_kernels_fit(
    capability: int,
    dtype: torch.dtype,
    M: int,
    widths: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    found = launches(capability, dtype, M, widths)
    assert len(found) == (2 if M <= 64 and max(widths) <= 64 else 3)
    for launch in found:
        taken = resources(launch, capability, tmp_path)
        assert taken.shared <= SHARED_MEMORY, (launch.name, taken)
        # The paper's widths spill nothing; wider heads may, a few numbers a thread and tile, into the L1 cache.
        assert taken.spilled <= (0 if widths == (40, 32) else 32), (launch.name, taken)
        programs = programs_per_multiprocessor(taken, GPUS[capability])
        assert programs * taken.num_warps >= 8, "two warps for each of the four schedulers"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("capability", [80, 90])
def test_short_keys_keep_the_memory_busy(
    capability: int, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    D, Dv = 40, 32
    forward, backward = launches(capability, dtype, 49, (D, Dv))
    for launch, columns in ((forward, D), (backward, D + 2 * Dv)):  # q; q, the output and its gradient
        taken = resources(launch, capability, tmp_path)
        (block,) = (
            launch.constants[path] for path in launch.constants if launch.function.arg_names[path[0]] == "BLOCK_N"
        )
        reads = programs_per_multiprocessor(taken, GPUS[capability]) * block * columns * dtype.itemsize
        assert reads >= GPUS[capability].bytes_in_flight


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_sums_of_many_keys_are_copied_in_few_pieces(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read apart, with Triton 3.6 a thread copied its logarithms and deltas in 64 pieces of 4 bytes."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    of_keys = launches(capability, torch.bfloat16, 1050, (40, 32))[-1]
    assert of_keys.name == "_backward_keys"
    widths = load_widths(build(of_keys, capability).asm["ptx"])
    assert widths.count(16) >= 10
    assert len([width for width in widths if width < 16]) <= 4


@pytest.mark.parametrize(("M", "others"), [(49, (1, 16, 64)), (1050, (65, 128, 1024))], ids=["one block", "many keys"])
def test_images_of_all_sizes_share_kernels(M: int, others: tuple[int, ...]) -> None:
    sizes = [{"B": 1, "N": 3136}, {"B": 16, "N": 784}, {"B": 3, "N": 129}, {"N": 1050, "heads": 4}]
    first, *rest = [launches(90, torch.bfloat16, keys, (40, 32), **size) for keys in (M, *others) for size in sizes]
    for launch in first:
        strides = {
            name for name, kind in launch.signature.items() if kind == "i32" and name.endswith(("_image", "_row"))
        }
        assert launch.multiples_of_16 == strides  # what makes loads wide
    # One share of the queries writes its gradient in bfloat16, more write sums in fp32.
    sums = ("dk", "dv")
    plain = [{name: kind for name, kind in launch.signature.items() if name not in sums} for launch in first]
    for found in rest:
        for i, launch in enumerate(found):
            assert {name: kind for name, kind in launch.signature.items() if name not in sums} == plain[i]
            assert launch._replace(signature={}) == first[i]._replace(signature={})
