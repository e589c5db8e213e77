"""Read a table of image files and their labels: several labels an image, or none.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import csv
import io
import itertools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from scalablevit.abridged import abridged
from scalablevit.classification.label_delimiter import described, find_delimiter
from scalablevit.data.check import Problem
from scalablevit.data.find_images import has_image_suffix
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES
from scalablevit.data.text_file import normalised, read_text

FILE_COLUMNS = (
    *("file", "filename", "file_name", "path", "filepath", "file_path", "image", "image_path", "image_name"),
    *("image_file", "image_filename", "image_id", "image index", "img", "img_path", "photo", "id", "name"),
)
LABEL_COLUMNS = (
    *("labels", "label", "tags", "tag", "classes", "class", "targets", "target", "categories", "category"),
    *("attributes", "finding labels", "class_names", "label_names"),
)
SPLIT_COLUMNS = ("split", "subset", "partition", "set", "part")
_BOX_COLUMNS = frozenset({"x", "x1", "xmin", "left", "bbox", "region_shape_attributes"})
_NO_CLASSES = frozenset({"fold", "index", "is_train", "is_val", "is_valid", "is_validation", "is_test"})
_ON, _OFF = ("1", "1.0", "true"), ("0", "0.0", "false")
_MOST_BYTES = 2**29
_MOST_NAMED = 5
_PROBED_ROWS = 50


class TableError(ValueError):
    """A table that cannot be used, with a word for its kind.

    Attributes:
        kind: one word that programs can sort by.
        path: the table.
    """

    def __init__(self, message: str, *, kind: str, path: Path) -> None:
        super().__init__(message)
        self.kind, self.path = kind, path

    def as_problem(self) -> Problem:
        """The same as an entry of a report."""
        return Problem("error", self.kind, str(self.path), str(self))


@dataclass(frozen=True)
class TableColumns:
    """Which column of a table holds what.

    Args:
        file_column: names of the image files; "auto": a usual name, such as file, path or image.
        label_column: labels of an image; "auto": a usual name, such as labels or tags; where there is none, every other
            column is a class and holds 0 or 1.
        split_column: part that an image belongs to, such as train or val; "auto": split or subset, if there is one;
            null: none.
        label_delimiter: what stands between the labels of an image; "auto": found in the column.
        ignore_columns: columns that hold no class.
    """

    file_column: str = "auto"
    label_column: str = "auto"
    split_column: str | None = "auto"
    label_delimiter: str = "auto"
    ignore_columns: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.label_delimiter:
            raise ValueError("label_delimiter is empty; give what stands between two labels, such as '|', or auto")


class LabelRow(NamedTuple):
    """An image of a table.

    Fields:
        file: as the table names it.
        labels: class names, each once; empty for an image that shows none of the classes.
        part: "train", "val" or "test"; "" where the table has no parts.
        line: number of its line in the file, from 1.
    """

    file: str
    labels: tuple[str, ...]
    part: str
    line: int


@dataclass(frozen=True)
class LabelTable:
    """What a table says.

    Attributes:
        path: the file.
        rows: in the order of the file.
        class_names: of columns in their order, else sorted.
        form: "lists": a column of labels; "columns": a column of 0 and 1 for each class.
        labels_are: where the labels stand and what separates them, for people.
        problems: what is wrong with its rows.
        delimiter: what stands between the labels of a cell; "" for one an image, None for columns of 0 and 1.
    """

    path: Path
    rows: list[LabelRow]
    class_names: list[str]
    form: Literal["lists", "columns"]
    labels_are: str
    problems: list[Problem] = field(default_factory=list)
    delimiter: str | None = None

    @property
    def parts(self) -> set[str]:
        """Parts that images belong to; empty where the table has no such column."""
        return {row.part for row in self.rows if row.part}


@dataclass(frozen=True)
class _Header:
    """Places of the columns."""

    names: list[str]
    file: int
    labels: int | None
    split: int | None
    classes: list[int]

    @property
    def used(self) -> set[int | None]:
        """Places of the columns that are read."""
        return {self.file, self.labels, self.split, *self.classes}


def read_table(path: Path, columns: TableColumns, *, like: LabelTable | None = None) -> LabelTable:
    """Read a table of labels in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Cells stand between commas, semicolons or tabs, whichever the first line has most of.

    Args:
        path: of the table.
        columns: which column holds what.
        like: a table of the same data, whose labels stand between the same marks.

    Raises:
        TableError: missing, no table, or without the columns that are needed. What is wrong with single rows is in
            `problems`.
    """
    lines = list(_lines(path))
    if not lines:
        raise TableError(
            f"{path}: the table of labels is empty; write a header and a row for each image",
            kind="bad-table",
            path=path,
        )
    (_, first), body = lines[0], lines[1:]
    header = _read_header(path, first, body, columns)
    problems, cells = _whole_rows(path, header, body)
    if not cells and not problems:
        raise TableError(
            f"{path}: the table has a header and no rows; add a row for each image", kind="bad-table", path=path
        )
    parts, faults = _read_parts(path, header, cells)
    problems += faults
    delimiter: str | None = None
    if header.labels is not None:
        name, of_labels = header.names[header.labels], [row[header.labels] for _, row in cells]
        try:
            delimiter = find_delimiter(
                of_labels, columns.label_delimiter, column=name, like=None if like is None else like.delimiter
            )
        except ValueError as error:
            raise TableError(f"{path}: {error}", kind="bad-labels", path=path) from error
        labels_are = described(delimiter, name)
        labels, faults = _read_lists(path, header, cells, delimiter)
        names = sorted({label for of_row in labels for label in of_row})
    else:
        labels_are = f"{len(header.classes)} columns of 0 and 1"
        labels, faults = _read_columns(path, header, cells)
        names = [header.names[k] for k in header.classes]
        faults += _look_like_no_classes(path, names)
    problems += faults
    unread = [name for k, name in enumerate(header.names) if name and k not in header.used]
    rest = f"; not read: {abridged(unread, 5)}" if unread else ""
    rows = [
        LabelRow(row[header.file], of_row, part, line)
        for (line, row), of_row, part in zip(cells, labels, parts, strict=True)
    ]
    problems += _no_file(path, rows)
    form: Literal["lists", "columns"] = "columns" if header.labels is None else "lists"
    problems += _look_alikes(path, names)
    return LabelTable(path, [row for row in rows if row.file], names, form, labels_are + rest, problems, delimiter)


def read_column_names(path: Path) -> list[str]:
    """Names of the columns of a table; empty where it cannot be read as one."""
    try:
        return next((row for _, row in _lines(path)), [])
    except TableError:
        return []


def holds_labels(path: Path) -> bool:
    """Whether a table names files and labels, by its columns and first rows, and no boxes."""
    try:
        rows = [row for _, row in itertools.islice(_lines(path), _PROBED_ROWS)]
    except TableError:
        return False
    names, body = (rows or [[]])[0], rows[1:]
    file = find_column(names, FILE_COLUMNS)
    if file is None or not body or {name.lower() for name in names} & _BOX_COLUMNS:
        return False
    flags = ({row[k].lower() for row in body if k < len(row)} for k in range(len(names)) if k != file)
    return find_column(names, LABEL_COLUMNS) not in (None, file) or any(found <= {*_ON, *_OFF} for found in flags)


def find_column(names: Sequence[str], known: Sequence[str]) -> int | None:
    """Place of the first of the known names among names of columns, in any case of letters."""
    lower = [name.lower() for name in names]
    return next((lower.index(name) for name in known if name in lower), None)


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(number of the line, cells) of all rows that are not empty; cells without spaces around them."""
    try:
        text = read_text(path, what="the table of labels", most_bytes=_MOST_BYTES)
    except ValueError as error:
        raise TableError(str(error), kind="bad-table", path=path) from error
    skipped = 0
    if text[:4].lower() == "sep=":  # Excel's own first line
        skipped, (_, _, text) = 1, text.partition("\n")
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            cells = [normalised(cell) for cell in row]
            if any(cells):
                yield reader.line_num + skipped, cells
    except csv.Error as error:
        line = reader.line_num + skipped
        raise TableError(
            f"{path}: line {line} is no row of a table ({error}); close its quotes, or save the table again as CSV",
            kind="bad-table",
            path=path,
        ) from error


