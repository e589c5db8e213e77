"""Import heavy packages so that Ctrl-C still ends the process."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let Ctrl-C end the process at once: some packages cannot be interrupted while they are imported."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)


def _end(*_: Any) -> None:
    os.write(2, b"scalablevit: error: stopped\n")
    os._exit(130)
