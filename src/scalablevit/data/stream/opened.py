"""A folder of shards, or a remote address, that is open for reading."""

import contextlib
import hashlib
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from scalablevit.data.check import Problem
from scalablevit.data.image_file import ImageError
from scalablevit.data.stored_path import StoredPath, stored_path
from scalablevit.data.stream.cache import CacheError, ShardCache
from scalablevit.data.stream.download import check_credentials, download
from scalablevit.data.stream.index import (
    INDEX_NAME,
    FileTable,
    Shard,
    ShardsError,
    StoredPart,
    StreamIndex,
    check_task,
    digest,
    file_digest,
    files_name,
    is_remote,
    is_stream,
)
from scalablevit.data.stream.joined_files import JoinedFiles, NoFiles
from scalablevit.data.stream.settings import StreamSettings
from scalablevit.data.stream.shard_file import ShardDamageError, ShardFiles

_log = logging.getLogger(__name__)

T = TypeVar("T")

_SECONDS_BETWEEN_ATTEMPTS = 60.0
_REMOVED_MEANWHILE = 3  # times that a shard is downloaded once more
_COPY_AGAIN = "copy it again, or shard the data again into another folder"
_OTHER_HASH = "its hash is not that of the index"
_OF_THE_SHARD = ("damaged-shard", "cache", "missing")
_OPENED: "dict[tuple[str, str, str], StoredFiles]" = {}  # forked processes have it


