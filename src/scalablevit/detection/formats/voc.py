"""Pascal VOC's format: an XML file for each image.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from scalablevit.data.find_images import has_image_suffix, walk_images
from scalablevit.data.foreign_annotations import foreign_format
from scalablevit.data.path_names import with_slashes
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES
from scalablevit.detection.coco import AnnotationSource, CocoError, CocoPart
from scalablevit.detection.coco.json_file import Lists, Note, class_name

_LARGEST_FILE = 16 << 20  # bytes
_FOLDERS = ("Annotations", "annotations", "labels", "xml")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SUFFIXES = (".xml", ".XML")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Images")


class _XmlError(ValueError):
    """An XML file that cannot be read, or should not be."""


def recognizes(root: Path) -> bool:
    """Whether a folder holds XML files of annotations: in `Annotations`, in `train`, or beside the images."""
    places = [root, *(root / name for name in (*_FOLDERS, *TRAIN_NAMES, *VAL_NAMES))]
    deep = [root / name for name in _FOLDERS]
    return any(_xml_below(place, deep=False) for place in places) or any(_xml_below(place) for place in deep)


def find_parts(root: Path, source: AnnotationSource) -> tuple[CocoPart | None, CocoPart | None]:
    """Find the XML files of training and validation: by `ImageSets/Main/*.txt`, or by folders.

    Args:
        root: the data folder.
        source: `train_annotations` and `val_annotations` may name folders of XML files, or lists of their names.

    Raises:
        CocoError: a list of names is missing.
    """
    train = _xml_files(root, source.train_annotations, TRAIN_NAMES)
    val = _xml_files(root, source.val_annotations, VAL_NAMES)
    if not train and not (val and source.only_evaluates):
        everything = set(_xml_below(root, deep=False)).union(*(_xml_below(root / name) for name in _FOLDERS))
        train = sorted(everything - set(val))
    files_read = _Files([*train, *val])
    parts = []
    for files, given, words in ((train, source.train_images, TRAIN_NAMES), (val, source.val_images, VAL_NAMES)):
        named = [root / given] if given is not None else []
        known = [*(root / name for name in (*_IMAGE_FOLDERS, *words)), *(root / "images" / word for word in words)]
        folders = [place for place in dict.fromkeys([*named, *known, *_parents(files), root]) if place.is_dir()]
        parts.append(CocoPart(files[0].parent, folders, partial(files_read.lists, files, folders)) if files else None)
    return parts[0], parts[1]


def _xml_files(root: Path, given: Any, words: Sequence[str]) -> list[Path]:
    """XML files of a part."""
    if isinstance(given, str | Path):
        place = root / given
        return _xml_below(place) if place.is_dir() else list(_listed(root, place))
    for word in words:
        if (root / "ImageSets" / "Main" / f"{word}.txt").is_file():
            return list(_listed(root, root / "ImageSets" / "Main" / f"{word}.txt"))
        for place in (root / word, *(root / folder / word for folder in _FOLDERS), root / word / "Annotations"):
            if files := _xml_below(place, deep=False):
                return files
    return []


def _xml_below(folder: Path, *, deep: bool = True) -> list[Path]:
    """XML files in a folder, with those of its subfolders where `deep`, sorted."""
    return sorted(path for path in folder.glob("**/*" if deep else "*") if path.suffix.lower() == ".xml")


def _listed(root: Path, file: Path) -> Iterator[Path]:
    """XML files of a list of names, one a line; columns behind the name are other tools'."""
    if not file.is_file() or file.stat().st_size > _LARGEST_FILE:
        raise CocoError(f"{file}: there is no such folder or list of names; check it", kind="missing-file", path=file)
    for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines():
        if name := line.strip():
            # A name may have spaces; otherwise what follows them is another column.
            names = dict.fromkeys((name, name.split(" ")[0]))
            for image in [given for given in names if has_image_suffix(given)]:  # paths of images
                inside = Path(with_slashes(image)).with_suffix("")
                names |= dict.fromkeys((inside.as_posix(), inside.name))
            found = [root / folder / f"{name}{suffix}" for name in names for folder in _FOLDERS for suffix in _SUFFIXES]
            yield next((path for path in found if path.is_file()), found[-1].with_suffix(".xml"))


def _parents(files: Sequence[Path]) -> list[Path]:
    return list(dict.fromkeys(file.parent for file in files))


