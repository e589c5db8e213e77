"""Two runs never write into one folder, and a killed one holds nothing."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scalablevit.training.run_folder import RunFolder, claim
from scalablevit.training.run_lock import FolderInUseError, RunLock

HOLDER = """
import os, sys, time
from scalablevit.training.run_lock import RunLock
RunLock(sys.argv[1]).acquire()
ready, tell = os.pipe()
if os.fork() == 0:  # as a data worker that outlives its process
    os.write(tell, b"!")
    time.sleep(30)
os.read(ready, 1)
print("held", flush=True)
time.sleep(30)
"""


def test_a_second_run_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    first = RunLock(tmp_path)
    first.acquire()
    with pytest.raises(FolderInUseError, match=rf"is in use: process {os.getpid()} on .* --run"):
        RunLock(tmp_path).acquire()
    first.release()
    assert list(tmp_path.iterdir()) == []
    second = RunLock(tmp_path)
    second.acquire()
    second.release()


def test_the_lock_dies_with_its_process_though_a_child_lives_on(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError, match=rf"process {holder.pid} on "):
            RunLock(tmp_path).acquire()
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        assert (tmp_path / ".lock").exists()
        lock = RunLock(tmp_path)
        lock.acquire()
        lock.release()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    def attempt(_: int) -> bool:
        lock = RunLock(tmp_path)
        try:
            lock.acquire()
        except FolderInUseError:
            return False
        time.sleep(0.2)
        lock.release()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(attempt, range(8))) == 1


@pytest.mark.parametrize("resume", [False, True])
def test_a_claimed_folder_is_locked_before_anything_is_written(tmp_path: Path, resume: bool) -> None:
    run = RunFolder(tmp_path / "run")
    if resume:
        run.checkpoints.mkdir(parents=True)
        run.last.touch()
    first = claim(run.path, resume)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FolderInUseError):
        claim(run.path, resume)
    assert sorted(tmp_path.rglob("*")) == before
    first.release()
    claim(run.path, resume).release()


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_what_stands_in_the_place_of_the_lock_file_is_refused(tmp_path: Path, kind: str) -> None:
    """A run folder may be a stranger's: through a link in it, the user's own files would be emptied."""
    precious, run = tmp_path / "precious", tmp_path / "run"
    run.mkdir()
    if kind == "pipe":
        os.mkfifo(run / ".lock")
    elif kind == "folder":
        (run / ".lock").mkdir()
    else:
        (run / ".lock").symlink_to(precious)
        if kind == "link":
            precious.write_text("thesis")
    with pytest.raises(ValueError, match=r"\.lock is not a lock file of ours: remove it"):
        RunLock(run).acquire()
    assert precious.read_text() == "thesis" if kind == "link" else not precious.exists()


def test_leftovers_of_killed_writes_are_swept_and_nothing_else(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.checkpoints.mkdir(parents=True)
    run.last.touch()
    left = [run.checkpoints / ".last.ckpt.abc_12x3.tmp", run.path / ".metrics.csv.q1w2e3r4.tmp"]
    others = [run.checkpoints / "mine.tmp", run.checkpoints / ".notes.tmp", run.path / ".last.ckpt.tmp"]
    for file in (*left, *others):
        file.write_bytes(b"half")
    claim(run.path, resume=True).release()
    assert not any(file.exists() for file in left)
    assert all(file.exists() for file in others)


def test_where_there_is_no_fcntl_a_byte_of_the_file_is_locked(tmp_path: Path) -> None:
    """As on Windows, whose module stands in here."""
    script = """
import sys, types
sys.modules["fcntl"] = None
taken = []
def locking(descriptor, mode, count):
    if taken:
        raise PermissionError(13, "Permission denied")
    taken.append((mode, count))
sys.modules["msvcrt"] = types.SimpleNamespace(LK_NBLCK=2, locking=locking)
from scalablevit.training.run_lock import FolderInUseError, RunLock
RunLock(sys.argv[1]).acquire()
assert taken == [(2, 1)]
try:
    RunLock(sys.argv[1]).acquire()
except FolderInUseError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert "is in use: process" in done.stdout
