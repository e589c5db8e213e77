"""The files of a comparison: `comparison.json`, from which it is tabulated again, the table and the plots."""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scalablevit import __version__
from scalablevit.printable import markdown_table
from scalablevit.safe_write import write_atomically, write_json
from scalablevit.training.comparison.axes import Combination
from scalablevit.training.comparison.plan import PlannedRun
from scalablevit.training.comparison.results import CombinationResult, Metric
from scalablevit.training.comparison.statistics import METHOD
from scalablevit.training.comparison.studies import full_study_table
from scalablevit.visualization.comparison import Line, plot_comparison_costs, plot_comparison_curves

FILE = "comparison.json"


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        folder: of the comparison.
        runs: of it.
        metric: by which they are compared.
        command: that made it, for the reader.
    """

    folder: Path
    runs: Sequence[PlannedRun]
    metric: Metric
    command: str = ""

    @property
    def file(self) -> Path:
        """Its numbers."""
        return self.folder / FILE


def write_numbers(comparison: Comparison, results: Sequence[CombinationResult]) -> dict[str, Any]:
    """Write `comparison.json`.

    Returns:
        its content.

    Raises:
        WriteError: the folder cannot be written.
    """
    rows = []
    for result in results:
        row = result.to_dict(None if result is results[0] else results[0])
        row["folders"] = {
            str(run.seed): os.path.relpath(run.folder, comparison.folder)
            for run in comparison.runs
            if run.combination.label == result.combination.label
        }
        rows.append(row)
    content = {
        "scalablevit_version": __version__,
        "command": comparison.command,
        "metric": {"name": comparison.metric.name, "mode": comparison.metric.mode, "of": "each run's best epoch"},
        "difference": METHOD,
        "combinations": rows,
    }
    write_json(comparison.file, content)
    return content


def read_comparison(folder: Path) -> Comparison:
    """Read which runs `comparison.json` of a folder names.

    Raises:
        ValueError: there is none, or it is damaged; names file and remedy.
    """
    file = folder / FILE
    if not file.is_file():
        raise ValueError(f"{folder} holds no comparison ({file} is missing): name the folder of scalablevit compare")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        metric = Metric(str(content["metric"]["name"]), str(content["metric"]["mode"]))
        rows = content["combinations"]
        found = [
            (int(seed), PlannedRun(_combination(row), int(seed), folder / str(below)))
            for row in rows
            for seed, below in row["folders"].items()
        ]
        command = str(content.get("command", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({error}): run the comparison's command again, which writes it") from None
    if not found:
        raise ValueError(f"{file} names no run: run the comparison's command again")
    return Comparison(folder, [run for _, run in found], metric, command)


def others_in(comparison: Comparison) -> list[str]:
    """Labels of combinations that `comparison.json` of the folder has, and this comparison has not."""
    with contextlib.suppress(ValueError, OSError):
        own = {run.combination.label for run in comparison.runs}
        found = [run.combination.label for run in read_comparison(comparison.folder).runs]
        return [label for label in dict.fromkeys(found) if label not in own]
    return []


def _combination(row: Mapping[str, Any]) -> Combination:
    return Combination(str(row["label"]), dict(row["settings"]), str(row.get("group") or ""))


def write_pictures(
    comparison: Comparison, results: Sequence[CombinationResult], rows: Sequence[Sequence[str]]
) -> list[Path]:
    """Write the tables and both plots.

    Returns:
        the files.

    Raises:
        WriteError: the folder cannot be written.
    """
    lines = [
        Line(
            result.combination.label,
            [run.curve for run in result.runs.values() if run.curve],
            (result.cost or {}).get("multiply_adds"),
            list(result.best().values()),
        )
        for result in results
    ]
    name = comparison.metric.name
    files = {file: comparison.folder / file for file in ("table.md", "curves.png", "cost.png")}
    write_atomically(files["table.md"], markdown_table(rows).encode("utf-8", "surrogateescape"))
    if any(result.studies for result in results):
        files["study.md"] = comparison.folder / "study.md"
        text = markdown_table(full_study_table(results))
        write_atomically(files["study.md"], text.encode("utf-8", "surrogateescape"))
    write_atomically(files["curves.png"], lambda file: plot_comparison_curves(lines, name, file))
    write_atomically(files["cost.png"], lambda file: plot_comparison_costs(lines, name, file))
    return list(files.values())
