"""The processes of a run know of each other: all train the same, and where one ends or hangs, all end."""

import contextlib
import faulthandler
import json
import os
import secrets
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from torch.distributed import DistError, PrefixStore, Store, TCPStore

from scalablevit.data.workers import kill_workers, seconds_of
from scalablevit.printable import printable
from scalablevit.training.agreement import differences
from scalablevit.training.rank_lines import Line, open_server

_ANSWER_SECONDS = 5.0  # that a process has to answer whether it is there
_STOP_SECONDS = 2.0  # for the first process to stop too
_ORDER_SECONDS = 9.0  # that the first process has to decide what happened


class PeerEndedError(ConnectionError):
    """Another process of the run ended or hangs; its message gives the reason."""


def process_timeout() -> float:
    """How long a run goes on at most after one of its processes ended: SCALABLEVIT_PROCESS_TIMEOUT, or 30 seconds."""
    return seconds_of("SCALABLEVIT_PROCESS_TIMEOUT", default=30.0)


@dataclass
class Peer:
    """Another process, as the first one knows it."""

    rank: int
    host: str
    pid: int
    line: Line
    facts: Mapping[str, str] = field(default_factory=dict)
    has_left: bool = False
    is_stuck: bool = False
    has_answered: bool = False

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (process {self.pid})"