class _Files:
    """XML files of a data folder, read once; what the corners count from is the same for all parts.

    Args:
        files: of all parts.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = list(dict.fromkeys(files))

    def lists(self, files: Sequence[Path], image_folders: Sequence[Path]) -> Lists:
        """Images, annotations and categories of a part, as COCO has them; ids of annotations are FILE:NUMBER.

        An image that is not there by the name in its XML file is taken by the name of that file: tools write names
        without endings, and images are renamed or converted later.
        """
        images: list[Any] = []
        annotations: list[Any] = []
        faults: list[Note] = []
        first, there = self._first_pixel, _ImagesThere(image_folders)
        for file in files:
            read = self._read[file]
            if isinstance(read, str):
                faults.append(Note("bad-label-file", file, f"{file.parent}: {read}"))
                continue
            images.append({**read.image, "file_name": there.find(read.image["file_name"], self._key(file))})
            for entry in read.objects:
                left, top, right, bottom = entry["corners"]
                box = None
                if None not in (left, top, right, bottom):
                    box = [left - first, top - first, right - left + first, bottom - top + first]
                entry_id = f"{self._key(file)}{file.suffix}:{entry['id']}"
                annotations.append({**entry, "id": entry_id, "image_id": self._key(file), "bbox": box})
        if faults and len(faults) == len(files):
            raise CocoError(
                f"none of the {len(files):,} XML files can be read, such as {faults[0].message}", kind="bad-xml"
            )
        names = sorted({entry["category_id"] for entry in annotations} - {""})
        categories = [{"id": name, "name": name} for name in names]
        return Lists(images, annotations, categories, notes=tuple(faults), boxes="corners")

    def _key(self, file: Path) -> str:
        """Path of a file below the folder that holds all, without its ending: files of two cameras share names."""
        return file.relative_to(self._above).with_suffix("").as_posix()

    @cached_property
    def _above(self) -> str:
        return os.path.commonpath([file.parent for file in self._files])

    @cached_property
    def _read(self) -> dict[Path, "_Xml | str"]:
        read = {}
        for file in self._files:
            content = _read(file)
            if not isinstance(content, str):
                content.image["id"] = self._key(file)
                above = os.path.dirname(self._key(file))
                content.image["file_name"] = os.path.join(above, content.image["file_name"])
            read[file] = content
        return read

    @cached_property
    def _first_pixel(self) -> int:
        """What the corners count from: 1, with the last pixel included, as VOC's do, or 0.

        They count from 0 where one of them lies below 1, or most have fractions of a pixel: edges, not pixels.
        """
        corners = [
            value
            for read in self._read.values()
            if not isinstance(read, str)
            for entry in read.objects
            for value in entry["corners"]
            if value is not None
        ]
        fractions = sum(value != int(value) for value in corners)
        return int(bool(corners) and min(corners) >= 1 and fractions <= len(corners) / 2)


class _ImagesThere:
    """Images of the folders that may hold a part's, listed once.

    Args:
        folders: to look in, likeliest first.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = folders

    def find(self, name: str, key: str) -> str:
        """The name, if such a file is there; otherwise the only image that is called as the XML file, if there is."""
        if os.path.basename(name) in self._names:
            return name
        found = self._by_key.get(key, [])
        return found[0] if len(found) == 1 else name

    @cached_property
    def _listed(self) -> list[str]:
        return [name for folder in self._folders for name in walk_images(folder)]

    @cached_property
    def _names(self) -> set[str]:
        return {os.path.basename(name) for name in self._listed}

    @cached_property
    def _by_key(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self._listed:
            names = found.setdefault(os.path.splitext(name)[0], [])
            if name not in names:
                names.append(name)
        return found


class _Xml(NamedTuple):
    """An XML file: an entry of images, and annotations with `corners` in the place of a box."""

    image: dict[str, Any]
    objects: list[dict[str, Any]]


def _read(file: Path) -> _Xml | str:
    """The content of a file, or why it cannot be read."""
    try:
        tree = _parse(file)
    except _XmlError as error:
        return f"{file.name}: {error}"
    if tree.tag.lower() != "annotation":
        if (form := foreign_format(file)) is not None:
            raise CocoError(f"{file}: this looks like {form.name}; {form.remedy}", kind="bad-xml", path=file)
        return f"{file.name}: its root is <{tree.tag[:40]}>, where Pascal VOC has <annotation>"
    name = (tree.findtext("filename") or "").strip() or f"{file.stem}.jpg"
    size = tree.find("size")
    sides = {side: _number(size.findtext(side)) if size is not None else None for side in ("width", "height")}
    objects = []
    for number, item in enumerate(tree.iter("object"), 1):
        box = item.find("bndbox")
        corners = [_number(box.findtext(side)) if box is not None else None for side in _CORNERS]
        label = class_name(item.findtext("name"))
        objects.append({"id": number, "category_id": label, "corners": corners})
    return _Xml({"file_name": name, **sides}, objects)


def _parse(file: Path) -> ElementTree.Element:
    """The tree of an XML file without a document type, which could name entities that grow without bound."""

    def refuse(*_: Any) -> None:
        raise _XmlError("it has a document type (<!DOCTYPE>), which annotations do not need; remove it")

    try:
        if not file.is_file():
            raise _XmlError("there is no such file in the folders of annotations")
        if file.stat().st_size > _LARGEST_FILE:
            raise _XmlError("it has over 16 MiB; export it again")
        data = file.read_bytes()
        parser = expat.ParserCreate()
        parser.StartDoctypeDeclHandler = refuse
        parser.Parse(data, True)
        return ElementTree.fromstring(data)
    except (OSError, expat.ExpatError, ElementTree.ParseError, LookupError, RecursionError) as error:
        raise _XmlError(f"it cannot be read ({error})") from None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
