"""Write predictions into files as they come: CSV, COCO JSON, YOLO text files."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TextIO

from scalablevit.cli.csv_row import write_row
from scalablevit.cli.errors import UsageError
from scalablevit.printable import printable, real_name
from scalablevit.safe_write import check_writable
from scalablevit.tasks import TaskEntry, load

FORMATS = ("csv", "coco", "yolo")


class PredictionFile(Protocol):
    """Takes predictions; what it has taken is kept when the command is stopped."""

    def add(self, prediction: Any, row: Mapping[str, Any], stem: Path) -> None:
        """Add a prediction.

        Args:
            prediction: of the task's predictor.
            row: of the prediction, as JSON has it.
            stem: relative path of the image without its ending.

        Raises:
            ValueError: this one cannot be added.
        """

    def close(self) -> None:
        """Complete the file."""


def check_format(entry: TaskEntry, kind: str, output: str | None, annotations: str | None) -> None:
    """Refuse a format that this task, or this command line, cannot have.

    Raises:
        UsageError: with the remedy.
        WriteError: nothing can be written there.
    """
    if kind != "csv" and not entry.found:
        raise UsageError(f"--format {kind} needs boxes or masks, and {entry.name} has none: choose --format csv")
    if kind != "csv" and not output:
        what = "FOLDER" if kind == "yolo" else "FILE.json"
        raise UsageError(f"--format {kind} needs --output {what}")
    if annotations is not None and kind != "coco":
        raise UsageError("--annotations gives ids to --format coco; leave it out, or choose that format")
    path = Path(output) if output else None
    if path is not None and (path.is_file() if kind == "yolo" else path.is_dir()):
        raise UsageError(f"--output {output} is a {'file; name a folder' if kind == 'yolo' else 'folder; name a file'}")
    if path is not None and kind == "coco":  # the others write as predictions come
        check_writable(path)


def open_format(
    entry: TaskEntry, kind: str, output: str | None, annotations: str | None, class_names: Sequence[str]
) -> PredictionFile:
    """The file, or folder, of a format that `check_format` lets pass.

    Raises:
        ValueError: the annotation file does not fit.
    """
    if kind == "csv":
        return _Csv(entry.csv_columns, output)
    assert output is not None
    if kind == "yolo":
        return _Yolo(entry, Path(output), class_names)
    return _Coco(entry, Path(output), class_names, None if annotations is None else Path(annotations))


class _Csv:
    """A row for each class or object; of an image with none, no row.

    Names stand in it as they are, and on a terminal as a terminal should see them.
    """

    def __init__(self, columns: Sequence[str], output: str | None) -> None:
        self._columns = columns
        self._stack = ExitStack()
        file: TextIO = sys.stdout
        if output is not None:
            Path(output).parent.mkdir(parents=True, exist_ok=True)
            opened = open(output, "w", encoding="utf-8", errors="surrogateescape", newline="")  # noqa: SIM115
            file = self._stack.enter_context(opened)
        self._file = file
        self._name_of = printable if file.isatty() else real_name
        self._write_row(["path", *columns])

    def add(self, prediction: Any, row: Mapping[str, Any], stem: Path) -> None:
        """Write the rows of an image."""
        items = next(value for value in row.values() if isinstance(value, list))
        for item in items:
            box = dict(zip(("x_min", "y_min", "x_max", "y_max"), item.get("box", ()), strict=False))
            values = {**item, **box}
            cells = [values.get(column) for column in self._columns]
            self._write_row([row["path"], *cells])
        self._file.flush()

    def _write_row(self, cells: Sequence[Any]) -> None:
        write_row(self._file, [self._name_of(cell) if isinstance(cell, str) else cell for cell in cells])

    def close(self) -> None:
        """Close the file."""
        self._stack.close()


class _Coco:
    def __init__(self, entry: TaskEntry, path: Path, class_names: Sequence[str], annotations: Path | None) -> None:
        from scalablevit.data.found_objects import CocoFile

        self._found = load(entry.found)
        self._file = CocoFile(path, class_names, annotations=annotations)

    def add(self, prediction: Any, row: Mapping[str, Any], stem: Path) -> None:
        """Add an image and its predictions."""
        suffix = prediction.path.suffix
        name = stem.as_posix() if stem.name == prediction.path.name else stem.as_posix() + suffix
        self._file.add(prediction.path, name, *self._found(prediction))

    def close(self) -> None:
        """Write the file."""
        self._file.close()


class _Yolo:
    def __init__(self, entry: TaskEntry, folder: Path, class_names: Sequence[str]) -> None:
        from scalablevit.data.found_objects import YoloFolder

        self._found = load(entry.found)
        self._folder = YoloFolder(folder, class_names)

    def add(self, prediction: Any, row: Mapping[str, Any], stem: Path) -> None:
        """Write the file of an image."""
        self._folder.add(stem, *self._found(prediction))

    def close(self) -> None:
        """Everything is written already."""
