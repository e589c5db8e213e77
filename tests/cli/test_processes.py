"""What only real processes show: start-up time, signals, a full disk."""

import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tiny_runs import SMALL, assert_same_result, fit, write_images

import command_line

SCRIPT = str(Path(sys.executable).with_name("scalablevit"))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@pytest.mark.parametrize(
    "words", [["--help"], ["recipes"], ["recipes", "digits"], ["fit", "--help"], ["predict", "--help"]]
)
def test_help_answers_at_once_and_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom scalablevit.cli import main\n"
        f"try:\n    main({words})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'lightning', 'timm', 'numpy', 'matplotlib', 'rich', 'PIL'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), file=sys.stderr)\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.5  # whatever else the machine does
    assert "HEAVY []" in result.stderr
    assert result.stdout


def test_a_pipe_that_closes_early_is_no_error() -> None:
    command = f"{shlex.quote(SCRIPT)} recipes imagenet_small | head -n 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert result.stderr == ""


@pytest.mark.slow
def test_ctrl_c_in_a_terminal_and_the_resume_command_it_prints(tmp_path: Path) -> None:
    """The signal goes to the whole group, workers too, as from a terminal."""
    data, run = write_images(tmp_path / "data", num_train=40), tmp_path / "a run"
    words = ("fit", "--config", "train_folder", *SMALL, "--data.root", data, "--run", run, "--epochs", "3")
    words = (*words, "--data.num_workers", "1")
    process = subprocess.Popen(
        [SCRIPT, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch 1/3"):
            break
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line]
    assert lines[-1].startswith("Stopped by SIGINT: saved to ")
    assert "Once more stops at once" in said
    command = lines[-1].partition("To resume: ")[2]
    assert shlex.split(command)[-3:] == ["fit", "--resume", str(run)]
    resumed = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=ENVIRONMENT, timeout=240
    )  # as typed
    assert resumed.returncode == 0, resumed.stderr
    fit(data, tmp_path / "whole", epochs=3)
    assert_same_result(run, tmp_path / "whole")


@pytest.mark.slow
def test_sigterm_ends_with_143(image_folder: Path, tmp_path: Path) -> None:
    words = ("fit", "--config", "train_folder", *SMALL, "--data.root", image_folder, "--run", tmp_path / "run")
    process = subprocess.Popen(
        [SCRIPT, *map(str, words), "--epochs", "500"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("epoch   1/500"):
            break
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143, said
    assert "Traceback" not in said
    assert said.endswith(f"fit --resume {tmp_path}/run\n")


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_good_checkpoint(image_folder: Path, tmp_path: Path) -> None:
    """A run of one epoch goes on with a limit on the size of files: the next checkpoint cannot be written."""
    run = tmp_path / "run"
    fit(image_folder, run, epochs=1)
    last = run / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    code = (
        "import resource, signal, sys\nfrom scalablevit.cli import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        f"sys.exit(main(['fit', '--resume', {str(run)!r}, '--epochs', '2']))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("scalablevit: error: ")
    assert "could not be written (File too large)" in message
    again = f"To resume then: {shlex.join([sys.executable, '-m', 'scalablevit', 'fit', '--resume', str(run)])}"
    assert message.endswith(again)
    assert last.read_bytes() == before
    assert [path.name for path in last.parent.iterdir() if path.name.endswith(".tmp")] == []
    resumed = command_line.scalablevit("fit", "--resume", run)
    assert resumed.code == 0, resumed.err


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.6, 2.5])
def test_ctrl_c_before_training_begins(tmp_path: Path, seconds: float) -> None:
    """Be it among the imports or later: no stack trace, and exit code 130 or death by the signal."""
    words = ("fit", "--config", "digits", "--data.root", tmp_path / "digits", "--run", tmp_path / "run")
    process = subprocess.Popen(
        [SCRIPT, *map(str, words)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in said
