"""The script for a GPU runs through on a CPU, and says what is wrong."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu


def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timer = signal.getitimer(signal.ITIMER_REAL)
    output = tmp_path / "gpu.json"
    assert gpu.main(["--smoke", "--minutes", "4", "--output", str(output), "--commit", "abc"]) == 0
    result = json.loads(output.read_text())
    assert list(result["sections"]) == list(gpu.SHARES)
    assert not [name for name, section in result["sections"].items() if "error" in section]
    assert result["commit"] == "abc"
    agree = result["sections"]["agree"]
    assert agree["ok"]
    assert len(agree["cases"]) == 4
    assert set(agree["cases"][0]["excess"]) == {"out", "d qkv", "d lim_weight", "d lim_bias", "d fill"}
    assert len(result["sections"]["kernels"]["rows"]) == 4
    for task in ("inference", "training"):
        assert all(found["images_per_second"] > 0 for found in result["sections"][task]["best"].values())
    printed = capsys.readouterr().out
    assert "4 of 4 cases within twice" in printed
    assert "images/s at batch 1" in printed
    # the test's own time limit goes on
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (timer[0] > 0)


def test_a_section_that_fails_or_hangs_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(setting: Any, save: Any, left: Any) -> dict[str, Any]:
        save({"cases": []})
        raise RuntimeError("no such kernel")

    def hangs(setting: Any, save: Any, left: Any) -> dict[str, Any]:
        save({"batch": 1})
        try:
            time.sleep(60)
        except Exception:
            pytest.fail("nothing on the way may take the end of the time for its own fault")
        return {}

    monkeypatch.setattr(gpu, "SECTIONS", {"agree": fails, "kernels": hangs, "warps": lambda *args: {"rows": []}})
    setting = gpu.Setting("cpu", "torch", True)
    output = tmp_path / "gpu.json"
    start = time.perf_counter()
    result = gpu.run_sections(["agree", "kernels", "warps"], setting, minutes=0.02, output=output, commit=None)
    assert time.perf_counter() - start < 20
    assert result["sections"]["agree"]["error"] == "RuntimeError: no such kernel"
    assert result["sections"]["kernels"]["note"] == "cut off: its time was up"
    assert result["sections"]["kernels"]["batch"] == 1, "what it had is kept"
    assert json.loads(output.read_text())["sections"] == result["sections"]
    capsys.readouterr()


def test_wrong_values_are_found() -> None:
    exact = torch.ones(3, dtype=torch.float64)
    eager = exact + 1e-3
    assert gpu.excess(exact + 1.5e-3, eager, exact) < 1
    assert gpu.excess(exact - 3e-3, eager, exact) > 1
    assert gpu.excess(exact * float("nan"), eager, exact) == float("inf")


def test_ratios_and_targets() -> None:
    def cell(batch: int, **rates: float) -> dict[str, Any]:
        contenders = {name: {"images_per_second": rate} for name, rate in rates.items()}
        return {"batch": batch, "contenders": {**contenders, "twins_svt_small": {"note": "out of memory"}}}

    best = gpu.best(
        [
            cell(256, scalablevit_small=4000.0, swin_tiny_patch4_window7_224=1500.0),
            cell(64, scalablevit_small=3000.0, swin_tiny_patch4_window7_224=2000.0),
        ]
    )
    assert best["scalablevit_small"] == {"images_per_second": 4000.0, "batch": 256}
    assert best["swin_tiny_patch4_window7_224"]["batch"] == 64
    assert gpu.ratios("inference", best) == {"swin_tiny_patch4_window7_224": {"ratio": 2.0, "least": 2.2, "aim": 3.0}}
    section = {"best": best, "ratios": gpu.ratios("inference", best), "cells": []}
    assert "ours x 2.00 (least 2.2, aim 3.0: MISSED)" in "\n".join(gpu.throughput_table(section))


def test_without_a_gpu_it_says_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--smoke" in capsys.readouterr().err
