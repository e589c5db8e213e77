"""Where the images of YOLO's training and validation parts are: folders, lists of paths, or both.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scalablevit.data.find_images import IMAGE_SUFFIXES, walk_images
from scalablevit.data.path_names import with_slashes
from scalablevit.detection.coco import CocoError
from scalablevit.detection.coco.image_files import locate_images

_LARGEST_FILE = 16 << 20  # bytes of a list


def images_of_part(
    folder: Path,
    base: Path,
    given: str | Path | None,
    listed: Any,
    words: Sequence[str],
    *,
    has_labels: Callable[[Path], bool],
) -> list[Path]:
    """Find the image files of a part. Those that a list names and that are not there are among them.

    Args:
        folder: the data folder.
        base: folder that paths of the YAML start from.
        given: folder or list that the user named.
        listed: what the YAML says: a path or several, of folders, lists of paths, or images.
        words: names of the part, the first for messages.
        has_labels: whether a folder has label files among its images.

    Raises:
        CocoError: what is named is not there, or holds no image.
    """
    argument = f"{words[0]}_images"
    if given is not None:
        places = _existing(folder, str(given)) or [folder / given]
    elif listed:
        names = [name for name in (listed if isinstance(listed, list) else [listed]) if isinstance(name, str)]
        places = [path for name in names for path in _existing(base, name)]
        if len(places) < len(names):
            missing = next(name for name in names if not _existing(base, name))
            raise CocoError(
                f"{base}: the part {words[0]!r} is said to be {missing!r}, which is not there; correct it in the YAML, "
                f"remove it, or name the folder with {argument}",
                kind="missing-folder",
                path=base,
            )
    else:
        places = _usual(folder, words, has_labels)
    files: list[Path] = []
    for place in places:
        if place.is_dir():
            files += [place / name for name in walk_images(place)]
        elif place.is_file() and place.suffix.lower() == ".txt" and place.stat().st_size < _LARGEST_FILE:
            files += _listed_images(place, base)
        elif place.suffix.lower() in IMAGE_SUFFIXES:
            files.append(place)
    if places and not files and (given is not None or listed):  # taking other images in their place would mix the parts
        raise CocoError(
            f"{places[0]}: the part {words[0]!r} holds no image; put images there, remove the part from the YAML, or "
            f"name its folder with {argument}",
            kind="no-images",
            path=places[0],
        )
    return files


def folder_called(place: Path, name: str) -> Path | None:
    """Return the folder of this name, in any case of letters; None where there is none."""
    if (place / name).is_dir():
        return place / name
    try:
        with os.scandir(place) as entries:
            found = sorted(entry.name for entry in entries if entry.name.lower() == name and entry.is_dir())
    except OSError:
        return None
    return place / found[0] if found else None


def _usual(folder: Path, words: Sequence[str], has_labels: Callable[[Path], bool]) -> list[Path]:
    """The folder of a part where nothing names it."""
    images = folder_called(folder, "images")
    inside = [folder_called(images, word) for word in words] if images is not None else []
    parts = [place for word in words if (place := folder_called(folder, word)) is not None]
    known = [*inside, *(folder_called(part, "images") for part in parts)]
    beside = [part for part in parts if has_labels(part)]
    return [*(place for place in known if place is not None), *beside][:1]


def _listed_images(file: Path, base: Path) -> list[Path]:
    """Images of a list, a path on each line; those that are not there as they stand.

    Raises:
        CocoError: not one of them is there.
    """
    lines = [line.strip() for line in file.read_text(encoding="utf-8-sig", errors="replace").splitlines()]
    names = [line for line in lines if line]
    found = [
        next(iter(_existing(file.parent, name, deep=False) or _existing(base, name, deep=False)), None)
        for name in names
    ]
    lost = [name for name, path in zip(names, found, strict=True) if path is None]
    if lost:  # of another machine
        there = locate_images(lost, [base, file.parent])
        relocated = zip(there.names, there.present, strict=True)
        resolved = {
            name: there.folder / path for name, (path, is_there) in zip(lost, relocated, strict=True) if is_there
        }
        if len(lost) == len(names) and not resolved:
            raise CocoError(
                f"{file}: none of its {len(names):,} images is there, such as {names[0]}; looked in {base} and "
                f"{file.parent}; correct the paths in the list, or put the images there",
                kind="missing-images",
                path=file,
            )
        return [path or resolved.get(name) or base / name for name, path in zip(names, found, strict=True)]
    return [path for path in found if path is not None]


def _existing(base: Path, name: str, *, deep: bool = True) -> list[Path]:
    """The file or folder that a path stands for, whatever it starts from; none where it is not there.

    Args:
        base: folder that it starts from.
        name: the path.
        deep: look for its end, too, of two names at least, where its beginning is another machine's.
    """
    name = with_slashes(name)
    inside = name
    while inside.startswith(("../", "./")):
        inside = inside.partition("/")[2]
    # Darknet's paths start from its own folder "data".
    for path in (base / name, base / inside, Path(name), base / inside.removeprefix("data/")):
        if path.exists():
            return [path]
    parts = [part for part in name.split("/") if part not in ("", ".", "..")] if deep else []
    ends = (base.joinpath(*parts[start:]) for start in range(1, len(parts) - 1))
    return next(([path] for path in ends if path.exists()), [])
