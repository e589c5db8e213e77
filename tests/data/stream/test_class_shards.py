"""Class folders as shards: the same batches to the bit as from the folder, however many workers and processes read."""

import json
import logging
import os
import pickle
import re
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from image_sets import shard, write_classes

from scalablevit.classification.check import check_folder
from scalablevit.classification.data import ImageFolderData
from scalablevit.data.images import why_unreadable
from scalablevit.data.loaders import ShardedSamples, train_loader
from scalablevit.data.stored_path import StoredPath
from scalablevit.data.stream import write
from scalablevit.data.stream.index import INDEX_NAME, ShardsError
from scalablevit.data.stream.settings import StreamSettings
from scalablevit.data.unreadable import UnreadableFiles

OPTIONS: dict[str, Any] = {"image_size": 16, "batch_size": 4, "num_workers": 0, "seed": 3}


def batches(data: ImageFolderData, epoch: int = 0, part: str = "train") -> list[tuple[torch.Tensor, torch.Tensor]]:
    loader = data.train_dataloader() if part == "train" else data.val_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return [(batch.images, batch.targets) for batch in loader]


def same(first: list[tuple[torch.Tensor, ...]], second: list[tuple[torch.Tensor, ...]]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("val", [4, 0], ids=["val folder", "split"])
def test_batches_equal_those_of_the_folder(tmp_path, val):
    root = write_classes(tmp_path / "folder", val=val)
    written = shard(root, tmp_path / "shards")
    assert len(written.index.parts["train"].shards) > 3
    folder, stream = (ImageFolderData(path, **OPTIONS) for path in (root, tmp_path / "shards"))
    assert stream.class_names == folder.class_names == ["ant", "bee", "cat fish"]
    for epoch in (0, 1):
        assert same(batches(folder, epoch), batches(stream, epoch))
    assert same(batches(folder, part="val"), batches(stream, part="val"))
    assert folder.summary().splitlines()[1:] == stream.summary().splitlines()[1:]


def test_the_window_changes_the_order_alone(tmp_path):
    root = write_classes(tmp_path / "folder", train=30)
    shard(root, tmp_path / "shards")
    data = ImageFolderData(tmp_path / "shards", **OPTIONS, stream=StreamSettings(window=2))
    keys = [key.index for key in data.train_dataloader().sampler]
    assert len(set(keys)) == len(keys) == 88  # of 90, in whole batches
    shards = data.train_dataset.shards().shards.tolist()
    near = [len({shards[i] for i in keys[start : start + 8]}) for start in range(0, len(keys), 8)]
    assert max(near) <= 4 < max(shards)


class Numbered(torch.utils.data.Dataset):
    """Samples of a data set by number, with a sum of their pixels."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, float]:
        return index, float(self.dataset[index].image.double().sum())


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_each_sample_once_and_in_the_same_steps_for_any_workers_and_processes(tmp_path, workers):
    shard(write_classes(tmp_path / "folder"), tmp_path / "shards")
    data = ImageFolderData(tmp_path / "shards", **OPTIONS)
    steps: dict[int, list[list[tuple[int, float]]]] = {}
    for world in (1, 2):
        loaders = [
            train_loader(
                Numbered(data.train_dataset), batch_size=4 // world, num_workers=workers, seed=3, rank=rank,
                world_size=world, stored=ShardedSamples(data.train_dataset.shards().shards, 2),
            )
            for rank in range(world)
        ]  # fmt: skip
        ranks = [[list(zip(*map(torch.Tensor.tolist, batch), strict=True)) for batch in loader] for loader in loaders]
        steps[world] = [sorted(chain(*parts)) for parts in zip(*ranks, strict=True)]
    assert steps[1] == steps[2]
    seen = Counter(index for step in steps[1] for index, _ in step)
    assert set(seen.values()) == {1}
    assert len(seen) == len(data.train_dataset) == 36


def test_a_pass_resumes_within_an_epoch_with_another_number_of_workers(tmp_path):
    shard(write_classes(tmp_path / "folder"), tmp_path / "shards")
    settings = StreamSettings(window=2)
    whole = batches(ImageFolderData(tmp_path / "shards", **OPTIONS, stream=settings), epoch=1)
    for stop, workers in ((1, 2), (5, 1), (8, 0)):
        loader = ImageFolderData(tmp_path / "shards", **OPTIONS, stream=settings).train_dataloader()
        loader.sampler.set_epoch(1)
        passing = iter(loader)
        first = [next(passing) for _ in range(stop)]
        data = ImageFolderData(tmp_path / "shards", **{**OPTIONS, "num_workers": workers}, stream=settings)
        resumed = data.train_dataloader()
        resumed.load_state_dict(loader.state_dict())
        resumed.sampler.set_epoch(1)
        assert same(whole, [(batch.images, batch.targets) for batch in [*first, *resumed]])


def test_balanced_sampling_equals_that_of_the_folder(tmp_path):
    root = write_classes(tmp_path / "folder")
    shard(root, tmp_path / "shards")
    folder, stream = (ImageFolderData(path, **OPTIONS, sampling="balanced") for path in (root, tmp_path / "shards"))
    assert same(batches(folder), batches(stream))


def test_bytes_are_kept_and_litdata_reads_them(tmp_path, monkeypatch):
    monkeypatch.setenv("LITDATA_DISABLE_VERSION_CHECK", "1")
    import litdata

    root = write_classes(tmp_path / "folder")
    shard(root, tmp_path / "shards")
    dataset = litdata.StreamingDataset(str(tmp_path / "shards" / "train"))
    found = {bytes(name).decode(): bytes(content) for name, content in (dataset[i] for i in range(len(dataset)))}
    assert found == {str(p.relative_to(root / "train")): p.read_bytes() for p in (root / "train").rglob("*.jpg")}


def test_a_killed_run_is_gone_on_with_and_nothing_finished_is_written_anew(tmp_path, monkeypatch):
    root, out = write_classes(tmp_path / "folder"), tmp_path / "shards"
    plain = write._write
    count = iter(range(100))

    def dies(task: write.ShardTask) -> None:
        if next(count) == 3:
            raise KeyboardInterrupt
        plain(task)

    monkeypatch.setattr(write, "_write", dies)
    with pytest.raises(KeyboardInterrupt):
        shard(root, out)
    assert not (out / INDEX_NAME).exists()
    with pytest.raises(ValueError, match="unfinished shards of other data"):
        shard(root, out, size_mb=1)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "train").glob("*.bin")}
    monkeypatch.setattr(write, "_write", plain)
    written = shard(root, out)
    assert written.kept == len(before) == 3
    assert {name: (out / "train" / name).stat().st_mtime_ns for name in before} == before
    assert not (out / write.WORK_FOLDER).exists()
    with pytest.raises(ValueError, match="holds shards already"):
        shard(root, out)


def test_a_shard_that_the_disk_changed_is_found_at_the_end(tmp_path, monkeypatch):
    plain = write._write

    def flips(task: write.ShardTask) -> None:
        plain(task)
        content = bytearray(task.file.read_bytes())
        content[-1] ^= 1
        task.file.write_bytes(content)

    monkeypatch.setattr(write, "_write", flips)
    with pytest.raises(ShardsError, match="does not hold what was read of the"):
        shard(write_classes(tmp_path / "folder"), tmp_path / "shards")


def test_a_folder_of_other_things_and_a_full_disk_are_refused(tmp_path, monkeypatch):
    root, out = write_classes(tmp_path / "folder"), tmp_path / "shards"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"not empty, and holds no unfinished shards \(notes.txt\)"):
        shard(root, out)

    def full(task: write.ShardTask) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(write, "_write", full)
    with pytest.raises(OSError, match=r"the disk is full .* keeps the shards that are finished"):
        shard(root, tmp_path / "other")


def test_unreadable_sources_are_named_and_stored_as_empty_files(tmp_path, monkeypatch):
    root = write_classes(tmp_path / "folder")
    (root / "train" / "ant" / "train00.jpg").write_bytes(b"no image")
    plain = write.Path.read_bytes

    def closed(path: Any) -> bytes:
        if path.name == "train01.jpg" and path.parent.name == "ant":
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(write.Path, "read_bytes", closed)
    written = shard(root, tmp_path / "shards")
    assert written.unreadable == [f"{root}/train/ant/train01.jpg: Permission denied"]
    data = ImageFolderData(tmp_path / "shards", **OPTIONS)
    sample = data.train_dataset[0]
    assert sample.target == 0
    first, second = map(why_unreadable, sample.unreadable)
    assert f"{tmp_path}/shards/train/ant/train00.jpg: this is not an image" in first
    assert f"{tmp_path}/shards/train/ant/train01.jpg: the file is empty" in second
    report = check_folder(tmp_path / "shards", num_workers=0)
    assert sorted(problem.kind for problem in report.errors) == ["empty", "not-an-image"]
    assert report.num_train == len(data.train_dataset)


def test_a_damaged_shard_is_named_once_skipped_and_counted_once(tmp_path, caplog):
    shard(write_classes(tmp_path / "folder"), tmp_path / "shards")
    lost = tmp_path / "shards" / "train" / "chunk-0-1.bin"
    lost.unlink()
    data = ImageFolderData(tmp_path / "shards", **OPTIONS)
    account = UnreadableFiles(1, explain=why_unreadable)
    with caplog.at_level(logging.WARNING):
        for batch in data.train_dataloader():
            assert (batch.targets >= 0).all()
            account.collect(batch.unreadable)
    assert len(account.files) == 1
    assert f"{lost}: this shard of " in caplog.text
    assert "cannot be read (No such file or directory); copy it again" in caplog.text


def flip(path: Path, start: bytes = b"\xff\xd8\xff") -> None:
    """Change a byte of the first image in a shard."""
    content = bytearray(path.read_bytes())
    content[content.find(start)] ^= 1
    path.write_bytes(content)


def test_a_flipped_byte_is_told_as_a_damaged_shard(tmp_path):
    root, out = write_classes(tmp_path / "folder"), tmp_path / "shards"
    (root / "train" / "ant" / "train03.jpg").write_bytes(b"no image")
    shard(root, out)
    damaged = out / "train" / "chunk-0-1.bin"
    flip(damaged)
    dataset = ImageFolderData(out, **OPTIONS).train_dataset
    told = [file for i in range(len(dataset)) for file in dataset[i].unreadable]
    (of_shard,) = [line for line in dict.fromkeys(told) if str(damaged) in line]
    assert f"{damaged}: this shard is damaged (its hash is not that of the index), and its sample " in of_shard
    assert " cannot be decoded (this is not an image" in of_shard
    assert of_shard.endswith("; copy it again, or shard the data again into another folder")
    # an image that was none when it was sharded blames no shard
    assert any(line.startswith(f"{out}/train/ant/train03.jpg: this is not an image") for line in told)


def test_check_data_tells_of_each_bad_shard_once(tmp_path):
    shard(write_classes(tmp_path / "folder"), tmp_path / "shards")
    part = tmp_path / "shards" / "train"
    (part / "chunk-0-1.bin").unlink()
    flip(part / "chunk-0-2.bin")
    missing, flipped = check_folder(tmp_path / "shards", num_workers=0).errors
    count = len(ImageFolderData(tmp_path / "shards", **OPTIONS).train_dataset)
    assert count == 36
    assert missing.message.startswith(f"{part}/chunk-0-1.bin: No such file or directory, and ")
    assert re.search(r" (\d+) of its \1 samples cannot be read; copy it again", missing.message)
    assert flipped.message.startswith(f"{part}/chunk-0-2.bin: its hash is not that of the index, and 1 of its ")


def test_an_index_that_is_damaged_or_of_a_later_version_is_named(tmp_path):
    shard(write_classes(tmp_path / "folder"), tmp_path / "shards")
    index = tmp_path / "shards" / INDEX_NAME
    content = json.loads(index.read_text())
    index.write_text(json.dumps({**content, "format": 99}))
    with pytest.raises(ShardsError, match="written by scalablevit 0, a later version"):
        ImageFolderData(tmp_path / "shards", **OPTIONS)
    shards = content["parts"]["train"]["shards"]
    part = content["parts"]["train"]
    for edited in (
        {**content, "parts": {"val": content["parts"]["val"]}},
        {**content, "layout": {}},
        {**content, "layout": {**content["layout"], "classes": {"train": ["ant"], "val": []}}},
        {**content, "extra": {"../../evil.txt": "00"}},
        *(
            {**content, "parts": {"train": {**part, **changed}}}
            for changed in (
                {"samples": 1},
                {"shards": shards[:-1]},
                {"files_per_sample": 2},
                {"shards": [{**shards[0], "file": "../../../evil.bin"}, *shards[1:]]},
                {"shards": [{**shards[0], "bytes": "9"}, *shards[1:]]},
            )
        ),
    ):
        index.write_text(json.dumps(edited))
        with pytest.raises(ShardsError, match=rf"{INDEX_NAME} is damaged \(.*\); copy it again, or shard"):
            ImageFolderData(tmp_path / "shards", **OPTIONS)
    index.write_text("{")
    with pytest.raises(ShardsError, match="is damaged"):
        ImageFolderData(tmp_path / "shards", **OPTIONS)


def test_stored_paths_go_to_other_processes(tmp_path):
    shard(write_classes(tmp_path / "folder"), tmp_path / "shards")
    path = ImageFolderData(tmp_path / "shards", **OPTIONS).train_dataset.path(0)
    copied = pickle.loads(pickle.dumps(path))
    assert isinstance(copied, StoredPath)
    assert copied.read_bytes() == path.read_bytes()
    assert len(pickle.dumps(path)) < 2000
    assert str(copied) == str(path) == f"{tmp_path}/shards/train/ant/train00.jpg"


def test_commands_that_may_follow_name_no_file_in_shards(tmp_path):
    shard(write_classes(tmp_path / "folder"), tmp_path / "shards")
    assert ImageFolderData(tmp_path / "shards", **OPTIONS).example_inputs() == ["IMAGE"]


def test_the_order_that_shards_give_is_known_by_a_hash(tmp_path):
    """Nodes and resumed runs compare it: other shards of the same images would give other samples."""
    root = write_classes(tmp_path / "folder", train=8)
    for name, size_mb in (("small", 0.005), ("other", 0.008)):
        shard(root, tmp_path / name, size_mb=size_mb)

    def order(name: str, window: int) -> str | None:
        return ImageFolderData(tmp_path / name, **OPTIONS, stream=StreamSettings(window=window)).order_of_shards()

    assert order("folder", 1) is order("small", 64) is None
    assert len({order("small", 1), order("small", 2), order("other", 2)}) == 3
    assert order("small", 2) == order("small", 2)


def test_two_processes_do_not_write_to_one_folder(tmp_path, monkeypatch):
    root, out = write_classes(tmp_path / "folder", train=4), tmp_path / "shards"
    plain = write._write

    def meets_another(task: write.ShardTask) -> None:
        with pytest.raises(ValueError, match="another `scalablevit shard` writes to this folder; wait until it ends"):
            shard(root, out)
        plain(task)

    monkeypatch.setattr(write, "_write", meets_another)
    shard(root, out)
    assert ImageFolderData(out, **OPTIONS).class_names == ["ant", "bee", "cat fish"]
    assert sorted(path.name for path in out.iterdir()) == [INDEX_NAME, "train", "val"]
