"""Bytes are counted from what inductor generates, and what was counted stands in the results."""

import json
from pathlib import Path

import pytest

import traffic
from traffic import OURS, PEERS, Kernel, summary

RESULT = Path(__file__).parents[2] / "benchmarks" / "results" / "traffic.json"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_smallest_variant_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # as Lightning sets it: then torch counts devices
    batch, size = 64, 112
    words = ["scalablevit_atto", "--batch", str(batch), "--size", str(size), "--output", str(tmp_path / "found.json")]
    assert traffic.main(words) == 0
    written = json.loads((tmp_path / "found.json").read_text())
    trained = written["training"]["scalablevit_atto"]["called"]
    assert trained["scalablevit.feed_forward_backward.default"] == trained["scalablevit.feed_forward.default"] == 8
    found = written["inference"]["scalablevit_atto"]
    assert found["called"]["scalablevit.window_attention.default"] == 4
    assert found["called"]["scalablevit.reduced_attention.default"] == 4
    # No convolution and no map in another layout: of images alone there may be a copy.
    assert not [operator for operator in found["called"] if operator.startswith("aten.convolution")]
    assert found["transposed_bytes"] <= batch * 3 * size**2 * 2
    assert found["called"]["scalablevit.depthwise.default"] == 4  # PEG of four stages
    assert found["called"]["scalablevit.norm_depthwise.default"] == 3  # reductions of three
    assert found["called"]["scalablevit.feed_forward.default"] == 8
    # Queries, keys, values and outputs alone: four maps of an IWSA, in bf16.
    least = sum(4 * (size // s) ** 2 * C * 2 for s, C in ((4, 16), (8, 32), (16, 64), (32, 128)))
    assert least < found["bytes_per_image"] < 100 * least
    assert found["generated"] > 0


def test_a_summary_adds_up() -> None:
    kernels = [Kernel("", 600, 200, ("aten.add.Tensor",)), Kernel("aten.addmm.out", 400, 0, ())]
    assert summary(kernels, 10) == {
        "generated": 1,
        "called": {"aten.addmm.out": 1},
        "bytes": 1000,
        "bytes_per_image": 100,
        "transposed_bytes": 200,
    }


def test_what_was_counted_names_ours_and_the_peers() -> None:
    result = json.loads(RESULT.read_text())
    assert set(result["inference"]) == {OURS, *PEERS}
    assert set(result["training"]) == {OURS, *PEERS}
    for found in (*result["inference"].values(), *result["training"].values()):
        assert found["bytes_per_image"] == found["bytes"] // result["batch"]
    assert any("scalablevit" in operator for operator in result["inference"][OURS]["called"])


def test_ours_moves_no_more_than_was_aimed_at() -> None:
    result = json.loads(RESULT.read_text())
    assert result["inference"][OURS]["bytes"] <= 12e9
    assert result["training"][OURS]["bytes"] <= 0.75 * result["training"][PEERS[0]]["bytes"]
