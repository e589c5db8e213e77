"""Write a row of CSV that every reader takes for one row."""

import csv
from collections.abc import Sequence
from typing import Any, TextIO


def write_row(file: TextIO, cells: Sequence[Any]) -> None:
    """Write a row; cells are quoted where a reader needs it.

    Args:
        file: opened without translation of line ends, or standard output.
        cells: texts and numbers; None: an empty cell.
    """
    # Python before 3.13 quotes no carriage return, and readers take it for the end of a row
    has_return = any("\r" in cell for cell in cells if isinstance(cell, str))
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL).writerow(cells)
