"""The benchmarks of `predict` and of prepared networks measure what they say, and their results are whole."""

import json

import pytest
import torch

import predict_throughput
import prepared
from predict_throughput import RESULTS

WHOLE = {"date", "commit", "device", "torch", "python", "variant"}


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_predict_throughput() -> None:
    result = predict_throughput.measure("scalablevit_atto", images=7, size=32, threads=1, rounds=2)
    assert set(result) >= WHOLE
    found = predict_throughput.summary(json.loads(json.dumps(result)))
    assert list(found) == ["before", "read ahead", "prepared", "now"]
    assert found["before"]["speed"] == 1
    assert all(0 < figures["outside"] < 1 for figures in found.values())
    for way, seconds in result["seconds"].items():
        assert all(0 < n < s for n, s in zip(result["network_seconds"][way], seconds, strict=True))


def test_photographs_differ(tmp_path) -> None:
    pytest.importorskip("skimage")
    paths = predict_throughput.write_folder(tmp_path, 14)
    assert len({path.read_bytes() for path in paths}) == 14


@pytest.mark.slow
def test_prepared() -> None:
    result = prepared.measure("scalablevit_atto", batch=1, size=32, threads=[1], rounds=2, has_compile=False)
    assert set(result) >= WHOLE
    (cell,) = json.loads(json.dumps(result))["cells"]
    assert prepared.speeds(cell)[prepared.PLAIN] == 1
    differences = {name: figures["difference"] for name, figures in cell["contenders"].items()}
    assert differences["prepared, fp32"] < 1e-4 < differences["prepared, bf16"] < 0.2


@pytest.mark.parametrize("kind", ["predict_throughput", "prepared"])
def test_results_are_whole(kind: str) -> None:
    for path in RESULTS.glob(f"{kind}-*.json"):
        result = json.loads(path.read_text())
        assert set(result) >= WHOLE
        assert "dirty" not in result["commit"]
        if kind == "predict_throughput":
            assert predict_throughput.summary(result)["now"]["outside"] < 0.15
        else:
            assert all(len(cell["contenders"]) >= 4 for cell in result["cells"])
