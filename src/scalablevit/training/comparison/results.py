"""What the runs of a comparison came to: metric, curve and time of each, and the figures of each combination."""

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scalablevit.training.comparison.axes import Combination
from scalablevit.training.comparison.plan import PlannedRun, state_of
from scalablevit.training.comparison.statistics import Difference, Mean, mean_of, paired_difference
from scalablevit.training.epoch_times import read_epoch_times
from scalablevit.training.run_folder import RunFolder
from scalablevit.visualization.metrics_file import read_metrics


@dataclass(frozen=True)
class Metric:
    """What runs are compared by.

    Args:
        name: column of `metrics.csv`.
        mode: "max" or "min": which value is the best.
    """

    name: str
    mode: str

    def best(self, values: Sequence[float]) -> float:
        """The best of some values."""
        return max(values) if self.mode == "max" else min(values)


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: of it.
        curve: epoch (from 1) -> metric, of the epochs that were validated.
        epoch_seconds: median of its epochs' training; None: unknown.
    """

    folder: Path
    curve: Mapping[int, float]
    epoch_seconds: float | None


@dataclass
class CombinationResult:
    """A combination and its finished runs.

    Attributes:
        combination: what was varied.
        metric: by which it is judged.
        runs: seed -> run.
        failures: seed -> why it failed, or how far it came.
        cost: parameters, multiply_adds, flops and image (height, width); None: unknown.
        studies: seed -> figures of `scalablevit explain --study` by key, of the runs that have them.
    """

    combination: Combination
    metric: Metric
    runs: dict[int, RunResult] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    cost: dict[str, Any] | None = None
    studies: dict[int, dict[str, float]] = field(default_factory=dict)

    def best(self) -> dict[int, float]:
        """Seed -> best value of the metric, which is that of the weights that the run ships."""
        return {seed: self.metric.best(list(run.curve.values())) for seed, run in self.runs.items() if run.curve}

    def last(self) -> dict[int, float]:
        """Seed -> value of the metric after the last epoch that was validated."""
        return {seed: run.curve[max(run.curve)] for seed, run in self.runs.items() if run.curve}

    def mean(self) -> Mean | None:
        """Of the best values."""
        return mean_of(self.best())

    def difference_to(self, first: "CombinationResult") -> Difference | None:
        """Of the best values, paired by seed."""
        return paired_difference(first.best(), self.best())

    def epoch_seconds(self) -> float | None:
        """Median over the runs of their epochs' training time."""
        known = [run.epoch_seconds for run in self.runs.values() if run.epoch_seconds is not None]
        return statistics.median(known) if known else None

    def study_values(self, key: str) -> dict[int, float]:
        """Seed -> a figure of the study."""
        return {seed: figures[key] for seed, figures in self.studies.items() if key in figures}

    def study_dict(self, first: "CombinationResult | None") -> dict[str, Any]:
        """Figure of the study -> its mean, its spread and its difference over the seeds, as JSON takes it."""
        found = {}
        for key in dict.fromkeys(key for figures in self.studies.values() for key in figures):
            values = self.study_values(key)
            mean = mean_of(values)
            difference = None if first is None else paired_difference(first.study_values(key), values)
            found[key] = {
                "mean": None if mean is None else mean.value,
                "std": None if mean is None else mean.std,
                "difference_to_first": None if difference is None else difference.to_dict(),
                "by_seed": {str(seed): value for seed, value in values.items()},
            }
        return found

    def to_dict(self, first: "CombinationResult | None") -> dict[str, Any]:
        """As JSON takes it; `first` is what it is compared to, None where it is that itself."""
        mean, difference = self.mean(), None if first is None else self.difference_to(first)
        cost = self.cost or {}
        best, last = self.best(), self.last()
        return {
            "label": self.combination.label,
            "group": self.combination.group or None,
            "settings": dict(self.combination.settings),
            "parameters": cost.get("parameters"),
            "multiply_adds": cost.get("multiply_adds"),
            "flops": cost.get("flops"),
            "image": cost.get("image"),
            "epoch_seconds": self.epoch_seconds(),
            "mean": None if mean is None else mean.value,
            "std": None if mean is None else mean.std,
            "difference_to_first": None if difference is None else difference.to_dict(),
            "runs": {
                str(seed): {
                    "folder": str(run.folder),
                    "best": best.get(seed),
                    "last": last.get(seed),
                    "epoch_seconds": run.epoch_seconds,
                    "curve": {str(epoch): value for epoch, value in run.curve.items()},
                }
                for seed, run in self.runs.items()
            },
            "failures": {str(seed): reason for seed, reason in self.failures.items()},
            "study": self.study_dict(first) or None,
        }


def read_run(folder: Path, metric: Metric) -> RunResult:
    """Read a finished run.

    Raises:
        ValueError: its metrics.csv is damaged, or holds no such metric or no number of it; names those that it holds.
        OSError: it cannot be read.
    """
    files = RunFolder(folder)
    rows = read_metrics(files.metrics)
    curve = {int(row["epoch"]) + 1: row[metric.name] for row in rows if math.isfinite(row.get(metric.name, math.nan))}
    columns = sorted({key for row in rows for key in row} - {"epoch", "step"})
    if metric.name not in columns:
        raise ValueError(f"{files.metrics} has no column {metric.name}; it has {', '.join(columns) or 'no row'}")
    if not curve:
        raise ValueError(f"{files.metrics}: {metric.name} is a number in no epoch")
    times = [row["training_seconds"] for row in read_epoch_times(files.timing)]
    return RunResult(folder, curve, statistics.median(times) if times else None)


def gather(
    runs: Sequence[PlannedRun], metric: Metric, failures: Mapping[Path, str] | None = None
) -> list[CombinationResult]:
    """Read every run that is finished; of the others note why they are not.

    Args:
        runs: of the comparison.
        metric: by which they are compared.
        failures: folder -> why its run failed just now.
    """
    found: dict[str, CombinationResult] = {}
    for run in runs:
        result = found.setdefault(run.combination.label, CombinationResult(run.combination, metric))
        state = state_of(run.folder)
        reason = (failures or {}).get(run.folder)
        if state == "finished" and reason is None:
            try:
                result.runs[run.seed] = read_run(run.folder, metric)
                continue
            except (OSError, ValueError) as error:
                reason = str(error)
        result.failures[run.seed] = reason or ("not trained yet" if state == "new" else "not finished yet")
    return list(found.values())


def known_metrics(runs: Sequence[PlannedRun]) -> list[str]:
    """Validation metrics that the finished runs have."""
    names: set[str] = set()
    for run in runs:
        with contextlib.suppress(OSError, ValueError):
            names.update(key for row in read_metrics(run.folder / "metrics.csv") for key in row)
    return sorted(name for name in names if name.startswith("val/"))
