"""docs/performance.md says what the results give."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from test_linear_cost import costs

import measure_cpu
import write_performance
from scalablevit.bench.throughput import compare
from scalablevit.cli import _parser
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
    throughput = {
        "best": {label: {"images_per_second": rate, "batch": 256} for label, rate in rates.items()},
        "ratios": {
            "swin_tiny_patch4_window7_224": {"ratio": 2.0, "least": 2.2, "aim": 3.0},
            "convnext_tiny": {"ratio": 1.5, "least": None, "aim": None},
        },
    }
    row = {"op": "window", "stage": "stage 1", "direction": "forward"}
    row |= {"seconds": 1.2e-4, "floor_seconds": 1e-4, "over_floor": 1.2, "torch_seconds": 5e-4}
    kernels = {"batch": 128, "dtype": "bfloat16", "bandwidth": 4e12, "copy_bandwidth": 3e12, "rows": [row]}
    wrong = {"op": "reduced", "case": "one token", "dtype": "float16", "ok": False}
    agree = {"cases": [wrong, {**wrong, "ok": True}], "opcheck": {"scalablevit.window_attention": "ok"}}
    sections = {"agree": agree, "kernels": kernels, "inference": throughput}
    return throughput_result() | {"device": "a GPU", "device_type": "cuda", "sections": sections}


def test_every_table_is_written(tmp_path: Path) -> None:
    files = {
        "cpu-inference.json": throughput_result(),
        "cpu-training.json": throughput_result(),
        "linear_cost-cpu.json": costs(),
        "linear_cost-cuda.json": costs() | {"device_type": "cuda"},
        "gpu.json": gpu_result(),
    }
    for name, result in files.items():
        (tmp_path / name).write_text(json.dumps(result))
    page = "\n".join(f"<!-- table: {name} -->\n<!-- end -->" for name in TABLES)
    text = filled(page, tmp_path)
    assert filled(text, tmp_path) == text
    assert "| `scalablevit_small`, eager | 100 ms | 100 – 100 | 80.0 | 1.50 | 1.00 GiB |" in text
    assert "| `convnext_tiny`, compiled | out of memory |  |  |  |  |" in text
    assert "Measured 2026-01-02 at commit abc on a CPU (2 threads), torch 2, timm 1" in text
    assert "| 1024 | 1049 ms | " in text
    assert "| power of the pixels | 1.00 | 1.25 | 1.00 | 1.25 |" in text
    assert text.count("linear_cost.png") == 1
    assert "| window, stage 1, forward | 120 µs | 100 µs | 1.20 | 500 µs |" in text
    assert "1 of 2 cases" in text
    assert "- **wrong**: reduced, one token, float16" in text
    assert "| `swin_tiny_patch4_window7_224`, compiled | 1500 | 256 | 2.00 (missed) | 2.2, 3.0 |" in text
    assert "Not measured in the run of 2026-01-02." in text


def test_plot(tmp_path: Path) -> None:
    write_performance.draw(costs(), tmp_path / "plot.png")
    assert 5_000 < (tmp_path / "plot.png").stat().st_size < 100_000


@pytest.mark.parametrize("what", ["inference", "training"])
def test_commands_parse(what: str) -> None:
    words = measure_cpu.words(measure_cpu.COMMANDS[what])
    assert words[1:3] == ["-m", "scalablevit"]
    args = _parser().parse_args(words[3:])
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
