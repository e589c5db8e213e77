"""Data workers: what they do with signals, and what is said where one of them ends or hangs."""

import contextlib
import math
import multiprocessing
import multiprocessing.queues
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import torch.utils.data

_WEEK = 7 * 86400.0
_NO_SHARED_MEMORY = 74  # a worker's exit code
_SHARED_MEMORY = re.compile(r"shared memory|Bus error|No space left on device|</torch_\d+", re.IGNORECASE)
_HANDING_OVER = re.compile(r"unable to (allocate|open) shared memory|unable to \w+ (file|memory)\b.*</torch_\d+")


class DataWorkerError(ValueError):
    """A data worker ended or hangs; the message is for the user."""


def prepare_worker(worker_id: int) -> None:
    """In a data worker: leave signals to the main process, and end where a batch cannot be handed over."""
    outlive_signals(worker_id)
    # otherwise the batch is lost, and the main process waits for it for ever
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]


def _end_worker(error: BaseException, batch: object) -> None:
    os._exit(_NO_SHARED_MEMORY if _SHARED_MEMORY.search(str(error)) else 1)


def outlive_signals(worker_id: int) -> None:
    """In a data worker: leave Ctrl-C, SIGTERM and SIGHUP, which often go to a whole group, to the main process.

    The main process finishes its step with the worker's help, saves, and then ends the worker, by SIGTERM
    too: of that signal only the main process's own counts. Where the system does not tell who sent a signal
    (macOS), SIGTERM ends the worker as usual.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    main_process = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def wait_for_the_main_process() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != main_process:
            pass
        os._exit(0)

    threading.Thread(target=wait_for_the_main_process, daemon=True).start()


def hear_of_ended_workers() -> None:
    """Have torch's handler of SIGCHLD in place, by which a worker that ends is noticed at once.

    Torch sets it once a process, and Lightning ends a training by putting back the handlers of before it.
    """
    handling = torch.utils.data._utils.signal_handling
    if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) in (signal.SIG_DFL, signal.SIG_IGN):
        handling._SIGCHLD_handler_set = False
        handling._set_SIGCHLD_handler()


def timeout_seconds() -> float:
    """How long a loader waits for a batch before its workers count as hanging: SCALABLEVIT_DATA_TIMEOUT, or 300."""
    return seconds_of("SCALABLEVIT_DATA_TIMEOUT", default=300.0)


def seconds_of(variable: str, *, default: float) -> float:
    """Read a length of time from an environment variable, in seconds.

    Args:
        variable: its name.
        default: where it is not set.

    Raises:
        ValueError: its value is no number of seconds from 1 to a week.
    """
    text = os.environ.get(variable, "")
    try:
        seconds = float(text or default)
    except ValueError:
        seconds = math.nan
    if not 1 <= seconds <= _WEEK:
        raise ValueError(
            f"the environment variable {variable} is {text!r}, and must be a number of seconds from 1 to {_WEEK:.0f}, "
            f"such as {default:.0f}"
        )
    return seconds


_waiting_since: float | None = None
_waited = 0.0


@contextlib.contextmanager
def waiting_for_data() -> Iterator[None]:
    """While a loader waits for a batch: see `seconds_waited` and `seconds_waited_in_all`."""
    global _waiting_since, _waited
    began = _waiting_since = time.monotonic()
    try:
        yield
    finally:
        _waiting_since = None
        _waited += time.monotonic() - began


def seconds_waited() -> float:
    """How long this process has been waiting for a batch; 0: it is not."""
    since = _waiting_since
    return 0.0 if since is None else time.monotonic() - since


def seconds_waited_in_all() -> float:
    """How long this process has waited for batches since it was started, of training and of validation."""
    return _waited


def kill_workers() -> None:
    """End what is left of the data workers: one that hangs would hold up the end of its process."""
    for child in multiprocessing.active_children():
        with contextlib.suppress(Exception):
            child.kill()


@contextlib.contextmanager
def explained_workers() -> Iterator[None]:
    """Turn what torch raises for a worker that ended or hangs into a message for the user.

    Raises:
        DataWorkerError: names cause and remedy.
    """
    try:
        yield
    except (RuntimeError, EOFError, ConnectionError) as error:
        raise_for_workers(error)
        raise


def raise_for_workers(error: BaseException, batches: Any = None) -> None:
    """Raise what a user can act on, if the error comes from a data worker.

    Args:
        error: what was raised while batches were made; torch also raises it anywhere, from a signal handler.
        batches: the iterator over batches, whose workers know their exit codes; None: not at hand.

    Raises:
        DataWorkerError: names cause and remedy.
    """
    workers = getattr(batches, "_workers", [])
    if isinstance(error, EOFError | ConnectionError) and workers:
        try:
            time.sleep(1)  # the worker's end was seen before its exit code
        except RuntimeError as told:
            error = told
    said = str(error)
    codes = [worker.exitcode for worker in workers if worker.exitcode]
    # Windows has neither signal
    names = {"SIGKILL": "signal: Killed", "SIGBUS": "Bus error"}
    named = {-getattr(signal, name): what for name, what in names.items() if hasattr(signal, name)}
    if isinstance(error, EOFError | ConnectionError) and codes:
        said = f"DataLoader worker (pid {workers[0].pid}) exited unexpectedly"
    if "exited unexpectedly" in said and "exit code" not in said:
        said += "".join(f" {named.get(code, f'with exit code {code}')}" for code in codes)
    reason = why_a_worker_failed(said)
    if reason is not None:
        raise DataWorkerError(reason) from error


def why_a_worker_failed(said: str) -> str | None:
    """What happened to a data worker, and the remedy; None: the error is of another kind.

    Args:
        said: text of an error that torch raised.
    """
    hands_over = _HANDING_OVER.search(said) is not None
    ended = re.search(r"DataLoader worker \(pid\(?s?\)? ?[\d, ]+\) (.*)", said, re.DOTALL)
    if "DataLoader timed out" in said:
        return (
            f"no data worker handed over a batch for {timeout_seconds():.0f} s: the disk or network that the data lies "
            "on may hang. Check it; or load in the training process with --data.num_workers 0, or wait longer by "
            "the environment variable SCALABLEVIT_DATA_TIMEOUT (seconds)"
        )
    if ended is None and not hands_over:
        return None
    what = said if ended is None else ended[1]
    if hands_over or f"exit code {_NO_SHARED_MEMORY}" in what or _SHARED_MEMORY.search(what):
        return (
            f"the data workers ran out of shared memory{_shared_memory()}: give a container more, such as docker run "
            "--shm-size 8g; or lower data.num_workers, where 0 needs none (--data.num_workers 0), or data.batch_size"
        )
    if "signal: Killed" in what:
        return (
            "a data worker was killed (SIGKILL), most likely because memory ran out: lower data.num_workers "
            "(--data.num_workers 0 loads in the training process) or data.batch_size"
        )
    first = what.strip().splitlines()[0].rstrip(". ") if what.strip() else "ended"
    return (
        f"a data worker ended ({first}): a file may crash the library that reads it, which `scalablevit check-data` "
        "finds; --data.num_workers 0 loads in the training process"
    )


def _shared_memory() -> str:
    with contextlib.suppress(OSError):
        usage: Any = shutil.disk_usage("/dev/shm")
        return f" (/dev/shm has {usage.total / 2**20:,.0f} MB)"
    return ""