def _read_header(path: Path, names: list[str], body: Sequence[tuple[int, list[str]]], columns: TableColumns) -> _Header:
    """Find the columns by their names.

    Raises:
        TableError: there is no header, or a column is missing or meant twice.
    """
    if any(has_image_suffix(name) for name in names):
        raise TableError(
            f"{path}: its first line must name the columns, such as file,labels, and is {abridged(names, 3)}; add it",
            kind="bad-table",
            path=path,
        )
    if twice := [name for name, count in Counter(names).items() if name and count > 1]:
        raise TableError(f"{path}: the column {twice[0]!r} is there twice; rename one", kind="bad-table", path=path)
    for key in ("file_column", "label_column", "split_column"):
        if (value := getattr(columns, key)) not in ("auto", None):
            _place(path, names, key, value)
    ignored = {_place(path, names, "ignore_columns", name) for name in columns.ignore_columns}
    file = _file_place(path, names, body, columns)
    if columns.label_column == "auto" and (boxes := [name for name in names if name.lower() in _BOX_COLUMNS]):
        raise TableError(
            f"{path}: it seems to list boxes, as it has the column {boxes[0]!r}: use a detection recipe, or name the "
            "column of labels by data.label_column",
            kind="bad-table",
            path=path,
        )
    labels = _chosen(path, names, "label_column", columns.label_column, LABEL_COLUMNS, [*ignored, file])
    split = _chosen(path, names, "split_column", columns.split_column, SPLIT_COLUMNS, [*ignored, file, labels])
    rest = [k for k, name in enumerate(names) if name and k not in {file, split, *ignored}]
    if labels is not None and columns.label_column == "auto" and _are_flags(body, labels):
        # beside other columns of 0 and 1 it is one of them, whatever its name
        own = [k for k in rest if k != labels and names[k].lower() not in _NO_CLASSES]
        labels = None if any(_are_flags(body, k) for k in own) else labels
    if labels is None and not rest:
        raise TableError(
            f"{path}: there is no column of labels beside {', '.join(names)}; add a column named labels, or one of 0 "
            "and 1 for each class",
            kind="bad-table",
            path=path,
        )
    return _Header(names, file, labels, split, [] if labels is not None else rest)


