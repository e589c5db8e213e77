"""The kernels of depthwise convolutions and feed-forward parts compile for GPUs without one, and spill nothing."""

import os
from pathlib import Path

import pytest
import torch

from kernel_resources import (
    DEPTHWISE,
    depthwise_launches,
    feed_forward_launches,
    norm_depthwise_launches,
    norm_linear_launches,
    resources,
)
from scalablevit.ops.depthwise.tiles import cannot_serve as cannot_convolve
from scalablevit.ops.feed_forward.tiles import cannot_serve
from scalablevit.ops.norm_linear.tiles import cannot_serve as cannot_normalise

pytest.importorskip("triton")
# Compiling takes minutes where something else computes.
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
    pytest.mark.timeout(1800),
]

LEAST_SHARED_MEMORY = 99 * 1024  # bytes that a block may have on every card since compute capability 8.0


@pytest.mark.slow
@pytest.mark.parametrize("C", [64, 128, 256, 96, 192])
@pytest.mark.parametrize("capability", [80, 90, 120])
def test_feed_forward_parts_fit(capability: int, C: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert cannot_serve(dim=C, hidden_dim=4 * C, dtype=torch.bfloat16) is None
    launches = feed_forward_launches(capability, torch.bfloat16, C) + norm_linear_launches(
        capability, torch.bfloat16, C
    )
    if C in (64, 128):
        launches += feed_forward_launches(capability, torch.float16, C)
    if C == 256:  # training under autocast
        launches += feed_forward_launches(capability, torch.float16, C, stream=torch.float32, drop_path=True)
        launches += norm_linear_launches(capability, torch.float16, C, stream=torch.float32)
    for launch in launches:
        taken = resources(launch, capability, tmp_path)
        assert taken.spilled == 0, (launch.name, taken)
        assert taken.shared <= LEAST_SHARED_MEMORY, (launch.name, taken)


@pytest.mark.slow
@pytest.mark.parametrize(("C", "side", "stride"), DEPTHWISE)
@pytest.mark.parametrize("capability", [80, 90, 120])
def test_depthwise_convolutions_fit(
    capability: int, C: int, side: int, stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert cannot_convolve(side=side, stride=stride, padding=1 if stride == 1 else 0) is None
    for launch in depthwise_launches(capability, torch.bfloat16, C, side, stride):
        taken = resources(launch, capability, tmp_path)
        assert taken.spilled == 0, (launch.name, taken)
        assert taken.registers <= 128, (launch.name, taken, "four programs of four warps on a multiprocessor")
        assert taken.shared <= LEAST_SHARED_MEMORY, (launch.name, taken)


@pytest.mark.slow
@pytest.mark.parametrize(("C", "side"), [(64, 8), (128, 4), (256, 2)])  # the stages of S
@pytest.mark.parametrize("capability", [80, 90, 120])
def test_patches_behind_a_layer_norm_fit(
    capability: int, C: int, side: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    for launch in norm_depthwise_launches(capability, torch.bfloat16, C, side):
        taken = resources(launch, capability, tmp_path)
        assert taken.spilled == 0, (launch.name, taken)
        assert taken.shared <= LEAST_SHARED_MEMORY, (launch.name, taken)


def test_images_of_all_sizes_share_kernels() -> None:
    first = depthwise_launches(90, torch.bfloat16, 64, 3, 1)
    for B, size in [(16, (16, 48)), (1, (1, 1)), (3, (25, 112))]:
        assert depthwise_launches(90, torch.bfloat16, 64, 3, 1, B=B, size=size) == first
    for launch in first:
        assert launch.multiples_of_16 >= {"C"}  # what makes loads wide


def test_what_the_kernels_cannot_serve_is_named() -> None:
    assert "256 channels, not 512" in str(cannot_serve(dim=512, hidden_dim=2048, dtype=torch.bfloat16))
    assert "16 hidden channels, not 8" in str(cannot_serve(dim=64, hidden_dim=8, dtype=torch.bfloat16))
    assert "not float32" in str(cannot_serve(dim=64, hidden_dim=256, dtype=torch.float32))
    assert "256 channels, not 512" in str(cannot_normalise(dim=512, dtype=torch.bfloat16))
    assert "not float32" in str(cannot_normalise(dim=64, dtype=torch.float32))
    assert "not side 3, stride 2" in str(cannot_convolve(side=3, stride=2, padding=1))
    assert "8 tokens a side, not 9" in str(cannot_convolve(side=9, stride=9, padding=0))
