"""The script for a GPU runs through on a CPU, and says what is wrong."""

import contextlib
import json
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gpu
from scalablevit.bench import throughput
from scalablevit.ops import choice, depthwise, feed_forward, layer_choice, norm_depthwise, norm_linear
from scalablevit.ops import reduced_attention as reduced_room
from scalablevit.ops import window_attention as window_room

# Compiling takes minutes where something else computes.
pytestmark = pytest.mark.timeout(1800)

SMOKE = gpu.Setting("cpu", "torch", True)


@pytest.mark.slow
def test_smoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    timer = signal.getitimer(signal.ITIMER_REAL)
    output = tmp_path / "gpu.json"
    assert gpu.main(["--smoke", "--minutes", "4", "--output", str(output), "--commit", "abc"]) == 0
    result = json.loads(output.read_text())
    assert list(result["sections"]) == list(gpu.SHARES)
    assert not [name for name, section in result["sections"].items() if "error" in section]
    assert result["commit"] == "abc"
    agree = result["sections"]["agree"]
    assert agree["verdict"] == "ok"
    assert result["seconds"] < 240
    assert [row["op"] for row in agree["cases"]] == ["window"] * 2 + ["reduced"] * 2 + [
        "feed_forward",
        "depthwise",
        "norm_linear",
        "norm_depthwise",
    ]
    assert set(agree["cases"][0]["excess"]) == {"out", "d qkv", "d lim_weight", "d lim_bias", "d fill"}
    assert len(result["sections"]["kernels"]["rows"]) == 4
    for task in ("inference", "training"):
        assert all(found["images_per_second"] > 0 for found in result["sections"][task]["best"].values())
    printed = capsys.readouterr().out
    assert "8 of 8 cases within twice" in printed
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
    output = tmp_path / "gpu.json"
    start = time.perf_counter()
    result = gpu.run_sections(["agree", "kernels", "warps"], SMOKE, minutes=0.02, output=output, commit=None)
    assert time.perf_counter() - start < 1.7, "1.2 s, and half a second for a slow machine"
    assert result["sections"]["agree"]["error"] == "RuntimeError: no such kernel"
    assert result["sections"]["kernels"]["note"] == "cut off: its time was up"
    assert result["sections"]["kernels"]["batch"] == 1, "what it had is kept"
    assert json.loads(output.read_text())["sections"] == result["sections"]
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.parametrize("serves", [True, False], ids=["kernels", "PyTorch's attention"])
def test_a_compiled_network_is_known_by_its_operators(serves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's attention gives the same numbers."""
    monkeypatch.setattr(choice, "_said", set())
    if serves:
        monkeypatch.setattr(choice, "_HAS_TRITON", True)
        monkeypatch.setattr(choice, "IS_INTERPRETED", True)  # kernels are chosen on a CPU
        monkeypatch.setattr(layer_choice, "IS_INTERPRETED", True)
        for room in (window_room, reduced_room, feed_forward, depthwise, norm_linear, norm_depthwise):
            monkeypatch.setattr(room.operators, "kernel_or_plain", lambda kernel, plain, **_: plain())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="our attention kernels do not run")
        found = gpu.compiled_network(gpu.Setting("cpu", "triton", True), backend="eager")
    assert max(found["difference"].values()) < 0.05
    assert found["ok"] == serves
    if serves:
        assert found["operators"] == [f"scalablevit.{name}" for name in sorted(gpu.OPERATORS)]
    else:
        assert found["operators"] == []
        assert found["error"] == f"the compiled graph does not hold {', '.join(gpu.OPERATORS)} of ours"


def test_wrong_values_are_found() -> None:
    exact = torch.ones(3, dtype=torch.float64)
    eager = exact + 1e-3
    assert gpu.excess(exact + 1.5e-3, eager, exact) < 1
    assert gpu.excess(exact - 3e-3, eager, exact) > 1
    assert gpu.excess(exact * float("nan"), eager, exact) == float("inf")