def _are_flags(body: Sequence[tuple[int, list[str]]], place: int) -> bool:
    """Whether a column holds 0 and 1 alone."""
    values = {_number(row[place]) for _, row in body if place < len(row)}
    return bool(values) and values <= {*_ON, *_OFF}


def _number(cell: str) -> str:
    return cell.lower().replace(",", ".")


def _file_place(path: Path, names: list[str], body: Sequence[tuple[int, list[str]]], columns: TableColumns) -> int:
    if columns.file_column != "auto":
        return _place(path, names, "file_column", columns.file_column)
    found = find_column(names, FILE_COLUMNS)
    if found is None:  # a name of the user's own, over names of image files
        holding = [
            k
            for k in range(len(names))
            if body and all(k < len(row) and has_image_suffix(row[k]) for _, row in body[:20])
        ]
        found = holding[0] if len(holding) == 1 else None
    if found is None:
        raise TableError(
            f"{path}: none of the columns {abridged(names, 8)} is known to name the image files (such as file or "
            "path); name it by data.file_column",
            kind="bad-table",
            path=path,
        )
    return found


def _chosen(
    path: Path, names: list[str], key: str, value: str | None, known: Sequence[str], taken: Collection[int | None]
) -> int | None:
    if value is None:
        return None
    if value != "auto":
        return _place(path, names, key, value)
    found = find_column(names, known)
    return None if found in taken else found


def _place(path: Path, names: list[str], key: str, name: str) -> int:
    """Place of a column that the user names."""
    if normalised(name) not in names:
        raise TableError(
            f"{path}: data.{key} {name!r} is no column of the table; they are {abridged(names, 12)}",
            kind="unknown-column",
            path=path,
        )
    return names.index(normalised(name))


def _whole_rows(
    path: Path, header: _Header, body: Sequence[tuple[int, list[str]]]
) -> tuple[list[Problem], list[tuple[int, list[str]]]]:
    """Rows with as many cells as the header, and what is wrong with the others; Excel leaves empty cells behind."""
    width = len(header.names)
    rows: list[tuple[int, list[str]]] = []
    bad: list[tuple[int, list[str]]] = []
    for line, row in body:
        if len(row) > width and not any(row[width:]):
            row = row[:width]
        (rows if len(row) == width else bad).append((line, row))
    if not bad:
        return [], rows
    line, row = bad[0]
    remedy = "put quotes around cells that hold the separator" if len(row) > width else "fill it up"
    message = (
        f"{path}: {len(bad):,} of {len(body):,} rows have another number of cells than the header: line {line} has "
        f"{len(row)}, the header {width}; {remedy}"
    )
    return [Problem("error", "bad-row", str(path), message)], rows


