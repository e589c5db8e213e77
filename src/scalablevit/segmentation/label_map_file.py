"""Read which colours or numbers of mask files are which class, from a file.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scalablevit.data.text_file import read_text
from scalablevit.segmentation.class_names import check_class_names, parse_json
from scalablevit.segmentation.label_map import LARGEST_LABEL, LabelMap
from scalablevit.segmentation.labels import IGNORED, MOST_CLASSES

CVAT_FILE = "labelmap.txt"
"""The label map that CVAT writes beside its masks."""

IGNORED_NAMES = ("ignored", "ignore")
"""Names that leave a colour or number out of losses and metrics."""

_WHAT = "label_map"
_MOST_YAML = 100_000  # which take a second to parse
_REMEDY = (
    "write `name:r,g,b::` (CVAT), `r g b name` or `number name` on each line, or JSON or YAML such as "
    '{"road": "#804080", "car": [26, 27], "ignored": [0, 255]}'
)
# A colour or number with what it stands for: a name, a class index, or nothing where it is ignored.
_Row = tuple[int, str | int | None]


@dataclass(frozen=True)
class LabelMapFile:
    """Content of a label map file.

    Args:
        entries: (label, class index), 255 where ignored; colours are packed by `pack_colours`.
        class_names: by class index; None: the file numbers classes and does not name them.
        num_classes: how many classes there are.
        in_colours: labels are colours.
    """

    entries: tuple[tuple[int, int], ...]
    class_names: list[str] | None
    num_classes: int
    in_colours: bool

    def label_map(self, ignore_labels: tuple[int, ...] = ()) -> LabelMap:
        """The map in the order of the file; `ignore_labels` that it does not list are ignored too."""
        return LabelMap(self.num_classes, ignore_labels=ignore_labels, entries=self.entries, in_colours=self.in_colours)

    def ordered_as(self, names: list[str], ignore_labels: tuple[int, ...] = ()) -> LabelMap:
        """The map for classes in another order.

        Args:
            names: of the classes by index; all of the file's, and no others.
            ignore_labels: further labels that are ignored.

        Raises:
            ValueError: the names differ from those of the file.
        """
        ours = self.class_names
        if ours is None:
            if len(names) != self.num_classes:
                raise ValueError(f"the label map numbers {self.num_classes} classes, but {len(names)} are named")
            return self.label_map(ignore_labels)
        if set(names) != set(ours):
            differing = sorted(set(names) ^ set(ours))[0]
            where = "not in the label map" if differing in names else "in the label map alone"
            raise ValueError(f"the class {differing!r} is {where}; name the same classes in both")
        place = {index: names.index(name) for index, name in enumerate(ours)}
        entries = tuple((label, place.get(index, index)) for label, index in self.entries)
        return LabelMap(len(names), ignore_labels=ignore_labels, entries=entries, in_colours=self.in_colours)


def find_label_map(root: Path) -> Path | None:
    """Find CVAT's label map in a data folder; None where there is none, or a file of that name of another kind."""
    path = root / CVAT_FILE
    if not path.is_file():
        return None
    try:
        lines = _lines(read_text(path, what=_WHAT))
    except ValueError:
        return None
    return path if lines and all(_CVAT_LINE.fullmatch(line) for line in lines) else None


def read_label_map(path: str | Path) -> LabelMapFile:
    """Read a label map.

    Known forms:

    - CVAT's `labelmap.txt`: `name:r,g,b:parts:actions` on each line;
    - text with `r g b name`, `number name` or `number class-index` on each line, between which commas, colons,
      semicolons and tabs may stand; a first line of column names, such as `name,r,g,b`, may say another order;
    - JSON or YAML, an object from name to colour or number, or to several of them; or from colour or number to name,
      class index, or null where it is ignored. Colours are `"#rrggbb"` or `[r, g, b]`.

    Several labels of one name make one class. Names are numbered in the order of the file; the first label of each
    is the one that predictions are written with. The name `ignored` stands for no class.

    Args:
        path: of the file; `.json`, `.yaml` and `.yml` by their endings, else text. See `read_text` for encodings.

    Raises:
        ValueError: the file is missing or has another form, names fewer than two or too many classes, or one label
            twice.
    """
    path = Path(path).expanduser()
    text = read_text(path, what=_WHAT)
    suffix = path.suffix.lower()
    if suffix in (".json", ".yaml", ".yml"):
        content = parse_json(path, text, what=_WHAT) if suffix == ".json" else _parse_yaml(path, text)
        if not isinstance(content, Mapping) or not content:
            raise _unknown_form(path, content)
        rows, in_colours = _rows_of_object(path, content)
    else:
        rows, in_colours = _rows_of_text(path, _lines(text))
    return _label_map_of(path, rows, in_colours)


