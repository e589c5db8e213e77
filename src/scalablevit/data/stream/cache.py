"""Downloaded shards on the disk: each once for all processes of a machine, and no more than a limit of them."""

import contextlib
import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from scalablevit.data.stream.download import DownloadError, Fetch

_LOCK_SECONDS = 1800.0
_RESERVED = ".reserved"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class CacheError(OSError):
    """The cache takes no more shards; every process of the machine will meet it."""

    def __str__(self) -> str:
        return str(self.strerror)


class ShardCache:
    """A folder of downloaded shards.

    Args:
        folder: of this stream, in `root`.
        root: folder of all streams, which share the limit.
        limit: bytes that shards may take.
        fetch: downloads a file.
    """

    def __init__(self, folder: Path, *, root: Path, limit: int, fetch: Fetch) -> None:
        self.folder = folder
        self.root = root
        self.limit = limit
        self.fetch = fetch
        self._counting = root / ".lock"

    def prepare(self, *, needed: int) -> None:
        """Make the folder, and refuse one that cannot take the shards.

        Args:
            needed: bytes that lie in the cache at once.

        Raises:
            CacheError: the folder cannot be written, the limit is below `needed`, or the disk has less space left.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.root / f".write-{os.getpid()}", "wb") as file:
                os.remove(file.name) if os.name == "posix" else None
        except OSError as error:
            raise CacheError(
                error.errno,
                f"{self.root}: the cache of downloaded shards cannot be written ({error.strerror or error}); name "
                "another folder with data.stream.cache_dir",
            ) from None
        if needed > self.limit:
            raise CacheError(
                errno.ENOSPC,
                f"{self.root}: data.stream.cache_gb allows {_gb(self.limit)}, and {_gb(needed)} are read at once; "
                "raise data.stream.cache_gb, or lower data.stream.window or data.stream.ahead",
            )
        self._sweep()
        free = shutil.disk_usage(self.root).free + self._used()
        if needed > free:
            raise CacheError(
                errno.ENOSPC,
                f"{self.root}: the disk of the cache has {_gb(free)} for shards, and {_gb(needed)} are read at once; "
                "free disk space, name another folder with data.stream.cache_dir, or lower data.stream.window",
            )

    def get(self, name: str, size: int, digest: str) -> Path:
        """Give the file of a shard, downloaded where it is not there.

        Args:
            name: of the file at the address.
            size: of it, in bytes.
            digest: of it; shards that came to the same address later have another.

        Raises:
            CacheError: the disk or the limit takes no more.
            DownloadError: it cannot be downloaded.
        """
        path = self._place(name, digest)
        if self._is_there(path, size):
            return path
        with self._full(name), self._locked(path.with_name(f"{path.name}.lock")):
            if self._is_there(path, size):
                return path
            path.unlink(missing_ok=True)
            place = self._reserve(path, size)
            incoming = place.with_name(f"{place.name}.in")
            try:
                self.fetch(name, incoming)
                found = incoming.stat().st_size
                if found != size:
                    raise DownloadError(None, f"{name}: {found:,} bytes arrived, and the index says {size:,}")
                with self._locked(self._counting):  # who counts sees the place or the shard, and neither twice
                    os.replace(incoming, path)
                    place.unlink()
            finally:
                incoming.unlink(missing_ok=True)
                place.unlink(missing_ok=True)
        return path

    def drop(self, name: str, digest: str) -> None:
        """Remove a shard that turned out to be damaged."""
        self._place(name, digest).unlink(missing_ok=True)

    def _place(self, name: str, digest: str) -> Path:
        path = self.folder / name
        return path.with_name(f"{path.stem}.{digest[:12]}{path.suffix}")

    def _is_there(self, path: Path, size: int) -> bool:
        """Whether a shard is there; then it counts as read now."""
        try:
            if path.stat().st_size != size:
                return False
            os.utime(path)
        except OSError:
            return False
        return True

    def _reserve(self, path: Path, size: int) -> Path:
        """Make room for a file, and hold it by a sparse file of its size."""
        path.parent.mkdir(parents=True, exist_ok=True)
        place = path.with_name(f"{path.name}.{_host()}.{os.getpid()}{_RESERVED}")
        with self._locked(self._counting):
            kept = sorted(self._kept(), key=lambda file: file[1])
            used = sum(size_of for _, _, size_of in kept)
            for old, _, size_of in kept:
                if used + size <= self.limit:
                    break
                if old.name.endswith(".bin"):
                    with contextlib.suppress(OSError):  # Windows keeps a file that is open
                        old.unlink()
                        used -= size_of
            if used + size > self.limit:
                raise CacheError(
                    errno.ENOSPC,
                    f"{self.root}: the cache of downloaded shards is full: {_gb(used)} of {_gb(self.limit)} are being "
                    f"read, and {path.name} takes {_gb(size)}; raise data.stream.cache_gb, or lower "
                    "data.stream.window or data.stream.ahead",
                )
            with open(place, "wb") as file:
                file.truncate(size)
        return place

    def _kept(self) -> Iterator[tuple[Path, float, int]]:
        """Shards and places held for them: path, time of the last use, and bytes."""
        for path in (*self.root.rglob("*.bin"), *self.root.rglob(f"*{_RESERVED}")):
            with contextlib.suppress(OSError):
                status = path.stat()
                yield path, status.st_mtime, status.st_size

    def _used(self) -> int:
        return sum(size for path, _, size in self._kept() if path.name.endswith(".bin"))

    def _sweep(self) -> None:
        """Remove what killed processes left behind."""
        for path in (*self.root.rglob(f"*{_RESERVED}"), *self.root.rglob(f"*{_RESERVED}.in*")):
            host, pid = path.name.split(_RESERVED)[0].rsplit(".", 2)[-2:]
            if not pid.isdigit() or (host == _host() and not _is_alive(int(pid))):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        from filelock import FileLock, Timeout

        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(str(path), timeout=_LOCK_SECONDS):
                yield
        except Timeout:
            raise CacheError(
                errno.EAGAIN, f"{path}: another process has held this lock for {_LOCK_SECONDS / 60:.0f} minutes"
            ) from None

    @contextlib.contextmanager
    def _full(self, name: str) -> Iterator[None]:
        """Turn what the disk refuses into a `CacheError`."""
        try:
            yield
        except CacheError:
            raise
        except OSError as error:
            if error.errno in _FULL:
                raise CacheError(
                    error.errno,
                    f"{self.root}: the disk of the cache is full ({error.strerror or error}) at {name}; free disk "
                    "space, lower data.stream.cache_gb, or name another folder with data.stream.cache_dir",
                ) from None
            if error.errno in _CLOSED and not isinstance(error, DownloadError):
                raise CacheError(
                    error.errno,
                    f"{self.root}: the cache of downloaded shards cannot be written ({error.strerror or error}) at "
                    f"{name}; name another folder with data.stream.cache_dir",
                ) from None
            raise


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
