"""The rows of a run's `metrics.csv`."""

import csv
import os


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, each a dict from column to number, without its empty fields.

    Raises:
        ValueError: a field is no number, or there is no column `epoch`.
    """
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        if "epoch" not in (reader.fieldnames or []):
            raise ValueError(f"{os.fspath(path)} is not a metrics.csv of ours: it has no column epoch")
        try:
            return [{key: float(value) for key, value in row.items() if value} for row in reader]
        except (TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} line {reader.line_num}: {error}; repair or remove it") from error
