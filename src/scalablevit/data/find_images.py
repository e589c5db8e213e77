"""Find image files in files, folders and globs."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
)
"""Lower-case file name endings that count as pictures; compare with `path.suffix.lower()`."""


def find_images(inputs: Sequence[str | Path], *, recursive: bool = True) -> list[Path]:
    """List the pictures that files, folders and glob patterns stand for, sorted and without repeats.

    A file is taken whatever its name ends in; folders and patterns give the files whose ending is in
    `IMAGE_SUFFIXES`, hidden ones (name starts with a dot) left out. `~` is expanded.

    Args:
        inputs: paths of files or folders, or patterns with `*`, `?`, `[...]` and `**`.
        recursive: look into subfolders too, and let `**` in a pattern cross folders.

    Raises:
        ValueError: `inputs` is empty, or one of them matches no picture.
    """
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    if len(inputs) == 0:
        raise ValueError("no input was given: name picture files, folders or glob patterns")
    found: dict[str, Path] = {}
    for given in inputs:
        matches = list(_matches(Path(given).expanduser(), recursive=recursive))
        if not matches:
            raise ValueError(_nothing_found(given, recursive=recursive))
        for path in matches:
            found.setdefault(os.path.abspath(path), path)
    return sorted(found.values())


def as_paths(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """One path, or several, as an iterator; a string is one path, never its characters."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    return map(Path, paths)


def walk_images(folder: str | Path) -> Iterator[str]:
    """Relative paths of all pictures below a folder, in a stable order, links to folders followed.

    Strings, since data sets have millions of files and a `Path` for each is slow. Hidden files and folders
    are left out: macOS leaves `._name.jpg` files that are no pictures.
    """
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        prefix = os.path.relpath(directory, folder)
        for name in sorted(files):
            if has_image_suffix(name) and not name.startswith("."):
                yield name if prefix == "." else os.path.join(prefix, name)


def has_image_suffix(name: str) -> bool:
    """Whether a file name ends like a picture's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _matches(given: Path, *, recursive: bool) -> Iterable[Path]:
    if given.is_file():
        return [given]
    if given.is_dir():
        return _in_folder(given, recursive=recursive)
    # A name that exists was handled above, so that "photo[1].jpg" is a file before it is a pattern.
    paths = [Path(name) for name in glob.glob(str(given), recursive=recursive)]
    pictures = [path for path in paths if has_image_suffix(path.name) and path.is_file()]
    if recursive:
        for folder in paths:
            if folder.is_dir():
                pictures.extend(_in_folder(folder, recursive=True))
    return pictures


def _in_folder(folder: Path, *, recursive: bool) -> list[Path]:
    if recursive:
        return [folder / name for name in walk_images(folder)]
    children = (path for path in folder.iterdir() if not path.name.startswith("."))
    return [path for path in children if has_image_suffix(path.name) and path.is_file()]


def _nothing_found(given: str | Path, *, recursive: bool) -> str:
    path = Path(given).expanduser()
    endings = " ".join(sorted(IMAGE_SUFFIXES))
    if path.is_dir():
        where = "in it or its subfolders" if recursive else "directly in it (subfolders were not searched)"
        return f"{given}: the folder has no pictures {where}; looked for names ending in {endings}"
    if glob.has_magic(str(given)):
        return f"{given}: the pattern matches no pictures; check it, and quote it so that the shell keeps it"
    return f"{given}: there is no such file or folder; check the path"