class RankWatch:
    """What one process of a run knows of the others. The first one (rank 0) has a line to each, they have one to it.

    A process that ends is noticed by its line at once. One that hangs is noticed by the others' exchange of gradients,
    which fails after the timeout of collectives; then the first process asks each whether it is there. What happened is
    printed once, and every process ends: on its own where its exchange fails too, else after `process_timeout`.

    Args:
        rank: of this process.
        world_size: of all.
        is_first_of_node: print where the first process is gone.
        address: host and port of the first process's store, as torch.distributed uses it.
        timeout: seconds that processes wait for each other.
        facts: what all must agree on, see `agreement.facts`.
        meeting: how many trainings and evaluations the processes had together before this one.
        children: processes that this one started.
        hint: how to resume; for the message.
    """

    def __init__(
        self,
        *,
        rank: int,
        world_size: int,
        is_first_of_node: bool,
        address: tuple[str, int],
        timeout: float,
        facts: Mapping[str, str],
        meeting: int = 0,
        children: Sequence[subprocess.Popen[Any]] = (),
        hint: Callable[[], str] = str,
    ) -> None:
        self.rank, self.world_size = rank, world_size
        self.verdict: str | None = None
        self._is_first_of_node = is_first_of_node
        self._address, self._timeout, self._meeting = address, timeout, meeting
        self._facts, self._children, self._hint = facts, children, hint
        self._seconds_to_end = process_timeout()
        self._host = socket.gethostname()
        self._peers: dict[int, Peer] = {}
        self._first: Peer | None = None
        self._store: Store | None = None
        self._decided = threading.Event()
        self._lock = threading.Lock()
        self._is_over = False
        self._thread: threading.Thread | None = None
        self._asked_at: float | None = None
        self._stuck_at: float | None = None

    # ---- before training

    def meet(self) -> None:
        """Wait for all processes, and compare what they are about to train.

        Raises:
            ValueError: on the first process: one differs, ended or did not come; names it and what is wrong.
            SystemExit: on the others, with code 1.
        """
        deadline = time.monotonic() + self._timeout
        if self.rank == 0:
            try:
                self._gather(deadline)
                self._compare()
            except BaseException:
                for peer in self._peers.values():
                    peer.line.send(refused=True)
                raise
        else:
            self._report(deadline)
        self._thread = threading.Thread(target=self._watch, name="rank-watch", daemon=True)
        self._thread.start()

    def _open_store(self, timeout: float) -> Store:
        """The store of torch.distributed, before its processes have met: the first process or its launcher has it."""
        host, port = self._address
        is_there = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        limit = timedelta(seconds=max(1.0, timeout))
        try:
            store = TCPStore(
                host,
                port,
                is_master=self.rank == 0 and not is_there,
                timeout=limit,
                wait_for_workers=False,
                multi_tenant=True,
            )
        except (DistError, RuntimeError) as error:
            raise ValueError(
                f"the processes cannot meet at {host}:{port} ({str(error).splitlines()[0]}): the first node's address "
                "must be reachable and the port free; set MASTER_ADDR and MASTER_PORT, or --rdzv-endpoint of torchrun"
            ) from error
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        return PrefixStore(f"scalablevit/{attempt}/{self._meeting}", store)

    def _gather(self, deadline: float) -> None:
        """On the first process: have a line to each other one."""
        server, password = open_server(self.world_size)
        self._store = self._open_store(deadline - time.monotonic())
        self._store.set("first", json.dumps({"port": server.getsockname()[1], "password": password}))
        with server:
            while len(self._peers) < self.world_size - 1:
                self._check_children()
                missing = [rank for rank in range(1, self.world_size) if rank not in self._peers]
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"{_ranks(missing)} of {self.world_size} did not come within {self._timeout:.0f} s: look at "
                        "the output of each node; start each with the same command and version of scalablevit"
                    )
                server.settimeout(0.25)
                with contextlib.suppress(TimeoutError):
                    self._welcome(Line(server.accept()[0]), password)

    def _welcome(self, line: Line, password: str) -> None:
        """Take up a process that knows the password."""
        try:
            hello = line.receive_one(10.0)
        except TimeoutError:
            hello = None
        if hello is None or not secrets.compare_digest(str(hello.get("password")), password):
            line.close()
            return
        peer = Peer(int(hello["rank"]), str(hello["host"]), int(hello["pid"]), line, hello["facts"])
        if "absent" in hello:
            line.send(heard=True)
            raise ValueError(f"{peer} cannot begin: {hello['absent']}")
        self._peers[peer.rank] = peer

    def _check_children(self) -> None:
        for i, child in enumerate(self._children, 1):
            code = child.poll()
            if code is not None:
                raise ValueError(f"rank {self.rank + i} on {self._host} {_how_it_ended(code)} before training began")

    def _compare(self) -> None:
        """On the first process: refuse or begin, on every one."""
        for peer in sorted(self._peers.values(), key=lambda peer: peer.rank):
            differs = differences(peer.facts, self._facts)
            if differs:
                raise ValueError(
                    f"{peer} is not about to train what rank 0 on {self._host} is: {differs}. Start every node with "
                    "the same command, recipe, data and versions"
                )
        for peer in self._peers.values():
            peer.facts = {}
            peer.line.send(begin=True, host=self._host, pid=os.getpid())

    def _report(self, deadline: float) -> None:
        """On the others: call the first process, and hear whether to begin."""
        line, password = self._call(deadline)
        hello = {"rank": self.rank, "host": self._host, "pid": os.getpid(), "facts": dict(self._facts)}
        line.send(password=password, **hello)
        try:
            answer = line.receive_one(deadline - time.monotonic() + 5.0)
        except TimeoutError:
            answer = None
        if answer is None or "begin" not in answer:  # the first process says why
            raise SystemExit(1)
        self._first = Peer(0, str(answer["host"]), int(answer["pid"]), line)

    def excuse(self, why: str) -> bool:
        """Instead of `meet`: tell the first process that this one cannot begin.

        Returns:
            whether the first one prints it.
        """
        with contextlib.suppress(ValueError, SystemExit, TimeoutError):
            line, password = self._call(time.monotonic() + self._timeout)
            line.send(password=password, rank=self.rank, host=self._host, pid=os.getpid(), facts={}, absent=why)
            return line.receive_one(self._timeout) is not None
        return False

    def _call(self, deadline: float) -> tuple[Line, str]:
        parent = os.getppid()
        while True:
            try:
                socket.create_connection(self._address, timeout=5.0).close()
                break
            except OSError as error:
                if os.getppid() != parent:  # who started this process is gone
                    raise SystemExit(1) from error
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"rank {self.rank} on {self._host} did not reach the first process at "
                        f"{self._address[0]}:{self._address[1]} within {self._timeout:.0f} s ({error})"
                    ) from error
                time.sleep(0.2)
        try:
            store = self._open_store(deadline - time.monotonic())
            where = json.loads(store.get("first"))
            connection = socket.create_connection((self._address[0], where["port"]), timeout=10.0)
        except (DistError, RuntimeError, OSError) as error:
            raise SystemExit(1) from error  # the first process ended
        return Line(connection), where["password"]

    # ---- during training

    def _watch(self) -> None:
        """In a thread: hear of the other processes until the run is over."""
        with selectors.DefaultSelector() as lines:
            for peer in [self._first] if self._first is not None else self._peers.values():
                peer.line.socket.settimeout(1.0)
                lines.register(peer.line.socket, selectors.EVENT_READ, peer)
            while self.verdict is None and not self._is_over and lines.get_map():
                for key, _ in lines.select(timeout=0.25):
                    self._hear(key.data, lines)
                self._think()
        if self.verdict is not None and not self._is_over:
            self._end_at_last()

    def _hear(self, peer: Peer, lines: selectors.BaseSelector) -> None:
        with contextlib.suppress(TimeoutError):
            messages = peer.line.receive()
            if messages is None:
                lines.unregister(peer.line.socket)
                if not peer.has_left:
                    self._decide(f"{peer} {self._how(peer)}")
                return
            for message in messages:
                self._take(peer, message)

    def _take(self, peer: Peer, message: Mapping[str, Any]) -> None:
        if "left" in message:
            peer.has_left = True
        elif "ended" in message:  # the first process has printed why
            self._decide(None)
        elif "failed" in message:
            self._decide(f"{peer} failed: {message['failed']}")
        elif "there" in message:
            peer.line.send(here=True)
        elif "here" in message:
            peer.has_answered = True
        elif "stuck" in message:
            peer.is_stuck = peer.has_answered = True
            self._ask()

    def _ask(self) -> None:
        """On the first process: ask each whether it is there."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            for peer in self._peers.values():
                peer.line.send(there=True)

    def _think(self) -> None:
        """Decide where an exchange failed and the time for answers is over."""
        now = time.monotonic()
        if self._first is not None:
            if self._stuck_at is not None and now - self._stuck_at > _ORDER_SECONDS:
                self._decide(f"{self._first} does not answer")
            return
        if self._stuck_at is not None:
            self._ask()
        if self._asked_at is None or now - self._asked_at < _ANSWER_SECONDS:
            return
        staying = [peer for peer in self._peers.values() if not peer.has_left]
        silent = [peer for peer in staying if not peer.has_answered]
        elsewhere = [str(peer) for peer in staying if not peer.is_stuck]
        if self._stuck_at is None:
            elsewhere.insert(0, f"rank 0 on {self._host} (process {os.getpid()})")
        if silent:
            self._decide(f"{' and '.join(map(str, silent[:4]))} {'do' if len(silent) > 1 else 'does'} not answer")
        elif elsewhere:
            self._decide(f"{' and '.join(elsewhere[:4])} did not come to an exchange of all processes in time")
        else:
            self._decide("the exchange between the processes failed on all of them: look at the network")

    def _how(self, peer: Peer) -> str:
        """How a process ended, as far as this one can know."""
        child = next((child for child in self._children if child.pid == peer.pid), None)
        if child is not None and peer.host == self._host:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return _how_it_ended(child.wait(timeout=2.0))
        return "ended without a word (killed, out of memory, or its machine is gone)"

    def _decide(self, what: str | None) -> None:
        """Note what happened and have every process end; the first call counts.

        Args:
            what: to print; None: another process does.
        """
        with self._lock:
            if self.verdict is not None or self._is_over:
                return
            self.verdict = what or ""
            # the interpreter's own limit: it holds where no other thread of Python comes to its turn
            nowhere = open(os.devnull, "w")  # noqa: SIM115 - as long as the process lives
            faulthandler.dump_traceback_later(self._seconds_to_end, exit=True, file=nowhere)
        if what is not None and (self.rank == 0 or self._is_first_of_node):
            _write(f"{what}. {self._hint()}")
        for peer in self._peers.values():
            peer.line.send(ended=True)
        self._decided.set()

    def _end_at_last(self) -> None:
        """End this process where its main thread does not come out of what it waits for."""
        time.sleep(max(0.0, self._seconds_to_end - 2.0))
        kill_workers()
        for child in self._children:
            child.kill()
        os._exit(1)

    # ---- what the main thread does

    def is_explained(self, error: BaseException) -> bool:
        """Whether what happened is printed, and the process should end without a further word.

        Waits a few seconds for it where the exchange with the others failed.
        """
        if isinstance(error, PeerEndedError) and self.verdict is None:
            self._stuck_at = time.monotonic()
            if self._first is not None:
                self._first.line.send(stuck=True)
            self._decided.wait(_ANSWER_SECONDS + _ORDER_SECONDS)
        return self.verdict is not None

    def fail(self, what: str) -> bool:
        """Tell the others that this process failed.

        Returns:
            whether the first one prints it.
        """
        if self._first is None:
            self.verdict = ""
            for peer in self._peers.values():
                peer.line.send(ended=True)
            return False
        return self._first.line.send(failed=what) and self._decided.wait(_ANSWER_SECONDS)

    def stop(self, *, together: bool, what: str) -> None:
        """Part from the others after a signal.

        Args:
            together: all processes stop here, with a checkpoint; False: the others may know nothing of it.
            what: for the message, where they do not.
        """
        # Ctrl-C in a terminal reaches all: then each stops by itself, and the first one says so
        if together or (self.rank != 0 and self._decided.wait(_STOP_SECONDS)):
            self.leave()
        else:
            self.fail(what)

    def leave(self) -> None:
        """Part from the others, after a training that ended well."""
        for peer in [self._first] if self._first is not None else list(self._peers.values()):
            peer.line.send(left=True)
        self._is_over = True


def _ranks(ranks: Sequence[int]) -> str:
    listed = ", ".join(map(str, ranks[:5])) + (f" and {len(ranks) - 5} more" if len(ranks) > 5 else "")
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {listed}"


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
    return f"was killed by {name}" + (", perhaps because memory ran out" if name == "SIGKILL" else "")


def _write(message: str) -> None:
    """Write one line, past whatever the main thread is writing."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"\nscalablevit: error: {printable(message, multiline=True)}\n".encode())
