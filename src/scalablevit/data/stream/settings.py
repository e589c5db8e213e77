"""How a stream of shards is read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OF_THE_MACHINE = ("cache_dir", "cache_gb", "ahead")
"""Settings that change no sample and no order: they may differ between nodes, and change when a run is resumed."""


def default_cache_dir() -> Path:
    """The folder where downloaded shards are kept unless the recipe names another."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scalablevit" / "stream"


@dataclass(frozen=True)
class StreamSettings:
    """How shards are read; data that are no shards take nothing of it.

    Args:
        window: samples are shuffled within a moving window of so many shards, so that few shards are read at once; with
            no more shards than that, over all of them, which is the order of the plain folder. At least 1.
        cache_dir: folder of downloaded shards, shared by all processes of a machine; null: scalablevit/stream in the
            user's cache folder.
        cache_gb: disk space that downloaded shards may take, in 10^9 bytes; those not read for longest are removed.
        ahead: shards that are downloaded before they are needed; 0: each is downloaded when its first sample is.
        storage_options: of the remote address, as LitData (s3, gs, azure, hf, r2) or fsspec (all others) takes them.

    Raises:
        ValueError: a value is out of range.
    """

    window: int = 64
    cache_dir: str | Path | None = None
    cache_gb: float = 50.0
    ahead: int = 4
    storage_options: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"stream.window must be at least 1 shard, got {self.window}")
        if not self.cache_gb > 0:
            raise ValueError(f"stream.cache_gb must be above 0, got {self.cache_gb}")
        if self.ahead < 0:
            raise ValueError(f"stream.ahead must be at least 0 shards, got {self.ahead}")

    @property
    def cache_folder(self) -> Path:
        """Where downloaded shards are kept."""
        return Path(self.cache_dir).expanduser() if self.cache_dir is not None else default_cache_dir()

    @property
    def cache_bytes(self) -> int:
        """Disk space of the cache."""
        return int(self.cache_gb * 1e9)
