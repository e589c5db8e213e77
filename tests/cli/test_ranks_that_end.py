"""A rank that dies or hangs ends the run on every rank, in time, with one message; the run then resumes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny_runs import SMALL, write_images

from command_line import scalablevit

SCRIPT = Path(__file__).with_name("ranks_that_end.py")
HOST = socket.gethostname()
# 12 batches of 4 on two ranks: 4 steps an epoch; one validation batch on each
WHERE: dict[str, dict[str, Any]] = {
    "kill 1 in a step": {"rank": 1, "place": "step", "count": 6, "what": "kill"},
    "kill 0 in a step": {"rank": 0, "place": "step", "count": 6, "what": "kill"},
    "raise in a data worker of 1": {"rank": 1, "place": "data", "count": 10, "what": "raise"},
    "stop 1 in a step": {"rank": 1, "place": "step", "count": 6, "what": "stop"},
    "stop 0 in a step": {"rank": 0, "place": "step", "count": 6, "what": "stop"},
    "kill 1 in the validation": {"rank": 1, "place": "validation", "count": 2, "what": "kill"},
    "kill 0 in a save": {"rank": 0, "place": "save", "count": 3, "what": "kill"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def results(folder: Path) -> dict[str, Any]:
    data = write_images(folder / "data", num_train=11, num_val=3)
    cases = []
    for name, where in WHERE.items():
        words = ["--config", "train_folder", *SMALL, "--data.root", str(data), "--run", str(folder / "runs" / name)]
        words += ["--epochs", "3", "--threads", "1", "--timeout", "5s", "--trainer.num_sanity_val_steps", "0"]
        words += ["--data.num_workers=1"] if where["place"] == "data" else []
        cases.append({"name": name, "words": words, **where})
    junk = write_images(folder / "junk", classes=["a", "b"], num_val=1)  # of two images, the second is rank 1's
    (junk / "val" / "b" / "pic 0.png").write_bytes(b"junk")
    words = ["--config", "train_folder", *SMALL, "--data.root", str(junk), "--run", str(folder / "runs" / "junk")]
    cases.append({"name": "junk", "rank": 1, "words": [*words, "--data.max_unreadable", "0"]})
    (folder / "cases.json").write_text(json.dumps(cases))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SCALABLEVIT_PROCESS_TIMEOUT": "10"}
    words = [sys.executable, str(SCRIPT), str(folder / "cases.json"), str(folder / "results.json")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", WHERE)
def test_the_other_rank_ends_too(name: str, results: dict[str, Any], folder: Path) -> None:
    result, where = results[name], WHERE[name]
    rank, other = where["rank"], 1 - where["rank"]
    said = "".join(result["err"])
    assert result["codes"][other] == 1, said
    assert result["codes"][rank] != 0
    assert result["seconds"] < (20 if where["what"] == "stop" else 10), said
    assert said.count("scalablevit: error: ") == 1, said
    message = said.partition("scalablevit: error: ")[2].splitlines()[0]
    assert message.startswith(f"rank {rank} on {HOST} (process "), message
    told = {"kill": "ended without a word", "stop": "does not answer", "raise": "failed: "}[where["what"]]
    assert told in message
    if (folder / "runs" / name / "checkpoints" / "last.ckpt").is_file():
        assert "To resume from " in message
        assert f"fit --resume '{folder / 'runs' / name}'" in message
    else:
        assert message.endswith("Nothing was saved")
    left = [process for process in psutil.process_iter() if name in " ".join(_words(process))]
    assert left == []


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.mark.slow
def test_unreadable_images_of_one_rank_stop_both(results: dict[str, Any]) -> None:
    said = "".join(results["junk"]["err"])
    assert results["junk"]["codes"] == [1, 1], said
    assert said.count("1 images could not be read, more than max_unreadable=0 allows") == 1, said
    assert f"rank 1 on {HOST} (process " in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_folder_is_free_and_the_run_goes_on(results: dict[str, Any], folder: Path) -> None:
    """From the end of the first epoch, on one process: the killed write of the second left nothing behind."""
    run = folder / "runs" / "kill 0 in a save"
    outcome = scalablevit("fit", "--resume", run, "--epochs", "2", "--data.batch_size", "8")
    assert outcome.code == 0, outcome.err
    assert list((run / "checkpoints").glob(".*tmp")) == []
    assert len((run / "metrics.csv").read_text().splitlines()) == 3
