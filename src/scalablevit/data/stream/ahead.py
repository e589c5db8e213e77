"""Download shards before their first sample is needed."""

import threading
from collections.abc import Callable, Sequence


class ShardsAhead:
    """A thread that downloads the next shards of an epoch while those before them are read.

    It starts with the first sample, when the processes that load are running already.

    Args:
        fetch: downloads the shard of a number; what it raises is left to whoever reads the shard.
        ahead: how many shards beyond the last one that is in use; at least 1.
    """

    def __init__(self, fetch: Callable[[int], None], ahead: int) -> None:
        self.fetch = fetch
        self.ahead = ahead
        self._state = threading.Condition()
        self._order: Sequence[int] = ()
        self._used = 0
        self._done = 0
        self._thread: threading.Thread | None = None

    def begin(self, order: Sequence[int]) -> None:
        """Take the shards of an epoch, in the order of their first samples."""
        with self._state:
            self._order, self._used, self._done = order, 0, 0
            self._state.notify()

    def use(self, count: int) -> None:
        """Say that so many shards of the order are in use or behind."""
        with self._state:
            self._used = max(self._used, count)
            self._done = max(self._done, count)  # whoever reads them downloads them
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shards-ahead", daemon=True)
                self._thread.start()
            self._state.notify()

    def _run(self) -> None:
        while True:
            with self._state:
                while self._done >= min(self._used + self.ahead, len(self._order)):
                    self._state.wait()
                number = self._order[self._done]
                self._done += 1
            try:
                self.fetch(number)
            except Exception:  # the reader of the shard meets it again, and names it
                continue
