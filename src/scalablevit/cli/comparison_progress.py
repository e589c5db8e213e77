"""A line for every run of a comparison, and in a terminal a bar of its epochs."""

import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from scalablevit.cli.progress import progress
from scalablevit.cli.terminal import tell

if TYPE_CHECKING:
    from scalablevit.training.comparison.plan import PlannedRun
    from scalablevit.training.comparison.results import Metric

_VERBS = {"new": "train", "begun": "train anew, as it ended before its first checkpoint", "broken": "resume"}


class RunLines:
    """Tells of runs on standard error.

    Args:
        metric: that is shown of a run that ends.
        after_each: called when a run has ended.
    """

    def __init__(self, metric: "Metric", *, after_each: Callable[[], Any]) -> None:
        self._metric = metric
        self._after_each = after_each
        self._bar = contextlib.ExitStack()
        self._on_progress: Callable[[int, int], None] | None = None
        self._began = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def begin(self, run: "PlannedRun", number: int, count: int, state: str) -> None:
        """Tell that a run starts, is resumed, or is finished already."""
        where = f"[{number}/{count}] {run.title}"
        if state == "finished":
            tell(f"{where}: finished already")
            return
        tell(f"{where}: {_VERBS[state]} (output: {run.log})")
        self._began = time.monotonic()
        self._on_progress = self._bar.enter_context(progress("epochs"))

    def wait(self, run: "PlannedRun", epochs: int) -> None:
        """Move the bar."""
        if self._on_progress is not None and run.epochs is not None:
            self._on_progress(epochs, run.epochs)

    def end(self, run: "PlannedRun", failure: str | None) -> None:
        """Tell what came of it."""
        from scalablevit.training.comparison.results import read_run

        self._bar.close()
        seconds = time.monotonic() - self._began
        if failure is not None:
            tell(f"    failed after {seconds:.0f} s: {failure}")
        else:
            with contextlib.suppress(ValueError, OSError):  # told with the table
                curve = read_run(run.folder, self._metric).curve
                best = f"{self._metric.best(list(curve.values())):.4f}" if curve else "none"
                tell(f"    {self._metric.name} {best} after {seconds:.0f} s")
        self._after_each()
