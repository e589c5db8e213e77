"""A folder without labels as data: what is found, what is refused, and what every sample draws."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scalablevit.data.loaders import train_loader
from scalablevit.data.unreadable import UnreadableFiles
from scalablevit.pretraining.data import UnlabelledImageData
from scalablevit.pretraining.unlabelled_images import collate


def write(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 24, 3)).astype(np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(10):
        write(tmp_path / "images" / ("a/b/c" if i % 2 else ".") / f"{i}.png", i)
    return tmp_path / "images"


def data(root: Path, **settings: object) -> UnlabelledImageData:
    return UnlabelledImageData(root, **{"image_size": 16, "batch_size": 2, "num_workers": 0, **settings})  # type: ignore[arg-type]


def test_images_at_any_depth_are_found_and_a_share_held_out(root: Path) -> None:
    found = data(root, val_fraction=0.2)
    assert (len(found.train_dataset), len(found.val_dataset)) == (8, 2)
    train, held_out = ({str(d.path(i)) for i in range(len(d))} for d in (found.train_dataset, found.val_dataset))
    assert not train & held_out
    assert found.class_names == []
    assert "8 images, without labels" in found.summary()
    assert "labels" not in found.summary().replace("without labels", "")


def test_a_labelled_folder_is_taken_and_its_labels_are_not(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        for i in range(3):
            write(tmp_path / "train" / name / f"{i}.png", i)
    found = data(tmp_path)
    assert len(found.train_dataset) + len(found.val_dataset) == 6
    assert "labels      not used" in found.summary()


def test_masks_beside_the_images_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i in range(3):
        write(tmp_path / "images" / f"{i}.png", i)
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((20, 24), np.uint8)).save(tmp_path / "masks" / f"{i}.png")
    data(tmp_path)
    assert "masks seem to lie beside the images" in caplog.text
    caplog.clear()
    data(tmp_path / "images")
    assert "masks" not in caplog.text


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda root: root / "nowhere", "nowhere: the data folder does not exist"),
        (lambda root: root / "0.png", "0.png: the data folder is a file, not a folder"),
        (lambda root: (root / "empty").mkdir() or root / "empty", "empty: the folder has no images in it or its sub"),
        (lambda root: write(root / "one" / "1.png") or root / "one", "one: the folder has one image"),
    ],
    ids=["missing", "file", "empty", "one"],
)
def test_folders_that_cannot_be_used(root: Path, prepare: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        data(prepare(root))  # type: ignore[operator]


@pytest.mark.parametrize("fraction", [0.0, 1.5, -1.0, float("nan")])
def test_shares_that_cannot_be_held_out(root: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match="val_fraction must be between 0 and 1"):
        data(root, val_fraction=fraction)


def test_all_may_be_held_out_for_an_evaluation_and_not_for_training(root: Path) -> None:
    found = data(root, val_fraction=1.0)
    assert len(found.val_dataset) == 10
    with pytest.raises(ValueError, match="val_fraction 1 holds all images out"):
        found.train_dataloader()


def test_unreadable_images_are_replaced_in_training_and_left_out_in_validation(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = data(root, val_fraction=0.2)
    for dataset in (found.train_dataset, found.val_dataset):
        dataset.path(0).write_bytes(b"no image")
    sample = found.train_dataset[0]
    assert sample.is_readable
    assert [Path(path) for path in sample.unreadable] == [found.train_dataset.path(0)]
    batch = collate([found.val_dataset[i] for i in range(2)])
    assert batch.readable.tolist() == [False, True]
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="more than max_unreadable=0"):
        UnreadableFiles(0).collect(batch.unreadable)
    assert "skipped an image" in caplog.text


def test_where_nothing_can_be_read_it_is_said(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image")
    found = data(root)
    sample = found.train_dataset[0]
    assert sample.is_nothing_left
    with pytest.raises(ValueError, match="none of the training images can be read"):
        UnreadableFiles(100).collect(sample.unreadable, nothing_left=sample.is_nothing_left)


def drawn(found: UnlabelledImageData, *, epoch: int, rank: int = 0, ranks: int = 1, workers: int = 0) -> dict[int, int]:
    """Image -> seed of its mask, over an epoch of a rank."""
    shard = {"batch_size": 2, "num_workers": workers, "rank": rank, "world_size": ranks}
    loader = train_loader(found.train_dataset, seed=3, collate_fn=collate, **shard)
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return {image.sum().item(): seed for batch in loader for image, seed in zip(batch.images, batch.seeds, strict=True)}


def test_masks_depend_on_seed_epoch_and_image_alone(root: Path) -> None:
    """Neither on the process that shows the image nor on the number of loading processes."""
    found = data(root, val_fraction=0.2)
    alone = drawn(found, epoch=1)
    torch.manual_seed(99)
    assert len(alone) == 8
    assert drawn(found, epoch=1) == alone
    assert drawn(found, epoch=1, rank=0, ranks=2) | drawn(found, epoch=1, rank=1, ranks=2) == alone
    assert len(set(alone.values()) | set(drawn(found, epoch=2).values())) == 16
    held_out = [found.val_dataset[i].seed for i in range(2)]
    assert held_out == [found.val_dataset[i].seed for i in range(2)]


@pytest.mark.slow
def test_masks_do_not_depend_on_loading_processes(root: Path) -> None:
    found = data(root, val_fraction=0.2)
    assert drawn(found, epoch=1, workers=2) == drawn(found, epoch=1)
