"""Class folders as shards: the same batches to the bit as from the folder, however many workers and processes read."""

from typing import Any

import pytest
import torch
from image_sets import shard, write_classes

from scalablevit.classification.data import ImageFolderData
from scalablevit.data.stream.settings import StreamSettings

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
    shards = data.train_shards()
    assert shards is not None
    near = [len({shards[i] for i in keys[start : start + 8]}) for start in range(0, len(keys), 8)]
    assert max(near) <= 4 < max(shards)
