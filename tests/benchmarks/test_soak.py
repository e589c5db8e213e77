"""The soak script sees what it looks for, without the minutes that its scenes take."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import soak


def test_weights_that_differ_in_one_bit_are_lost(tmp_path: Path) -> None:
    for name, values in (
        ("a", [1.0, 2.0]),
        ("b", [1.0, 2.0]),
        ("c", [1.0, np.nextafter(np.float32(2), np.float32(3))]),
    ):
        (tmp_path / name).mkdir()
        save_file({"x": np.array(values, np.float32)}, tmp_path / name / "model.safetensors")
    soak.assert_same(tmp_path / "a", tmp_path / "b")
    with pytest.raises(soak.LostError, match="1 of 1 tensors differ"):
        soak.assert_same(tmp_path / "c", tmp_path / "a")


def test_a_trace_and_a_hang_are_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(soak.LostError, match="a stack trace: Traceback"):
        soak.finish(soak.start([sys.executable, "-c", "1 / 0"], tmp_path), tmp_path)
    (tmp_path / "output.txt").write_text("")
    monkeypatch.setattr(soak, "LONGEST", 0.5)
    process = soak.start(["sleep", "60"], tmp_path)
    with pytest.raises(soak.LostError, match="did not end"):
        soak.finish(process, tmp_path)
    assert process.poll() is not None


def test_an_error_with_a_message_is_an_end(tmp_path: Path) -> None:
    code = "import sys; print('scalablevit: error: the disk is full', file=sys.stderr); sys.exit(1)"
    assert soak.finish(soak.start([sys.executable, "-c", code], tmp_path), tmp_path) == 1


def test_a_failure_in_silence_is_lost(tmp_path: Path) -> None:
    """What an earlier command of the scene said does not count."""
    told = "import sys; print('scalablevit: error: told', file=sys.stderr); sys.exit(1)"
    soak.finish(soak.start([sys.executable, "-c", told], tmp_path), tmp_path)
    with pytest.raises(soak.LostError, match="ended with 1 and no message"):
        soak.finish(soak.start([sys.executable, "-c", "print('epoch 1'); exit(1)"], tmp_path), tmp_path)
    assert soak.finish(soak.start(["sh", "-c", "kill -9 $$"], tmp_path), tmp_path) == -9


def test_a_run_without_a_checkpoint_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def start(command: list[str], folder: Path) -> subprocess.Popen[str]:
        commands.append(command)
        return subprocess.Popen(["true"], text=True)

    monkeypatch.setattr(soak, "start", start)
    (tmp_path / "output.txt").write_text("")
    run = tmp_path / "run"
    run.mkdir()
    soak.resume(run, tmp_path / "data", tmp_path, epochs=2)
    assert "--resume" not in commands[0]
    assert not run.exists(), "moved away"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "last.ckpt").touch()
    soak.resume(run, tmp_path / "data", tmp_path, epochs=2)
    assert commands[1][-2:] == ["--resume", str(run)]
