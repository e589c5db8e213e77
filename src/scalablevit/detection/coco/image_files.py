"""Image files of an annotation file, found by the names in it, whatever tool and machine wrote them.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np

from scalablevit.data.find_images import is_file, walk_images
from scalablevit.data.path_names import folded, path_parts
from scalablevit.data.stored_path import StoredPath

_SAMPLE = 50
_MOST_LOOKED_AT = 20_000


@dataclass(frozen=True)
class FoundFiles:
    """Image files of an annotation file.

    Attributes:
        folder: that was taken.
        names: paths in that folder, as they are on disk; of missing files as the annotations have them.
        present: (N,) bool, which of them are there.
        ambiguous: (N,) bool, names that differ in the annotations and lead to one file, as only their last parts are
            on disk: nobody can tell whose image it is.
    """

    folder: Path
    names: list[str]
    present: np.ndarray
    ambiguous: np.ndarray


def locate_images(names: list[str], folders: Sequence[Path]) -> FoundFiles:
    """Find the image files of an annotation file.

    A name is looked for as it stands, then by its longest part from the right that is in the folder. Separators of
    Windows, folders of another machine, `%20`, accents in either form, and upper or lower case are understood.

    Args:
        names: as the annotations have them.
        folders: that may hold them, likeliest first; the one with most of them is taken.
    """
    sample = names[:: max(1, len(names) // _SAMPLE)]
    disk = _Disk()
    for stored in folders:
        if isinstance(stored, StoredPath):
            disk.list_stored(stored)
    scores = {}
    for folder in folders:
        depths = [disk.find(folder, name)[1] for name in sample]
        scores[folder] = (sum(depth > 0 for depth in depths), sum(depths))
    folder = max(folders, key=scores.__getitem__)  # the first of the best
    found, present, is_whole = [], np.zeros(len(names), bool), np.zeros(len(names), bool)
    for i, name in enumerate(names):
        path, depth = disk.find(folder, name)
        found.append(path)
        present[i] = depth > 0
        is_whole[i] = depth >= len(path_parts(name))
    ambiguous = _ambiguous(names, found, present & ~is_whole)
    return FoundFiles(folder, found, present & ~ambiguous, ambiguous)


def example_file(folders: Sequence[Path], name: str) -> str:
    """What is in the folders in the place of an image that is not, for a message; "" where they have no image.

    Args:
        folders: that were looked in.
        name: of the image, as the annotations have it.
    """
    parts = path_parts(name)
    base = folded(parts[-1]) if parts else ""
    first = ""
    for folder in folders:
        for inside in itertools.islice(walk_images(folder), _MOST_LOOKED_AT):
            path, there = folder / inside, folded(os.path.basename(inside))
            if there == base:
                return f"there is {path}: file_name must begin with its folders"
            if os.path.splitext(there)[0] in (base, os.path.splitext(base)[0]):
                return f"there is {path}, with another ending: correct file_name, or convert the images"
            first = first or f"there is {path}, for instance"
    return first


def _spellings(name: str) -> Iterator[str]:
    """A name as it stands and as addresses, exports and people write it."""
    yield name
    yield unquote(name)
    if "?" in name:  # "https://host/a.jpg?token=1", and Label Studio's "/data/local-files/?d=folder/a.jpg"
        address, _, query = name.partition("?")
        yield unquote(address)
        yield from (unquote(value[2:]) for value in query.split("&") if value.startswith("d="))
    if name != name.strip():
        yield name.strip()


def _ambiguous(names: list[str], found: list[str], is_reduced: np.ndarray) -> np.ndarray:
    """Which names lead to a file that another name leads to as well, (N,) bool."""
    result = np.zeros(len(names), bool)
    if not is_reduced.any():
        return result
    spellings: dict[str, set[str]] = {}
    for name, path in zip(names, found, strict=True):
        spellings.setdefault(path, set()).add("/".join(path_parts(name)))
    for i in np.flatnonzero(is_reduced):
        result[i] = len(spellings[found[i]]) > 1
    return result


class _Disk:
    """Folders as they are listed once: asking for each file takes minutes on a network."""

    def __init__(self) -> None:
        self._listings: dict[str, dict[str, str]] = {}
        self._folded: dict[str, dict[str, str]] = {}

    def list_stored(self, folder: StoredPath) -> None:
        """List a folder of files in shards, and those in it."""
        for name in folder.source.names():
            parts = name.split("/")
            for depth, part in enumerate(parts):
                place = os.path.join(str(folder), *parts[:depth])
                self._listings.setdefault(place, {})[part] = "f" if depth == len(parts) - 1 else "d"

    def find(self, folder: Path, name: str) -> tuple[str, int]:
        """Path in the folder as it is on disk, and how many parts of the name it fits, at most all; 0: not there."""
        place, base = os.path.split(os.path.join(folder, name))
        parts = path_parts(name)
        if base in self._listing(place) and self._is_file(place, base):
            return name, len(parts)
        for spelled in dict.fromkeys(tuple(path_parts(spelling)) for spelling in _spellings(name)):
            for start in range(len(spelled)):
                path = self._descend(str(folder), spelled[start:])
                if path is None:
                    continue
                # The folder's own name may be what was left off: "images/1.jpg" in the folder "images".
                above = path_parts(str(folder))[-start:] if start else []
                dropped = list(spelled[:start])[-len(above) :] if above else []
                same = 0
                while same < len(dropped) and folded(dropped[-1 - same]) == folded(above[-1 - same]):
                    same += 1
                depth = len(parts) if same == start else len(spelled) - start + same
                return path, depth
        return name, 0

    def _descend(self, folder: str, parts: Sequence[str]) -> str | None:
        path: list[str] = []
        for part in parts:
            place = os.path.join(folder, *path)
            actual = part if part in self._listing(place) else self._folded_listing(place).get(folded(part))
            if actual is None:
                return None
            path.append(actual)
        return os.path.join(*path) if self._is_file(os.path.join(folder, *path[:-1]), path[-1]) else None

    def _listing(self, place: str) -> dict[str, str]:
        """Names in a folder; "f" for files, "d" for all else."""
        if place not in self._listings:
            try:
                with os.scandir(place) as entries:
                    self._listings[place] = {entry.name: "f" if is_file(entry) else "d" for entry in entries}
            except OSError:
                self._listings[place] = {}
        return self._listings[place]

    def _folded_listing(self, place: str) -> dict[str, str]:
        if place not in self._folded:
            self._folded[place] = {folded(name): name for name in sorted(self._listing(place), reverse=True)}
        return self._folded[place]

    def _is_file(self, place: str, base: str) -> bool:
        return self._listing(place).get(base) == "f"