def test_ratios_and_targets() -> None:
    def cell(batch: int, **rates: float) -> dict[str, Any]:
        contenders = {name: {"images_per_second": rate} for name, rate in rates.items()}
        missing = {"twins_svt_small": {"note": "out of memory"}}
        return {"batch": batch, "in_turns": batch != 64, "contenders": {**contenders, **missing}}

    prepared = {"scalablevit_small@optimized": 9000.0}
    cells = [
        cell(256, scalablevit_small=4000.0, swin_tiny_patch4_window7_224=1500.0, **prepared),
        cell(64, scalablevit_small=3000.0, swin_tiny_patch4_window7_224=2000.0),
        cell(32, scalablevit_small=5000.0),
    ]
    best = gpu.best(cells)
    assert best["scalablevit_small"] == {"images_per_second": 5000.0, "batch": 32}
    assert best["swin_tiny_patch4_window7_224"]["batch"] == 64
    ratios = gpu.ratios("inference", cells)
    # not with CUDA graphs that Swin did not get, nor at a batch size that it did not see
    assert ratios == {"swin_tiny_patch4_window7_224": {"ratio": 2.0, "least": 2.2, "aim": 3.0}}
    text = "\n".join(gpu.throughput_lines({"best": best, "ratios": ratios, "cells": cells}))
    assert "ours x 2.00 (least 2.2, aim 3.0: MISSED)" in text
    assert "scalablevit_small@optimized           9000.0 images/s at batch 256" in text
    assert text.count("cut off before the turns") == 1
    assert "batch 64, twins_svt_small: out of memory" in text


@pytest.mark.slow
def test_a_warm_up_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: dict[str, Callable[[], None]] = {
        "scalablevit_atto": lambda: None,
        "plain:scalablevit_atto@eager": lambda: time.sleep(60),
    }
    monkeypatch.setattr(throughput, "prepare", lambda contender, *args, **options: passes[contender.label])
    saved: list[str] = []
    start = time.perf_counter()
    found = gpu.throughput(
        "inference", SMOKE, lambda found: saved.append(json.dumps(found)), lambda: start + 1.5 - time.perf_counter()
    )
    assert time.perf_counter() - start < 20, "a warm-up of 60 s was waited for"
    (cell,) = found["cells"]
    assert cell["in_turns"]
    assert "no time left" in cell["contenders"]["plain:scalablevit_atto@eager"]["note"]
    assert list(found["best"]) == ["scalablevit_atto"]
    assert "images_per_second" in saved[0], "after each"


def test_the_earlier_of_two_ends_counts() -> None:
    timer = signal.getitimer(signal.ITIMER_REAL)[0]
    start = time.perf_counter()
    with pytest.raises(gpu.TimeIsUp), gpu.stopped_after(0.2), gpu.stopped_after(60):
        time.sleep(30)

    def goes_on() -> None:
        with contextlib.suppress(gpu.TimeIsUp), gpu.stopped_after(0.1):
            time.sleep(30)
        time.sleep(30)

    with pytest.raises(gpu.TimeIsUp), gpu.stopped_after(0.4):
        goes_on()
    assert time.perf_counter() - start < 5
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (timer > 0)


def test_only_the_kernels_own_words_are_a_fallback() -> None:
    notes: list[str] = []

    def ends_early() -> None:
        for _ in range(2):
            warnings.warn("use treespec.is_leaf() instead", stacklevel=1)
            warnings.warn("the kernel cannot be built; PyTorch computes instead (why)\nat length", stacklevel=1)
        raise gpu.TimeIsUp

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        with pytest.raises(gpu.TimeIsUp), gpu.fallbacks(notes):
            ends_early()
    assert notes == ["the kernel cannot be built; PyTorch computes instead (why)"] * 2
    assert {f"{warning.message}" for warning in shown} == {"use treespec.is_leaf() instead"}


