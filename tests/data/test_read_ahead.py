"""Results come in order, a few ahead, and never more of them in memory than allowed."""

import threading
import time
from collections.abc import Callable

import pytest

from scalablevit.data.read_ahead import ReadAhead

Admit = Callable[[int], None]


def ahead(function: Callable[[int, Admit], object], count: int, **options: object) -> ReadAhead[int, object]:
    defaults: dict = {"ahead": 4, "threads": 3, "pixels": 100, "keeps": lambda result: True}
    return ReadAhead(function, range(count), **(defaults | options))


def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("nothing came")


def test_results_come_in_order_though_later_ones_are_done_first() -> None:
    def slow_at_first(i: int, admit: Admit) -> int:
        time.sleep(0.02 if i % 3 == 0 else 0)
        return i * i

    assert list(ahead(slow_at_first, 20)) == [i * i for i in range(20)]
    assert list(ahead(slow_at_first, 0)) == []


def test_no_more_than_asked_for_is_computed_ahead() -> None:
    begun: list[int] = []
    results = iter(ahead(lambda i, admit: begun.append(i), 20, ahead=4))
    next(results)
    until(lambda: len(begun) == 5)
    time.sleep(0.05)
    assert sorted(begun) == [0, 1, 2, 3, 4], "the one that is used, and four ahead"
    next(results)
    until(lambda: len(begun) == 6)


def test_an_error_is_raised_at_its_turn() -> None:
    def odd(i: int, admit: Admit) -> int:
        if i == 3:
            raise ValueError("three")
        return i

    results = iter(ahead(odd, 6))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)


@pytest.mark.parametrize(("pixels", "most"), [(50, 2), (30, 3), (101, 1), (1000, 1)])
def test_results_ahead_hold_no_more_pixels_than_allowed(pixels: int, most: int) -> None:
    lock, held, peaks = threading.Lock(), set(), []

    def read(i: int, admit: Admit) -> int:
        admit(pixels)
        with lock:
            held.add(i)
            peaks.append(len(held))
        return i

    for i in ahead(read, 12):
        time.sleep(0.005)
        with lock:
            held.discard(i)  # the consumer lets it go before it asks for the next
    # One more where the one that is asked for would wait for room that only it can make.
    assert max(peaks) <= most + 1
    if pixels > 100:
        assert max(peaks) == 1


def test_what_is_made_small_at_once_needs_no_room() -> None:
    begun: list[int] = []

    def read(i: int, admit: Admit) -> int:
        admit(90)
        begun.append(i)
        return i

    results = iter(ahead(read, 20, keeps=lambda result: False))
    next(results)
    until(lambda: len(begun) == 5)


def test_closing_ends_the_threads_also_those_that_wait_for_room() -> None:
    def read(i: int, admit: Admit) -> int:
        admit(1000)
        return i

    source = ahead(read, 20)
    results = iter(source)
    next(results)
    until(lambda: source._next > 1)
    results.close()
    until(lambda: not any(thread.is_alive() for thread in source._threads))


def test_threads_end_with_the_last_result() -> None:
    source = ahead(lambda i, admit: i, 5)
    list(source)
    until(lambda: not any(thread.is_alive() for thread in source._threads))
