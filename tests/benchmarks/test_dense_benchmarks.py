"""The benchmarks of detectors and of tiles measure what they say, and their results are whole."""

import json
import statistics
from pathlib import Path

import pytest
import torch

import detectors
import tiled_prediction
from detectors import RESULTS

WHOLE = {"date", "commit", "device", "torch", "python", "precision", "threads", "variant"}


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "memory", lambda *args: 3 * 2**30)
    monkeypatch.setattr(detectors.multiprocessing, "get_context", lambda kind: _InThisProcess())
    result = detectors.measure("scalablevit_atto", size=(64, 96), batch=1, rounds=2, warm_up=0, device="cpu", threads=1)
    assert set(result) >= WHOLE
    assert result["detections"] == {"ours": 100, "resnet50": 100}
    assert all(len(times) == 2 for kind in detectors.PASSES for times in result["seconds"][kind].values())
    text = detectors.table(json.loads(json.dumps(result)))
    assert "scalablevit_atto and resnet50, fp32, batch 1, 64x96 px" in text
    assert text.count("3.00") >= 4


class _InThisProcess:
    """Stands for a context of processes."""

    def Pool(self, processes: int) -> "_InThisProcess":  # noqa: N802
        return self

    def __enter__(self) -> "_InThisProcess":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def apply(self, function, args):
        return function(*args)


def test_tiles_cover_the_image() -> None:
    result = tiled_prediction.measure("semantic_fpn", "scalablevit_atto", side=120, tile=64, tiles=None, threads=1)
    assert set(result) >= WHOLE
    assert result["tiles_done"] == result["tiles"] == 9
    assert result["unlabelled_pixels"] == 0
    assert result["peak_bytes"] >= result["peak_bytes_before"] > 2**27
    part = tiled_prediction.measure("semantic_fpn", "scalablevit_atto", side=120, tile=64, tiles=2, threads=1)
    assert part["tiles_done"] < 9
    assert part["unlabelled_pixels"] > 0


@pytest.mark.parametrize("path", sorted(RESULTS.glob("detectors-*.json")), ids=lambda p: p.stem)
def test_written_results_of_detectors_add_up(path: Path) -> None:
    result = json.loads(path.read_text())
    assert set(result) >= WHOLE
    for kind in detectors.PASSES:
        for name in detectors.MODELS:
            times = result["seconds"][kind][name]
            assert len(times) >= 3
            assert result["spread"][kind][name]["median"] == pytest.approx(statistics.median(times))
    assert set(result["detections"].values()) == {100}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("tiled_prediction-*.json")), ids=lambda p: p.stem)
def test_written_results_of_tiles_fit_into_memory(path: Path) -> None:
    result = json.loads(path.read_text())
    assert set(result) >= WHOLE
    assert result["side"] == 10_000
    assert result["classes"] == 150
    assert result["peak_bytes"] < 4 * 2**30
    if result["tiles_done"] == result["tiles"]:
        assert result["unlabelled_pixels"] == 0