class StoredFiles:
    """Files of a part, read from its shards; a `FileSource`.

    Args:
        part: what the index says of it.
        table: of its files.
        folder: of the part on this machine; None: shards are downloaded to `cache`.
        cache: of downloaded shards.
        name: of the part.
        root: address of all parts.
        settings: how they are read.
    """

    def __init__(
        self,
        part: StoredPart,
        table: FileTable,
        *,
        folder: Path | None,
        cache: ShardCache | None,
        name: str,
        root: str,
        settings: StreamSettings,
    ) -> None:
        self._root = root
        self._settings = settings
        self.address = f"{root}/{name}"
        self.part = part
        self.table = table
        self.folder = folder
        self.cache = cache
        self.name = name
        self._sorted = np.argsort(table.names, kind="stable")
        self._files = ShardFiles()
        self._failed: dict[int, tuple[float, ImageError]] = {}
        self._last: tuple[tuple[int, int], list[bytes]] | None = None
        self._differs: dict[int, bool] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # The table of a large data set is not sent along with each path.
        return _reopened, (self._root, self._settings, self.name, self.part.files_digest)

    def names(self) -> list[str]:
        """Names of the files, in the order of the data set."""
        return [os.fsdecode(file) for file in self.table.names]

    def rows(self, names: np.ndarray) -> np.ndarray:
        """(N,) rows of the table; -1 where there is no such file."""
        places = np.searchsorted(self.table.names, names, sorter=self._sorted)
        rows = self._sorted[np.minimum(places, len(self._sorted) - 1)]
        found: np.ndarray = np.where(self.table.names[rows] == names, rows, -1)
        return found

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self.rows(np.array([os.fsencode(name)]))[0] >= 0)

    def shards_of(self, names: np.ndarray) -> np.ndarray:
        """(N,) which shard holds each of these (N,) files."""
        return self.table.shard[self.rows(names)]

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            ImageError: there is no such file, or it or its shard cannot be read; the shard is the path then.
        """
        row = int(self.rows(np.array([os.fsencode(name)]))[0])
        if row < 0:
            raise ImageError(
                f"{self.address}/{name}", kind="missing", reason="no shard has this file", remedy="check the path"
            )
        shard, place = int(self.table.shard[row]), int(self.table.place[row])
        last = self._last
        if last is None or last[0] != (shard, place):
            last = (shard, place), self._values(shard, place)
            self._last = last
        values = last[1]
        leaf = 2 * int(self.table.leaf[row])
        if values[leaf] != os.fsencode(name):
            raise self._damage(
                self.part.shards[shard], f"sample {place} is {os.fsdecode(values[leaf])!r}, not {name!r}"
            )
        return values[leaf + 1]

    def _values(self, number: int, place: int) -> list[bytes]:
        """Names and contents of the files of a sample, by turns."""
        shard, count = self.part.shards[number], 2 * self.part.files_per_sample
        try:
            values = self._files.values(shard.file, place, count)
            if values is None:
                self._open(number)
                values = self._files.values(shard.file, place, count)
            assert values is not None
            return values
        except ShardDamageError as error:
            raise self._damage(shard, str(error)) from None
        except CacheError as error:
            raise self._no_room(error) from None
        except OSError as error:
            raise self._damage(shard, error.strerror or str(error)) from None

    def _open(self, number: int) -> None:
        """Open a shard; one that failed is not tried again for a minute, or each of its samples would wait for it."""
        failed = self._failed.get(number)
        if failed is not None and time.monotonic() < failed[0]:
            raise failed[1]
        shard = self.part.shards[number]
        try:
            self._use(number, partial(self._files.open, shard.file, samples=shard.samples, size=shard.bytes))
        except CacheError:
            raise
        except (OSError, ShardDamageError) as error:
            if isinstance(error, ShardDamageError):
                self._drop(shard)
            reason = str(error) if isinstance(error, ShardDamageError) else error.strerror or str(error)
            found = self._damage(shard, reason)
            self._failed[number] = time.monotonic() + _SECONDS_BETWEEN_ATTEMPTS, found
            raise found from None

    def fetched(self, number: int) -> Path:
        """The file of a shard, downloaded where it is not there.

        Raises:
            CacheError: the cache takes no more.
            DownloadError: it cannot be downloaded.
        """
        shard = self.part.shards[number]
        if self.folder is not None:
            return self.folder / shard.file
        assert self.cache is not None
        return self.cache.get(f"{self.name}/{shard.file}", shard.bytes, shard.digest)

    @property
    def is_remote(self) -> bool:
        """Whether shards are downloaded."""
        return self.folder is None

    def fetch(self, number: int) -> None:
        """Have a shard on this machine; raises as `fetched`."""
        self.fetched(number)

    def check(self, number: int) -> str | None:
        """Compare a shard with its hash; tell what is wrong with it."""
        try:
            if self._is_changed(number):
                return _OTHER_HASH
        except CacheError:
            raise
        except OSError as error:
            return error.strerror or str(error)
        return None

    def damage_of(self, name: str, error: Exception) -> ImageError | None:
        """What is wrong with the shard of a file that cannot be decoded; None: its hash is that of the index.

        A damaged download is dropped from the cache, so that the next reader has it anew.
        """
        row = int(self.rows(np.array([os.fsencode(name)]))[0])
        if row < 0 or getattr(error, "kind", None) in _OF_THE_SHARD:
            return None
        number = int(self.table.shard[row])
        shard = self.part.shards[number]
        if number not in self._differs:  # a hash of 64 MB takes a tenth of a second
            try:
                self._differs[number] = self._is_changed(number)
            except OSError:
                return None
            if self._differs[number]:
                self._files.forget(shard.file)
                self._drop(shard)
        if not self._differs[number]:
            return None
        return ImageError(
            f"{self.address}/{shard.file}",
            kind="damaged-shard",
            reason=f"this shard is damaged ({_OTHER_HASH}), and its sample {name} cannot be decoded "
            f"({getattr(error, 'reason', error)})",
            remedy=_COPY_AGAIN,
        )

    def _is_changed(self, number: int) -> bool:
        """Whether the file of a shard is not what was written; raises as `fetched`."""
        shard = self.part.shards[number]
        return self._use(number, lambda path: path.stat().st_size != shard.bytes or file_digest(path) != shard.digest)

    def _use(self, number: int, action: Callable[[Path], T]) -> T:
        """Do something with the file of a shard; raises as `fetched`, and what `action` does.

        Another process may remove it from the cache, to make room, before it is open: then it is downloaded again.
        """
        for _ in range(0 if self.cache is None else _REMOVED_MEANWHILE):
            path = self.fetched(number)
            with contextlib.suppress(FileNotFoundError):
                return action(path)
        return action(self.fetched(number))

    def _drop(self, shard: Shard) -> None:
        """Have a shard that is damaged downloaded again, where it was."""
        if self.cache is not None:
            self.cache.drop(f"{self.name}/{shard.file}", shard.digest)

    def _damage(self, shard: Shard, reason: str) -> ImageError:
        return ImageError(
            f"{self.address}/{shard.file}",
            kind="damaged-shard",
            reason=f"this shard of {shard.samples:,} samples cannot be read ({reason})",
            remedy=_COPY_AGAIN,
        )

    def _no_room(self, error: CacheError) -> ImageError:
        assert self.cache is not None
        reason, _, remedy = str(error.strerror).removeprefix(f"{self.cache.root}: ").rpartition("; ")
        return ImageError(self.cache.root, kind="cache", reason=reason, remedy=remedy)


class OpenStream:
    """Shards that are open for reading.

    Attributes:
        address: of the folder, as it was given.
        index: what it holds.
        settings: how it is read.
    """

    def __init__(self, address: str, index: StreamIndex, settings: StreamSettings, folder: Path | None) -> None:
        self.address = address
        self.index = index
        self.settings = settings
        self._folder = folder  # None: at a remote address
        self._cache: ShardCache | None = None
        if folder is None:
            self._cache = _cache(address, settings)
            self._cache.prepare(needed=_needed(index, settings))
        self._parts: dict[str, StoredFiles] = {}

    @property
    def root(self) -> Path:
        """The folder of all parts, for messages; nothing can be read from it."""
        return stored_path(NoFiles(), self.address)

    def has_part(self, name: str) -> bool:
        """Whether there is such a part."""
        return name in self.index.parts

    def folder(self, name: str) -> StoredPath:
        """The folder that the names of the files of a part start from."""
        return stored_path(self.files(name), f"{self.address}/{name}")

    def files(self, name: str) -> StoredFiles:
        """Files of a part.

        Raises:
            ShardsError: their table is damaged.
        """
        if name not in self._parts:
            part = self.index.parts[name]
            content = self.extra_bytes(files_name(name), part.files_digest)
            self._parts[name] = StoredFiles(
                part,
                FileTable.from_bytes(content, part, self.address),
                folder=None if self._folder is None else self._folder / name,
                cache=self._cache,
                name=name,
                root=self.address,
                settings=self.settings,
            )
            _OPENED[self.address, name, part.files_digest] = self._parts[name]
        return self._parts[name]

    def folder_of_all(self) -> StoredPath:
        """The folder that the names of the files of all parts start from, where no two have the same."""
        return stored_path(JoinedFiles([self.files(name) for name in self.index.parts]), self.address)

    @property
    def class_folder(self) -> Path:
        """The folder on this machine in which extra files lie by their names."""
        for name in self.index.extra:
            self.extra(name)
        return self._folder if self._folder is not None else _own_folder(self.address, self.settings)

    def problems(self, of_samples: Sequence[Problem]) -> list[Problem]:
        """Compare all shards with their hashes; tell of each damaged one once, with the number of samples it costs.

        Args:
            of_samples: what is wrong with samples.

        Returns:
            those that blame no shard, and the damaged shards.
        """
        lost: defaultdict[str, list[Problem]] = defaultdict(list)
        found: list[Problem] = []
        for problem in of_samples:
            (lost[problem.path] if problem.kind == "damaged-shard" else found).append(problem)
        for name, part in self.index.parts.items():
            files = self.files(name)
            for number, shard in enumerate(part.shards):
                path = f"{files.address}/{shard.file}"
                why, samples = files.check(number), lost[path]
                if why is not None:
                    count = f"{len(samples):,} of its {shard.samples:,} samples cannot be read"
                    message = f"{path}: {why}, and {count}; {_COPY_AGAIN}"
                    found.append(Problem("error", "damaged-shard", path, message))
                else:
                    found += samples[:1]  # it could not be read, and can now
        return found

    def names(self, name: str) -> list[str]:
        """Names of the files of a part, in the order of the data set."""
        return self.files(name).names()

    def extra(self, name: str) -> Path:
        """A file on this machine that the index lists as `extra`.

        Raises:
            ShardsError: it is damaged.
            DownloadError: it cannot be downloaded.
        """
        self.extra_bytes(name, self.index.extra[name])
        return self._local(name)

    def extra_bytes(self, name: str, expected: str) -> bytes:
        """Content of a file beside the shards, compared with its digest."""
        path = self._local(name)
        try:
            content = path.read_bytes()
            if digest(content) == expected:
                return content
            if self._folder is None:  # of an earlier version of the data
                path.unlink()
                content = self._local(name).read_bytes()
        except FileNotFoundError:
            raise ShardsError(f"{self.address}: its file {name} is missing; copy the folder again") from None
        if digest(content) != expected:
            raise ShardsError(f"{self.address}: its file {name} is damaged (another hash); copy the folder again")
        return content

    def _local(self, name: str) -> Path:
        if self._folder is not None:
            return self._folder / name
        path = _own_folder(self.address, self.settings) / name
        if not path.exists():
            _download_whole(self.address, name, path, self.settings)
        return path


def _reopened(root: str, settings: StreamSettings, part: str, files_digest: str) -> StoredFiles:
    """Find the files of a part that the process, or the one that it was forked from, has open; else open them."""
    found = _OPENED.get((root, part, files_digest))
    return _open(root, settings).files(part) if found is None else found


def open_stream(
    root: str | os.PathLike[str],
    settings: StreamSettings | Mapping[str, Any] | None = None,
    *,
    task: str,
) -> OpenStream | None:
    """Open a folder of shards or a remote address; None: `root` is a plain folder.

    Args:
        root: the data folder or address.
        settings: how it is read; also as a recipe has them.
        task: that wants to read it.

    Raises:
        ShardsError: there are no shards, or they are damaged or of another task; or LitData is missing.
        DownloadError: the address does not answer, refuses, or has no shards.
        CacheError: the cache of downloaded shards cannot be written, or is too small.
    """
    if not is_stream(root):
        return None
    if not isinstance(settings, StreamSettings):
        settings = StreamSettings(**(settings or {}))
    stream = _open(os.fspath(root), settings)
    check_task(stream.index, stream.address, task)
    return stream


def task_of(root: str | os.PathLike[str], settings: StreamSettings | None = None) -> str | None:
    """The task whose data a folder of shards holds; None: it is a plain folder."""
    return _open(os.fspath(root), settings or StreamSettings()).index.task if is_stream(root) else None


def _open(root: str, settings: StreamSettings) -> OpenStream:
    if not is_remote(root):
        folder = Path(root).expanduser()
        return OpenStream(
            str(folder), StreamIndex.from_json((folder / INDEX_NAME).read_bytes(), root), settings, folder
        )
    address = root.rstrip("/")
    _cache(address, settings).prepare(needed=0)
    check_credentials(address, settings.storage_options)
    path = _own_folder(address, settings) / INDEX_NAME
    _download_whole(address, INDEX_NAME, path, settings)
    return OpenStream(address, StreamIndex.from_json(path.read_bytes(), address), settings, None)


def _own_folder(address: str, settings: StreamSettings) -> Path:
    """The folder in the cache for an address."""
    return settings.cache_folder / hashlib.sha256(address.encode()).hexdigest()[:16]


def _cache(address: str, settings: StreamSettings) -> ShardCache:
    fetch = partial(_fetch, address, settings.storage_options)
    return ShardCache(
        _own_folder(address, settings), root=settings.cache_folder, limit=settings.cache_bytes, fetch=fetch
    )


def _fetch(address: str, storage_options: dict[str, Any] | None, name: str, to: Path) -> None:
    download(address, name, to, storage_options=storage_options)


def _download_whole(address: str, name: str, path: Path, settings: StreamSettings) -> None:
    """Download a small file anew; others may do so at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    incoming = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.in")
    try:
        download(address, name, incoming, storage_options=settings.storage_options)
        os.replace(incoming, path)
    finally:
        with contextlib.suppress(OSError):
            incoming.unlink(missing_ok=True)


def _needed(index: StreamIndex, settings: StreamSettings) -> int:
    """Bytes that lie in the cache at once: the window and what is downloaded ahead of it, or all."""
    sizes = [shard.bytes for part in index.parts.values() for shard in part.shards]
    return min(sum(sizes), max(sizes, default=0) * (settings.window + settings.ahead))
