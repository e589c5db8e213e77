"""Which implementation runs, and why."""

import os
import subprocess
import sys

import pytest
import torch

from scalablevit.ops import choice
from scalablevit.ops.choice import choose, failed_to_build

CPU = torch.device("cpu")


def test_torch_runs_on_a_cpu_and_says_why() -> None:
    for wanted in ("auto", "triton"):
        chosen = choose(wanted, device=CPU, dtype=torch.float32, dropout=0.0, cannot=None)
        assert chosen.implementation == "torch"
        assert "need a CUDA device, not cpu" in chosen.reason or "not installed" in chosen.reason
    for wanted in ("torch", "reference"):
        chosen = choose(wanted, device=CPU, dtype=torch.float32, dropout=0.0, cannot=None)
        assert (chosen.implementation, chosen.reason) == (wanted, "asked for")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "it can serve here"),
        ({"wanted": "triton"}, "asked for"),
        ({"cannot": "too wide"}, "too wide"),
        ({"dropout": 0.1}, "no dropout"),
        ({"dtype": torch.float64}, "float32, bfloat16 and float16, not float64"),
        ({"device": torch.device("meta")}, "not meta"),
    ],
    ids=str,
)
def test_a_gpu_gets_the_kernel_where_it_can_serve(change: dict, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_HAS_TRITON", True)
    monkeypatch.setattr(choice, "_is_new_enough", lambda index: True)
    settings = {"wanted": "auto", "device": torch.device("cuda", 0), "dtype": torch.bfloat16, "dropout": 0.0}
    chosen = choose(**{**settings, "cannot": None, **change})
    assert (chosen.implementation == "triton") == (set(change) <= {"wanted"})
    assert reason in chosen.reason


def test_an_old_gpu_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_HAS_TRITON", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    chosen = choose("auto", device=torch.device("cuda", 0), dtype=torch.float16, dropout=0.0, cannot=None)
    assert chosen.implementation == "torch"
    assert "older than compute capability 8.0" in chosen.reason


@pytest.mark.parametrize(("value", "said"), [("reference", "reference asked for"), ("tritn", "one of auto, triton")])
def test_the_environment_sets_the_default_and_importing_needs_no_triton(value: str, said: str) -> None:
    code = (
        "import sys, torch, scalablevit; from scalablevit.ops.choice import choose; c = choose('auto', "
        "device=torch.device('cpu'), dtype=torch.float32, dropout=0.0, cannot=None); "
        "assert not [m for m in sys.modules if m.endswith('_attention.kernel')]; print(c.implementation, c.reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SCALABLEVIT_ATTENTION": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in (done.stdout if value == "reference" else done.stderr)
    assert (done.returncode == 0) == (value == "reference")


def test_a_kernel_that_cannot_be_built_is_told_from_one_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    errors = pytest.importorskip("triton.runtime.errors")
    monkeypatch.setattr(choice, "_IS_INTERPRETED", False)
    assert failed_to_build(errors.OutOfResources(300000, 232448, "shared memory"))
    assert failed_to_build(subprocess.CalledProcessError(1, ["gcc"]))
    assert failed_to_build(RuntimeError("Failed to find C compiler. Please specify via CC"))
    assert failed_to_build(RuntimeError("PassManager::run failed"))
    assert not failed_to_build(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not failed_to_build(torch.OutOfMemoryError("CUDA out of memory"))
    assert not failed_to_build(ValueError("C compiler"))
    monkeypatch.setattr(choice, "_IS_INTERPRETED", True)
    assert not failed_to_build(errors.OutOfResources(1, 0, "registers"))