def _label_map_of(path: Path, rows: list[_Row], in_colours: bool) -> LabelMapFile:
    """Number the classes of rows, and check them."""
    labels = [label for label, _ in rows]
    twice = next((label for label, count in _counts(labels).items() if count > 1), None)
    if twice is not None:
        shown = f"the colour #{twice:06x}" if in_colours else f"the label {twice}"
        raise ValueError(f"{path}: {_WHAT} has {shown} more than once; leave one of its lines")
    meant = [target for _, target in rows if target is not None]
    numbered = [target for target in meant if isinstance(target, int)]
    if numbered and len(numbered) < len(meant):
        raise ValueError(f"{path}: {_WHAT} has both names and class indices; write names alone, or indices alone")
    if numbered:
        return _numbered_map(path, rows, in_colours)
    names = list(dict.fromkeys(target for target in meant if isinstance(target, str)))
    check_class_names(path, names, what=_WHAT)
    index_of = {name: index for index, name in enumerate(names)}
    entries = tuple((label, index_of[target] if isinstance(target, str) else IGNORED) for label, target in rows)
    _check_labels(path, entries, in_colours)
    return LabelMapFile(entries, names, len(names), in_colours)


def _numbered_map(path: Path, rows: list[_Row], in_colours: bool) -> LabelMapFile:
    """A map from numbers to class indices, such as from Cityscapes' ids to its train ids; 255 and -1 are ignored."""
    entries = tuple(
        (label, target if isinstance(target, int) and target not in (-1, IGNORED) else IGNORED)
        for label, target in rows
    )
    used = {index for _, index in entries} - {IGNORED}
    if not used or used != set(range(len(used))) or not 2 <= len(used) <= MOST_CLASSES:
        raise ValueError(
            f"{path}: {_WHAT} gives class indices {sorted(used)[:8]}, but they must be 0, 1, 2, ... without gaps, 2 to "
            f"{MOST_CLASSES} of them, with 255 or null for what is ignored; renumber them, or write names"
        )
    _check_labels(path, entries, in_colours)
    return LabelMapFile(entries, None, len(used), in_colours)


def _check_labels(path: Path, entries: tuple[tuple[int, int], ...], in_colours: bool) -> None:
    for label, index in entries:
        if not in_colours and index != IGNORED and not 0 <= label <= LARGEST_LABEL:
            raise ValueError(
                f"{path}: {_WHAT} has the label {label:,}, but labels of classes are 0 to {LARGEST_LABEL:,}; renumber "
                "the masks"
            )


def _counts(labels: list[int]) -> dict[int, int]:
    counts: dict[int, int] = {}
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
    return counts


# --- text

_CVAT_LINE = re.compile(r"([^:]+):\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*,\s*([0-9]{1,3})\s*:.*")
_SEPARATOR = r"[\s,:;=]+"
_COLOUR_LINE = re.compile(rf"([0-9]{{1,3}}){_SEPARATOR}([0-9]{{1,3}}){_SEPARATOR}([0-9]{{1,3}}){_SEPARATOR}(.*\S)")
_HEX_LINE = re.compile(rf"#([0-9a-fA-F]{{6}}){_SEPARATOR}(.*\S)")
_NUMBER_LINE = re.compile(rf"(-?[0-9]{{1,9}}){_SEPARATOR}(.*\S)")


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.split("\n"))
    return [line for line in stripped if line and not re.match(r"#(?![0-9a-fA-F]{6}\b)", line)]


def _rows_of_text(path: Path, lines: list[str]) -> tuple[list[_Row], bool]:
    if not lines:
        raise _unknown_form(path, "an empty file")
    if all(match := [_CVAT_LINE.fullmatch(line) for line in lines]):
        return [(_packed(path, *m.groups()[1:]), _named(m[1])) for m in match if m], True
    cells = [re.split(r"\s*[,;\t]\s*", line) for line in lines]
    header = [cell.lower() for cell in cells[0]]
    if {"r", "g", "b"} <= set(header) and ({"name", "class", "label"} & set(header)):
        return list(_rows_of_table(path, header, cells[1:])), True
    if all(match := [_COLOUR_LINE.fullmatch(line) for line in lines]):
        return [(_packed(path, m[1], m[2], m[3]), _named(m[4])) for m in match if m], True
    if all(match := [_HEX_LINE.fullmatch(line) for line in lines]):
        return [(int(m[1], 16), _named(m[2])) for m in match if m], True
    if all(match := [_NUMBER_LINE.fullmatch(line) for line in lines]):
        return [(int(m[1]), _target(m[2])) for m in match if m], False
    raise _unknown_form(path, next(line for line in lines if not _NUMBER_LINE.fullmatch(line)))


