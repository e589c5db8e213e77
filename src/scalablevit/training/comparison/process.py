"""A training run as a process of its own: what fails or runs out of memory there ends that run alone."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_POLL_SECONDS = 0.5


class ComparisonStopped(BaseException):
    """The user or the system stopped the comparison. Not an `Exception`, as `KeyboardInterrupt` is none.

    Args:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class Signals:
    """Takes the signals that stop a program, and hands them on to the run in progress.

    Attributes:
        received: the last signal; 0: none came.
    """

    def __init__(self) -> None:
        self.received = 0
        self._process: subprocess.Popen[bytes] | None = None

    @contextlib.contextmanager
    def held(self) -> Iterator["Signals"]:
        """Take the signals until the end of the block."""
        earlier = {}
        for signum in _SIGNALS:
            if signal.getsignal(signum) != signal.SIG_IGN:
                earlier[signum] = signal.signal(signum, self._handle)
        try:
            yield self
        finally:
            for signum, handler in earlier.items():
                signal.signal(signum, handler)

    @contextlib.contextmanager
    def passed_to(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Hand signals on to a process until the end of the block."""
        self._process = process
        if self.received:  # it came while the process was being started
            self._send(self.received)
        try:
            yield
        finally:
            self._process = None

    def check(self) -> None:
        """Stop here if a signal has come.

        Raises:
            ComparisonStopped: names the signal.
        """
        if self.received:
            raise ComparisonStopped(self.received)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        is_first, self.received = not self.received, signum
        if is_first and self._process is not None:
            # a stream that is being written to must not be entered a second time from a handler: plain write
            with contextlib.suppress(OSError):  # the terminal may be closed
                os.write(2, b"\nStopping the run after its step, with a checkpoint. Once more stops at once.\n")
        self._send(signum)

    def _send(self, signum: int) -> None:
        if self._process is not None:
            with contextlib.suppress(OSError):  # it has just ended
                self._process.send_signal(signum)


def run_fit(words: Sequence[str], log: Path, signals: Signals, on_wait: Callable[[], None]) -> int:
    """Run `scalablevit fit` and wait for it.

    Args:
        words: behind `fit`.
        log: gets its output, behind what is there.
        signals: handed on to it: it finishes its step and saves a checkpoint.
        on_wait: called twice a second.

    Returns:
        its exit code; negative: the signal that killed it.
    """
    # a group of its own: Ctrl-C in a terminal would reach it twice, and the second one stops without a checkpoint
    apart: dict[str, Any] = {"process_group": 0} if os.name == "posix" else {}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        command = [sys.executable, "-m", "scalablevit", "fit", *words]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, **apart)
        with signals.passed_to(process):
            try:
                while True:
                    try:
                        return process.wait(timeout=_POLL_SECONDS)
                    except subprocess.TimeoutExpired:
                        on_wait()
            finally:
                if process.poll() is None:  # an error of ours, such as a terminal that is closed
                    if not signals.received:  # a second signal would stop it without a checkpoint
                        process.terminate()
                    process.wait()


def reason_in(log: Path, code: int, *, since: int = 0) -> str:
    """Why a run failed, as its output says: its error message, else its last line.

    Args:
        log: of the run.
        code: it ended with.
        since: bytes of the log that are of earlier starts.
    """
    try:
        lines = log.read_bytes()[since:].decode(errors="replace").splitlines()
    except OSError:
        lines = []
    errors = [line for line in lines if line.startswith("scalablevit: error: ")]
    if errors:
        return errors[-1].removeprefix("scalablevit: error: ")
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return f"exit code {code}: {last}"
