"""The table of a comparison, as text."""

from collections.abc import Sequence

from scalablevit.training.comparison.results import CombinationResult
from scalablevit.training.comparison.statistics import Difference, Mean

_MISSING = "-"


def table(results: Sequence[CombinationResult]) -> list[list[str]]:
    """Rows of text, the headings first: cost, time, metric, and its difference to the first combination."""
    metric = results[0].metric
    headings = ["combination", "parameters", "multiply-adds", "s an epoch", metric.name, "seeds", "difference to first"]
    rows = [headings]
    for i, result in enumerate(results):
        cost = result.cost or {}
        mean, seconds = result.mean(), result.epoch_seconds()
        seeds = len(result.runs) + len(result.failures)
        rows.append(
            [
                result.combination.label,
                _in_units(cost.get("parameters")),
                _in_units(cost.get("multiply_adds")),
                _MISSING if seconds is None else f"{seconds:.3g}",
                _MISSING if mean is None else mean_text(mean),
                f"{len(result.runs)}" if len(result.runs) == seeds else f"{len(result.runs)} of {seeds}",
                "" if i == 0 else difference_text(result.difference_to(results[0])),
            ]
        )
    return rows


def mean_text(mean: Mean, digits: int = 4) -> str:
    """A mean with its standard deviation."""
    return f"{mean.value:.{digits}f}" + ("" if mean.std is None else f" ± {mean.std:.{digits}f}")


def difference_text(difference: Difference | None, digits: int = 4) -> str:
    """A difference with its interval."""
    if difference is None:
        return _MISSING
    if difference.low is None or difference.high is None:
        return f"{difference.value:+.{digits}f}"
    return f"{difference.value:+.{digits}f} [{difference.low:+.{digits}f}, {difference.high:+.{digits}f}]"


def _in_units(count: int | None) -> str:
    """A count with three digits and its unit: millions, or billions from a billion on."""
    if count is None:
        return _MISSING
    value, unit = (count / 1e9, "G") if count >= 1e9 else (count / 1e6, "M")
    return f"{value:#.3g} {unit}" if value < 99.95 else f"{value:.0f} {unit}"
