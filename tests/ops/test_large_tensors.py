"""Offsets into tensors of more than 2^31 elements are computed in 64 bits."""

import os
from pathlib import Path

import pytest
import torch
from integer_bounds import overflows

from kernel_resources import (
    Launch,
    build,
    feed_forward_launches,
    norm_linear_launches,
    reduced_launches,
    window_launches,
)

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing")

PROGRAMS = 2**27
# Sizes that are possible one by one, larger than any tensor has them together.
OF_WINDOWS = {
    "stride_b": 2**31 - 1, "stride_y": 2**24, "stride_x": 2**24, "H": 2**13, "W": 2**13,
    "windows_y": 2**12, "windows_x": 2**12, "heads": 16, "windows": 2**26, "windows_each": 8,
}  # fmt: skip
OF_KEYS = {
    **{f"{x}_image": 2**31 - 1 for x in ("q", "k", "v", "grad")},
    **{f"{x}_row": 2**20 for x in ("q", "k", "v", "grad")},
    "N": 2**24, "M": 2**20, "num_images": 2**16, "num_heads": 16,
    "num_blocks": 2**17, "num_shares": 2**8, "blocks_in_share": 2**10,
}  # fmt: skip


OF_TOKENS = {"tokens": 2**30, "tokens_of_image": 2**30}  # times channels, and four times as many, beyond 2^31


def check(launch: Launch, arguments: dict[str, int], programs: int = PROGRAMS) -> None:
    integers = {name for name, kind in launch.signature.items() if kind in ("i32", "i64")}
    assert integers <= set(arguments)
    assert overflows(build(launch, 90).asm["ttir"], programs=programs, arguments=arguments) == [], launch.name


@pytest.mark.slow
@pytest.mark.parametrize("size", [(56, 56), (57, 57)], ids=["whole", "padded"])
def test_offsets_of_windows(size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for launch in window_launches(90, torch.bfloat16, (7, 7), 32, size=size):
        check(launch, OF_WINDOWS)


@pytest.mark.slow
@pytest.mark.parametrize("M", [49, 1050])
def test_offsets_of_reduced_keys(M: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for launch in reduced_launches(90, torch.bfloat16, M, (40, 32)):
        # Blocks of keys are few where queries are cut in shares.
        check(launch, {**OF_KEYS, "num_blocks": 2**6} if launch.name == "_backward_keys" else OF_KEYS)


@pytest.mark.slow
def test_offsets_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for launches in (feed_forward_launches, norm_linear_launches):
        for launch in launches(90, torch.bfloat16, 64):
            check(launch, OF_TOKENS, programs=2**22)


def test_an_overflow_is_found() -> None:
    code = """
    %c64_i32 = arith.constant 64 : i32 loc(#loc)
    %program = tt.get_program_id x : i32 loc(#loc1)
    %image = arith.divsi %program, %c64_i32 : i32 loc(#loc1)
    %wide = arith.extsi %image : i32 to i64 loc(#loc1)
    %wide_row = arith.extsi %row : i32 to i64 loc(#loc1)
    %good = arith.muli %wide, %wide_row : i64 loc(#loc2)
    %bad = arith.muli %image, %row : i32 loc(#loc2)
    scf.for %i = %c0_i32 to %n step %c64_i32  : i32 {
      %rows = tt.splat %i : i32 -> tensor<64xi32> loc(#loc3)
      %also_bad = arith.muli %rows, %rows : tensor<64xi32> loc(#loc3)
    } loc(#loc4)
    """
    found = overflows(code, programs=2**20, arguments={"row": 2**17, "n": 2**16})
    assert [line.split(" = ")[0] for line in found] == ["%bad", "%also_bad"]
    assert overflows(code, programs=2**20, arguments={"row": 2**16, "n": 2**15}) == []
