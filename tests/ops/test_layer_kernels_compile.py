"""The kernels of depthwise convolutions and feed-forward parts compile for GPUs without one, and spill nothing."""

import os
from pathlib import Path

import pytest
import torch

from kernel_resources import Launch, recorded, resources
from scalablevit.ops.depthwise.tiles import cannot_serve as cannot_convolve
from scalablevit.ops.feed_forward.tiles import cannot_serve
from scalablevit.ops.feed_forward.weights import Weights

pytest.importorskip("triton")
# Compiling takes minutes where something else computes.
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
    pytest.mark.timeout(1800),
]

LEAST_SHARED_MEMORY = 99 * 1024  # bytes that a block may have on every card since compute capability 8.0


def feed_forward_launch(
    capability: int, dtype: torch.dtype, C: int, *, stream: torch.dtype | None = None, drop_path: bool = False
) -> Launch:
    from scalablevit.ops.feed_forward import kernel

    def empty(*shape: int) -> torch.Tensor:
        return torch.empty(*shape, dtype=dtype)

    x, scale = torch.empty(2, 56, 56, C, dtype=stream or dtype), torch.empty(2) if drop_path else None
    weights = Weights(
        empty(C), empty(C), empty(4 * C, C), empty(4 * C), empty(C, 4 * C), empty(C), empty(C, C), empty(C)
    )
    with recorded(capability) as found:
        kernel.forward(x, empty(2, 56, 56, C), weights, eps=1e-6, branch_scale=scale, scale=scale)
    (launch,) = found
    return launch


def depthwise_launches(
    capability: int, C: int, side: int, stride: int, *, B: int = 1, size: tuple[int, int] = (56, 56)
) -> list[Launch]:
    from scalablevit.ops.depthwise import kernel

    x, taps, bias = (torch.empty(*shape, dtype=torch.bfloat16) for shape in ((B, *size, C), (side * side, C), (C,)))
    options = {"side": side, "stride": stride, "padding": side // 2 if stride == 1 else 0, "residual": stride == 1}
    with recorded(capability) as found:
        out = kernel.forward(x, taps, bias, **options)
        kernel.backward(out, x, taps, **options, with_sums=True)
    assert len(found) == 3
    return found


@pytest.mark.slow
@pytest.mark.parametrize("C", [64, 128, 256, 96, 192])
@pytest.mark.parametrize("capability", [80, 90, 120])
def test_feed_forward_parts_fit(capability: int, C: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert cannot_serve(dim=C, hidden_dim=4 * C, dtype=torch.bfloat16) is None
    launches = [feed_forward_launch(capability, torch.bfloat16, C)]
    if C == 256:  # training under autocast
        launches.append(feed_forward_launch(capability, torch.float16, C, stream=torch.float32, drop_path=True))
    for launch in launches:
        taken = resources(launch, capability, tmp_path)
        assert taken.spilled == 0, taken
        assert taken.shared <= LEAST_SHARED_MEMORY, taken


@pytest.mark.slow
@pytest.mark.parametrize(("C", "side", "stride"), [(64, 3, 1), (64, 8, 8), (128, 4, 4), (256, 2, 2), (512, 3, 1)])
@pytest.mark.parametrize("capability", [80, 90, 120])
def test_depthwise_convolutions_fit(
    capability: int, C: int, side: int, stride: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert cannot_convolve(side=side, stride=stride, padding=1 if stride == 1 else 0) is None
    for launch in depthwise_launches(capability, C, side, stride):
        taken = resources(launch, capability, tmp_path)
        assert taken.spilled == 0, (launch.name, taken)
        assert taken.registers <= 128, (launch.name, taken, "four programs of four warps on a multiprocessor")
        assert taken.shared <= LEAST_SHARED_MEMORY, (launch.name, taken)


def test_images_of_all_sizes_share_kernels() -> None:
    first = depthwise_launches(90, 64, 3, 1)
    for B, size in [(16, (16, 48)), (1, (1, 1)), (3, (25, 112))]:
        assert depthwise_launches(90, 64, 3, 1, B=B, size=size) == first
    for launch in first:
        assert launch.multiples_of_16 >= {"C"}  # what makes loads wide


def test_what_the_kernels_cannot_serve_is_named() -> None:
    assert "256 channels, not 512" in str(cannot_serve(dim=512, hidden_dim=2048, dtype=torch.bfloat16))
    assert "16 hidden channels, not 8" in str(cannot_serve(dim=64, hidden_dim=8, dtype=torch.bfloat16))
    assert "not float32" in str(cannot_serve(dim=64, hidden_dim=256, dtype=torch.float32))
    assert "not side 3, stride 2" in str(cannot_convolve(side=3, stride=2, padding=1))
    assert "8 tokens a side, not 9" in str(cannot_convolve(side=9, stride=9, padding=0))
