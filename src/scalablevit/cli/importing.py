"""Import heavy packages so that Ctrl-C still ends the process."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Let Ctrl-C end the process at once: some packages cannot be interrupted while they are imported."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)
