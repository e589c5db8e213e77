"""Images and categories of a COCO annotation file, found for predictions of the same images."""

import itertools
import json
import logging
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from scalablevit.abridged import abridged
from scalablevit.data.image_size import orientation_in_header
from scalablevit.data.path_names import folded, is_absolute, path_parts
from scalablevit.printable import real_name

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnnotatedImage:
    """An image as the annotation file lists it.

    Attributes:
        image_id: its id.
        name: its `file_name`.
        size: (width, height) in pixels; None where the file does not tell.
    """

    image_id: Any
    name: str
    size: tuple[int, int] | None


class AnnotatedImages:
    """Images and categories of a COCO annotation file.

    Args:
        file: the annotation file.
        class_names: of the network; those that the file lacks are warned of.

    Attributes:
        category_ids: by class index; None for classes that the file lacks.

    Raises:
        ValueError: the file cannot be read, or has none of the classes.
    """

    def __init__(self, file: Path, class_names: Sequence[str]) -> None:
        self._file = file
        try:
            content = json.loads(file.read_text(encoding="utf-8-sig"))
            images = [AnnotatedImage(entry["id"], str(entry["file_name"]), _size(entry)) for entry in content["images"]]
            categories = [(entry["id"], _one_line(str(entry["name"]))) for entry in content["categories"]]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"--annotations {file}: not an annotation file of COCO ({error!r})") from error
        self.category_ids = self._match(categories, class_names)
        self._by_name: dict[str, list[tuple[list[str], AnnotatedImage]]] = defaultdict(list)
        self._path_of: dict[int, Path] = {}
        shared = _shared_folders([image.name for image in images])
        for image in images:
            for name in dict.fromkeys((image.name, unquote(image.name))):
                parts = [folded(part) for part in path_parts(name)][shared:]
                if parts:
                    self._by_name[parts[-1]].append((parts, image))

    def find(self, path: Path, size: tuple[int, int]) -> tuple[AnnotatedImage, int]:
        """Find the entry of an image by its name and the folders that the annotations give.

        Args:
            path: of the image.
            size: height and width in pixels, upright.

        Returns:
            the entry, and the EXIF orientation by which the pixels that the annotations count in were turned; 1: none.

        Raises:
            ValueError: there is no such entry, or several; another image has it; or its size is another.
        """
        ours = [folded(real_name(part)) for part in path.absolute().parts]
        fitting = [
            (len(parts), image) for parts, image in self._by_name.get(ours[-1], []) if ours[-len(parts) :] == parts
        ]
        deepest = max((length for length, _ in fitting), default=0)
        longest = {id(image): image for length, image in fitting if length == deepest}
        if len(longest) != 1:
            what = "no such image" if not longest else "more than one such image"
            similar = next((image.name for _, image in self._by_name.get(ours[-1], [])), None)
            hint = f", only {similar}" if similar is not None and not longest else ""
            raise ValueError(f"{path}: the annotation file lists {what}{hint}")
        ((key, image),) = longest.items()
        if self._path_of.setdefault(key, path) != path:
            raise ValueError(f"{path}: {self._path_of[key]} is the image {image.name} of the annotation file already")
        return image, self._turn(path, image, (size[1], size[0]))

    def _turn(self, path: Path, image: AnnotatedImage, upright: tuple[int, int]) -> int:
        orientation = orientation_in_header(path)
        stored = upright[::-1] if orientation >= 5 else upright
        if image.size in (None, stored):
            return orientation
        if image.size == upright:
            return 1
        given, there = ("{} x {}".format(*pair) for pair in (image.size, upright))
        raise ValueError(
            f"{path}: the image has {there} pixels, in the annotation file {given}; predict the images that were "
            "annotated"
        )

    def _match(self, categories: Sequence[tuple[Any, str]], class_names: Sequence[str]) -> list[Any]:
        shared = {name for name, count in Counter(name for _, name in categories).items() if count > 1}
        ids = {f"{name} ({i})" if name in shared else name: i for i, name in categories}
        found = [ids.get(_one_line(name)) for name in class_names]
        missing = [name for name, i in zip(class_names, found, strict=True) if i is None]
        if missing and len(missing) == len(found):
            raise ValueError(
                f"--annotations {self._file}: it has none of the classes that the weights know, such as {missing[0]!r}"
            )
        if missing:
            what = f"it has no category {abridged(map(repr, missing))}, which the weights know"
            _log.warning("--annotations %s: %s; what is found of it is left out", self._file, what)
        return found


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    width, height = entry.get("width"), entry.get("height")
    return (width, height) if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0 else None


def _one_line(name: str) -> str:
    return unicodedata.normalize("NFC", " ".join(name.split()))


def _shared_folders(names: Sequence[str]) -> int:
    """How many folders of another machine all names start with; none where some name starts elsewhere."""
    if not names or not all(map(is_absolute, names)):
        return 0
    folders = [path_parts(name)[:-1] for name in names]
    shared = itertools.takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    return sum(1 for _ in shared)
