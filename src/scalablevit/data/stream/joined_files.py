"""Files of all parts of a folder of shards as those of one folder, and the folder above them, which holds none."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from scalablevit.data.image_file import ImageError

if TYPE_CHECKING:
    from scalablevit.data.stream.opened import StoredFiles


class JoinedFiles:
    """Files of several parts, whose names differ; a `FileSource`.

    Args:
        parts: in the order of their shards' numbers.
    """

    def __init__(self, parts: "Sequence[StoredFiles]") -> None:
        self.parts = parts

    def read(self, name: str) -> bytes:
        """The bytes of a file of any part."""
        return self._part_of(name).read(name)

    def has(self, name: str) -> bool:
        """Whether a part has such a file."""
        return any(part.has(name) for part in self.parts)

    def damage_of(self, name: str, error: Exception) -> ImageError | None:
        """What is wrong with the shard of a file of any part."""
        return self._part_of(name).damage_of(name, error)

    def _part_of(self, name: str) -> "StoredFiles":
        """The part that has a file; of an unknown one the first, which says what is missing."""
        return next((part for part in self.parts if part.has(name)), self.parts[0])

    def shards_of(self, names: np.ndarray) -> np.ndarray:
        """(N,) shards; those of the first part are numbered first."""
        found, before = np.zeros(len(names), np.int64), 0
        for part in self.parts:
            rows = part.rows(names)
            found = np.where(rows >= 0, part.table.shard[rows] + before, found)
            before += len(part.part.shards)
        return found

    @property
    def is_remote(self) -> bool:
        """Whether shards are downloaded."""
        return self.parts[0].is_remote

    def fetch(self, number: int) -> None:
        """Have a shard on this machine, numbered as by `shards_of`."""
        for part in self.parts:
            if number < len(part.part.shards):
                part.fetch(number)
                return
            number -= len(part.part.shards)

    def names(self) -> list[str]:
        """Names of all files."""
        return [name for part in self.parts for name in part.names()]


class NoFiles:
    """The source of a folder that holds no files itself; a `FileSource`."""

    def read(self, name: str) -> bytes:
        """Refuse."""
        raise ImageError(name, kind="missing", reason="it is in no part of the shards", remedy="check the path")

    def has(self, name: str) -> bool:
        """No."""
        return False

    def damage_of(self, name: str, error: Exception) -> None:
        """Nothing."""

    def shards_of(self, names: np.ndarray) -> np.ndarray:
        """None."""
        return np.zeros(len(names), np.int32)

    def names(self) -> list[str]:
        """None."""
        return []

    @property
    def is_remote(self) -> bool:
        """No."""
        return False

    def fetch(self, number: int) -> None:
        """Nothing."""
