"""docs/performance.md says what the results give."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from test_linear_cost import costs

import measure_cpu
import write_performance
from scalablevit.bench.turns import compare
from scalablevit.cli.bench import parser
from write_performance import PAGE, PLOT, RESULTS, TABLES, filled


def test_page_is_what_the_results_give() -> None:
    page = PAGE.read_text()
    assert filled(page) == page, "run benchmarks/write_performance.py"
    assert [name for name in TABLES if f"<!-- table: {name} -->" not in page] == []


def test_plot_is_small() -> None:
    if (RESULTS / "linear_cost-cpu.json").is_file():
        assert PLOT.stat().st_size < 100_000


def test_unknown_table_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no table 'nonsense'"):
        filled("<!-- table: nonsense -->\n<!-- end -->")


def cell(**changes: Any) -> dict[str, Any]:
    figures = compare(
        {"scalablevit_small": [0.1, 0.1], "plain:scalablevit_small": [0.15, 0.15]}, first="scalablevit_small", batch=8
    )
    figures["scalablevit_small"]["memory"] = {"peak_bytes": 2**30, "held_bytes": 2**29}
    contenders = {**figures, "convnext_tiny@compile": {"note": "out of memory"}}
    base = {"size": [224, 224], "precision": "fp32", "mode": "eager", "task": "training", "batch": 8}
    return {**base, "contenders": contenders, **changes}


def throughput_result() -> dict[str, Any]:
    about = {"date": "2026-01-02T03:04:05+00:00", "commit": "abc", "device": "a CPU", "device_type": "cpu"}
    return {**about, "torch": "2", "timm": "1", "threads": 2, "memory": True, "finished": True, "cells": [cell()]}


def gpu_result() -> dict[str, Any]:
    rates = {"scalablevit_small": 3000.0, "swin_tiny_patch4_window7_224": 1500.0, "convnext_tiny": 2000.0}
    contenders: dict[str, Any] = {label: {"images_per_second": rate} for label, rate in rates.items()}
    contenders["twins_svt_small:4d"] = {"note": "not ready after 20 s, no time left"}
    throughput = {
        "cells": [{"batch": 256, "in_turns": False, "contenders": contenders}],
        "best": {label: {"images_per_second": rate, "batch": 256} for label, rate in rates.items()},
        "ratios": {
            "swin_tiny_patch4_window7_224": {"ratio": 2.0, "least": 2.2, "aim": 3.0},
            "convnext_tiny": {"ratio": 1.5, "least": None, "aim": None},
        },
        "note": "cut off: its time was up",
        "fallbacks": [],
    }
    row: dict[str, Any] = {"op": "window", "stage": "stage 1", "direction": "forward", "dtype": "bfloat16"}
    row |= {"seconds": 1.2e-4, "floor_seconds": 1e-4, "over_floor": 1.2, "torch_seconds": 5e-4, "called_seconds": 2e-4}
    row["timed_by"] = {"seconds": "graph", "torch_seconds": "events", "called_seconds": "events"}
    failed = {"op": "reduced", "stage": "stage 3", "dtype": "float32", "error": "OutOfResources: too many"}
    kernels = {"batch": 128, "bandwidth": 4e12, "copy_bandwidth": 3e12, "empty_seconds": 2e-6, "rows": [row, failed]}
    case = {"op": "reduced", "case": "one token", "dtype": "float16", "kernel_promised": True, "kernel_ran": True}
    cases = [case | {"ok": False, "excess": {"out": 2.5}}, case | {"ok": True, "kernel_ran": False}]
    agree = {
        "verdict": "wrong",
        "cases": cases,
        "not_reached": 7,
        "opcheck": {"scalablevit.window_attention": "ok"},
        "network": [{"ok": True, "size": [250, 333], "dtype": "bfloat16", "triton": {"logits": 2e-3}}],
        "compiled": {"ok": False, "error": "Unsupported: no"},
        "fallbacks": ["the kernel cannot be built; PyTorch computes instead"],
    }
    sections = {"agree": agree, "kernels": kernels | {"fallbacks": []}, "inference": throughput}
    about = {"device": "a GPU", "device_type": "cuda", "smoke": False}
    return throughput_result() | about | {"sections": sections}


def traffic_result() -> dict[str, Any]:
    counted = {"generated": 3, "called": {"aten.addmm.out": 4}, "bytes": 35_000_000_000, "transposed_bytes": 10_000_000}
    counted["bytes_per_image"] = 137_000_000
    about = {"date": "2026-01-02T03:04:05+00:00", "commit": "abc", "torch": "2", "timm": "1", "target": "H100"}
    return {**about, "batch": 256, "size": 224, "inference": {"convnext_tiny": counted}}


def test_every_table_is_written(tmp_path: Path) -> None:
    files = {
        "cpu-inference.json": throughput_result(),
        "cpu-training.json": throughput_result(),
        "linear_cost-cpu.json": costs(),
        "linear_cost-cuda.json": costs() | {"device_type": "cuda"},
        "traffic.json": traffic_result(),
        "gpu.json": gpu_result(),
    }
    for name, result in files.items():
        (tmp_path / name).write_text(json.dumps(result))
    page = "\n".join(f"<!-- table: {name} -->\n<!-- end -->" for name in TABLES)
    text = filled(page, tmp_path)
    assert filled(text, tmp_path) == text
    assert "| `convnext_tiny` | 3 | 4 | 35.0 | 137 | 0.01 |" in text
    assert "| `scalablevit_small`, eager | 100 ms | 100 – 100 | 80.0 | 1.50 | 1.00 GiB |" in text
    assert "| `convnext_tiny`, compiled | out of memory |  |  |  |  |" in text
    assert "Measured 2026-01-02 at commit abc on a CPU (2 threads), torch 2, timm 1" in text
    assert "| 1024 | 1049 ms | " in text
    assert "| power of the pixels | 1.00 | 1.25 | 1.00 | 1.25 |" in text
    assert text.count("linear_cost.png") == 1
    assert "| window, stage 1, forward, bfloat16 | 120 µs | 100 µs | 1.20 | 500 µs | 200 µs |" in text
    assert "launches by graph; PyTorch's attention by events; calls by events; nothing at all takes 2.0 us" in text
    assert "| `swin_tiny_patch4_window7_224`, compiled | 1500 | 256 | 2.00 (missed) | 2.2, 3.0 |" in text
    assert "Not measured in the run of 2026-01-02." in text
    for trouble in (
        "verdict: wrong",
        "1 of 2 cases",
        "**wrong** reduced, one token, float16: {'out': 2.5}",
        "**wrong**, no kernel ran where one serves: reduced one token float16",
        "7 further cases were not reached in time",
        "network, 250 x 333, bfloat16, relative errors by attention: triton: logits 2.0e-03",
        "**wrong** compiled network beside eager: Unsupported: no",
        "**fell back**: the kernel cannot be built; PyTorch computes instead",
        "**failed** reduced, stage 3, float32: OutOfResources: too many",
        "batch 256 was cut off before the turns: each was timed alone",
        "batch 256, twins_svt_small:4d: not ready after 20 s, no time left",
        "Not finished: cut off: its time was up",
    ):
        assert f"\n- {trouble}" in text, trouble


def test_a_smoke_run_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gpu.json").write_text(json.dumps(gpu_result() | {"smoke": True}))
    page = "<!-- table: gpu-agree -->\n<!-- end -->"
    with pytest.raises(ValueError, match="of a smoke run"):
        filled(page, tmp_path)
    before = PAGE.read_text()
    monkeypatch.setattr(write_performance, "filled", lambda page: filled(page, tmp_path))
    assert write_performance.main() == 1
    assert "of a smoke run" in capsys.readouterr().err
    assert PAGE.read_text() == before


def test_plot(tmp_path: Path) -> None:
    write_performance.draw(costs(), tmp_path / "plot.png")
    assert 5_000 < (tmp_path / "plot.png").stat().st_size < 100_000


@pytest.mark.parametrize("what", ["inference", "training"])
def test_commands_parse(what: str) -> None:
    words = measure_cpu.words(measure_cpu.COMMANDS[what])
    assert words[1:4] == ["-m", "scalablevit", "bench"]
    args = parser().parse_args(words[4:])
    assert args.models[0] == "scalablevit_small"
    assert args.output in {f"benchmarks/results/{file}" for file, *_ in TABLES.values()}


@pytest.mark.parametrize("path", sorted(RESULTS.glob("cpu-*.json")), ids=lambda p: p.stem)
def test_written_results_add_up(path: Path) -> None:
    result = json.loads(path.read_text())
    assert result["finished"]
    for measured in result["cells"]:
        for figures in measured["contenders"].values():
            if "note" not in figures:
                assert len(figures["seconds"]) == result["rounds"]
                assert figures["spread"]["median"] == pytest.approx(statistics.median(figures["seconds"]))


def test_the_first_eager_result_adds_up() -> None:
    """It was measured with an earlier script; docs/results.md tells of it."""
    result = json.loads((RESULTS / "cpu_eager-scalablevit_small-8x224x224.json").read_text())
    ours, plain = (result["seconds"][name] for name in ("ours", "plain"))
    assert len(ours) == len(plain) >= 10
    assert result["ratio_of_medians"] == pytest.approx(statistics.median(plain) / statistics.median(ours))
