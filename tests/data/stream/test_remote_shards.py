"""Shards at a remote address: downloads, the bounded cache, and what a user reads where something is missing."""

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from filelock import FileLock
from image_sets import shard, write_classes
from PIL import Image

from scalablevit.classification.data import ImageFolderData
from scalablevit.data.images import read_image, why_unreadable
from scalablevit.data.stream.cache import CacheError, ShardCache
from scalablevit.data.stream.download import DownloadError
from scalablevit.data.stream.settings import StreamSettings
from scalablevit.data.unreadable import UnreadableFiles

OPTIONS: dict[str, Any] = {"image_size": 16, "batch_size": 4, "num_workers": 0, "seed": 3}


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and notes what was asked for."""

    asked: ClassVar[list[str]] = []

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Note the path."""
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Options of an S3 server on the loopback whose buckets are folders of `tmp_path`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    Quiet.asked = []
    yield {
        "endpoint_url": f"http://127.0.0.1:{server.server_address[1]}",
        "aws_access_key_id": "anyone",
        "aws_secret_access_key": "anything",
        "region_name": "us-east-1",
    }
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Shards of a few samples each, in the bucket "store"."""
    shard(write_classes(tmp_path / "folder"), tmp_path / "store" / "shards")
    return tmp_path / "store" / "shards"


def stream(tmp_path: Path, **settings: Any) -> StreamSettings:
    return StreamSettings(**{"cache_dir": tmp_path / "cache", **settings})


def images(data: ImageFolderData) -> list[torch.Tensor]:
    return [batch.images for batch in data.train_dataloader()]


def same(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def cached(tmp_path: Path) -> int:
    """Bytes of shards in the cache, while nothing comes or goes."""
    with FileLock(tmp_path / "cache" / ".lock"):
        return sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.bin"))


def test_batches_of_a_bucket_equal_those_of_the_folder_and_are_downloaded_once(tmp_path, bucket, shards):
    settings = stream(tmp_path, storage_options=bucket)
    data = ImageFolderData("s3://store/shards", **OPTIONS, stream=settings)
    assert data.summary().startswith("data        s3://store/shards\n")
    local = ImageFolderData(tmp_path / "folder", **OPTIONS)
    for _ in range(2):
        assert same(images(data), images(local))
    chunks = [path for path in Quiet.asked if path.endswith(".bin")]
    assert len(chunks) == len(set(chunks)) >= len(list((shards / "train").glob("*.bin")))


@pytest.mark.parametrize("workers", [0, 2])
def test_the_cache_stays_below_its_limit_and_every_sample_comes(tmp_path, shards, workers):
    sizes = [path.stat().st_size for path in (shards / "train").glob("*.bin")]
    limit = 4 * max(sizes)
    assert sum(sizes) > 2 * limit
    settings = stream(tmp_path, window=2, ahead=1, cache_gb=limit / 1e9)
    data = ImageFolderData(f"local:{shards}", **{**OPTIONS, "num_workers": workers}, stream=settings)
    targets = 0
    for batch in data.train_dataloader():
        assert cached(tmp_path) <= limit
        assert not batch.unreadable
        targets += len(batch.targets)
    assert targets == len(data.train_dataset) == 36
    assert not list((tmp_path / "cache").rglob("*.reserved*"))


def test_a_download_that_ends_while_another_makes_room_is_counted(tmp_path, monkeypatch):
    """It is a reserved place before and a shard after, and was neither for who listed shards first and places then."""
    size, ends = 1000, threading.Event()

    def fetch(name: str, path: Path) -> None:
        if name == "slow.bin":
            assert ends.wait(10)
        path.write_bytes(bytes(size))

    cache = ShardCache(tmp_path / "cache" / "set", root=tmp_path / "cache", limit=2 * size, fetch=fetch)
    cache.prepare(needed=2 * size)
    cache.get("old.bin", size, "0" * 12)
    slow = threading.Thread(target=cache.get, args=("slow.bin", size, "1" * 12))
    slow.start()
    while not list((tmp_path / "cache").rglob("slow*.reserved")):
        time.sleep(0.001)
    listed = Path.rglob

    def rglob(self: Path, pattern: str) -> Iterator[Path]:
        if "reserved" in pattern:
            ends.set()
            slow.join(0.5)
        return listed(self, pattern)

    monkeypatch.setattr(Path, "rglob", rglob)
    cache.get("new.bin", size, "2" * 12)
    slow.join()
    monkeypatch.undo()
    assert cached(tmp_path) <= 2 * size


def test_a_shard_that_another_process_removes_before_it_is_open_is_downloaded_again(tmp_path, shards, monkeypatch):
    data = ImageFolderData(f"local:{shards}", **OPTIONS, stream=stream(tmp_path, ahead=0))
    get, asked = ShardCache.get, []

    def removed_at_first(cache: ShardCache, name: str, size: int, digest: str) -> Path:
        path = get(cache, name, size, digest)
        if asked.count(name) % 2 == 0:
            path.unlink()
        asked.append(name)
        return path

    monkeypatch.setattr(ShardCache, "get", removed_at_first)
    files = data.train_dataset.folder.source
    files._files.__init__()  # none is open
    assert [data.train_dataset[i].unreadable for i in range(len(data.train_dataset))] == [()] * 36
    assert len(asked) >= 2 * len(list((shards / "train").glob("*.bin")))
    assert [files.check(number) for number in range(len(files.part.shards))] == [None] * len(files.part.shards)


def test_an_address_of_fsspec(tmp_path, shards):
    data = ImageFolderData(f"file://{shards}", **OPTIONS, stream=stream(tmp_path))
    assert same(images(data), images(ImageFolderData(shards, **OPTIONS)))
    assert cached(tmp_path) > 0


def test_an_address_without_credentials_is_one_message(tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(DownloadError, match=r"s3://store/shards: no credentials were found .* AWS_ACCESS_KEY_ID"):
        ImageFolderData("s3://store/shards", **OPTIONS, stream=stream(tmp_path))


def test_an_address_without_shards_is_one_message(tmp_path, bucket):
    (tmp_path / "store").mkdir()
    settings = stream(tmp_path, storage_options=bucket)
    with pytest.raises(DownloadError, match=r"s3://store/none/scalablevit-shards.json: there is no such file; check"):
        ImageFolderData("s3://store/none", **OPTIONS, stream=settings)


def test_a_cache_that_cannot_be_written_or_is_too_small_is_named(tmp_path, shards):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(CacheError, match=r"cache: the cache .* cannot be written .* data\.stream\.cache_dir"):
        ImageFolderData(f"local:{shards}", **OPTIONS, stream=stream(tmp_path))
    (tmp_path / "cache").unlink()
    with pytest.raises(CacheError, match=r"data\.stream\.cache_gb allows .* raise data\.stream\.cache_gb"):
        ImageFolderData(f"local:{shards}", **OPTIONS, stream=stream(tmp_path, cache_gb=1e-6))


def test_a_disk_that_fills_up_stops_training_with_one_message(tmp_path, shards, monkeypatch):
    data = ImageFolderData(f"local:{shards}", **OPTIONS, stream=stream(tmp_path, ahead=0))
    for path in (tmp_path / "cache").rglob("*.bin"):
        path.unlink()

    def full(*_: Any) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardCache, "_reserve", full)
    data.train_dataset.folder.source._files.__init__()  # none is open
    account = UnreadableFiles(100, explain=why_unreadable)
    batch = next(iter(data.train_dataloader()))
    with pytest.raises(ValueError, match="cache: the disk of the cache is full"):
        account.collect(batch.unreadable)


def test_a_shard_that_is_missing_at_the_address_is_named_and_skipped(tmp_path, shards, caplog):
    (shards / "train" / "chunk-0-2.bin").unlink()
    data = ImageFolderData(f"local:{shards}", **OPTIONS, stream=stream(tmp_path))
    account = UnreadableFiles(1, explain=why_unreadable)
    with caplog.at_level(logging.WARNING):
        for batch in data.train_dataloader():
            account.collect(batch.unreadable)
    assert len(account.files) == 1
    assert "train/chunk-0-2.bin: this shard of " in caplog.text
    assert "there is no such file" in caplog.text


def test_a_damaged_download_is_told_and_downloaded_anew(tmp_path, shards):
    data = ImageFolderData(f"local:{shards}", **OPTIONS, stream=stream(tmp_path, ahead=0))
    dataset = data.train_dataset
    assert not dataset[0].unreadable
    name = f"chunk-0-{dataset.shards().shards[0]}"
    (cached_shard,) = (tmp_path / "cache").rglob(f"train/{name}.*.bin")
    content = bytearray(cached_shard.read_bytes())
    for start in range(len(content) - 3):
        if content[start : start + 3] == b"\xff\xd8\xff":
            content[start] ^= 1
    cached_shard.write_bytes(content)
    dataset.folder.source._files.forget(f"{name}.bin")
    dataset.folder.source._last = None
    assert "this shard is damaged (its hash is not that of the index)" in dataset[0].unreadable[0]
    assert not dataset[0].unreadable


def test_shards_that_came_to_the_same_address_later_are_downloaded(tmp_path):
    """Of equal sizes and names, so that the hash alone tells them apart."""
    settings, root = stream(tmp_path), tmp_path / "store"
    for fill in (0, 255):
        folder = tmp_path / f"images {fill}"
        for name in ("ant", "bee"):
            (folder / name).mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (8, 8), (fill, fill, fill)).save(folder / name / f"{i}.bmp")
        shutil.rmtree(root, ignore_errors=True)
        shard(folder, root)
        data = ImageFolderData(f"local:{root}", **OPTIONS, stream=settings)
        values = {int(value) for i in range(6) for value in np.unique(read_image(data.train_dataset.path(i)))}
        assert values == {fill}