def test_all_are_given_the_same_rounded_numbers() -> None:
    inputs = {"x": torch.tensor([1 / 3, 1e-5], dtype=torch.float64)}
    exact = gpu.out_and_grads(lambda x: x["x"] * 2, inputs, torch.float64, rounded_to=torch.bfloat16)
    rounded = gpu.out_and_grads(lambda x: x["x"] * 2, inputs, torch.bfloat16)
    assert torch.equal(exact["out"], 2 * inputs["x"].bfloat16().double())
    assert torch.equal(exact["out"], rounded["out"])
    assert torch.equal(exact["d x"], rounded["d x"])


FULL: dict[str, Any] = {
    "cases": [{"op": "window", "case": "a", "dtype": "bfloat16", "ok": True, "kernel_ran": True, "excess": {}}],
    "fallbacks": [],
    "not_reached": 0,
    "opcheck": {"scalablevit.window_attention": "ok"},
    "network": [{"ok": True, "size": [224, 224], "dtype": "bfloat16", "triton": {"logits": 1e-3}}],
    "compiled": {"ok": True, "difference": {"logits": 1e-3}},
}
FULL["cases"][0]["kernel_promised"] = True


@pytest.mark.parametrize(
    ("changes", "verdict", "line"),
    [
        ({}, "ok", "1 of 1 cases"),
        ({"not_reached": 3}, "partial", "3 further cases were not reached"),
        ({"compiled": None}, "partial", ""),
        ({"network": []}, "partial", "the whole network was not reached"),
        ({"opcheck": None}, "partial", "check of the operators was not reached"),
        ({"opcheck": {}}, "wrong", "0 of 0 operators"),
        ({"opcheck": {"error": "no"}}, "wrong", "WRONG error: no"),
        ({"fallbacks": ["it fell"]}, "wrong", ""),
        ({"network": {"error": "no"}}, "wrong", "WRONG network: no"),
        ({"network": [FULL["network"][0] | {"ok": False}]}, "wrong", "WRONG network, 224 x 224"),
        ({"compiled": {"error": "no"}}, "wrong", "WRONG compiled network beside eager: no"),
        ({"cases": [FULL["cases"][0] | {"kernel_ran": False}]}, "wrong", "no kernel ran where one serves: window a"),
        ({"cases": [FULL["cases"][0] | {"ok": False, "excess": {"out": 3.0}}]}, "wrong", "WRONG window, a, bfloat16"),
        ({"cases": [{"op": "window", "case": "a", "dtype": "x", "ok": False, "error": "no"}]}, "wrong", "a, x: no"),
    ],
)  # fmt: skip
def test_verdict(changes: dict[str, Any], verdict: str, line: str) -> None:
    found = {key: value for key, value in (FULL | changes).items() if value is not None}
    found["verdict"] = gpu.verdict(found, gpu.Setting("cuda", "triton", False))
    assert found["verdict"] == verdict
    text = "\n".join(gpu.agree_lines(found))
    assert f"verdict: {verdict}" in text
    assert line in text


def test_a_kernel_that_promises_nothing_need_not_run() -> None:
    found = FULL | {"cases": [FULL["cases"][0] | {"kernel_ran": False, "kernel_promised": False}]}
    assert gpu.verdict(found, gpu.Setting("cuda", "triton", False)) == "ok"
    assert "no kernel serves, so none ran: window a bfloat16" in gpu.agree_lines(found)


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("NVIDIA H100 80GB HBM3", (3.35e12, 989e12, 67e12)),
        ("NVIDIA H100 PCIe", (2.0e12, 756e12, 51e12)),
        ("NVIDIA A100-SXM4-80GB", (2.04e12, 312e12, 19.5e12)),
        ("another", (3.35e12, 989e12, 67e12)),
    ],
)
def test_limits(name: str, figures: tuple[float, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    setting = gpu.Setting("cuda", "triton", False)
    assert (*gpu.limits(setting, torch.bfloat16), gpu.limits(setting, torch.float32)[1]) == figures


def test_without_a_gpu_it_says_what_to_do(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--smoke" in capsys.readouterr().err
