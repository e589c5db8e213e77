"""Kill runs, fill disks and take shared memory away, again and again; print what survived and what was lost.

    python benchmarks/soak.py
    python benchmarks/soak.py --kills 40 --seed 7
    python benchmarks/soak.py --shards --kills 0 --mid-epoch 10 --disks 0 --shm

A run of `scalablevit fit` is compared with one that nobody disturbed: after kills (SIGKILL, SIGTERM, SIGINT at random
moments) and `--resume`, its weights must be the same to the bit. A disk is full where a file may not grow beyond a
limit (RLIMIT_FSIZE) or, as root on Linux, where the run folder lies on a small tmpfs; shared memory is small where
/dev/shm is one. Every scene must end by itself, with one message and without a stack trace.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file

from scalablevit.classification.sharded import shard_source
from scalablevit.data.stream.index import INDEX_NAME
from scalablevit.data.stream.write import write_shards

COMMAND = [sys.executable, "-m", "scalablevit", "fit"]
SETTINGS = ("--model.variant", "scalablevit_atto", "--data.image_size", "32", "--data.batch_size", "8")
LONGEST = 600  # seconds that a scene may take
NO_TRACE = "Traceback (most recent call last)"
BEGIN = "==== begin ===="  # a line before what each command says
TOLD = ("scalablevit: error: ", "Stopped by SIG")


class LostError(Exception):
    """A scene that did not end as it must."""


def write_images(folder: Path, *, classes: int = 3, each: int = 24) -> Path:
    """Write a folder per class with noise around a colour of its own, for training and for validation."""
    rng = np.random.default_rng(0)
    for part, count in (("train", each), ("val", 4)):
        for label in range(classes):
            (folder / part / f"class_{label}").mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (40, 40, 3), np.uint8)
                pixels[..., label % 3] += 120
                Image.fromarray(pixels).save(folder / part / f"class_{label}" / f"{i}.png")
    return folder


def words(data: Path, run: Path, *, epochs: int, workers: int = 0, every: str | None = None) -> list[str]:
    """Build the command line of a run; `every`: how often it is saved within epochs."""
    given = ["--config", "train_folder", *SETTINGS, "--data.root", str(data), "--epochs", str(epochs)]
    if (data / INDEX_NAME).exists():
        given += ["--data.stream.window", "3"]
    saving = [] if every is None else ["--checkpoint-every", every, "--keep-checkpoints", "2"]
    return [*COMMAND, *given, "--data.num_workers", str(workers), "--run", str(run), *saving]


def start(command: Sequence[str], folder: Path, **options: object) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, its output in `folder`."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("a") as output:
        output.write(f"{BEGIN}\n")
        output.flush()
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            command, stdout=output, stderr=output, text=True, env=environment, start_new_session=True, **options
        )


def finish(process: subprocess.Popen[str], folder: Path) -> int:
    """Wait for the end of a process; its exit code.

    Raises:
        LostError: it does not end, or there is a stack trace, or it fails and does not say why.
    """
    try:
        code = process.wait(LONGEST)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise LostError(f"it did not end within {LONGEST} s") from None
    text = (folder / "output.txt").read_text(errors="replace")
    if NO_TRACE in text:
        raise LostError(f"a stack trace: {text[text.index(NO_TRACE) :][-600:]}")
    said = text.rpartition(BEGIN)[2]
    if code > 0 and not any(words in said for words in TOLD):
        raise LostError(f"it ended with {code} and no message: {said[-600:]}")
    return code


def assert_same(run: Path, other: Path) -> None:
    """Compare the weights of two runs to the bit."""
    ours, theirs = load_file(run / "model.safetensors"), load_file(other / "model.safetensors")
    different = [name for name in theirs if name not in ours or not np.array_equal(ours[name], theirs[name])]
    if different or set(ours) != set(theirs):
        raise LostError(f"{len(different)} of {len(theirs)} tensors differ from the undisturbed run")


def saved_step(run: Path) -> int:
    """The optimizer step at which the last checkpoint was saved."""
    return int(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True, mmap=True)["global_step"])


def wait_for_checkpoint(run: Path, process: subprocess.Popen[str], *, since: float) -> None:
    """Wait until a process has written a checkpoint, or ends: from then on it is in the middle of an epoch."""
    last = run / "checkpoints" / "last.ckpt"
    while process.poll() is None and not (last.is_file() and last.stat().st_mtime > since):
        time.sleep(0.005)


def training_seconds(run: Path) -> float:
    """How long a run trained and validated, without its start."""
    epochs = json.loads((run / "timing.json").read_text())["epochs"]
    return float(sum(epoch["training_seconds"] + epoch["validation_seconds"] for epoch in epochs))


def resume(run: Path, data: Path, folder: Path, *, epochs: int) -> None:
    """Resume a run, or start it again where it had no checkpoint, until it ends with 0."""
    has_checkpoint = (run / "checkpoints" / "last.ckpt").is_file()
    again = [*COMMAND, "--resume", str(run)] if has_checkpoint else words(data, run, epochs=epochs)
    if not has_checkpoint and run.exists():
        run.rename(run.with_name(f"{run.name}-without-checkpoint-{time.monotonic_ns()}"))
    code = finish(start(again, folder), folder)
    if code != 0:
        raise LostError(f"the resumed run ended with {code}: {(folder / 'output.txt').read_text()[-600:]}")


def killed(
    data: Path,
    folder: Path,
    undisturbed: Path,
    *,
    rng: random.Random,
    seconds: float,
    epochs: int,
    every: str | None = None,
) -> str:
    """Kill a run up to three times, then let it end.

    One that is saved within epochs is killed by SIGKILL alone, `seconds` at most behind its first checkpoint.
    """
    run, told = folder / "run", []
    command = words(data, run, epochs=epochs, every=every)
    kinds = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT) if every is None else (signal.SIGKILL,)
    for _ in range(rng.randrange(1, 4)):
        began, process = time.time(), start(command, folder)
        if every is not None:
            wait_for_checkpoint(run, process, since=began)
        moment = rng.uniform(0.1 if every is None else 0.0, 1.05) * seconds
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        kind = rng.choice(kinds)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, kind)
            told.append(f"{kind.name} at {moment:.1f} s")
        finish(process, folder)
        if every is not None and told:
            told[-1] += f", saved at step {saved_step(run)}"
        if (run / "checkpoints" / "last.ckpt").is_file():
            command = [*COMMAND, "--resume", str(run)]
        elif run.exists():
            run.rename(folder / f"without-checkpoint-{len(told)}")
    resume(run, data, folder, epochs=epochs)
    assert_same(run, undisturbed)
    left = [path.name for path in (run / "checkpoints").iterdir() if path.name.endswith(".tmp")]
    if left:
        raise LostError(f"temporary files are left: {left}")
    return ", ".join(told) or "ended before the signal"


def full_by_limit(data: Path, folder: Path, undisturbed: Path, *, size: int, epochs: int) -> str:
    """Let no file grow beyond a limit; then lift it and resume."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    run = folder / "run"
    code = finish(start(words(data, run, epochs=epochs), folder, preexec_fn=limit), folder)
    if code == 0:
        return f"files of {size / 2**20:.1f} MiB were enough"
    resume(run, data, folder, epochs=epochs)
    assert_same(run, undisturbed)
    return f"full at {size / 2**20:.1f} MiB a file, then resumed"


