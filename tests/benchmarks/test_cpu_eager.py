"""The CPU benchmark measures what it says, and its results are whole."""

import json
import statistics
from pathlib import Path

import pytest
import torch

from conditions import RESULTS
from cpu_eager import measure, table


def test_measure_and_table() -> None:
    threads = torch.get_num_threads()
    try:
        result = measure("scalablevit_atto", batch=1, size=(32, 40), rounds=3, warm_up=1, threads=1)
    finally:
        torch.set_num_threads(threads)
    assert result["max_abs_difference"] < 1e-4
    assert {name: len(times) for name, times in result["seconds"].items()} == {"ours": 3, "plain": 3}
    assert all(time > 0 for times in result["seconds"].values() for time in times)
    text = table(json.loads(json.dumps(result)))
    assert "scalablevit_atto, fp32, batch 1, 32x40 px, 1 threads" in text
    assert f"{result['ratio_of_medians']:.2f}x as fast" in text


@pytest.mark.parametrize("path", sorted(RESULTS.glob("cpu_eager-*.json")), ids=lambda p: p.stem)
def test_written_results_add_up(path: Path) -> None:
    result = json.loads(path.read_text())
    assert {"date", "commit", "device", "torch", "precision", "threads", "batch", "size"} <= set(result)
    ours, plain = result["seconds"]["ours"], result["seconds"]["plain"]
    assert len(ours) == len(plain) >= 10
    assert result["ratio_of_medians"] == pytest.approx(statistics.median(plain) / statistics.median(ours))
    assert result["spread"]["ours"]["median"] == pytest.approx(statistics.median(ours))
    assert result["max_abs_difference"] < 1e-3
