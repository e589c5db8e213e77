"""What stands beside every figure."""

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from scalablevit import __version__
from scalablevit.bench import conditions


def test_conditions() -> None:
    found = conditions.conditions("cpu")
    assert {"date", "commit", "device", "torch", "python", "timm", "triton"} <= set(found)
    assert found["scalablevit"] == __version__
    assert all(isinstance(value, str) and value for value in found.values())


def test_commit_is_unknown_outside_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(conditions, "_PACKAGE", tmp_path)
    assert conditions.commit() == "unknown"
    # a virtual environment inside the checkout of something else
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    site = tmp_path / ".venv" / "scalablevit"
    site.mkdir(parents=True)
    monkeypatch.setattr(conditions, "_PACKAGE", site)
    assert conditions.commit() == "unknown"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert conditions.commit() == "unknown", "git is missing"


def test_memory_of_this_process() -> None:
    assert 2**24 < conditions.held_bytes() <= conditions.peak_bytes()
    with mmap.mmap(-1, 2**27) as ballast:  # malloc may keep what is freed
        ballast.write(b"1" * 2**27)
        high = conditions.peak_bytes()
    if Path("/proc/self/clear_refs").exists():
        conditions.forget_peak()
        assert conditions.peak_bytes() < high


def test_a_system_without_getrusage_says_what_to_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has neither /proc nor the module resource; only the peak memory is missing there."""
    monkeypatch.setattr(conditions, "_from_status", lambda field: None)
    monkeypatch.setitem(sys.modules, "resource", None)
    with pytest.raises(RuntimeError, match="leave out --memory"):
        conditions.peak_bytes()
