"""Print predictions as a table, row by row as they come."""

from collections.abc import Iterable, Sequence

from scalablevit.printable import printable

_GAP = "  "


class PredictionTable:
    """A table whose widths are known before its rows are.

    Args:
        columns: headings behind "image".
        names: of the images that will be printed.
        values: that the second column may hold.
    """

    def __init__(self, columns: Sequence[str], names: Iterable[str], values: Iterable[str]) -> None:
        from rich.cells import cell_len  # letters of some scripts are two columns wide

        self._length = cell_len
        self._headings = ("image", *columns)
        lengths = [max(map(self._width, names), default=0), max(map(self._width, values), default=0)]
        self._widths = [max(len(heading), n) for heading, n in zip(self._headings, lengths, strict=False)]
        self._has_heading = False

    def add(self, name: str, rows: Sequence[tuple[str, str]]) -> None:
        """Print the predictions of an image, and the headings before the first."""
        if not self._has_heading:
            self._print(self._headings)
            self._has_heading = True
        for i, row in enumerate(rows or [("nothing", "")]):
            self._print((name if i == 0 else "", *row))

    def _print(self, cells: Sequence[str]) -> None:
        shown = [printable(cell) for cell in cells]
        padded = [cell + " " * (width - self._length(cell)) for cell, width in zip(shown, self._widths, strict=False)]
        print(_GAP.join([*padded, *shown[len(padded) :]]).rstrip(), flush=True)

    def _width(self, text: str) -> int:
        return self._length(printable(text))
