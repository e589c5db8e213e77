"""What a folder of images with a table of labels holds: images of training and validation, and classes.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from scalablevit.abridged import abridged
from scalablevit.classification.label_table import (
    LabelRow,
    LabelTable,
    TableColumns,
    TableError,
    holds_labels,
    read_column_names,
    read_table,
)
from scalablevit.classification.table_files import ImageFinder, of_part, relative_name
from scalablevit.data.check import Problem, raise_for_errors
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES, check_val_fraction, split_by_hash, why_no_folder
from scalablevit.data.text_file import normalised

_TABLE_SUFFIXES = (".csv", ".tsv")
_SET_ASIDE = "set aside from training"


class LabelledImage(NamedTuple):
    """An image of a table whose file was found.

    Fields:
        file: relative to the data folder.
        labels: names of its classes; may be empty.
        line: of the table.
    """

    file: str
    labels: tuple[str, ...]
    line: int


@dataclass(frozen=True)
class TableScan:
    """Images and labels of a data folder.

    Args:
        root: the data folder.
        tables: of training and of validation; the same where one table has both.
        class_names: by class index.
        train: training images, in the order of the table.
        val: validation images.
        origin: where the validation images come from, for people.
        labels_are: where the labels stand and what separates them, for people.
        problems: what is wrong.
    """

    root: Path
    tables: tuple[Path, ...] = ()
    class_names: list[str] = field(default_factory=list)
    train: list[LabelledImage] = field(default_factory=list)
    val: list[LabelledImage] = field(default_factory=list)
    origin: str = ""
    labels_are: str = ""
    problems: list[Problem] = field(default_factory=list)

    def raise_for_errors(self) -> None:
        """Raise a ValueError that names every error."""
        raise_for_errors(self.root, self.problems)


class _Part(NamedTuple):
    """A table whose images were looked for."""

    table: LabelTable
    images: list[tuple[LabelledImage, str]]  # and the part that the table says
    problems: list[Problem]
    unused: Sequence[str] = ()  # files of rows that are left out


def scan_table(
    root: str | Path,
    *,
    labels: str | Path = "auto",
    val_labels: str | Path | None = "auto",
    images: str = "auto",
    columns: TableColumns | None = None,
    val_fraction: float = 0.1,
    trained_class_names: Sequence[str] | None = None,
) -> TableScan:
    """Read the table of labels of a data folder; never raises for what is wrong with it.

    Validation images are those of the table of validation, else those that the column of parts says, else a share that
    is set aside, chosen by a hash of the file names: the same on every machine and in every run. Of each class at least
    one image stays in training.

    Args:
        root: the data folder.
        labels: table of the images, relative to `root`; "auto": labels.csv, train.csv or the only table.
        val_labels: table of the validation images; "auto": val.csv beside train.csv; None: none.
        images: folder in `root` that the names of files start from; "auto": `root` or the folder below it that holds
            them.
        columns: which column holds what.
        val_fraction: share that is set aside, in (0, 1); 1 with `trained_class_names`.
        trained_class_names: classes of the network that is evaluated: only validation images matter then, and they may
            show some of the classes. None: a network is trained.

    Raises:
        ValueError: `val_fraction` is out of range.
    """
    check_val_fraction(val_fraction, trained_class_names=trained_class_names)
    root = Path(root).expanduser()
    if (missing := why_no_folder(root)) is not None:
        return TableScan(root, problems=[Problem("error", "missing-root", str(root), missing)])
    columns = columns or TableColumns()
    try:
        train_path, val_path, notes = _find_tables(root, labels, val_labels, is_trained=trained_class_names is None)
        finder = ImageFinder(root, images)
        parts = _read_tables(train_path, val_path, columns, finder, is_trained=trained_class_names is None)
    except TableError as error:
        return TableScan(root, problems=[error.as_problem()])
    scan = TableScan(
        root,
        tuple(part.table.path for part in parts),
        labels_are=parts[0].table.labels_are,
        problems=[*notes, *(problem for part in parts for problem in (*part.table.problems, *part.problems))],
    )
    scan.problems.extend(_repeated(parts))
    if any(problem.severity == "error" for problem in scan.problems):
        return scan
    if trained_class_names is None:
        scan = _split(scan, parts, val_fraction)
        scan.problems.extend([*_training_problems(scan, parts), *_unlisted(scan, finder, parts)])
    else:
        is_for_val = val_path not in (None, train_path)
        scan = _evaluated(scan, parts[0], val_fraction, trained_class_names, is_for_val=is_for_val)
    return scan


def holds_table(root: Path) -> bool:
    """Whether a folder has a table of labels."""
    return root.is_dir() and any(map(holds_labels, _tables(root)))


def _tables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _TABLE_SUFFIXES and path.is_file())


def _role(path: Path) -> str:
    """Part that a table is for, by the words of its name: train, val or test."""
    words = set(re.split(r"[^a-z]+", path.stem.lower()))
    if words & set(TRAIN_NAMES):
        return "train"
    return "test" if "test" in words else "val" if words & set(VAL_NAMES) else ""


def _find_tables(
    root: Path, labels: str | Path, val_labels: str | Path | None, *, is_trained: bool
) -> tuple[Path | None, Path | None, list[Problem]]:
    """The table of all or of training, that of validation, and what was not taken.

    Raises:
        TableError: there is none, or several may be meant.
    """
    found = {key: _named(root, key, value) for key, value in (("labels", labels), ("val_labels", val_labels))}
    train, val = found["labels"], found["val_labels"]
    tables = _tables(root)
    if train is None and (is_trained or val is None):
        train = _guess_train(root, [path for path in tables if path != val])
    notes = []
    if val is None and val_labels == "auto" and train is not None and labels == "auto":
        by_role = {role: [path for path in tables if path != train and _role(path) == role] for role in ("val", "test")}
        candidates = by_role["val"] or by_role["test"]
        if _role(train) == "train" and candidates:
            if sorted(read_column_names(candidates[0])) == sorted(read_column_names(train)):
                val = candidates[0]
                if is_trained and not by_role["val"]:
                    message = (
                        f"{val}: it is taken for validation, as there is no val.csv, and so chooses the epoch; to keep "
                        "it for a test, set data.val_labels to null, which sets images aside"
                    )
                    notes.append(Problem("warning", "test-for-validation", str(val), message))
            else:
                message = (
                    f"{candidates[0]}: its columns differ from those of {train.name}, and it is not used; name it by "
                    "data.val_labels if it is for validation"
                )
                notes.append(Problem("warning", "unused-table", str(candidates[0]), message))
    return train, val, notes


def _named(root: Path, key: str, value: str | Path | None) -> Path | None:
    if value is None or value == "auto":
        return None
    path = root / Path(value).expanduser()
    if not path.is_file():
        raise TableError(
            f"{path}: data.{key} names no file; check the name, which starts from {root}",
            kind="missing-table",
            path=path,
        )
    return path


def _guess_train(root: Path, tables: Sequence[Path]) -> Path:
    by_name = [path for path in tables if path.stem.lower() == "labels"]
    by_role = [path for path in tables if _role(path) == "train"]
    candidates = by_name or by_role or [path for path in tables if not _role(path)] or tables
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        listed = abridged((path.name for path in candidates), 5)
        message = f"{root}: several tables may be meant: {listed}; name the table of labels by data.labels"
        raise TableError(message, kind="ambiguous-table", path=root)
    message = (
        f"{root}: there is no table of labels; write labels.csv with the columns file and labels, such as "
        "1.jpg,cat|dog (for a folder per class use the recipe train_folder), or name your table by data.labels"
    )
    raise TableError(message, kind="missing-table", path=root)


def _read_tables(
    train: Path | None, val: Path | None, columns: TableColumns, finder: ImageFinder, *, is_trained: bool
) -> list[_Part]:
    """Read the table of training, and that of validation where there is one; an evaluation needs the latter alone.

    Raises:
        TableError: as `read_table`.
    """
    if val is None or val == train:
        assert train is not None
        return [_read_part(train, columns, finder)]
    parts: list[_Part] = []
    like = None
    if is_trained:
        assert train is not None
        parts = [_only(_read_part(train, columns, finder), ("", "train"), f"training, as {val.name} is for validation")]
        like = parts[0].table
    elif train is not None:
        with contextlib.suppress(TableError):  # it tells what stands between labels, and no more is wanted of it
            like = read_table(train, columns)
    return [*parts, _only(_read_part(val, columns, finder, like=like), ("", "val", "test"), "validation")]


def _only(part: _Part, names: Sequence[str], use: str) -> _Part:
    """Leave out the images of other parts than a table is for, and warn of them."""
    images = [(image, own) for image, own in part.images if own in names]
    if not (left_out := len(part.images) - len(images)):
        return part
    others = abridged(sorted({own for _, own in part.images} - set(names)))
    path = part.table.path
    message = f"{path}: {left_out:,} rows of other parts ({others}) are not used in {use}"
    problems = [*part.problems, Problem("warning", "unused-part", str(path), message)]
    unused = [image.file for image, own in part.images if own not in names]
    return part._replace(images=images, problems=problems, unused=unused)


def _read_part(path: Path, columns: TableColumns, finder: ImageFinder, *, like: LabelTable | None = None) -> _Part:
    """Read a table and find its images.

    Raises:
        TableError: as `read_table`.
    """
    table = read_table(path, columns, like=like)
    images, missing, several = [], [], []
    for row in table.rows:
        found = finder.find(relative_name(row.file, finder.root))
        if len(found) > 1:
            found = of_part(found, row.part or _role(path)) or found
        if len(found) == 1:
            images.append((LabelledImage(found[0], row.labels, row.line), row.part))
        elif found:
            several.append((row, found))
        else:
            missing.append(row)
    return _Part(table, images, [*_missing(path, missing, len(table.rows), finder), *_ambiguous(path, several)])


def _missing(path: Path, rows: Sequence[LabelRow], count: int, finder: ImageFinder) -> list[Problem]:
    if not rows:
        return []
    left_out = f" ({finder.walk.listed()} are left out as no images by their names)" if finder.walk.left_out else ""
    message = (
        f"{path}: {len(rows):,} of {count:,} images are not there, such as {rows[0].file} (line {rows[0].line}), "
        f"which was looked for below {finder.base}{left_out}; add the files, remove the rows, or correct data.root or "
        "data.images"
    )
    return [Problem("error", "missing-image", str(path), message)]


def _ambiguous(path: Path, several: Sequence[tuple[LabelRow, Sequence[str]]]) -> list[Problem]:
    if not several:
        return []
    row, files = several[0]
    message = (
        f"{path}: {len(several):,} names mean several files, such as {row.file} (line {row.line}): "
        f"{abridged(files, 3)}; write the folders before the names, or name the folder by data.images"
    )
    return [Problem("error", "ambiguous-image", str(path), message)]


def _repeated(parts: Sequence[_Part]) -> list[Problem]:
    """Images that several rows name."""
    places: dict[str, list[tuple[Path, LabelledImage]]] = defaultdict(list)
    for part in parts:
        for image, _ in part.images:
            places[image.file].append((part.table.path, image))
    twice = [(file, rows) for file, rows in places.items() if len(rows) > 1]
    if not twice:
        return []
    file, rows = twice[0]
    (first_table, first), (second_table, second) = rows[:2]
    if first_table != second_table:
        message = (
            f"{second_table}: {len(twice):,} images stand in {first_table.name} too, such as {file}; the figures "
            "would be too good: remove them from one"
        )
        return [Problem("error", "leak", str(second_table), message)]
    message = (
        f"{first_table}: {len(twice):,} images have several rows, such as {file} in the lines {first.line} and "
        f"{second.line}; write all labels of an image into one row"
    )
    return [Problem("error", "repeated-row", str(first_table), message)]


def _split(scan: TableScan, parts: Sequence[_Part], val_fraction: float) -> TableScan:
    """Training and validation images, and the classes: columns in their order, or the labels of training, sorted."""
    table, train = parts[0].table, [image for image, _ in parts[0].images]
    if len(parts) == 2:
        val, origin = [image for image, _ in parts[1].images], parts[1].table.path.name
    elif (chosen := _val_part(table)) is not None:
        train = [image for image, part in parts[0].images if part == "train"]
        val = [image for image, part in parts[0].images if part == chosen]
        origin = f"rows of the part {chosen}"
        if unused := len(parts[0].images) - len(train) - len(val):
            message = f"{table.path}: {unused:,} rows of the part test are used in neither training nor validation"
            scan.problems.append(Problem("warning", "unused-part", str(table.path), message))
    else:
        train, val = _set_aside(train, val_fraction)
        origin = _SET_ASIDE
    trained = sorted({label for image in train for label in image.labels})
    names = table.class_names if table.form == "columns" else trained
    return replace(scan, class_names=names, train=train, val=val, origin=origin)


def _val_part(table: LabelTable) -> str | None:
    """Part of the table that is for validation; None: it tells of no parts but training."""
    return next((part for part in ("val", "test") if part in table.parts), None)


def _set_aside(images: list[LabelledImage], fraction: float) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Set a share aside; of classes that would be left without a training image, one comes back."""
    if fraction == 1:
        return [], images
    train, val = split_by_hash(images, fraction, name=lambda image: image.file)
    there = {label for image in train for label in image.labels}
    back = set()
    for image in val:
        if not set(image.labels) <= there:
            there |= set(image.labels)
            back.add(image.file)
    kept = {image.file for image in train} | back
    return [image for image in images if image.file in kept], [image for image in val if image.file not in back]


