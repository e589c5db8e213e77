"""Read single samples of shards, which are chunks in LitData's format.

A chunk is: the number of samples n, n + 1 offsets, and the samples. A sample is: the sizes of its values, and the
values. All numbers have 32 bits and are little-endian. LitData's own reader goes from chunk to chunk and drops the last
one, so that samples in shuffled order would open, or download, a chunk each.

Imports neither torch nor LitData, so that checking data starts at once.
"""

import os
import struct
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

_MOST_OPEN = 128


class ShardDamageError(ValueError):
    """A file is no shard, or a damaged one."""


class _OpenShard:
    """A file that is open, and the offsets of its samples."""

    def __init__(self, path: Path, samples: int, size: int) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            found = os.fstat(self.descriptor).st_size
            if found != size:
                raise ShardDamageError(f"the file has {found:,} bytes, and the index says {size:,}")
            header = read_at(self.descriptor, 4 * (samples + 2), 0)
            numbers = np.frombuffer(header, "<u4")
            offsets = numbers[1:].astype(np.int64)
            if numbers[0] != samples or offsets[-1] > size or (np.diff(offsets) < 0).any():
                raise ShardDamageError("the table of its samples is damaged")
            self.offsets: list[int] = offsets.tolist()
        except BaseException:
            os.close(self.descriptor)
            raise

    def is_removed(self) -> bool:
        """Whether the file has no name any more, as a cache removed it."""
        return os.fstat(self.descriptor).st_nlink == 0

    def __del__(self) -> None:
        if hasattr(self, "offsets"):  # else it is closed
            os.close(self.descriptor)


class ShardFiles:
    """Shards of which up to 128 are kept open; threads and forked processes may share it."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def open(self, key: str, path: Path, *, samples: int, size: int) -> None:
        """Open a shard.

        Args:
            key: by which `values` finds it.
            path: of the file.
            samples: how many it holds.
            size: of the file, in bytes.

        Raises:
            OSError: the file cannot be opened.
            ShardDamageError: it is not what the index says.
        """
        shard = _OpenShard(path, samples, size)
        with self._lock:
            for name in [name for name, opened in self._open.items() if opened.is_removed()]:
                del self._open[name]  # its disk space is free only then
            self._open[key] = shard
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)

    def forget(self, key: str) -> None:
        """Close a shard, so that it is opened anew."""
        with self._lock:
            self._open.pop(key, None)

    def values(self, key: str, place: int, count: int) -> list[bytes] | None:
        """Read the values of a sample; None: the shard is not open.

        Args:
            key: of the shard.
            place: of the sample.
            count: of its values.

        Raises:
            OSError: the file cannot be read.
            ShardDamageError: the sample is damaged.
        """
        with self._lock:
            shard = self._open.get(key)
            if shard is None:
                return None
            self._open.move_to_end(key)
        start, end = shard.offsets[place], shard.offsets[place + 1]
        content = read_at(shard.descriptor, end - start, start)
        if len(content) < 4 * count:
            raise ShardDamageError(f"sample {place} is damaged")
        values, begin = [], 4 * count
        for size in struct.unpack_from(f"<{count}I", content):
            values.append(content[begin : begin + size])
            begin += size
        if begin != len(content):
            raise ShardDamageError(f"sample {place} is damaged")
        return values


def read_at(descriptor: int, size: int, start: int) -> bytes:
    """Read so many bytes of a file from a place on.

    Raises:
        ShardDamageError: the file ends before.
    """
    content = os.pread(descriptor, size, start) if hasattr(os, "pread") else b""
    while len(content) < size:
        if hasattr(os, "pread"):
            more = os.pread(descriptor, size - len(content), start + len(content))
        else:  # Windows; processes do not share descriptors there
            os.lseek(descriptor, start + len(content), os.SEEK_SET)
            more = os.read(descriptor, size - len(content))
        if not more:
            raise ShardDamageError(f"the file ends at byte {start + len(content):,}, in the middle of a sample")
        content += more
    return content
