"""Processes that meet and watch each other, each as a thread here: what is refused, and what is said where one ends."""

import contextlib
import faulthandler
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from scalablevit.training import rank_watch
from scalablevit.training.rank_watch import PeerEndedError, RankWatch

FACTS = {"torch": "2.14", "model.optimizer.lr": "0.001"}
HOST = socket.gethostname()


@pytest.fixture(autouse=True)
def nobody_dies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RankWatch, "_end_at_last", lambda self: None)
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *_, **__: None)
    monkeypatch.setattr(rank_watch, "_ANSWER_SECONDS", 0.4)
    monkeypatch.setattr(rank_watch, "_ORDER_SECONDS", 0.8)


def make(world_size: int, timeout: float = 20.0, **of_rank: dict[str, Any]) -> list[RankWatch]:
    """The watches of all processes, which have not met; `rank1={...}` sets arguments of one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1", free.getsockname()[1]
    watches = []
    for rank in range(world_size):
        options: dict[str, Any] = {"facts": FACTS, "hint": lambda: "To resume: fit --resume RUN"}
        options |= {"rank": rank, "world_size": world_size, "is_first_of_node": rank == 1, "address": address}
        watches.append(RankWatch(**{**options, "timeout": timeout, **of_rank.get(f"rank{rank}", {})}))
    return watches


def meet(watches: list[RankWatch]) -> list[BaseException | None]:
    def one(watch: RankWatch) -> BaseException | None:
        try:
            watch.meet()
        except (ValueError, SystemExit) as error:
            return error
        return None

    with ThreadPoolExecutor(len(watches)) as pool:
        return list(pool.map(one, watches))


@pytest.mark.parametrize("value", ["10m", "0", "nan", "inf", "-3"])
def test_a_limit_that_is_no_number_of_seconds_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALABLEVIT_PROCESS_TIMEOUT", value)
    with pytest.raises(ValueError, match=f"SCALABLEVIT_PROCESS_TIMEOUT is '{value}', and must be a number of seconds"):
        make(1)


@contextlib.contextmanager
def met(world_size: int) -> Iterator[list[RankWatch]]:
    watches = make(world_size)
    assert meet(watches) == [None] * world_size
    try:
        yield watches
    finally:
        leave(watches)


def leave(watches: list[RankWatch]) -> None:
    """Part, and wait until nothing of it can end this process."""
    for watch in watches:
        watch.leave()
        if watch._thread is not None:
            watch._thread.join(10)
            assert not watch._thread.is_alive()


def decided(watch: RankWatch) -> str:
    assert watch._decided.wait(10)
    return str(watch.verdict)


def test_processes_that_agree_meet_and_part_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    with met(3) as watches:
        pass
    time.sleep(0.4)
    assert [watch.verdict for watch in watches] == [None] * 3
    assert capfd.readouterr().err == ""


def test_one_that_trains_otherwise_is_refused_on_all() -> None:
    began = time.monotonic()
    first, *others = meet(make(3, rank2={"facts": {**FACTS, "torch": "2.11"}}))
    assert time.monotonic() - began < 10
    assert f"rank 2 on {HOST}" in str(first)
    assert "torch 2.11 instead of 2.14" in str(first)
    assert all(isinstance(other, SystemExit) and other.code == 1 for other in others)


def test_one_that_does_not_come_is_named_in_time() -> None:
    watches = make(3, timeout=1.5)
    first, other = meet(watches[:2])
    assert "rank 2 of 3 did not come within 2 s" in str(first)
    assert isinstance(other, SystemExit)


def test_one_that_cannot_begin_says_so_to_the_first() -> None:
    watches = make(3)
    with ThreadPoolExecutor(2) as pool:
        excused = pool.submit(watches[2].excuse, "the data folder is missing")
        waiting = pool.submit(meet, watches[:2])
        assert excused.result(20)
        first, other = waiting.result(20)
    assert f"rank 2 on {HOST}" in str(first)
    assert str(first).endswith("cannot begin: the data folder is missing")
    assert isinstance(other, SystemExit)


def test_a_stranger_is_not_taken_up() -> None:
    watches = make(2, timeout=1.5)
    stranger = threading.Thread(target=send_nonsense, args=(watches[0],))
    stranger.start()
    (first,) = meet(watches[:1])
    stranger.join()
    assert "rank 1 of 2 did not come" in str(first)


def send_nonsense(watch: RankWatch) -> None:
    while watch._store is None:
        time.sleep(0.01)
    where = json.loads(watch._store.get("first"))
    with socket.create_connection(("127.0.0.1", where["port"])) as line:
        line.sendall(b'{"password": "guess", "rank": 1, "host": "h", "pid": 1, "facts": {}}\n')
        line.recv(100)


def test_a_process_that_ends_is_named_once_and_ends_all(capfd: pytest.CaptureFixture[str]) -> None:
    with met(3) as watches:
        assert watches[2]._first is not None
        watches[2]._is_over = True
        watches[2]._first.line.socket.shutdown(socket.SHUT_RDWR)
        assert f"rank 2 on {HOST}" in decided(watches[0])
        decided(watches[1])
        assert watches[1].is_explained(PeerEndedError("closed by peer"))
    said = capfd.readouterr().err
    assert said.count("scalablevit: error: ") == 1
    assert "ended without a word" in said
    assert said.endswith("To resume: fit --resume RUN\n")


def test_the_end_of_the_first_process_is_told_once_a_node(capfd: pytest.CaptureFixture[str]) -> None:
    with met(3) as watches:
        watches[0]._is_over = True
        for peer in watches[0]._peers.values():
            peer.line.socket.shutdown(socket.SHUT_RDWR)
        assert "rank 0 on" in decided(watches[1])
        decided(watches[2])
    assert capfd.readouterr().err.count("rank 0 on") == 1


def test_what_a_process_failed_for_is_told_by_the_first(capfd: pytest.CaptureFixture[str]) -> None:
    with met(2) as watches:
        assert watches[1].fail("7 images could not be read")
        assert decided(watches[0]).endswith("failed: 7 images could not be read")
    assert capfd.readouterr().err.count("failed: 7 images could not be read") == 1


def test_one_that_hangs_is_told_from_those_that_wait_for_it(capfd: pytest.CaptureFixture[str]) -> None:
    with met(3) as watches, ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(watches[i].is_explained, PeerEndedError("timed out")) for i in (0, 1)]
        assert all(one.result(10) for one in waiting)
        assert str(watches[0].verdict).startswith(f"rank 2 on {HOST} (process ")
        assert str(watches[0].verdict).endswith("did not come to an exchange of all processes in time")
    assert capfd.readouterr().err.count("scalablevit: error: ") == 1


def test_one_that_is_stopped_does_not_answer() -> None:
    watches = make(2)
    watches[1]._watch = lambda: None  # type: ignore[method-assign]
    assert meet(watches) == [None, None]
    assert watches[0].is_explained(PeerEndedError("timed out"))
    assert str(watches[0].verdict).endswith("does not answer")
    leave(watches)


def test_a_first_process_that_is_stopped_does_not_answer() -> None:
    watches = make(2)
    watches[0]._watch = lambda: None  # type: ignore[method-assign]
    assert meet(watches) == [None, None]
    assert watches[1].is_explained(PeerEndedError("timed out"))
    assert str(watches[1].verdict).endswith("does not answer")
    leave(watches)


def test_where_no_process_is_missing_the_network_is_named() -> None:
    with met(2) as watches, ThreadPoolExecutor(2) as pool:
        assert all(pool.map(lambda watch: watch.is_explained(PeerEndedError("reset")), watches))
        assert "look at the network" in str(watches[0].verdict)