def _evaluated(
    scan: TableScan, part: _Part, val_fraction: float, names: Sequence[str], *, is_for_val: bool
) -> TableScan:
    """The images on which a trained network is evaluated: those of validation, or all where there are none."""
    table = part.table
    if is_for_val:
        val, origin = [image for image, _ in part.images], table.path.name
    elif (chosen := _val_part(table)) is not None:
        val = [image for image, own in part.images if own == chosen]
        origin = f"rows of the part {chosen}"
    else:
        _, val = _set_aside([image for image, _ in part.images], val_fraction)
        origin = table.path.name if val_fraction == 1 else _SET_ASIDE
    own = {normalised(name): name for name in names}
    found = replace(scan, class_names=list(names), origin=origin)
    shown = table.class_names if table.form == "columns" else sorted({label for image in val for label in image.labels})
    if unknown := [name for name in shown if name not in own]:
        message = (
            f"{table.path}: {len(unknown)} classes are not among the {len(names)} of the network "
            f"({abridged(map(repr, names), 8)}): {abridged(map(repr, unknown))}; rename them as the network's, or "
            "remove them"
        )
        scan.problems.append(Problem("error", "unknown-class", str(table.path), message))
        return found
    val = [image._replace(labels=tuple(own[label] for label in image.labels)) for image in val]
    scan.problems.extend(_without_validation(table.path, names, val, "their precision is not measured"))
    return replace(found, val=val)


