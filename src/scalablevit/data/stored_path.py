"""Paths of files that lie in shards: paths in every message and in every list, with bytes that come from the shards.

Imports neither torch nor LitData, so that checking data starts at once.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    _PlainPath = Path
else:
    _PlainPath = type(Path())


class FileSource(Protocol):
    """Where the bytes of stored files come from."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises an `ImageError` where they cannot be read."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def damage_of(self, name: str, error: Exception) -> Exception | None:
        """What is wrong with the shard of a file that cannot be decoded; None: the shard is what was written."""
        ...

    def shards_of(self, names: np.ndarray) -> np.ndarray:
        """(N,) which shard holds each of the files with these (N,) encoded names."""
        ...

    def names(self) -> list[str]:
        """Names of all files."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether shards are downloaded."""
        ...

    def fetch(self, number: int) -> None:
        """Have a shard on this machine."""
        ...


class StoredPath(_PlainPath):
    """A file in shards, or the folder that their names start from.

    It is made by `stored_path` or by `/`. Keep it as it is: `Path(...)` or `str(...)` of it names a file that is not on
    the disk.

    Attributes:
        source: of the bytes.
        address: of the folder that `inside` starts from.
        inside: name in that folder, with "/" between folders; "" for the folder itself.
    """

    source: FileSource
    address: str
    inside: str

    def __truediv__(self, key: Any) -> "StoredPath":
        name = os.fspath(key).replace(os.sep, "/")
        return stored_path(self.source, self.address, f"{self.inside}/{name}" if self.inside else name)

    def __str__(self) -> str:
        if not hasattr(self, "address"):  # what pathlib made of it, such as its parent
            return super().__str__()
        return f"{self.address}/{self.inside}" if self.inside else self.address

    def __fspath__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return stored_path, (self.source, self.address, self.inside)

    def read_bytes(self) -> bytes:
        """The bytes of the file.

        Raises:
            ImageError: they cannot be read.
        """
        return self.source.read(self.inside)

    def is_file(self, **_: Any) -> bool:
        """Whether the shards hold this file."""
        return self.source.has(self.inside)


def stored_path(source: FileSource, address: str, inside: str = "") -> StoredPath:
    """Make a `StoredPath`; see its attributes."""
    path = StoredPath(f"{address}/{inside}" if inside else address)
    path.source, path.address, path.inside = source, address, inside
    return path


def as_path(path: str | Path) -> Path:
    """A `Path` of a path, which stays what it is if it lies in shards."""
    return path if isinstance(path, Path) else Path(path)


@dataclass(frozen=True)
class StoredSamples:
    """Which shards the samples of a data set lie in.

    Args:
        shards: (N,) shard of each sample.
        fetch: has the shard of a number on this machine; None: all are there.
    """

    shards: np.ndarray
    fetch: Callable[[int], None] | None


def shards_of(folder: Path | None, names: np.ndarray) -> StoredSamples | None:
    """Tell which shard holds each sample; None: the files lie in a plain folder.

    Args:
        folder: that the names start from.
        names: (N,) bytes.
    """
    if not isinstance(folder, StoredPath):
        return None
    source = folder.source
    return StoredSamples(source.shards_of(names), source.fetch if source.is_remote else None)
