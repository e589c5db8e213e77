"""What goes into shards: lists of files, made by each task of its data."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple


class TarMember(NamedTuple):
    """A file in an uncompressed tar.

    Fields:
        tar: path of the tar.
        start: where the file begins, in bytes.
        size: of the file, in bytes.
    """

    tar: str
    start: int
    size: int

    def read(self) -> bytes:
        """The bytes of the file."""
        with open(self.tar, "rb") as file:
            file.seek(self.start)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.tar} (from byte {self.start:,})"


class SourceSample(NamedTuple):
    """The files of a sample, such as an image and its mask.

    Fields:
        names: by which they are found in the shards, with "/" between folders.
        files: that hold their bytes.
    """

    names: tuple[str, ...]
    files: tuple[str | TarMember, ...]


@dataclass(frozen=True)
class SourcePart:
    """A part of the data; its samples in the order of the data set, each with equally many files."""

    samples: Sequence[SourceSample]


@dataclass(frozen=True)
class ShardSource:
    """What goes into shards.

    Args:
        task: whose data it is.
        layout: what the task needs to know beside the files, as JSON takes it.
        parts: by name.
        extra: files that are kept as they are beside the shards, by their names there.
        warnings: what is worth a look in the data.
    """

    task: str
    layout: dict[str, Any]
    parts: dict[str, SourcePart]
    extra: dict[str, Path] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
