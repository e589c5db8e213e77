"""Save annotated images into a folder; files that are there are kept."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_LONGEST_NAME = 200  # bytes; most file systems take 255, and endings and numbers come behind


def check_folder(folder: str) -> Path:
    """The folder of --save.

    Raises:
        ValueError: it names a file, or an image that is not there.
    """
    path = Path(folder)
    if not folder or (path.exists() and not path.is_dir()):
        raise ValueError(f"--save {folder!r} is not a folder; name one, it is made where it is missing")
    from scalablevit.data.find_images import has_image_suffix

    if not path.exists() and has_image_suffix(path.name):
        raise ValueError(
            f"--save {folder}: give a folder; images keep their names in it: --save {path.with_suffix('')}"
        )
    return path


def save(
    images: Mapping[str, Any], folder: Path, stem: Path, *, documents: Mapping[str, bytes] | None = None
) -> list[Path]:
    """Write images of one prediction as PNG files that were not there, whole or not at all.

    Args:
        images: what is added to the name -> image.
        folder: of all saved images.
        stem: relative path without ending; `_2`, `_3`, ... is added where a file of that name is there.
        documents: further files beside them: what is added to the name, with its ending -> content.

    Returns:
        the files, in the order of `images`, then of `documents`.

    Raises:
        WriteError: the system refused to write.
    """
    from scalablevit.safe_write import WriteError, write_atomically

    target = folder / stem.parent / _short(stem.name)
    contents: dict[str, bytes | Callable[[Any], Any]] = {
        f"{ending}.png": functools.partial(image.save, format="PNG") for ending, image in images.items()
    }
    contents.update(documents or {})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        paths = _claim(target, list(contents))
    except OSError as error:
        raise WriteError(error.errno, f"{target}.png could not be written ({error.strerror})") from error
    try:
        for path, content in zip(paths, contents.values(), strict=True):
            write_atomically(path, content)
    except BaseException as error:
        for path in paths:
            with contextlib.suppress(OSError):
                if path.stat().st_size == 0:
                    path.unlink()
        if isinstance(error, WriteError) and error.errno is not None:
            reason = os.strerror(error.errno)
            raise WriteError(error.errno, f"{target}.png could not be written ({reason})") from error
        raise
    return paths


def _claim(target: Path, endings: Sequence[str]) -> list[Path]:
    """Create empty files that nobody had, of the first number that is free: another process may save there too."""
    number = 1
    while True:
        name = target.name if number == 1 else f"{target.name}_{number}"
        paths = [target.with_name(f"{name}{ending}") for ending in endings]
        made: list[Path] = []
        try:
            for path in paths:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                made.append(path)
        except FileExistsError:
            for path in made:
                path.unlink()
            number += 1
        else:
            return paths


def _short(name: str) -> str:
    """The name, or, where no file system would take it, its beginning and a digest of the whole."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    beginning = encoded[:_LONGEST_NAME].decode("utf-8", "ignore")
    return f"{beginning}-{hashlib.blake2b(encoded, digest_size=4).hexdigest()}"
