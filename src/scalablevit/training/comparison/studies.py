"""What `scalablevit explain --study` measured of the runs of a comparison, kept beside their weights."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalablevit.explain.study import measures
from scalablevit.safe_write import write_json
from scalablevit.training.comparison.results import CombinationResult
from scalablevit.training.comparison.statistics import mean_of, paired_difference
from scalablevit.training.comparison.table import difference_text, mean_text
from scalablevit.training.run_folder import RunFolder

FILE = "study.json"
_STAGES = 4
# what the terminal shows; study.md has every figure
_COLUMNS = {
    "energy_over_chance": "energy inside / chance",
    "pointing_game": "pointing game",
    "field_side_50%": "field side 50%",
    "distance_1": "SSA distance 1",
    "attention_1": "window change 1",
    "stage_end_1": "stage change 1",
    "insertion": "insertion",
}


def write_study(folder: Path, figures: Mapping[str, float], *, data: Path, count: int) -> None:
    """Keep the figures of a run in its folder.

    Args:
        folder: of the run.
        figures: key -> value over the images.
        data: that they were measured on.
        count: how many images were asked for.

    Raises:
        WriteError: the folder cannot be written.
    """
    content = {
        "data": str(data.absolute()),
        "images": count,
        "weights_sha256": _digest(folder),
        "figures": dict(figures),
    }
    write_json(folder / FILE, content)


def read_study(folder: Path, *, data: Path | None = None, count: int | None = None) -> dict[str, float]:
    """Read the figures of a run; none where they were never measured, or of other weights.

    Args:
        folder: of the run.
        data, count: of the measurement; None: any.
    """
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        is_asked = (data is None or content["data"] == str(data.absolute())) and count in (None, content["images"])
        if not is_asked or content["weights_sha256"] != _digest(folder):
            return {}
        return {str(key): float(value) for key, value in content["figures"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def take_studies(
    results: Sequence[CombinationResult], *, data: Path | None = None, count: int | None = None
) -> list[Path]:
    """Give each result the figures that its runs have, all of the same images.

    Args:
        results: of the comparison.
        data, count: of the measurement; None: those of the first run that has figures.

    Returns:
        folders of the runs whose figures are of other images, and are left out.
    """
    runs = [(result, seed, run.folder) for result in results for seed, run in result.runs.items()]
    for result in results:
        result.studies = {}
    left_out = []
    for result, seed, folder in runs:
        if not (figures := read_study(folder)):
            continue
        if data is None or count is None:
            data, count = _measured_on(folder)
        if read_study(folder, data=data, count=count):
            result.studies[seed] = figures
        else:
            left_out.append(folder)
    return left_out


def _measured_on(folder: Path) -> tuple[Path, int]:
    content = json.loads((folder / FILE).read_text(encoding="utf-8"))
    return Path(content["data"]), int(content["images"])


def study_table(results: Sequence[CombinationResult]) -> list[list[str]]:
    """A row for each combination, of the figures that a terminal has room for; empty where there is no study."""
    keys = [key for key in _COLUMNS if any(result.study_values(key) for result in results)]
    if not keys:
        return []
    rows = [["combination", *(_COLUMNS[key] for key in keys)]]
    for result in results:
        means = [mean_of(result.study_values(key)) for key in keys]
        rows.append([result.combination.label, *("-" if mean is None else mean_text(mean, 3) for mean in means)])
    return rows


def full_study_table(results: Sequence[CombinationResult]) -> list[list[str]]:
    """A row for each figure, and for each combination its mean and its difference to the first."""
    first = results[0]
    rows = [["figure", *(result.combination.label for result in results)]]
    for measure in measures(_STAGES):
        if not any(result.study_values(measure.key) for result in results):
            continue
        cells = []
        for result in results:
            values = result.study_values(measure.key)
            mean = mean_of(values)
            text = "-" if mean is None else mean_text(mean, 3)
            if result is not first and mean is not None:
                text += f" ({difference_text(paired_difference(first.study_values(measure.key), values), 3)})"
            cells.append(text)
        rows.append([measure.title + {"higher": " ↑", "lower": " ↓"}.get(measure.better, ""), *cells])
    return rows


def _digest(folder: Path) -> str:
    with RunFolder(folder).weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def figures_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """Key -> value of a study's intervals: over seeds, the spread is that of the runs and not of the images."""
    return {key: round(float(interval.value), 6) for key, interval in summary.items()}
