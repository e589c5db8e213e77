"""One run at a time writes into a run folder: a lock that ends with the process that holds it."""

import contextlib
import errno
import json
import logging
import os
import socket
import stat
from pathlib import Path
from types import ModuleType

log = logging.getLogger(__name__)

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


class FolderInUseError(ValueError):
    """Another process trains in the run folder."""


class RunLock:
    """An exclusive lock on a run folder, by a lock file in it.

    The system releases it when the process ends, however that happens; a lock file that a killed process left behind
    holds nothing. Data workers do not hold it on, and ranks beside the first do not take it. On network disks it works
    between machines only where the disk passes locks on (NFS does unless mounted with `nolock` or `local_lock`); where
    a disk does not support locks, a warning says so and the run continues without.

    Args:
        folder: the run folder; it must exist.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.path = Path(folder) / ".lock"
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock, or fail at once.

        Raises:
            FolderInUseError: another process holds it; names its id and host.
            ValueError: a link, a pipe or a device stands in the lock file's place: writing would go elsewhere.
            OSError: the lock file cannot be made.
        """
        while True:
            descriptor = self._open()
            try:
                _lock(descriptor)
            except (BlockingIOError, PermissionError) as error:
                owner = _owner(descriptor)
                os.close(descriptor)
                raise FolderInUseError(
                    f"{self.path.parent} is in use: {owner} trains in it. Wait until it ends, stop it, or name another "
                    "folder by --run"
                ) from error
            except OSError as error:
                log.warning(
                    "%s: this disk does not support locks (%s); make sure that no second run writes into the folder",
                    *(self.path.parent, error.strerror),
                )
            if self._is_current(descriptor):
                break
            os.close(descriptor)  # the one who held it has removed the file meanwhile
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname()})
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, text.encode())
        self._descriptor = descriptor
        _held.add(self)

    def _open(self) -> int:
        """Open the lock file itself: a run folder may be a stranger's, and a link in it name any file of the user."""
        try:
            if self.path.is_symlink():  # O_NOFOLLOW is not known everywhere
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            options = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | options)
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise
            raise ValueError(f"{self.path} is not a lock file of ours: remove it") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ValueError(f"{self.path} is not a lock file of ours: remove it")
        return descriptor

    def release(self) -> None:
        """Give the lock back and remove its file."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                if self._is_current(self._descriptor):
                    self.path.unlink()
            self._close()

    def _close(self) -> None:
        _held.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def _is_current(self, descriptor: int) -> bool:
        """Whether the lock file still stands at its place: a lock on a removed one excludes nobody."""
        try:
            there, ours = os.stat(self.path), os.fstat(descriptor)
        except FileNotFoundError:
            return False
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


_held: set[RunLock] = set()


def _close_in_child() -> None:
    """In a forked child, such as a data worker that outlives its process: do not hold the locks on."""
    for lock in list(_held):
        lock._close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _lock(descriptor: int) -> None:
    if fcntl is not None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    else:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # behind the text, which others may read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(descriptor, 0, os.SEEK_SET)


def _owner(descriptor: int) -> str:
    """Who holds the lock, as its file tells."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        owner = json.loads(os.read(descriptor, 4096))
        return f"process {int(owner['pid'])} on {owner['host']}"
    return "another process"
