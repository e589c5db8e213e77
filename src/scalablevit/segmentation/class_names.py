"""Names of the classes of masks, from a file.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from scalablevit.segmentation.labels import IGNORED, MOST_CLASSES

CLASS_FILES = ("classes.txt", "classes.json", "class_names.txt", "codes.txt", "objectInfo150.txt", "objectInfo150.csv")
"""Files in a data folder that are looked through for class names, in this order."""


def find_class_file(root: Path) -> Path | None:
    """The file with class names in a data folder, None where there is none of `CLASS_FILES`."""
    return next((root / name for name in CLASS_FILES if (root / name).is_file()), None)


def read_class_names(
    path: str | Path, *, reduce_zero_label: bool = False, ignore_labels: Iterable[int] = (IGNORED,)
) -> list[str]:
    """Names of the classes, by class index, from a file.

    Known forms that name classes in order: text with a name on each line; a JSON list of names. With
    `reduce_zero_label` they start with the class of label 1. Known forms that number labels as mask files do: text
    with a number and a name on each line; a JSON object `{"0": "road", ...}` or `{"road": 0, ...}`; ADE20K's
    `objectInfo150.txt`, of whose synonyms the first is taken. Labels that such a file leaves out are called "other"
    (label 0) or "class N".

    Args:
        path: the file.
        reduce_zero_label: see `LabelMap`.
        ignore_labels: see `LabelMap`; names of these are left out.

    Raises:
        ValueError: the file is missing or has another form, names fewer than two or too many classes, or two alike.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: class_names_file cannot be read as text ({error}); check the path") from error
    named = _from_json(path, text) if path.suffix.lower() == ".json" else _from_text(path, text)
    names = named if isinstance(named, list) else _in_order(named, reduce_zero_label, set(ignore_labels))
    if not 2 <= len(names) <= MOST_CLASSES:
        raise ValueError(
            f"{path}: class_names_file names {len(names)} classes, but there must be 2 to {MOST_CLASSES}; write one "
            "name on each line"
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: class_names_file has the name {twice[0]!r} more than once; make the names differ")
    return names


def _in_order(named: Mapping[int, str], reduce_zero_label: bool, ignored: set[int]) -> list[str]:
    first = int(reduce_zero_label)
    kept = {label: name for label, name in named.items() if label >= first and label not in ignored}
    unnamed = {
        label: f"class {label - first}" if label else "other" for label in range(first, max(kept, default=0) + 1)
    }
    return list((unnamed | kept).values())


def _from_json(path: Path, text: str) -> list[str] | dict[int, str]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: class_names_file is not valid JSON ({error}); correct it") from error
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return content
    if isinstance(content, dict):
        if all(isinstance(name, str) and key.isdecimal() for key, name in content.items()):
            return {int(key): name for key, name in content.items()}
        if all(type(label) is int and label >= 0 for label in content.values()):
            return {label: name for name, label in content.items()}
    raise ValueError(
        f'{path}: class_names_file must be a JSON list of names, such as ["road", "car"], or an object from label to '
        'name, such as {"0": "road", "1": "car"}'
    )


def _from_text(path: Path, text: str) -> list[str] | dict[int, str]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    header = re.split(r"[\t,]", lines[0].lower()) if lines else []
    if "idx" in header and "name" in header:
        return _from_object_info(path, lines, header)
    numbered = [re.fullmatch(r"(\d+)\s*[\s:;,=]\s*(.*\S)", line) for line in lines]
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
        if len(cells) != len(header) or not cells[header.index("idx")].strip().isdecimal():
            raise ValueError(f"{path}: the line {line!r} has not the columns of the first line; correct it")
        full[int(cells[header.index("idx")])] = cells[header.index("name")].strip()
    first = {label: re.split(r"[,;]", name)[0].strip() for label, name in full.items()}
    shared = {name for name in first.values() if list(first.values()).count(name) > 1}
    return {label: full[label] if name in shared else name for label, name in first.items()}
