"""Two processes train as one run, whoever starts them: Lightning, torchrun on two nodes, SLURM; killed and resumed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import pytest
import torch
from tiny_runs import SMALL, assert_same_result, write_images

from command_line import scalablevit
from scalablevit.weights import load_model

pytestmark = [pytest.mark.slow, pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
EXAMPLE = Path(__file__).parents[2] / "examples" / "slurm_train.sh"
KILLED = str(Path(__file__).with_name("killed_node.py"))
# Two tasks, each on its own node; SIGTERM goes to both, as SLURM sends it.
SRUN = """#!/usr/bin/env bash
shift
export SLURM_NTASKS=2 SLURM_NTASKS_PER_NODE=1 SLURM_NNODES=2 SLURM_JOB_NAME=train SLURM_NODELIST=localhost
export SLURM_LOCALID=0 MASTER_ADDR=127.0.0.1
SLURM_PROCID=0 SLURM_NODEID=0 "$@" & first=$!
SLURM_PROCID=1 SLURM_NODEID=1 "$@" & second=$!
trap 'kill -TERM $first $second' TERM
echo $$ > "$LOG/srun.pid"
wait $first; code=$?
while kill -0 $first 2>/dev/null; do wait $first; code=$?; done
wait $second
exit $code
"""


def words(data: Path) -> list[str]:
    """Of a run of 2 epochs from shards, of which two are in use at once, saved within its epochs too."""
    common = ("--config", "train_folder", *SMALL, "--data.root", str(data), "--data.stream.window", "2")
    return [*common, "--checkpoint-every", "2steps", "--epochs", "2", "--threads", "1", "--timeout", "60s"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards. 7 images a class to validate: 11 on one rank, 10 on the other; 9 steps an epoch."""
    folder = tmp_path_factory.mktemp("data")
    images, shards = write_images(folder / "images", num_train=24, num_val=7), folder / "shards"
    outcome = scalablevit("shard", images, shards, "--size-mb", "0.008", "--workers", "0")
    assert outcome.code == 0, outcome.err
    assert len(list(shards.glob("train/*.bin"))) > 4
    return shards


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The run that nothing disturbs, by --devices 2, and what it said."""
    run = tmp_path_factory.mktemp("whole") / "run"
    line = [sys.executable, "-m", "scalablevit", "fit", *words(data), "--run", str(run), "--devices", "2"]
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT, timeout=200)
    assert done.returncode == 0, done.stderr
    return run, done


def test_two_processes_speak_once_and_count_every_image_once(
    whole: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    run, done = whole
    for line in ("training    72 images", "epoch 1/2", "epoch 2/2", "Next, try:"):
        assert sum(line in said for said in done.stdout.splitlines()) == 1, done.stdout
    assert done.stderr.count("arning: ") == 1, done.stderr  # the run ends within its warm-up
    rows = (run / "metrics.csv").read_text().splitlines()
    assert len(rows) == 3
    best = max(float(dict(zip(rows[0].split(","), row.split(","), strict=True))["val/top1"]) for row in rows[1:])
    results = json.loads((run / "results.json").read_text())
    assert results["count"] == 21
    assert results["top1"] == pytest.approx(best, abs=1e-6)
    network, metadata = load_model(run)
    assert len(metadata["class_names"]) == 3
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def two_nodes(*program: str, **variables: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of two nodes that torchrun starts on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--rdzv-id", "nodes"]
    environment = {**ENVIRONMENT, **variables}
    nodes = [
        subprocess.Popen(
            [*torchrun, *program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(2)
    ]
    said = [node.communicate(timeout=200) for node in nodes]
    return [(node.returncode, *texts) for node, texts in zip(nodes, said, strict=True)]


def seen(folder: Path, epoch: int) -> list[list[int]]:
    """Samples of an epoch that each of two ranks loaded, in order."""
    lines = [[map(int, line.split()) for line in (folder / rank).read_text().splitlines()] for rank in ("0", "1")]
    return [[index for of, index in of_rank if of == epoch] for of_rank in lines]


def test_a_node_is_killed_and_both_resume_from_shards_to_the_bit(
    whole: tuple[Path, subprocess.CompletedProcess[str]], data: Path, tmp_path: Path
) -> None:
    run, before, after = tmp_path / "run", tmp_path / "before", tmp_path / "after"
    before.mkdir()
    after.mkdir()
    killed = two_nodes(KILLED, "fit", *words(data), "--run-folder", str(run), KILL_AT="14", SEEN=str(before))
    codes = sorted(code for code, _, _ in killed)
    errors = "".join(err for _, _, err in killed)
    assert codes == [-signal.SIGKILL, 1], errors
    message = next(line for line in errors.splitlines() if "scalablevit: error: " in line)
    assert errors.count("scalablevit: error: ") == 1
    assert f"rank 1 on {socket.gethostname()} (process " in message
    last = run / "checkpoints" / "last.ckpt"
    assert f"To resume from {last}, by torchrun or srun on every node as before: " in message
    assert len((run / "metrics.csv").read_text().splitlines()) == 2
    steps = torch.load(last)["global_step"] - 9
    assert steps == 3  # within the second epoch
    resumed = two_nodes(KILLED, "fit", "--resume", str(run), KILL_AT="0", SEEN=str(after))
    assert [code for code, _, _ in resumed] == [0, 0], resumed
    assert sum("Next, try:" in out for _, out, _ in resumed) == 1
    assert sorted(chain(*seen(before, 0))) == list(range(72))
    trained = [of_rank[: 4 * steps] for of_rank in seen(before, 1)] + seen(after, 1)
    assert sorted(chain(*trained)) == list(range(72))
    assert_same_result(run, whole[0])


def test_slurm_preempts_requeues_and_resumes_to_the_bit(
    whole: tuple[Path, subprocess.CompletedProcess[str]], data: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": '#!/usr/bin/env bash\necho "$@" >> "$LOG/scontrol"\n'}.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    run = tmp_path / "run"
    variables = {"RUN": str(run), "LOG": str(tmp_path), "SLURM_JOB_ID": str(os.getpid()), "PYTHON": sys.executable}
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    job = [str(EXAMPLE), *words(data)]
    options = {"env": {**ENVIRONMENT, **variables, "PATH": path}, "text": True}
    first = subprocess.Popen(job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)  # type: ignore[call-overload]
    assert first.stdout is not None
    for line in first.stdout:
        if line.startswith("epoch 1/2"):
            break
    os.kill(int((tmp_path / "srun.pid").read_text()), signal.SIGTERM)
    _, said = first.communicate(timeout=100)
    assert (tmp_path / "scontrol").read_text() == f"requeue {os.getpid()}\n", said
    assert said.count("Stopped by SIGTERM: saved to ") == 1, said
    time.sleep(0.1)
    second = subprocess.run(job, capture_output=True, timeout=200, **options)  # type: ignore[call-overload]
    assert second.returncode == 0, second.stderr
    assert_same_result(run, whole[0])
