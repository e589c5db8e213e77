"""Names of the classes of masks, from a file.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES
from scalablevit.data.text_file import read_text
from scalablevit.segmentation.labels import IGNORED, MOST_CLASSES

CLASS_FILES = ("classes.txt", "classes.json", "class_names.txt", "codes.txt", "objectInfo150.txt", "objectInfo150.csv")
"""Files in a data folder that are looked through for class names, in this order."""

_ROBOFLOW_FILE = "_classes.csv"
_WHAT = "class_names_file"


def find_class_file(root: Path) -> Path | None:
    """Find the file with class names in a data folder: one of `CLASS_FILES`, or Roboflow's in a part; None without."""
    of_parts = (root / part / _ROBOFLOW_FILE for part in ("", *TRAIN_NAMES, *VAL_NAMES))
    of_parts = (file for file in of_parts if file.is_file() and _is_roboflow(_first_line(file)))
    return next((root / name for name in CLASS_FILES if (root / name).is_file()), None) or next(of_parts, None)


def _first_line(file: Path) -> str:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        return lines.readline(1000)


def _is_roboflow(header: str) -> bool:
    """Whether a table's first line is that of Roboflow's masks; its tables of image labels have the same file name."""
    return re.fullmatch(r"\s*pixel value\s*,\s*class\s*", header, re.IGNORECASE) is not None


def read_class_names(
    path: str | Path, *, reduce_zero_label: bool = False, ignore_labels: Iterable[int] = (IGNORED,)
) -> list[str]:
    """Read the names of the classes, by class index, from a file.

    Known forms that name classes in order: text with a name on each line; a JSON list of names. With
    `reduce_zero_label` they start with the class of label 1. Known forms that number labels as mask files do: text
    with a number and a name on each line, such as Roboflow's `_classes.csv`; a JSON object `{"0": "road", ...}` or
    `{"road": 0, ...}`; ADE20K's `objectInfo150.txt`, of whose synonyms the first is taken. Labels that such a file
    leaves out are called "other" (label 0) or "class N".

    Args:
        path: the file; see `read_text` for its encodings.
        reduce_zero_label: see `LabelMap`.
        ignore_labels: see `LabelMap`; names of these are left out.

    Raises:
        ValueError: the file is missing or has another form, names fewer than two or too many classes, or two alike.
    """
    path = Path(path).expanduser()
    text = read_text(path, what=_WHAT)
    named = _from_json(path, text) if path.suffix.lower() == ".json" else _from_text(path, text)
    if isinstance(named, list):
        names = named
    else:
        names = _in_order(path, named, reduce_zero_label, set(ignore_labels))
    check_class_names(path, names, what=_WHAT)
    return names


def check_class_names(path: Path, names: list[str], *, what: str) -> None:
    """Raise a ValueError unless there are 2 to 255 names, all different and none of them blank."""
    if not 2 <= len(names) <= MOST_CLASSES:
        raise ValueError(
            f"{path}: {what} names {len(names):,} classes, but there must be 2 to {MOST_CLASSES}; write one name on "
            "each line"
        )
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise ValueError(f"{path}: {what} has the name {twice[0]!r} more than once; make the names differ")
    if not all(name.strip() for name in names):
        raise ValueError(f"{path}: {what} has a name without a letter; name every class")


def _in_order(path: Path, named: Mapping[int, str], reduce_zero_label: bool, ignored: set[int]) -> list[str]:
    first = int(reduce_zero_label)
    kept = {label: name for label, name in named.items() if label >= first and label not in ignored}
    last = max(kept, default=0)
    # Before names are made up for what lies between: a single large number would fill the memory.
    if last - first >= MOST_CLASSES:
        raise ValueError(
            f"{path}: {_WHAT} numbers a class {last:,}, but there can be {MOST_CLASSES} classes at most, from label "
            f"{first} to {first + MOST_CLASSES - 1}; correct the number, ignore the label by ignore_labels, or map "
            "labels to classes by label_map"
        )
    unnamed = {label: f"class {label - first}" if label else "other" for label in range(first, last + 1)}
    return list((unnamed | kept).values())


def _from_json(path: Path, text: str) -> list[str] | dict[int, str]:
    content = parse_json(path, text, what=_WHAT)
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    if isinstance(content, dict):
        if all(isinstance(name, str) and re.fullmatch(r"[0-9]{1,9}", key) for key, name in content.items()):
            return {int(key): name for key, name in content.items()}
        if all(type(label) is int and label >= 0 for label in content.values()):
            by_label = {label: name for name, label in content.items()}
            if len(by_label) == len(content):
                return by_label
    raise ValueError(
        f'{path}: {_WHAT} must be a JSON list of names, such as ["road", "car"], or an object from label to '
        'name, such as {"0": "road", "1": "car"}'
    )


def parse_json(path: Path, text: str, *, what: str) -> Any:
    """Parse JSON, of any nesting and with numbers of any length; a ValueError names the file."""
    try:
        return json.loads(text)
    # Numbers of over 4,300 digits are a plain ValueError.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {what} is not valid JSON ({str(error)[:200]}); correct it") from None


def _from_text(path: Path, text: str) -> list[str] | dict[int, str]:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    header = re.split(r"[\t,]", lines[0].lower()) if lines else []
    if "idx" in header and "name" in header:
        return _from_object_info(path, lines, header)
    if lines and _is_roboflow(lines[0]):
        lines = lines[1:]
    numbered = [re.fullmatch(r"([0-9]{1,9})\s*[\s:;,=]\s*(.*\S)", line) for line in lines]
    if lines and all(numbered):
        pairs = [(int(match[1]), match[2]) for match in numbered if match is not None]
        if len({label for label, _ in pairs}) == len(pairs):
            return dict(pairs)
    return lines


def _from_object_info(path: Path, lines: list[str], header: list[str]) -> dict[int, str]:
    separator = "\t" if "\t" in lines[0] else ","
    full: dict[int, str] = {}
    for line in lines[1:]:
        cells = line.split(separator, len(header) - 1)
        if len(cells) != len(header) or not re.fullmatch(r"[0-9]{1,9}", cells[header.index("idx")].strip()):
            raise ValueError(f"{path}: the line {line[:200]!r} has not the columns of the first line; correct it")
        full[int(cells[header.index("idx")])] = cells[header.index("name")].strip()
    first = {label: re.split(r"[,;]", name)[0].strip() for label, name in full.items()}
    shared = {name for name, count in Counter(first.values()).items() if count > 1}
    return {label: full[label] if name in shared else name for label, name in first.items()}