@contextlib.contextmanager
def tmpfs(folder: Path, size: int) -> Iterator[Path]:
    """Mount a small file system in memory; needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def full_disk(data: Path, folder: Path, undisturbed: Path, *, size: int, epochs: int) -> str:
    """Train onto a small disk until it is full; enlarge it and resume."""
    with tmpfs(folder / "disk", size) as disk:
        code = finish(start(words(data, disk / "run", epochs=epochs), folder), folder)
        if code == 0:
            return f"a disk of {size / 2**20:.0f} MiB was enough"
        subprocess.run(["mount", "-o", "remount,size=500m", str(disk)], check=True)
        resume(disk / "run", data, folder, epochs=epochs)
        assert_same(disk / "run", undisturbed)
    return f"full at {size / 2**20:.0f} MiB, then resumed"


def small_shm(data: Path, folder: Path, *, size: str, epochs: int) -> str:
    """Train with workers where /dev/shm is small: it must train, or end with a message that names the remedy."""
    run = folder / "run"
    large = ["--data.image_size", "320", "--data.batch_size", "24"]
    command = [*words(data, run, epochs=epochs, workers=2), *large]
    script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
    process = start(["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command], folder)
    code = finish(process, folder)
    text = (folder / "output.txt").read_text()
    if code != 0 and "num_workers" not in text:
        raise LostError(f"ended with {code} and no remedy: {text[-600:]}")
    return "trained" if code == 0 else "ended with the remedy"


def may_mount() -> bool:
    """Tell whether this process may mount file systems."""
    command = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def scenes(
    data: Path, undisturbed: Path, args: argparse.Namespace, seconds: float
) -> Iterator[tuple[str, Callable[[Path], str]]]:
    """List the scenes by name."""
    rng, epochs = random.Random(args.seed), args.epochs
    for i in range(args.kills):
        own = random.Random(rng.random())
        yield (
            f"kill {i + 1}",
            lambda folder, own=own: killed(data, folder, undisturbed, rng=own, seconds=seconds, epochs=epochs),
        )
    for i in range(args.mid_epoch):
        own = random.Random(rng.random())
        yield (
            f"kill within an epoch {i + 1}",
            lambda folder, own=own: killed(
                data,
                folder,
                undisturbed,
                rng=own,
                seconds=training_seconds(undisturbed),
                epochs=epochs,
                every="2steps",
            ),
        )
    for i in range(args.disks):
        size = int(2 ** rng.uniform(10, 23))
        yield (
            f"file size {i + 1}",
            lambda folder, size=size: full_by_limit(data, folder, undisturbed, size=size, epochs=epochs),
        )
    if not may_mount():
        print("small disks and small /dev/shm are left out: this process may not mount", flush=True)
        return
    for i in range(args.disks):
        size = int(rng.uniform(0.1, 24) * 2**20)
        yield (
            f"full disk {i + 1}",
            lambda folder, size=size: full_disk(data, folder, undisturbed, size=size, epochs=epochs),
        )
    for size in args.shm:
        yield f"/dev/shm of {size}", lambda folder, size=size: small_shm(data, folder, size=size, epochs=1)


def main() -> int:
    """Read the flags, play the scenes, print the account."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="runs that are killed")
    parser.add_argument(
        "--mid-epoch", type=int, default=10, help="runs that are saved every two steps and killed by SIGKILL"
    )
    parser.add_argument("--disks", type=int, default=5, help="runs with a file size limit, and as many on small disks")
    parser.add_argument("--shm", nargs="*", default=["1m", "8m", "64m"], metavar="SIZE", help="sizes of /dev/shm")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument(
        "--shards", action="store_true", help="train from shards of a few images each, by a small window"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file for the account")
    args = parser.parse_args()
    survived, lost = list[dict[str, str]](), list[dict[str, str]]()
    with tempfile.TemporaryDirectory() as top:
        data, undisturbed = write_images(Path(top) / "data"), Path(top) / "undisturbed"
        if args.shards:
            write_shards(shard_source(data), Path(top) / "shards", version="0", size_mb=0.04, num_workers=0)
            data = Path(top) / "shards"
        began = time.monotonic()
        if finish(start(words(data, undisturbed, epochs=args.epochs), Path(top)), Path(top)) != 0:
            print((Path(top) / "output.txt").read_text())
            return 1
        seconds = time.monotonic() - began
        print(f"undisturbed: {seconds:.0f} s", flush=True)
        for i, (name, play) in enumerate(scenes(data, undisturbed, args, seconds)):
            folder = Path(top) / f"scene_{i}"
            folder.mkdir()
            try:
                survived.append({"scene": name, "what": play(folder)})
                print(f"survived  {name}: {survived[-1]['what']}", flush=True)
            except (LostError, OSError, subprocess.SubprocessError) as error:
                lost.append({"scene": name, "what": str(error)})
                print(f"LOST      {name}: {error}", flush=True)
    print(f"{len(survived)} survived, {len(lost)} lost")
    if args.output is not None:
        args.output.write_text(json.dumps({"seed": args.seed, "survived": survived, "lost": lost}, indent=2) + "\n")
    return 1 if lost else 0


if __name__ == "__main__":
    raise SystemExit(main())
