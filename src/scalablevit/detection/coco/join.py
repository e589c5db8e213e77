"""Several COCO files as one.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalablevit.detection.coco.image_files import locate_images
from scalablevit.detection.coco.json_file import (
    CocoError,
    Id,
    Lists,
    Source,
    class_name,
    file_name,
    identifier,
    lookup,
    read_lists,
)
from scalablevit.detection.coco.plausibility import shifted_ids


def read_joined(
    files: Sequence[Path], *, root: Path | None = None, image_folders: Sequence[Sequence[Path]] | None = None
) -> Lists:
    """Read COCO files and put their lists together; categories are matched by name.

    Ids of images and categories stay where they are free. An id that an earlier file has taken becomes "FILE:ID", such
    as "b.json:7", as does every id of an annotation. Where the files have their images in different folders, names of
    images start from `root`.

    Args:
        files: to read.
        root: the data folder; needed with `image_folders`.
        image_folders: for each file, where its images may be, likeliest first; None: names are left as they are.

    Raises:
        CocoError: as `read_lists`; or a category id of one file stands for two names.
    """
    joined = Lists([], [], [])
    sources: list[Source] = []
    taken: set[Id] = set()
    category_of: dict[tuple[str, int], Id] = {}
    each = [read_lists(file) for file in files]
    if root is not None and image_folders is not None:
        each = _with_folders(each, root, image_folders)
    for file, label, theirs in zip(files, _labels(files), each, strict=True):
        new_image = _fresh_ids(theirs.images, taken, label)
        new_category = _join_categories(theirs.categories, category_of, joined.categories, file, label)
        used = {identifier(entry.get("category_id")) for entry in theirs.annotations if isinstance(entry, dict)}
        sources.append(Source(file, len(joined.annotations), shifted_ids(used, new_category)))
        joined.images.extend(_with(entry, "id", new_image) for entry in theirs.images)
        for entry in theirs.annotations:
            for key, fresh in (("image_id", new_image), ("category_id", new_category)):
                entry = _with(entry, key, fresh, unlisted=f"{file}:")
            joined.annotations.append(_labelled(entry, label))
    return joined._replace(sources=tuple(sources))


def _with_folders(each: Sequence[Lists], root: Path, image_folders: Sequence[Sequence[Path]]) -> list[Lists]:
    """Let names of images start from `root` where files have them in different folders: many are called 0001.jpg."""
    found = []
    for theirs, folders in zip(each, image_folders, strict=True):
        names = [file_name(entry.get("file_name")) for entry in theirs.images if isinstance(entry, dict)]
        known = [name for name in names if name is not None]
        found.append(locate_images(known, folders).folder if known else root)
    if len(set(found)) == 1:
        return list(each)
    return [
        theirs._replace(images=[_in_folder(entry, os.path.relpath(folder, root)) for entry in theirs.images])
        for theirs, folder in zip(each, found, strict=True)
    ]


def _in_folder(entry: Any, folder: str) -> Any:
    name = file_name(entry.get("file_name")) if isinstance(entry, dict) else None
    return entry if name is None else {**entry, "file_name": os.path.normpath(os.path.join(folder, name))}


def _labels(files: Sequence[Path]) -> list[str]:
    """A short text for each file, which no other has: its name, otherwise its path, otherwise with a number."""
    names, paths = Counter(file.name for file in files), Counter(map(str, files))
    return [
        file.name if names[file.name] == 1 else str(file) if paths[str(file)] == 1 else f"{file}#{number}"
        for number, file in enumerate(files, 1)
    ]


def _join_categories(
    entries: Sequence[Any], category_of: dict[tuple[str, int], Id], categories: list[Any], file: Path, label: str
) -> dict[Any, Id]:
    """Id in the file -> id in all files together; adds to `categories`, and to `category_of` by (name, which of it).

    A name that a file has twice is two categories, as if it were read alone.
    """
    fresh: dict[Any, Id] = {}
    own_names: dict[Id, str] = {}
    occurrences: Counter[str] = Counter()
    used = set(category_of.values())
    for entry in entries:
        old = identifier(entry.get("id")) if isinstance(entry, dict) else None
        if old is None:
            categories.append(entry)  # told by the reader
            continue
        name = class_name(entry.get("name")) or str(old)
        if own_names.setdefault(old, name) != name:
            raise CocoError(
                f"{file}: the category id {old} stands for {own_names[old]!r} and for {name!r}; give each category an "
                "id of its own",
                kind="duplicate-category",
                path=file,
            )
        if old in fresh:
            continue
        occurrences[name] += 1
        key = (name, occurrences[name])
        if key not in category_of:
            category_of[key] = f"{label}:{old}" if old in used else old
            used.add(category_of[key])
            categories.append({**entry, "id": category_of[key]})
        fresh[old] = category_of[key]
    return fresh


def _fresh_ids(entries: Sequence[Any], taken: set[Id], label: str) -> dict[Any, Id]:
    """Id in the file -> id in all files together; fills `taken`."""
    found = [identifier(entry.get("id")) for entry in entries if isinstance(entry, dict)]
    fresh: dict[Any, Id] = {old: f"{label}:{old}" if old in taken else old for old in found if old is not None}
    taken.update(fresh.values())
    return fresh


def _labelled(entry: Any, label: str) -> Any:
    """The annotation, with its file in its id, so that messages name it and ids of two files never mean one another."""
    old = identifier(entry.get("id")) if isinstance(entry, dict) else None
    return entry if old is None else {**entry, "id": f"{label}:{old}"}


def _with(entry: Any, key: str, fresh: Mapping[Any, Id], *, unlisted: str = "") -> Any:
    """The entry with its new id; one that its own file does not list must not mean another file's."""
    if not isinstance(entry, dict):
        return entry
    old = identifier(entry.get(key))
    new = lookup(fresh, old)
    if new is not None:
        return {**entry, key: new}
    return {**entry, key: f"{unlisted}{old}"} if unlisted and old is not None else entry
