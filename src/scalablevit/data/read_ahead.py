"""Compute the next results in threads while the last ones are used: in order, and with a limit on what waits."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from scalablevit.data.cores import available_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_THREADS = 4
_PATIENCE = 0.5  # seconds; some systems do not interrupt a wait without an end


def num_threads() -> int:
    """Threads that read: one for each core that this process may use, up to four."""
    return min(available_cores(), _MOST_THREADS)


class ReadAhead(Generic[Item, Result]):
    """Results of a function of items, in their order, computed in threads before they are asked for.

    A thread that is about to need memory calls `admit`, which waits until there is room, or until its item is the one
    that is asked for: so there is always progress, and images that are larger than the room are read one at a time.

    Args:
        function: from (item, admit) to a result; `admit(pixels)` is called at most once.
        items: of which results are wanted.
        ahead: results that are computed or kept at the same time, at least 1.
        keeps: tells whether a result holds the pixels that were admitted until it is handed out.
        pixels: that may be admitted at the same time.
        threads: that compute; None: see `num_threads`.
    """

    def __init__(
        self,
        function: Callable[[Item, Callable[[int], None]], Result],
        items: Sequence[Item],
        *,
        ahead: int,
        keeps: Callable[[Result], bool],
        pixels: int,
        threads: int | None = None,
    ) -> None:
        self._function, self._items, self._keeps = function, items, keeps
        self._ahead, self._limit = ahead, pixels
        self._change = threading.Condition()
        self._done: dict[int, Result | BaseException] = {}
        self._admitted: dict[int, int] = {}
        self._next = self._wanted = 0
        self._is_waiting = self._is_closed = False
        # As daemons: a file on a device that hangs must not keep the process.
        self._threads = [
            threading.Thread(target=self._work, name=f"read ahead {i}", daemon=True)
            for i in range(min(threads or num_threads(), len(items)))
        ]

    def __iter__(self) -> Iterator[Result]:
        """Yield the results once, and raise what the function raised, at its turn."""
        for thread in self._threads:
            thread.start()
        try:
            for i in range(len(self._items)):
                yield self._hand_out(i)  # no name of ours keeps it
        finally:
            with self._change:
                self._is_closed = True
                self._done.clear()
                self._change.notify_all()

    def _hand_out(self, i: int) -> Result:
        with self._change:
            self._wanted, self._is_waiting = i, True
            self._change.notify_all()
            while i not in self._done:
                self._change.wait(_PATIENCE)
            self._is_waiting = False
            self._admitted.pop(i, None)
            self._change.notify_all()
            result = self._done.pop(i)
        if isinstance(result, BaseException):
            raise result
        return result

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._is_closed and self._next < len(self._items) and not self._may_begin():
                    self._change.wait()
                if self._is_closed or self._next >= len(self._items):
                    return
                i = self._next
                self._next += 1
            found: Result | BaseException
            try:
                found = self._function(self._items[i], lambda pixels, i=i: self._admit(i, pixels))  # type: ignore[misc]
            except BaseException as error:  # raised where the result would have been
                found = error
            with self._change:
                if isinstance(found, BaseException) or not self._keeps(found):
                    self._admitted.pop(i, None)
                if not self._is_closed:
                    self._done[i] = found
                self._change.notify_all()
            del found

    def _may_begin(self) -> bool:
        handed_out = self._wanted if self._is_waiting else self._wanted + 1
        return self._next < handed_out + self._ahead

    def _admit(self, i: int, pixels: int) -> None:
        with self._change:
            while not (self._is_closed or (self._is_waiting and i == self._wanted)):
                if sum(self._admitted.values()) + pixels <= self._limit:
                    break
                self._change.wait()
            self._admitted[i] = pixels
