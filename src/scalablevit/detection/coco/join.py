"""Several COCO files as one.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scalablevit.detection.coco.json_file import Id, Lists, identifier, read_lists


def read_joined(files: Sequence[Path]) -> Lists:
    """Read COCO files and put their lists together; categories are matched by name.

    Ids stay where they are free. An id that an earlier file has taken becomes "FILE:ID", such as "b.json:7".

    Raises:
        CocoError: as `read_lists`.
    """
    images: list[Any] = []
    annotations: list[Any] = []
    categories: list[Any] = []
    taken: set[Id] = set()
    category_of: dict[str, Id] = {}
    category_ids: set[Id] = set()
    for file in files:
        their_images, their_annotations, their_categories = read_lists(file)
        new_image = _fresh_ids(their_images, taken, file.name)
        new_category: dict[Any, Id] = {}
        for entry in their_categories:
            old = identifier(entry.get("id")) if isinstance(entry, dict) else None
            if old is None or str(entry.get("name")) not in category_of:
                new = f"{file.name}:{old}" if old in category_ids else old
                categories.append({**entry, "id": new} if isinstance(entry, dict) else entry)
                if new is not None:
                    category_ids.add(new)
                    category_of[str(entry.get("name"))] = new
            if old is not None:
                new_category[old] = category_of[str(entry.get("name"))]
        images += [_with(entry, "id", new_image) for entry in their_images]
        for entry in their_annotations:
            for key, fresh in (("image_id", new_image), ("category_id", new_category)):
                entry = _with(entry, key, fresh, unlisted=f"{file}:")
            annotations.append({**entry, "id": len(annotations) + 1} if isinstance(entry, dict) else entry)
    return images, annotations, categories


def _fresh_ids(entries: Sequence[Any], taken: set[Id], name: str) -> dict[Any, Id]:
    """Id in the file -> id in all files together; fills `taken`."""
    found = [identifier(entry.get("id")) for entry in entries if isinstance(entry, dict)]
    fresh: dict[Any, Id] = {old: f"{name}:{old}" if old in taken else old for old in found if old is not None}
    taken.update(fresh.values())
    return fresh


def _with(entry: Any, key: str, fresh: dict[Any, Id], *, unlisted: str = "") -> Any:
    """The entry with its new id; one that its own file does not list must not mean another file's."""
    if not isinstance(entry, dict):
        return entry
    old = identifier(entry.get(key))
    if old in fresh:
        return {**entry, key: fresh[old]}
    return {**entry, key: f"{unlisted}{old}"} if unlisted and old is not None else entry
