"""Thousands of mutated files of each family end well: read, or refused by one message.

No trace, no input that takes over 10 s or 2 GB, nothing written elsewhere, no process started, no pickled code run. The
seed is fixed: a problem is reproduced by `python tests/fuzz/worker.py FAMILY FOLDER NUMBER NUMBER+1`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
INPUTS = int(os.environ.get("SCALABLEVIT_FUZZ_INPUTS", "2000"))
FAMILIES = ("images", "masks", "coco", "checkpoints", "metadata", "recipes")


def run(family: str, folder: Path, first: int, last: int) -> tuple[list[dict[str, Any]], int]:
    """Read inputs in a process of its own: the problems, and the number after the last input that was read."""
    folder.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(HERE / "worker.py"), family, str(folder), str(first), str(last)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", env=environment, check=False)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    problems = [row for row in rows if "problem" in row]
    if done.returncode == 0:
        return problems, last
    reached = Path(f"{folder}.reached")
    assert reached.exists(), done.stderr[-3000:]
    number = int(reached.read_text())
    reason = f"ended with {done.returncode} (it hung, or crashed)\n{done.stderr[-3000:]}"
    return [*problems, {"number": number, "problem": reason}], number + 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", FAMILIES)
def test_mutated_files_are_read_or_refused(family: str, tmp_path: Path) -> None:
    problems: list[dict[str, Any]] = []
    first = 0
    while first < INPUTS and len(problems) < 50:
        found, first = run(family, tmp_path / f"from_{first}", first, INPUTS)
        problems += found
    assert not problems, "\n".join(f"{family} {row['number']}: {row['problem'][-1500:]}" for row in problems[:10])
    assert not list(tmp_path.rglob("canary")), "a pickle ran its code"


@pytest.mark.slow
def test_the_harness_sees_what_it_looks_for(tmp_path: Path) -> None:
    """Each kind of problem is reported, so that silence means something."""
    script = tmp_path / "families.py"
    script.write_text(
        "import os, time\n"
        "from pathlib import Path\n"
        "class Bad:\n"
        "    samples = {}\n"
        "    def __init__(self, folder): self.folder = folder\n"
        "    def write(self, number):\n"
        "        self.end = time.process_time() + 1\n"
        "        return self.folder\n"
        "    def read(self, path, number):\n"
        "        if number == 0: raise KeyError('x')\n"
        "        if number == 1: raise ValueError('')\n"
        "        if number == 2: raise ValueError('told')\n"
        "        if number == 3: open(f'{path}.elsewhere/../../outside', 'w')\n"
        "        if number == 4: os.system('true')\n"
        "        if number == 5: bytearray(3 * 2**30)\n"
        "        while number == 6 and time.process_time() < self.end: pass\n"
        "        if number == 7: time.sleep(99)\n"
        "FAMILIES = {'bad': Bad}\n"
    )
    folder = tmp_path / "inputs"
    folder.mkdir()
    text = (
        (HERE / "worker.py")
        .read_text()
        .replace("WAITING = 60", "WAITING = 15")
        .replace("COMPUTING = 10", "COMPUTING = 0.5")
    )
    (tmp_path / "worker.py").write_text(text)
    command = [sys.executable, str(tmp_path / "worker.py"), "bad", str(folder), "0", "9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": ""})
    problems = {row["number"]: row["problem"] for row in map(json.loads, done.stdout.splitlines())}
    assert "KeyError" in problems[0]
    assert "without a message" in problems[1]
    assert 2 not in problems
    assert "outside" in problems[3]
    assert "os.system" in problems[4]
    assert "MemoryError" in problems[5]
    assert "took" in problems[6]
    assert done.returncode != 0
    assert "in read" in done.stderr