def _read_parts(path: Path, header: _Header, cells: Sequence[tuple[int, list[str]]]) -> tuple[list[str], list[Problem]]:
    """The part of each row: train, val or test."""
    if header.split is None:
        return [""] * len(cells), []
    usual = {**dict.fromkeys(TRAIN_NAMES, "train"), **dict.fromkeys(VAL_NAMES, "val"), "dev": "val", "eval": "val"}
    usual |= {"test": "test", "testing": "test"}
    parts = [usual.get(row[header.split].lower(), "") for _, row in cells]
    unknown = [(line, row[header.split]) for (line, row), part in zip(cells, parts, strict=True) if not part]
    if not unknown:
        return parts, []
    line, value = unknown[0]
    message = (
        f"{path}: {len(unknown):,} rows have no known part in the column {header.names[header.split]!r}, such as "
        f"{value!r} in line {line}; write train, val or test, or set data.split_column to null"
    )
    return parts, [Problem("error", "unknown-part", str(path), message)]


def _read_lists(
    path: Path, header: _Header, cells: Sequence[tuple[int, list[str]]], delimiter: str
) -> tuple[list[tuple[str, ...]], list[Problem]]:
    """The labels of each row, each once, in the order of the cell."""
    assert header.labels is not None
    found, repeated = [], []
    for line, row in cells:
        words = row[header.labels].split(delimiter) if delimiter else [row[header.labels]]
        labels = [label for label in (word.strip() for word in words) if label]
        if len(set(labels)) < len(labels):
            repeated.append(line)
        found.append(tuple(dict.fromkeys(labels)))
    if not repeated:
        return found, []
    message = f"{path}: {len(repeated):,} rows name a label twice, such as line {repeated[0]}; it counts once"
    return found, [Problem("warning", "repeated-label", str(path), message)]


def _read_columns(
    path: Path, header: _Header, cells: Sequence[tuple[int, list[str]]]
) -> tuple[list[tuple[str, ...]], list[Problem]]:
    """The labels of each row from columns of 0 and 1, and the columns that hold something else."""
    found: list[tuple[str, ...]] = []
    odd: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for line, row in cells:
        labels = []
        for k in header.classes:
            value = _number(row[k])
            if value in _ON:
                labels.append(header.names[k])
            elif value not in _OFF:
                odd[k].append((line, row[k]))
        found.append(tuple(labels))
    problems = []
    for k, values in list(odd.items())[:_MOST_NAMED]:
        line, value = values[0]
        shown = repr(value[:40]) if value else "nothing"
        message = (
            f"{path}: the column {header.names[k]!r} holds {shown} in line {line} ({len(values):,} of {len(cells):,} "
            "rows hold neither 0 nor 1); correct them, or name a column that is no class in data.ignore_columns, or "
            "the column of labels in data.label_column"
        )
        problems.append(Problem("error", "bad-value", str(path), message))
    if len(odd) > _MOST_NAMED:
        message = f"{path}: {len(odd) - _MOST_NAMED:,} more columns hold values that are neither 0 nor 1"
        problems.append(Problem("error", "bad-value", str(path), message))
    return found, problems


def _look_like_no_classes(path: Path, names: Sequence[str]) -> list[Problem]:
    """Columns of 0 and 1 whose names are those of the order of images, or of their parts."""
    odd = [name for name in names if name.lower() in _NO_CLASSES]
    if not odd:
        return []
    message = (
        f"{path}: columns are learned as classes that may be none: {abridged(odd)}; name them in data.ignore_columns "
        "(parts of the data stand in a column split, as train and val)"
    )
    return [Problem("warning", "no-class", str(path), message)]


def _no_file(path: Path, rows: Sequence[LabelRow]) -> list[Problem]:
    """Rows that name no image."""
    without = [row.line for row in rows if not row.file]
    if not without:
        return []
    message = (
        f"{path}: {len(without):,} rows name no image, such as line {without[0]}; fill in the name, or remove them"
    )
    return [Problem("error", "no-file-name", str(path), message)]


def _look_alikes(path: Path, names: Sequence[str]) -> list[Problem]:
    """Labels that differ in the case of their letters or in spaces alone: most likely one class."""
    spellings: dict[str, list[str]] = defaultdict(list)
    for name in names:
        spellings["".join(name.casefold().split())].append(name)
    twice = [" and ".join(map(repr, same)) for same in spellings.values() if len(same) > 1]
    if not twice:
        return []
    message = (
        f"{path}: labels that differ in case or spaces alone are different classes: {abridged(twice, 3)}; write "
        "them alike"
    )
    return [Problem("warning", "look-alike", str(path), message)]
