"""What a hint tells the user to type runs this program, wherever it is installed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from scalablevit.training.invocation import invocation


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A running `my env/bin/scalablevit` in the current folder, not in PATH."""
    path = tmp_path / "here" / "my env" / "bin" / "scalablevit"
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(path)])
    return path


def test_in_path(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(script.parent))
    assert invocation("fit", "--resume", Path("a run")) == "scalablevit fit --resume 'a run'"


@pytest.mark.parametrize("argv0", [None, "my env/bin/scalablevit"])
def test_in_the_current_folder(script: Path, monkeypatch: pytest.MonkeyPatch, argv0: str | None) -> None:
    monkeypatch.setattr(sys, "argv", [argv0 or str(script)])
    assert invocation("recipes") == "'my env/bin/scalablevit' recipes"
    monkeypatch.chdir(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script)])
    assert invocation("recipes") == "./scalablevit recipes"


def test_another_one_in_path(script: Path, tmp_path: Path) -> None:
    other = tmp_path / "scalablevit"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert invocation() == "'my env/bin/scalablevit'"


def test_elsewhere_or_as_a_module(script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [sys.executable, "-m", "scalablevit", "recipes"]
    monkeypatch.setattr(sys, "argv", ["/site-packages/scalablevit/__main__.py"])
    assert shlex.split(invocation("recipes")) == expected
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.chdir(tmp_path / "here" / "my env" / "bin")
    os.mkdir("deeper")
    monkeypatch.chdir("deeper")
    assert shlex.split(invocation("recipes")) == expected
    said = subprocess.run(["/bin/sh", "-c", invocation("--version")], capture_output=True, text=True, timeout=60)
    assert said.stdout.startswith("scalablevit ")