def _training_problems(scan: TableScan, parts: Sequence[_Part]) -> list[Problem]:
    path, names = scan.tables[0], scan.class_names
    if len(names) < 2:
        message = (
            f"{path}: there {'is one class only, ' + repr(names[0]) if names else 'are no labels'}; label two classes "
            "at least (for yes or no, use a folder per class and the recipe train_folder)"
        )
        return [Problem("error", "single-class", str(path), message)]
    kinds = ("training", "empty-training", scan.train), ("validation", "empty-validation", scan.val)
    for what, kind, images in kinds:
        if not images:
            remedy = "add rows of this part"
            if what == "validation" and scan.origin == _SET_ASIDE:
                remedy = (
                    "a share is set aside, and each class keeps an image for training; add images, raise "
                    "data.val_fraction, or name a table of validation images by data.val_labels"
                )
            message = f"{scan.tables[-1]}: there are no {what} images: {remedy}"
            return [Problem("error", kind, str(scan.tables[-1]), message)]
    named = {label for image in scan.val for label in image.labels}
    if len(parts) == 2 and parts[1].table.form == "columns":
        named = set(parts[1].table.class_names)
    if unknown := sorted(named - set(names)):
        message = (
            f"{scan.tables[-1]}: {len(unknown)} classes of validation are not in training: "
            f"{abridged(map(repr, unknown))}; rename them as in training, add training images of them, or remove them"
        )
        return [Problem("error", "unknown-class", str(scan.tables[-1]), message)]
    trained = {label for image in scan.train for label in image.labels}
    problems = []
    if unlearned := [name for name in names if name not in trained]:
        message = (
            f"{path}: {len(unlearned)} classes have no training image: {abridged(map(repr, unlearned))}; the network "
            "cannot learn them: add images, or name the columns in data.ignore_columns"
        )
        problems.append(Problem("warning", "class-without-training", str(path), message))
    problems += _without_validation(scan.tables[-1], names, scan.val, "they do not count in the mean precision")
    if not any(image.labels for image in scan.val):
        message = f"{scan.tables[-1]}: no validation image has a label, so nothing could be measured; add some"
        problems.append(Problem("error", "empty-validation", str(scan.tables[-1]), message))
    return problems


