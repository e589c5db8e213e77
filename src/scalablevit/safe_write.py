"""Files that are complete or not there: written beside their place, then renamed into it."""

import contextlib
import errno
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_LEFTOVER = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # as mkstemp names them


class WriteError(OSError):
    """A file could not be written; the one that stood at its place before is intact."""


Content = bytes | Callable[[Any], object]
"""What a file shall hold: its bytes, or a function that fills a binary file which is open for writing."""


def check_writable(path: Path) -> None:
    """Refuse a place where nothing can be written before minutes have gone into what is written there.

    Raises:
        WriteError: the system lets nobody write there.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise WriteError(
            error.errno, f"{path} could not be written ({error.strerror or error}). Name another folder"
        ) from error


def write_atomically(path: str | os.PathLike[str], content: Content) -> None:
    """Write a temporary file in `path`'s folder, wait for the disk, then rename it to `path`.

    Args:
        path: where the file shall stand; its folder is made where it is missing.
        content: of the file.

    Raises:
        WriteError: the system refused to write; what stood at `path` is intact.
    """
    write_together({path: content})


def write_together(contents: Mapping[str | os.PathLike[str], Content]) -> None:
    """Write files that belong together: all are complete on the disk before the first is renamed to its place.

    Args:
        contents: of the files, by path; renamed in this order.

    Raises:
        WriteError: the system refused to write; what stood at the place of that file, and of those behind it, is
            intact.
    """
    temporaries: dict[Path, str] = {}
    marks: list[int] = []
    path = Path()
    try:
        for name, content in contents.items():
            path = Path(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
            temporaries[path] = temporary
            marks += _marked(descriptor)
            with os.fdopen(descriptor, "wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    content(file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o666 & ~_umask())  # mkstemp lets nobody else read
        for path in list(temporaries):
            os.replace(temporaries[path], path)
            del temporaries[path]
    except (OSError, RuntimeError) as error:
        # torch's zip writer turns the OSError of a full disk into a RuntimeError, and keeps it as the cause
        reason = error if isinstance(error, OSError) else error.__cause__ or error.__context__
        if not isinstance(reason, OSError):
            if reason is not None and not isinstance(reason, Exception):
                raise reason from None  # a stop in the middle of the writing, which torch's zip writer hides
            raise
        earlier = "the earlier file of that name is intact" if path.exists() else "no file was left behind"
        raise WriteError(
            reason.errno,
            f"{path} could not be written ({reason.strerror or reason}); {earlier}. {_remedy(reason)}",
        ) from error
    finally:
        for temporary in temporaries.values():
            Path(temporary).unlink(missing_ok=True)
        for mark in marks:
            os.close(mark)


def write_json(path: str | os.PathLike[str], content: Any, *, indent: int | None = 2) -> None:
    """Write `content` as `json_text` has it, atomically.

    Raises:
        WriteError: the system refused to write; what stood at `path` is intact.
    """
    write_atomically(path, (json_text(content, indent=indent) + "\n").encode())


def json_text(content: Any, *, indent: int | None = 2, ascii_only: bool = False) -> str:
    """Write JSON that every reader takes: null for a float that is no number or infinite, which JSON does not have.

    Args:
        content: what `json.dumps` takes.
        indent: spaces a level; None: one line.
        ascii_only: escape all other letters. File names that are not UTF-8 are escaped anyway.
    """
    text = json.dumps(finite(content), indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    if any("\ud800" <= character <= "\udfff" for character in text):
        return json.dumps(finite(content), indent=indent, allow_nan=False)
    return text


def finite(content: Any) -> Any:
    """Copy lists and dicts with None for each float that is no number or infinite."""
    if isinstance(content, dict):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def sweep_leftovers(folder: str | os.PathLike[str]) -> dict[Path, int]:
    """Remove the temporary files that killed processes left in `folder` and in the folders below it.

    Files that a living process is writing stay: it holds a lock on them.

    Returns:
        each file that was removed -> its bytes.
    """
    swept: dict[Path, int] = {}
    for place, _, names in os.walk(folder):  # follows no links
        for name in names:
            file = Path(place) / name
            if not _LEFTOVER.fullmatch(name) or file.is_symlink() or not file.is_file() or _is_being_written(file):
                continue
            with contextlib.suppress(OSError):  # Windows keeps a file that is open
                size = file.stat().st_size
                file.unlink()
                swept[file] = size
    return swept


def _marked(descriptor: int) -> list[int]:
    """Lock a temporary file for as long as its writer lives; the descriptors that hold the lock."""
    if fcntl is None:
        return []
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return [os.dup(descriptor)]
    except OSError:  # a disk without locks
        return []


def _is_being_written(file: Path) -> bool:
    """Whether a living process holds the lock on a temporary file."""
    if fcntl is None:
        return False
    try:
        descriptor = os.open(file, os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _remedy(reason: OSError) -> str:
    if reason.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return "Free some disk space, or name another folder"
    return "Choose a shorter name" if reason.errno == errno.ENAMETOOLONG else "Name another folder"


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
