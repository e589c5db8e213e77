"""`metrics.csv`: a row an epoch, safe against crashes and resumes."""

import csv
import io
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from scalablevit.safe_write import write_atomically
from scalablevit.visualization.metrics_file import read_metrics

log = logging.getLogger(__name__)


class CSVMetrics(Logger):
    """`metrics.csv` with one row an epoch, in which training and validation meet.

    The file is replaced as a whole, so that a crash leaves either the old or the new one. A resumed run goes
    on in it: rows of epochs that are run again are replaced, not repeated. Lightning's CSVLogger deletes the
    file on resume and writes one row a call. Of step-wise metrics an epoch's last value stays; `name_epoch`
    is written as `name`.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self.path = Path(path)
        self._rows: dict[int, dict[str, float]] | None = None
        self._written = 0.0
        self._is_dirty = False

    @property
    def name(self) -> str:
        """Of the kind of logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """There is one file only."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.path.parent)

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Leave them out: the recipe holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Merge `metrics` into their epoch's row; write new columns at once, new values every few seconds."""
        values = {key: float(value) for key, value in metrics.items()}
        if "epoch" not in values:
            return
        epoch = int(values.pop("epoch"))
        if self._rows is None:
            self._rows = self._read()
        for later in [e for e in self._rows if e > epoch]:  # resumed from before them
            del self._rows[later]
        row = self._rows.setdefault(epoch, {})
        known = set(row)
        row.update({key.removesuffix("_epoch"): value for key, value in values.items() if not key.endswith("_step")})
        if step is not None:
            row["step"] = step
        self._is_dirty = True
        if set(row) != known or time.monotonic() - self._written > 5:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Write the file if there is news; a disk that is full is reported, and tried again later."""
        if not self._is_dirty or self._rows is None:
            return
        columns = sorted({key for row in self._rows.values() for key in row} - {"step"})
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=["epoch", "step", *columns], restval="", lineterminator="\n")
        writer.writeheader()
        for epoch in sorted(self._rows):
            row = {key: format_number(value) for key, value in self._rows[epoch].items()}
            writer.writerow({"epoch": epoch, **row})
        self._written = time.monotonic()
        if not self.path.parent.is_dir():
            return  # moved or removed under the run, which the next checkpoint reports
        try:
            write_atomically(self.path, text.getvalue().encode())
            self._is_dirty = False
        except OSError as error:
            log.warning("%s", error.strerror or error)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write what is left."""
        self.save()

    def _read(self) -> dict[int, dict[str, float]]:
        """The rows of an earlier part of the run."""
        if not self.path.is_file():
            return {}
        try:
            return {int(row.pop("epoch")): row for row in read_metrics(self.path)}
        except (ValueError, KeyError, OverflowError, csv.Error) as error:
            aside = self.path.with_name("metrics.damaged.csv")
            self.path.replace(aside)
            log.warning(
                "%s cannot be read (%s): it is kept as %s, and a new one is started", self.path, error, aside.name
            )
            return {}


def format_number(value: float) -> str:
    """Six significant digits, whole numbers as such."""
    if math.isfinite(value) and value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return f"{value:.6g}"