def _rows_of_table(path: Path, header: list[str], rows: list[list[str]]) -> Iterator[_Row]:
    name = next(header.index(word) for word in ("name", "class", "label") if word in header)
    for row in rows:
        if len(row) != len(header):
            raise _unknown_form(path, ", ".join(row))
        yield _packed(path, *(row[header.index(channel)] for channel in "rgb")), _named(row[name])


def _packed(path: Path, *channels: Any) -> int:
    """A colour of three channels, packed into one number."""
    values = [int(value) if re.fullmatch(r"[0-9]{1,3}", str(value)) else -1 for value in channels]
    if len(values) != 3 or not all(0 <= value <= 255 for value in values):
        raise ValueError(f"{path}: {_WHAT} has the colour {list(channels)}; channels are 0 to 255")
    red, green, blue = values
    return red << 16 | green << 8 | blue


def _named(name: str) -> str | None:
    name = name.strip()
    return None if name.lower() in IGNORED_NAMES else name


def _target(word: str) -> str | int | None:
    return int(word) if re.fullmatch(r"-?[0-9]{1,9}", word) else _named(word)


# --- JSON and YAML


def _parse_yaml(path: Path, text: str) -> Any:
    if re.search(r"(^|[\s\[{,:])[&*][A-Za-z0-9_]", text):
        raise ValueError(f"{path}: {_WHAT} has YAML anchors or aliases, which may unfold without end; write values out")
    if len(text) > _MOST_YAML:
        raise ValueError(f"{path}: {_WHAT} is over {_MOST_YAML:,} characters of YAML long; write it as JSON or text")
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ValueError(f"{path}: {_WHAT} is not valid YAML ({str(error)[:200]}); correct it") from None


def _rows_of_object(path: Path, content: Mapping[Any, Any]) -> tuple[list[_Row], bool]:
    keys = [_label_of(path, key) for key in content]
    if all(key is not None for key in keys):
        rows = [(label, _value_of(path, value)) for (label, _), value in zip(keys, content.values(), strict=True)]  # type: ignore[misc]
        return rows, _all_alike(path, [in_colours for _, in_colours in keys])  # type: ignore[misc]
    if any(not isinstance(key, str) for key in content):
        raise _unknown_form(path, next(key for key in content if not isinstance(key, str)))
    named_rows: list[_Row] = []
    kinds = []
    # Three numbers are a colour if every class has three or a written colour, else three labels.
    triples = all(_is_triple(value) or _is_hex(value) or _is_list_of_colours(value) for value in content.values())
    for name, value in content.items():
        values = [value] if _is_hex(value) or (triples and _is_triple(value)) or not isinstance(value, list) else value
        for one in values:
            found = _label_of(path, one)
            if found is None:
                raise _unknown_form(path, one)
            named_rows.append((found[0], _named(name)))
            kinds.append(found[1])
    return named_rows, _all_alike(path, kinds)


def _label_of(path: Path, value: Any) -> tuple[int, bool] | None:
    """(label, whether it is a colour) of a value as JSON or YAML has it; None if it is neither."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return (value, False) if abs(value) < 2**31 else None
    if _is_triple(value):
        return _packed(path, *value), True
    if not isinstance(value, str):
        return None
    text = value.strip()
    if _is_hex(text):
        return int(text[1:], 16), True
    if match := re.fullmatch(r"\(?\[?([0-9]{1,3})[\s,]+([0-9]{1,3})[\s,]+([0-9]{1,3})\)?\]?", text):
        return _packed(path, *match.groups()), True
    return (int(text), False) if re.fullmatch(r"-?[0-9]{1,9}", text) else None


def _value_of(path: Path, value: Any) -> str | int | None:
    """What a key stands for: a name, a class index, or nothing."""
    if value is None:
        return None
    if isinstance(value, str):
        return _named(value)
    if isinstance(value, int) and not isinstance(value, bool) and -1 <= value <= IGNORED:
        return value
    raise _unknown_form(path, value)


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"#[0-9a-fA-F]{6}", value.strip()) is not None


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(one) is int and 0 <= one <= 255 for one in value)


def _is_list_of_colours(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_triple(one) or _is_hex(one) for one in value)


def _all_alike(path: Path, kinds: list[bool]) -> bool:
    if not kinds:
        raise _unknown_form(path, "no label")
    if len(set(kinds)) > 1:
        raise ValueError(f"{path}: {_WHAT} has both colours and numbers; write colours alone, or numbers alone")
    return kinds[0]


def _unknown_form(path: Path, found: Any) -> ValueError:
    return ValueError(f"{path}: {_WHAT} cannot be understood at {str(found)[:80]!r}; {_REMEDY}")