def _without_validation(
    path: Path, names: Sequence[str], val: Sequence[LabelledImage], consequence: str
) -> Iterable[Problem]:
    shown = {label for image in val for label in image.labels}
    if lacking := [name for name in names if name not in shown]:
        message = (
            f"{path}: {len(lacking)} of {len(names)} classes have no validation image: {abridged(map(repr, lacking))}; "
            f"{consequence}"
        )
        yield Problem("warning", "class-without-validation", str(path), message)


def _unlisted(scan: TableScan, finder: ImageFinder, parts: Sequence[_Part]) -> list[Problem]:
    """Images below the folder that no row names."""
    listed = {file for part in parts for file in (*part.unused, *(image.file for image, _ in part.images))}
    others = [file for file in finder.files.values() if file not in listed]
    if not others:
        return []
    message = (
        f"{scan.tables[0]}: {len(others):,} images below {scan.root} have no row, such as {others[0]}; they are not "
        "used (an image without labels needs a row, too)"
    )
    return [Problem("warning", "unlisted", str(scan.tables[0]), message)]


def counts_of(images: Iterable[LabelledImage], class_names: Sequence[str]) -> Mapping[str, int]:
    """How many images show each class, in the order of the classes."""
    counts = Counter(label for image in images for label in image.labels)
    return {name: counts[name] for name in class_names}
