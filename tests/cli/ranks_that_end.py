"""A script: runs `scalablevit fit` on two ranks that are forked, not started anew, and lets one of them end or hang.

    python ranks_that_end.py CASES.json RESULTS.json

A case: {"name", "words" (behind fit), "rank", "place", "count", "what"}. `place` is one of step, validation, data and
save; at its `count`-th passing `rank` does `what`: kill (SIGKILL), stop (SIGSTOP) or raise. The ranks find each other
by torchrun's variables, without its agent. A result: {"codes", "seconds" (from the event to the end of the other rank),
"err" (of each rank)}.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only

import scalablevit.classification.task
import scalablevit.training.command
from scalablevit.cli import main
from scalablevit.data.loaders import SeededDataset
from scalablevit.training.module import TrainingModule

SECONDS = 60.0  # that a case may take


def act(what: str, mark: Path) -> None:
    """Do what the case says."""
    mark.write_text(str(time.time()))
    if what == "raise":
        raise RuntimeError("the reader crashed")
    os.kill(os.getpid(), {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}[what])


def arm(case: dict[str, Any], mark: Path) -> None:
    """Have this rank act at the place of the case."""
    places = {
        "step": (TrainingModule, "on_train_batch_start"),
        "validation": (scalablevit.classification.task.ClassificationTask, "validation_step"),
        "data": (SeededDataset, "__getitem__"),
        "save": (torch, "save"),  # the temporary file is open
    }
    owner, name = places[case["place"]]
    original, passed = getattr(owner, name), []

    def and_act(*args: Any, **kwargs: Any) -> Any:
        passed.append(True)
        if len(passed) == case["count"]:
            act(case["what"], mark)
        return original(*args, **kwargs)

    setattr(owner, name, and_act)


def one_rank(rank: int, port: int, case: dict[str, Any], folder: Path) -> None:
    """Run the command as this rank of two; never returns."""
    os.setsid()
    for descriptor in (1, 2):
        file = os.open(folder / f"{rank}.{descriptor}", os.O_WRONLY | os.O_CREAT)
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1) for descriptor in (1, 2))
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "forked"}
    rank_zero_only.rank = rank
    if rank == case["rank"] and "place" in case:
        arm(case, folder / "event")
    code = 1
    try:
        code = main(["fit", *case["words"]])
    except SystemExit as left:
        code = int(left.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(case: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a case in this folder."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = {}
    for rank in (0, 1):
        child = os.fork()
        if child == 0:
            one_rank(rank, port, case, folder)
        ranks[child] = rank
    codes, ended, deadline = [-999, -999], [0.0, 0.0], time.time() + SECONDS
    while ranks and time.time() < deadline:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            rank = ranks.pop(child)
            codes[rank], ended[rank] = os.waitstatus_to_exitcode(status), time.time()
        elif case.get("what") == "stop" and list(ranks.values()) == [case["rank"]]:
            for pid in ranks:  # a launcher would end it; nobody else can
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
    event = float((folder / "event").read_text()) if (folder / "event").exists() else 0.0
    err = [(folder / f"{rank}.2").read_text(errors="replace") for rank in (0, 1)]
    return {"codes": codes, "seconds": ended[1 - case["rank"]] - event, "err": err}


if __name__ == "__main__":
    torch.set_num_threads(1)
    cases, results = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    done = {case["name"]: run(case, results.parent / f"of {case['name']}") for case in cases}
    results.write_text(json.dumps(done))
