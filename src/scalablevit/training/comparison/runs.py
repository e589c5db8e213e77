"""Train what a comparison lacks, one run after another."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from scalablevit.training.comparison.asked import check_same
from scalablevit.training.comparison.plan import PlannedRun, State, clear_begun, state_of
from scalablevit.training.comparison.process import Signals, reason_in, run_fit
from scalablevit.visualization.metrics_file import read_metrics


class Reporter(Protocol):
    """What is told while runs are trained."""

    def begin(self, run: PlannedRun, number: int, count: int, state: State) -> None:
        """Tell that a run starts, is resumed, or is finished already."""

    def wait(self, run: PlannedRun, epochs: int) -> None:
        """Tell how many epochs it has."""

    def end(self, run: PlannedRun, failure: str | None) -> None:
        """Tell that it ended, and why it failed."""


def check_folders(runs: Sequence[PlannedRun]) -> dict[Path, State]:
    """Look at every folder before the first run starts.

    Returns:
        folder -> how far its run came.

    Raises:
        RecipeError: a folder holds a run with other settings; names key, values and remedy.
    """
    states = {}
    for run in runs:
        states[run.folder] = state = state_of(run.folder)
        if state in ("finished", "broken"):
            check_same(run.asked, run.folder)
    return states


def train(runs: Sequence[PlannedRun], recipes: Sequence[str], reporter: Reporter) -> Mapping[Path, str]:
    """Train each run that is not finished; one that fails does not keep the others from it.

    Args:
        runs: in order.
        recipes: words that name the recipes, such as --config digits.
        reporter: is told.

    Returns:
        folder -> why its run failed.

    Raises:
        ComparisonStopped: by a signal; the run in progress has saved a checkpoint.
    """
    failures: dict[Path, str] = {}
    with Signals().held() as signals:
        for number, run in enumerate(runs, 1):
            state = state_of(run.folder)
            reporter.begin(run, number, len(runs), state)
            if state == "finished":
                continue
            signals.check()
            failure = _train_one(run, state, recipes, reporter, signals)
            if state_of(run.folder) != "finished":
                signals.check()
            if failure is not None:
                failures[run.folder] = failure
            reporter.end(run, failure)
            signals.check()
    return failures


def _train_one(
    run: PlannedRun, state: State, recipes: Sequence[str], reporter: Reporter, signals: Signals
) -> str | None:
    since = run.log.stat().st_size if run.log.is_file() else 0
    try:
        if state == "begun":
            clear_begun(run.folder)
        if state == "broken":
            words = ["--resume", str(run.folder)]
        else:
            words = [*recipes, "--run", str(run.folder), *run.words]
        code = run_fit(words, run.log, signals, lambda: reporter.wait(run, epochs_of(run.folder)))
    except (OSError, ValueError) as error:
        return str(error)
    if code == 0 and state_of(run.folder) == "finished":
        return None
    return reason_in(run.log, code, since=since)


def epochs_of(folder: Path) -> int:
    """How many epochs a run has rows of."""
    with contextlib.suppress(OSError, ValueError):
        return len(read_metrics(folder / "metrics.csv"))
    return 0
