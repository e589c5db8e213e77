"""What a run folder tells of its training: curves, figures and the table of classes."""

import json
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from scalablevit.printable import printable
from scalablevit.visualization.curves import plot_curves

_TITLES = {
    "confusion.png": "Confusion matrix",
    "average_precision.png": "Average precision of each class",
    "pr_curves.png": "Precision and recall",
    "predictions.png": "Predictions on validation images",
}
_MOST_FIGURES = 12
_LARGEST_FIGURE = 50_000_000  # bytes
_LARGEST_RESULTS = 50_000_000
_MOST_CLASSES = 200


class TrainingReport(NamedTuple):
    """What is shown of a run.

    Fields:
        figures: (image file, title), copies outside of the run folder.
        table: HTML with the metrics of each class; empty where the run has none.
        remark: what is missing, for the page; empty where nothing is.
    """

    figures: list[tuple[Path, str]]
    table: str
    remark: str


def training_report(run: Path | None, folder: Path) -> TrainingReport:
    """Gather curves, figures and per-class metrics of a run.

    Args:
        run: run folder; None: the model has none.
        folder: where the images are written; it is made where it is missing.
    """
    if run is None:
        return TrainingReport([], "", "The weights do not lie in a run folder, so there are no curves to show.")
    folder.mkdir(parents=True, exist_ok=True)
    figures, remark = [], ""
    try:
        curves = folder / "curves.png"
        plot_curves(run / "metrics.csv", curves)
        figures.append((curves, "Curves"))
    except FileNotFoundError:
        remark = "The run folder has no metrics.csv, so there are no curves to show."
    except (ValueError, OSError) as error:
        remark = f"No curves: {printable(error)}"
    known = list(_TITLES)
    others = sorted(
        run.glob("*.png"), key=lambda path: (known.index(path.name) if path.name in known else len(known), path)
    )
    for path in others:
        if path.name == "curves.png" or len(figures) >= _MOST_FIGURES:
            continue
        try:
            if path.stat().st_size <= _LARGEST_FIGURE:
                copy = folder / path.name
                copy.write_bytes(path.read_bytes())
                figures.append((copy, _TITLES.get(path.name, printable(path.stem.replace("_", " ")))))
        except OSError:
            continue
    return TrainingReport(figures, per_class_table(run / "results.json"), remark)


def per_class_table(results: Path) -> str:
    """HTML table of the metrics of each class in a run's results.json; empty where there are none."""
    try:
        if results.stat().st_size > _LARGEST_RESULTS:
            return ""
        content = json.loads(results.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    if not isinstance(content, dict):
        return ""
    tables = []
    for title, part in [("", content), ("Boxes", content.get("box")), ("Masks", content.get("mask"))]:
        lines = _class_lines(part.get("per_class") or part.get("classes")) if isinstance(part, dict) else []
        if lines:
            tables.append(metrics_table(title, lines))
    return "".join(tables)


def _class_lines(per_class: Any) -> list[dict[str, Any]]:
    """Metrics of each class as flat dicts that begin with the class."""
    if isinstance(per_class, dict):
        per_class = [{"class": name, **(v if isinstance(v, dict) else {"value": v})} for name, v in per_class.items()]
    if not isinstance(per_class, list):
        return []
    found = [line for line in per_class if isinstance(line, dict) and "class" in line]
    return [{"class": line["class"], **line} for line in found]


def metrics_table(title: str, lines: list[dict[str, Any]]) -> str:
    """Numbers by name as an HTML table.

    Args:
        title: above it; empty: none.
        lines: what each line holds, with the names of the first; up to 200 are shown.
    """
    columns = list(lines[0])
    head = "".join(f"<th>{escape(printable(name.replace('_', ' ')))}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(line.get(name)))}</td>" for name in columns) + "</tr>"
        for line in lines[:_MOST_CLASSES]
    )
    more = f'<p class="sv-note">and {len(lines) - _MOST_CLASSES} more</p>' if len(lines) > _MOST_CLASSES else ""
    caption = f"<caption>{escape(title)}</caption>" if title else ""
    return f'<table class="sv-classes">{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}'


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else printable(value)
