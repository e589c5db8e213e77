"""Recognise how a data folder is laid out, to say what to do with data that were given to the wrong task.

Looks at a few names and files of each folder, so that large data sets take no time. Imports neither torch nor
lightning.
"""

import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from scalablevit.abridged import abridged
from scalablevit.data.find_images import has_image_suffix, is_file, is_folder
from scalablevit.data.foreign_annotations import foreign_format
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES

LayoutKind = Literal["classes", "coco", "masks", "yolo", "voc", "labelme", "foreign", "parts", "table"]

IMAGE_FOLDER_NAMES = ("images", "image", "imgs", "img", "jpegimages", "leftimg8bit", "photos", "images")
ANNOTATION_FOLDER_NAMES = (
    *("masks", "mask", "labels", "label", "annotations", "annotation", "gt", "groundtruth", "segmentationclass"),
    *("segmentationobject", "imagesets", "gtfine", "labelstxt"),
)

_MOST_ENTRIES, _MOST_FOLDERS, _SAMPLES, _HEAD = 2000, 60, 20, 2**16
_PART = re.compile(
    r"(train|training|val|valid|validation|test|testing|dev|eval)([_\- ]?(set|data|images?|imgs?|split|\d+))?"
)
_BOX_LINE = re.compile(r"\d+(\s+-?\d*\.?\d+(e-?\d+)?){4,}", re.IGNORECASE)
_MASK_MARK = re.compile(r"[._-](mask|label|labels|seg|gt)s?$", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """What a data folder looks like.

    Args:
        kind: of the layout.
        root: the folder in which it begins: the one that was given, or one in it.
        found: what shows it.
        remedy: what to do with such data.
    """

    kind: LayoutKind
    root: Path
    found: str
    remedy: str


def recognise_layout(root: str | Path) -> Layout | None:
    """Recognise the layout of a data folder, or of the only folder in it.

    Args:
        root: the data folder.

    Returns:
        None where it is none that is known.
    """
    folder = Path(root)
    for _ in range(3):
        for recognise in _RECOGNISERS:
            if (layout := recognise(folder)) is not None:
                return layout
        inner = _subfolders(folder)
        if len(inner) != 1:
            return None
        (folder,) = inner
    return None


def explain_layout(root: str | Path, *, expected: Literal["classes", "coco", "masks"]) -> str | None:
    """Say what a data folder is, where it is not laid out as its task needs it.

    Args:
        root: the data folder, or a path that is none.
        expected: layout of the task.

    Returns:
        what was recognised, with the remedy; None where nothing else was recognised.
    """
    if not os.path.isdir(root):
        return None
    layout = recognise_layout(root)
    if layout is None:
        return None
    is_deeper = layout.root != Path(root)
    if expected == "coco" and layout.kind == "table":
        return f"{layout.found}: a table of boxes needs the columns path, x1, y1, x2, y2, class; rename or compute them"
    if layout.kind == expected or (expected == "coco" and layout.kind in ("yolo", "voc")):  # detection reads those too
        return (
            f"it seems that root should be {layout.root}: it looks like {_TITLES[layout.kind]}" if is_deeper else None
        )
    where = f"{layout.root}: " if is_deeper else ""
    return f"{where}this looks like {_TITLES[layout.kind]} ({layout.found}); {layout.remedy}"


def looks_like_part(name: str) -> bool:
    """Tell whether a folder is called like a part of data, such as train, val2017 or test_set."""
    return _PART.fullmatch(name.lower()) is not None


_TITLES: dict[LayoutKind, str] = {
    "classes": "a folder per class, for classification",
    "coco": "COCO annotations, for detection",
    "masks": "images and masks, for segmentation",
    "yolo": "YOLO's images and labels, for detection",
    "voc": "Pascal VOC",
    "labelme": "annotations of labelme",
    "foreign": "annotations of another tool",
    "parts": "parts of data under other names",
    "table": "images listed in a table",
}


def _coco(root: Path) -> Layout | None:
    for folder in _near(root):
        for file in _files(folder, ".json"):
            if len(coco_lists(file)) >= 2 or file.name == "_annotations.coco.json":
                remedy = f"use a detection recipe: scalablevit fit --config finetune_mask_rcnn --data.root {root}"
                return Layout("coco", root, f"such as {file}", remedy)
    return None


def coco_lists(file: Path) -> set[str]:
    """Name the lists of COCO annotations that the beginning or the end of a JSON file mentions."""
    return set(re.findall(r'"(images|annotations|categories)"\s*:', _head(file) + _tail(file)))


def _foreign(root: Path) -> Layout | None:
    """Annotations of tools whose formats are not read."""
    for folder in _near(root):
        for file in (*_files(folder, ".json"), *_files(folder, ".xml")):
            form = foreign_format(file)
            if form is not None and form.name == "labelme":
                remedy = (
                    "convert its polygons to COCO JSON for a detection recipe, or to masks for a segmentation recipe; "
                    "the package labelme has a command for each"
                )
                return Layout("labelme", root, f"such as {file}", remedy)
            if form is not None:
                remedy = f"{form.remedy}, for a detection recipe"
                return Layout("foreign", root, f"{form.name}, such as {file}", remedy)
    return None


def _yolo(root: Path) -> Layout | None:
    for folder in _near(root):
        for file in _files(folder, ".txt"):
            lines = [line for line in _head(file).splitlines()[:5] if line.strip()]
            if lines and all(_BOX_LINE.fullmatch(line.strip()) for line in lines):
                return Layout("yolo", root, f"such as {file}, a class and a box on each line", _detection_remedy(root))
    for file in _files(root, ".yaml"):
        if re.search(r"^\s*(names|nc)\s*:", _head(file), re.MULTILINE) and _has_folder(root, "labels"):
            return Layout("yolo", root, f"such as {file}", _detection_remedy(root))
    return None


def _detection_remedy(root: Path) -> str:
    command = f"scalablevit fit --config finetune_retinanet --data.root {root}"
    return f"use a detection recipe, which reads its boxes as they are: {command}"


def _voc(root: Path) -> Layout | None:
    for folder in _near(root):
        for file in _files(folder, ".xml"):
            if "<annotation" in _head(file) and "<object" in _head(file) + _tail(file):
                remedy = _detection_remedy(root if folder == root else _above_annotations(root, folder))
                if _has_folder(root, "segmentationclass"):
                    remedy += (
                        ", or use a segmentation recipe with --data.images JPEGImages --data.masks SegmentationClass"
                    )
                return Layout("voc", root, f"such as {file}", remedy)
    return None


def _above_annotations(root: Path, folder: Path) -> Path:
    """The data folder that holds a folder of annotations."""
    return folder.parent if folder.name.lower() in ANNOTATION_FOLDER_NAMES and folder != root else folder


def _masks(root: Path) -> Layout | None:
    folders = list(_near(root))
    by_name: dict[str, list[Path]] = {}
    for folder in folders:
        by_name.setdefault(_role(folder, root), []).append(folder)
    for images, masks in itertools.product(by_name.get("images", []), by_name.get("annotations", [])):
        names = {_stem(path) for path in _image_files(masks)}
        if any(_stem(path) in names for path in _image_files(images)):
            return _images_and_masks(root, images, masks, f"{masks} has images of the names in {images}")
    for masks in by_name.get("annotations", []):
        above = masks.parent
        if masks != root and {_stem(path) for path in _image_files(masks)} & {
            _stem(path) for path in _image_files(above)
        }:
            return _images_and_masks(root, above, masks, f"{masks} has images of the names in {above}")
    for folder in folders:
        files = _image_files(folder)
        stems = {path.stem for path in files}
        marked = [path for path in files if _MASK_MARK.search(path.stem) and _stem(path) in stems]
        if len(marked) >= 2:
            first = marked[0]
            pattern = f"{{name}}{first.stem.removeprefix(_stem(first))}{first.suffix}"
            remedy = f"{_fit_masks(root)} --data.mask_pattern '{pattern}'"
            return Layout("masks", root, f"{first} beside the image of its name", remedy)
    for images, masks in itertools.product(by_name.get("images", []), by_name.get("annotations", [])):
        if images.parent == masks.parent and _hold_images(images) and _hold_images(masks):
            flags = _CITYSCAPES if masks.name == "gtFine" else " --data.mask_pattern PATTERN, such as '{name}_mask.png'"
            remedy = _fit_masks(masks.parent) + flags
            found = f"{masks} lies beside {images}, and its files have other names"
            return Layout("masks", masks.parent, found, remedy)
    return None


_CITYSCAPES = (
    " --data.images leftImg8bit --data.masks gtFine --data.image_pattern '{name}_leftImg8bit.png' "
    "--data.mask_pattern '{name}_gtFine_labelIds.png' --data.label_map FILE, which says which of its labels are classes"
)


def _hold_images(folder: Path) -> bool:
    return any(_image_files(inner) for inner in _near(folder))


def _images_and_masks(root: Path, images: Path, masks: Path, found: str) -> Layout:
    """The layout of two folders whose files have the same names."""
    base = Path(os.path.commonpath([images, masks]))
    if not masks.is_relative_to(images):
        if looks_like_part(base.name) and base != root:
            base = base.parent
        return Layout("masks", base, found, _fit_masks(base))
    if images != root and looks_like_part(base.name):
        return Layout(
            "masks", base.parent, found, f"{_fit_masks(base.parent)} --data.images . --data.masks {masks.name}"
        )
    base = root if images == root else base.parent
    flags = f"--data.images {images.relative_to(base)} --data.masks {masks.relative_to(base)}"
    return Layout("masks", base, found, f"{_fit_masks(base)} {flags}")


def _fit_masks(root: Path) -> str:
    return f"use a segmentation recipe: scalablevit fit --config finetune_upernet --data.root {root}"


def _parts(root: Path) -> Layout | None:
    inner = _subfolders(root)
    usual = (*TRAIN_NAMES, *VAL_NAMES)
    if len(inner) < 2 or not all(looks_like_part(folder.name) for folder in inner):
        return None
    train = [folder.name for folder in inner if folder.name.lower().startswith("train")]
    rest = [folder.name for folder in inner if folder.name not in train]
    known = [name for name in (*train, *rest) if name.lower() in usual]
    if len(train) != 1 or not rest or len(known) == len(inner):
        return None
    if not all(any(_image_files(deeper) for deeper in _subfolders(folder)) for folder in inner):
        return None
    found = f"the folders {abridged((repr(folder.name) for folder in inner), 4)} hold folders of images"
    val = next((name for name in rest if name.lower().startswith("val")), rest[0])
    return Layout("parts", root, found, f"name them: --data.train {train[0]} --data.val {val}")


def _table(root: Path) -> Layout | None:
    for file in _files(root, ".csv"):
        head = _head(file).splitlines()[:1]
        names_files = head and re.search(r"(file|image|path|\bid\b).*[,;\t]", head[0], re.IGNORECASE)
        if names_files and any(_image_files(folder) for folder in _near(root)):
            found = f"{file} with the columns {head[0][:60]!r}"
            if re.search(r"\b(x|x1|xmin|left|bbox|region_shape_attributes)\b", head[0], re.IGNORECASE):
                remedy = "it seems to list boxes: detection reads the columns path, x1, y1, x2, y2, class"
                return Layout("table", root, found, remedy)
            remedy = (
                f"use the recipe that reads it: scalablevit fit --config train_multi_label --data.root {root}; or, "
                "where images have one class each, move them into folders: CLASS/image.jpg"
            )
            return Layout("table", root, found, remedy)
    return None


def _classes(root: Path) -> Layout | None:
    base = next((folder for folder in _subfolders(root) if folder.name.lower() in TRAIN_NAMES), root)
    structural = {*IMAGE_FOLDER_NAMES, *ANNOTATION_FOLDER_NAMES, *TRAIN_NAMES, *VAL_NAMES}
    classes = [folder for folder in _subfolders(base) if folder.name.lower() not in structural]
    holding = [folder for folder in classes if _image_files(folder)]
    if len(holding) < 2:
        return None
    remedy = f"use a classification recipe: scalablevit fit --config finetune_folder --data.root {root}"
    return Layout("classes", root, f"the folders {abridged((repr(folder.name) for folder in holding), 3)}", remedy)


_RECOGNISERS: tuple[Callable[[Path], Layout | None], ...] = (
    *(_coco, _foreign, _yolo, _voc, _masks, _parts, _table, _classes),
)


def _near(root: Path) -> Iterator[Path]:
    """List a folder and those two levels below it, a limited number."""
    inner = _subfolders(root)
    deeper = (folder for above in inner for folder in _subfolders(above))
    return itertools.islice(itertools.chain([root], inner, deeper), _MOST_FOLDERS)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            listed = [entry for entry in itertools.islice(entries, _MOST_ENTRIES) if not entry.name.startswith(".")]
    except OSError:
        return []
    return sorted(listed, key=lambda entry: entry.name)


def _subfolders(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(folder) if is_folder(entry) and entry.name != "__MACOSX"]


def _has_folder(root: Path, name: str) -> bool:
    return any(folder.name.lower() == name for folder in _near(root))


def _files(folder: Path, suffix: str) -> list[Path]:
    """List a few regular files of an ending."""
    chosen = (entry for entry in _entries(folder) if entry.name.lower().endswith(suffix) and is_file(entry))
    return [Path(entry.path) for entry in itertools.islice(chosen, _SAMPLES)]


def _image_files(folder: Path) -> list[Path]:
    return [Path(entry.path) for entry in _entries(folder) if has_image_suffix(entry.name) and is_file(entry)]


def _role(folder: Path, root: Path) -> str:
    """What a folder is by its name, or that of the folder that holds it."""
    for name in (folder.name.lower(), folder.parent.name.lower() if folder != root else ""):
        if name in IMAGE_FOLDER_NAMES:
            return "images"
        if name in ANNOTATION_FOLDER_NAMES:
            return "annotations"
    return ""


def _stem(path: Path) -> str:
    """The name that an image and its mask share."""
    return _MASK_MARK.sub("", path.stem)


def _head(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_HEAD).decode("utf-8", "replace")
    except OSError:
        return ""


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, file.stat().st_size - _HEAD))
            return opened.read(_HEAD).decode("utf-8", "replace")
    except OSError:
        return ""
