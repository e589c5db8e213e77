"""A table of boxes: path, x1, y1, x2, y2, class.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import csv
import itertools
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from scalablevit.data.find_images import has_image_suffix
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES
from scalablevit.detection.coco import AnnotationSource, CocoError, CocoPart
from scalablevit.detection.coco.folder import image_folders, role_of
from scalablevit.detection.coco.json_file import Lists, class_name

_COLUMNS = {
    "path": ("path", "image", "filename", "file_name", "image_path", "file"),
    "x1": ("x1", "xmin", "left"),
    "y1": ("y1", "ymin", "top"),
    "x2": ("x2", "xmax", "right"),
    "y2": ("y2", "ymax", "bottom"),
    "class": ("class", "label", "name", "class_name", "category"),
    "width": ("width", "image_width"),
    "height": ("height", "image_height"),
}
_NEEDED = ("path", "x1", "y1", "x2", "y2", "class")


def recognizes(root: Path) -> bool:
    """Whether a folder holds a table of boxes."""
    return any(_is_table(file) for file in _tables(root))


def find_parts(root: Path, source: AnnotationSource) -> tuple[CocoPart | None, CocoPart | None]:
    """Find the tables of training and validation, by the words in their names.

    Raises:
        CocoError: several tables may be meant.
    """
    folder = root.parent if root.is_file() else root
    tables = [] if root.is_file() else [file for file in _tables(folder) if _is_table(file)]
    parts: list[CocoPart | None] = []
    for given, images, argument, role, words in (
        (source.train_annotations, source.train_images, "train", "train", TRAIN_NAMES),
        (source.val_annotations, source.val_images, "val", "val", VAL_NAMES),
    ):
        of_role = [file for file in tables if _role(folder, file) == role]
        if role == "train":
            of_role = of_role or [file for file in tables if _role(folder, file) == ""]
        else:
            of_role = of_role or [file for file in tables if _role(folder, file) == "test"]
        if role == "train":
            of_role = [root] if root.is_file() else of_role
        files = [folder / name for name in ([given] if isinstance(given, str | Path) else given or [])] or of_role
        if len(files) > 1 and not given:
            listed = ", ".join(file.name for file in files[:5])
            message = f"{folder}: several tables may be meant: {listed}; name one with {argument}_annotations"
            raise CocoError(message, kind="ambiguous-annotations", path=folder)
        if not files:
            parts.append(None)
            continue
        places = image_folders(folder, files[0], images, f"{argument}_images", words)
        parts.append(CocoPart(files[0], places, partial(_read, files)))
    return parts[0], parts[1]


def _tables(root: Path) -> list[Path]:
    places = [root / name for name in ("", "annotations", *TRAIN_NAMES, *VAL_NAMES)]
    return [file for place in places for file in sorted(place.glob("*.csv")) if file.is_file()]


def _role(root: Path, file: Path) -> str:
    """Part that a table is for, by its name or its folder's."""
    return role_of(file.stem) or (role_of(file.parent.name) if file.parent != root else "")


def _is_table(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        first = lines.readline(10_000)
    return _header(next(csv.reader([first], delimiter=_delimiter(first)), [])) is not None


def _delimiter(first_line: str) -> str:
    """What stands between the cells: a comma, or the semicolon or tab of spreadsheets."""
    return max(",;\t", key=first_line.count)


def _header(cells: Sequence[str]) -> dict[str, int] | None:
    """Column of each name; None where the line is neither a header of boxes nor, in the usual order, a box."""
    if _is_box(cells):
        return {name: k for k, name in enumerate(_NEEDED)}
    words = [cell.strip().lower() for cell in cells]
    found = {
        name: words.index(next(word for word in known if word in words))
        for name, known in _COLUMNS.items()
        if any(word in words for word in known)
    }
    return found if all(name in found for name in _NEEDED) else None


def _is_box(cells: Sequence[str]) -> bool:
    """Whether a line is an image, four numbers and a class: tables without a header, as keras-retinanet's."""
    if len(cells) != len(_NEEDED) or not has_image_suffix(cells[0]):
        return False
    try:
        return all(math.isfinite(float(cell)) for cell in cells[1:5])
    except ValueError:
        return not any(cell.strip() for cell in cells[1:])


def _read(files: Sequence[Path]) -> Lists:
    """Images, annotations and categories, as COCO has them; ids of annotations are FILE:LINE.

    A line without numbers is an image without objects.
    """
    images: dict[str, dict[str, Any]] = {}
    annotations: list[Any] = []
    names: dict[str, None] = {}
    for file in files:
        try:
            with file.open(encoding="utf-8-sig", newline="") as lines:
                rows = csv.reader(lines, delimiter=_delimiter(lines.readline(10_000)))
                lines.seek(0)
                first = next(rows, [])
                columns = _header(first)
                if columns is None:
                    message = f"{file}: its first line must name the columns {', '.join(_NEEDED)}; add it"
                    raise CocoError(message, kind="bad-table", path=file)
                for row in itertools.chain([first] if _is_box(first) else [], rows):
                    _take(row, columns, f"{file.name}:{rows.line_num}", images, annotations, names)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            message = f"{file}: the table cannot be read ({error}); save it as UTF-8 CSV"
            raise CocoError(message, kind="bad-table", path=file) from None
    categories = [{"id": name, "name": name} for name in sorted(names)]
    return Lists(list(images.values()), annotations, categories, boxes="corners")


def _take(
    row: Sequence[str],
    columns: dict[str, int],
    where: str,
    images: dict[str, dict[str, Any]],
    annotations: list[Any],
    names: dict[str, None],
) -> None:
    """Add what one line says."""
    if not any(cell.strip() for cell in row):
        return
    cells = {name: row[k].strip() if k < len(row) else "" for name, k in columns.items()}
    cells["class"] = class_name(cells["class"])
    image = images.setdefault(cells["path"], {"id": cells["path"], "file_name": cells["path"]})
    for side in ("width", "height"):
        if cells.get(side, "").isascii() and cells.get(side, "").isdigit() and len(cells[side]) < 10:
            image[side] = int(cells[side])
    corners = [cells[name] for name in ("x1", "y1", "x2", "y2")]
    if not any(corners) and not cells["class"]:
        return
    box: Any = None
    try:
        x1, y1, x2, y2 = map(float, corners)
        box = [x1, y1, x2 - x1, y2 - y1]
    except ValueError:
        box = ",".join(corners)[:80]
    if cells["class"]:
        names[cells["class"]] = None
    annotations.append({"id": where, "image_id": cells["path"], "category_id": cells["class"], "bbox": box})
