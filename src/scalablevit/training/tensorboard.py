"""TensorBoard's log of a run; the run continues where it cannot be written."""

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger

log = logging.getLogger(__name__)


def _or_warn(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def attempt(self: "TolerantTensorBoard", *args: Any, **kwargs: Any) -> None:
        if self.has_failed:
            return
        try:
            method(self, *args, **kwargs)
        except (OSError, ValueError) as error:  # Lightning makes a ValueError of it
            reason = error if isinstance(error, OSError) else error.__cause__ or error.__context__
            if not isinstance(reason, OSError):
                raise
            self.has_failed = True
            log.warning(
                "TensorBoard's log cannot be written (%s); the run continues without it, metrics.csv has its metrics",
                reason.strerror or reason,
            )

    return attempt


class TolerantTensorBoard(TensorBoardLogger):
    """Lightning's logger; where the disk is full or the folder gone, it warns once and logs no more."""

    has_failed = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _silence_writer_threads()

    @_or_warn
    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Log metrics of a step."""
        super().log_metrics(*args, **kwargs)

    @_or_warn
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Log hyperparameters."""
        super().log_hyperparams(*args, **kwargs)

    @_or_warn
    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        """Log the graph."""
        super().log_graph(*args, **kwargs)

    @_or_warn
    def save(self) -> None:
        """Write what is pending."""
        super().save()

    @_or_warn
    def finalize(self, status: str) -> None:
        """Write what is pending, and close."""
        super().finalize(status)


def _silence_writer_threads() -> None:
    """Keep the stack trace of TensorBoard's writing thread from the terminal; its error is raised at the next call."""
    if getattr(threading.excepthook, "leaves_tensorboard_out", False):
        return
    earlier = threading.excepthook

    def hook(failed: Any) -> None:
        is_writer = type(failed.thread).__name__ == "_AsyncWriterThread"
        if not (is_writer and isinstance(failed.exc_value, OSError)):
            earlier(failed)

    hook.leaves_tensorboard_out = True  # type: ignore[attr-defined]
    threading.excepthook = hook
