"""Batches from a folder per class: layouts, classes, unreadable files, workers and processes."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader

from scalablevit.classification.data import (
    NOTHING_READABLE_TARGET,
    ClassificationBatch,
    ImageFolderData,
    collate,
)
from scalablevit.data.image_transforms import Augmentation
from scalablevit.data.images import why_unreadable
from scalablevit.data.split import split_by_hash
from scalablevit.data.unreadable import UnreadableFiles

PLAIN = {"image_size": 16, "batch_size": 4, "num_workers": 0, "augmentation": None, "crop_ratio": 1.0}


def write(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 24), (shade, shade, shade)).save(path)
    return path


def write_classes(folder: Path, **counts: int) -> Path:
    """Class folders with so many images; the shade tells which image it is."""
    for c, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            write(folder / name / f"{i:03d}.png", shade=40 * c + i)
    return folder


def shades(batch: ClassificationBatch) -> list[int]:
    """Shades of the images of a batch made with mean 0, std 1."""
    return [round(float(image[0, 0, 0]) * 255) for image in batch.images]


def every(loader: DataLoader) -> list[ClassificationBatch]:
    return list(loader)


@pytest.fixture
def split(tmp_path: Path) -> Path:
    """Two classes in train (9 images) and val (5)."""
    write_classes(tmp_path / "train", ant=6, bee=3)
    write_classes(tmp_path / "val", ant=2, bee=3)
    return tmp_path


def test_train_and_val_folders(split):
    data = ImageFolderData(split, **PLAIN)
    assert data.class_names == ["ant", "bee"]
    assert data.num_classes == 2
    assert (len(data.train_dataset), len(data.val_dataset)) == (9, 5)
    batch = next(iter(data.train_dataloader()))
    assert batch.images.shape == (4, 3, 16, 16)
    assert batch.targets.dtype == torch.int64
    assert batch.unreadable == []
    targets = torch.cat([batch.targets for batch in every(data.val_dataloader())])
    assert targets.tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test", "Val"])
def test_names_of_the_validation_folder(tmp_path, name):
    write_classes(tmp_path / "Train", ant=2, bee=2)
    write_classes(tmp_path / name, ant=1, bee=1)
    data = ImageFolderData(tmp_path, **PLAIN)
    assert len(data.val_dataset) == 2
    assert len(data.train_dataset) == 4


def test_named_folders(tmp_path):
    write_classes(tmp_path / "learn", ant=2, bee=2)
    write_classes(tmp_path / "val", ant=5, bee=5)
    write_classes(tmp_path / "ask", ant=1, bee=1)
    data = ImageFolderData(tmp_path, train="learn", val="ask", **PLAIN)
    assert (len(data.train_dataset), len(data.val_dataset)) == (4, 2)


def test_images_lie_deeper_and_links_are_followed(split):
    write(split / "train" / "ant" / "2024" / "may" / "x.jpg")
    write_classes(split / "elsewhere", wasp=2)
    (split / "train" / "wasp").symlink_to(split / "elsewhere" / "wasp")
    (split / "train" / ".cache").mkdir()
    (split / "train" / "__MACOSX").mkdir()
    data = ImageFolderData(split, **PLAIN)
    assert data.class_names == ["ant", "bee", "wasp"]
    assert len(data.train_dataset) == 9 + 1 + 2


def test_class_folders_in_root_are_split_the_same_way_every_time(tmp_path):
    write_classes(tmp_path, ant=20, bee=10, fly=2)
    first, second = (ImageFolderData(tmp_path, val_fraction=0.2, seed=seed, **PLAIN) for seed in (0, 1))
    val = [first.val_dataset.path(i) for i in range(len(first.val_dataset))]
    assert val == [second.val_dataset.path(i) for i in range(len(second.val_dataset))]
    assert np.bincount(first.val_dataset.targets).tolist() == [4, 2, 1]
    assert np.bincount(first.train_dataset.targets).tolist() == [16, 8, 1]
    train = {first.train_dataset.path(i) for i in range(len(first.train_dataset))}
    assert not train & set(val)
    assert "set aside from training" in first.summary()


def test_train_folder_without_validation_is_split(tmp_path):
    write_classes(tmp_path / "train", ant=10, bee=10)
    data = ImageFolderData(tmp_path, val_fraction=0.3, **PLAIN)
    assert (len(data.train_dataset), len(data.val_dataset)) == (14, 6)


def test_a_new_image_moves_few_others():
    files = [f"{i}.png" for i in range(100)]
    kept, chosen = split_by_hash(files, 0.2, name=str)
    assert (len(kept), len(chosen)) == (80, 20)
    _, later = split_by_hash([*files, "new.png"], 0.2, name=str)
    assert len(set(chosen) & set(later)) >= 19
    # The same on every machine and in every process, unlike Python's own hash.
    assert sorted(chosen)[:3] == ["0.png", "14.png", "16.png"]
    assert split_by_hash(["only.png"], 0.5, name=str) == (["only.png"], [])


def test_words_for_parts_may_be_classes(tmp_path):
    write_classes(tmp_path / "a", train=4, bus=4)
    assert ImageFolderData(tmp_path / "a", **PLAIN).class_names == ["bus", "train"]
    write_classes(tmp_path / "b", valid=4, invalid=4)
    assert ImageFolderData(tmp_path / "b", **PLAIN).class_names == ["invalid", "valid"]


def missing_root(root: Path) -> None:
    pass


def root_is_a_file(root: Path) -> None:
    root.touch()


def no_class_folders(root: Path) -> None:
    write(root / "train" / "x.png")


def only_files(root: Path) -> None:
    write(root / "x.png")


def empty_root(root: Path) -> None:
    root.mkdir()


def empty_class(root: Path) -> None:
    write_classes(root / "train", ant=2, bee=2, fly=0)
    write_classes(root / "val", ant=1, bee=1)


def two_empty_classes(root: Path) -> None:
    write_classes(root / "train", ant=2, bee=2, fly=0, gnat=0)


def single_class(root: Path) -> None:
    write_classes(root / "train", ant=2)


def one_level_too_high(root: Path) -> None:
    write_classes(root / "insects" / "train", ant=2, bee=2)


def unknown_class(root: Path) -> None:
    write_classes(root / "train", ant=2, bee=2)
    write_classes(root / "val", ant=2, wasp=1)


def flat_val(root: Path) -> None:
    write_classes(root / "train", n01440764=2, n01443537=2)
    write(root / "val" / "ILSVRC2012_val_00000001.JPEG")


def empty_val(root: Path) -> None:
    write_classes(root / "train", ant=2, bee=2)
    (root / "val").mkdir()


def val_only(root: Path) -> None:
    write_classes(root / "val", ant=2, bee=2)


def one_image_each(root: Path) -> None:
    write_classes(root, ant=1, bee=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (missing_root, "data: the data folder does not exist; check the path given as root"),
        (root_is_a_file, "data: the data folder is a file"),
        (
            no_class_folders,
            "train: 1 images lie directly in it.*arrange them as .*train/CLASS/.*COCO JSON.*images/ and masks/",
        ),
        (only_files, "data: 1 images lie directly in it"),
        (empty_root, "data: it has no folders in it"),
        (empty_class, "train/fly: the class folder has no images; put some in, or remove the folder"),
        (two_empty_classes, r"(?s)2 faults.*train/fly.*train/gnat"),
        (single_class, "only one class, 'ant', .*add a folder for another class"),
        (one_level_too_high, "root should be .*data/insects"),
        (unknown_class, r"val: 1 validation classes are not among the 2 .*'wasp'; rename them"),
        (
            flat_val,
            r"val: 1 validation images lie directly .*ILSVRC2012_val_00000001.JPEG.*move each to .*valprep",
        ),
        (empty_val, "val: the validation folder has no images; fill it, or remove it"),
        (val_only, "has a validation folder 'val' but no training folder"),
        (one_image_each, "every class has one image only"),
    ],
)
def test_faulty_folders(tmp_path, make, words):
    make(tmp_path / "data")
    with pytest.raises(ValueError, match=words):
        ImageFolderData(tmp_path / "data", **PLAIN)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train": "learn"}, "no folder 'learn'; check the name given as train"),
        ({"val": "ask"}, "no folder 'ask'; check the name given as val"),
        ({"val_fraction": 1.0}, "val_fraction must be between 0 and 1, got 1.0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_workers": -1}, "num_workers must be at least 0 or 'auto', got -1"),
        ({"max_unreadable": -1}, "max_unreadable must be at least 0, got -1"),
        ({"image_size": [8, 8, 3]}, r"image_size must be one number or \[height, width\]"),
        ({"in_chans": 4}, r"in_chans must be 3 \(RGB\) or 1 \(grayscale\).*got 4"),
        ({"mean": [0.5]}, r"mean needs 3 value\(s\).*got \[0.5\]"),
        ({"builtin": "letters"}, "builtin must be 'digits' or null, got 'letters'"),
        ({"augmentation": Augmentation(rand_augment="rnd")}, "rand_augment='rnd' is no policy"),
    ],
)
def test_arguments_out_of_range(split, change, words):
    with pytest.raises(ValueError, match=words):
        ImageFolderData(split, **(PLAIN | change))


def test_a_class_without_validation_images_is_a_warning(split, caplog):
    write(split / "train" / "fly" / "a.png")
    data = ImageFolderData(split, **PLAIN)
    assert data.num_classes == 3
    assert "1 of 3 classes have no validation images" in caplog.text
    assert "'fly'" in caplog.text


def test_settings_reach_the_batches(split):
    data = ImageFolderData(split, **(PLAIN | {"image_size": [16, 24], "in_chans": 1, "batch_size": 5}))
    assert data.preprocessing.image_size == (16, 24)
    assert data.preprocessing.mean == (0.449,)
    (batch,) = every(data.val_dataloader())
    assert batch.images.shape == (5, 1, 16, 24)
    plain = ImageFolderData(split, **(PLAIN | {"mean": [0.0] * 3, "std": [1.0] * 3}))
    assert shades(next(iter(plain.val_dataloader()))) == [0, 1, 40, 41]


def test_training_is_augmented_by_seed_and_epoch_and_not_by_workers(split):
    def first_epochs(num_workers: int, seed: int) -> list[torch.Tensor]:
        changes = {"num_workers": num_workers, "augmentation": Augmentation(), "seed": seed}
        loader = ImageFolderData(split, **(PLAIN | changes)).train_dataloader()
        images = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            images.append(torch.cat([batch.images for batch in loader]))
        return images

    alone, again, other = first_epochs(0, seed=0), first_epochs(2, seed=0), first_epochs(0, seed=1)
    assert torch.equal(alone[0], again[0])
    assert torch.equal(alone[1], again[1])
    assert not torch.equal(alone[0], alone[1])
    assert not torch.equal(alone[0], other[0])


def break_file(path: Path) -> str:
    path.write_bytes(path.read_bytes()[:-24])
    return str(path)


def test_training_takes_the_next_readable_image(split):
    bad = [break_file(split / "train" / "ant" / f"{i:03d}.png") for i in (4, 5)]
    data = ImageFolderData(split, **(PLAIN | {"mean": [0.0] * 3, "std": [1.0] * 3}))
    sample = data.train_dataset[4]
    assert sample.unreadable == tuple(bad)
    assert sample.target == 1  # the next one is the first of the other class
    assert round(float(sample.image[0, 0, 0]) * 255) == 40
    last = break_file(split / "train" / "bee" / "002.png")
    sample = data.train_dataset[8]
    assert (sample.target, sample.unreadable) == (0, (last,))


def test_step_counts_stay_equal_on_all_ranks(split):
    whole = [len(batch.targets) for batch in every(ImageFolderData(split, **PLAIN).train_dataloader())]
    bad = {break_file(split / "train" / "ant" / f"{i:03d}.png") for i in range(4)}
    data = ImageFolderData(split, **PLAIN)
    batches = every(data.train_dataloader())
    assert [len(batch.targets) for batch in batches] == whole
    assert set().union(*(batch.unreadable for batch in batches)) <= bad
    assert all((batch.targets >= 0).all() for batch in batches)


def test_validation_marks_what_it_cannot_read(split):
    bad = break_file(split / "val" / "bee" / "001.png")
    data = ImageFolderData(split, **PLAIN)
    batches = every(data.val_dataloader())
    targets = torch.cat([batch.targets for batch in batches])
    assert targets.tolist() == [0, 0, 1, -1, 1]
    images = torch.cat([batch.images for batch in batches])
    assert not images[3].any()
    assert images[2].any()
    assert [path for batch in batches for path in batch.unreadable] == [bad]


def test_nothing_readable_ends_in_an_error_not_in_a_loop(split):
    for path in (split / "train").rglob("*.png"):
        break_file(path)
    data = ImageFolderData(split, **(PLAIN | {"max_unreadable": 3}))
    unreadable = UnreadableFiles(data.max_unreadable)
    with pytest.raises(ValueError, match="more than max_unreadable=3"):
        unreadable.collect(next(iter(data.train_dataloader())).unreadable)
    for num_workers in (0, 1):
        everything = ImageFolderData(split, **(PLAIN | {"max_unreadable": 1000, "num_workers": num_workers}))
        batch = next(iter(everything.train_dataloader()))
        assert set(batch.targets.tolist()) == {NOTHING_READABLE_TARGET}
        with pytest.raises(ValueError, match=r"none of the training images can be read.*\.png: .*\n.*check-data"):
            UnreadableFiles(1000, explain=why_unreadable).collect(batch.unreadable, nothing_left=True)


def test_unreadable_files_are_logged_once_and_capped(split, caplog):
    bad = [break_file(split / "val" / "bee" / f"{i:03d}.png") for i in range(3)]
    account = UnreadableFiles(2, explain=why_unreadable)
    caplog.set_level(logging.WARNING)
    for paths in ([bad[0]], [bad[0], bad[1]], [], [bad[1]]):
        account.collect(paths)
    assert account.files == bad[:2]
    assert len(caplog.records) == 2
    assert "truncated or damaged" in caplog.text
    with pytest.raises(ValueError, match=r"(?s)3 images could not be read, more than max_unreadable=2.*check-data"):
        account.collect(bad)


def test_a_file_that_can_be_read_again_points_at_the_disk(split, caplog):
    UnreadableFiles(1, explain=why_unreadable).collect([str(split / "val" / "bee" / "000.png")])
    assert "now it can; check the disk or network that it lies on" in caplog.text


class Recorder(LightningModule):
    """Keeps the batches that Lightning hands over."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.batches: list[ClassificationBatch] = []

    def training_step(self, batch: ClassificationBatch, batch_idx: int) -> torch.Tensor:
        self.batches.append(batch)
        return torch.nn.functional.cross_entropy(self.layer(batch.images.mean((2, 3))), batch.targets)

    def validation_step(self, batch: ClassificationBatch, batch_idx: int) -> None:
        self.batches.append(batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_batches_survive_a_trainer(split, tmp_path):
    bad = {break_file(split / "train" / "ant" / "000.png"), break_file(split / "val" / "ant" / "000.png")}
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
    )
    trainer.fit(recorder, datamodule=ImageFolderData(split, **(PLAIN | {"batch_size": 9, "num_workers": 1})))
    assert all(isinstance(batch, ClassificationBatch) for batch in recorder.batches)
    assert [len(batch.targets) for batch in recorder.batches] == [9, 5]
    assert {path for batch in recorder.batches for path in batch.unreadable} == bad


def test_batches_move_between_devices(split):
    data = ImageFolderData(split, **PLAIN)
    batch = collate([data.val_dataset[i] for i in range(3)])._replace(unreadable=["a.png"])
    moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert isinstance(moved, ClassificationBatch)
    assert moved.images.device.type == moved.targets.device.type == "meta"
    assert moved.unreadable == ["a.png"]
    if torch.cuda.is_available():
        pinned = torch.utils.data._utils.pin_memory.pin_memory(batch)
        assert isinstance(pinned, ClassificationBatch)
        assert pinned.images.is_pinned()
        assert pinned.unreadable == ["a.png"]


class Cluster:
    """What the data module asks a Trainer."""

    def __init__(self, rank: int, world_size: int, num_nodes: int = 1) -> None:
        self.global_rank, self.world_size, self.num_nodes = rank, world_size, num_nodes
        self.accumulate_grad_batches = 1


def test_two_ranks_share_the_images(split):
    train, val, sizes = [], [], []
    for rank in range(2):
        data = ImageFolderData(split, **(PLAIN | {"batch_size": 2, "mean": [0.0] * 3, "std": [1.0] * 3}))
        data.trainer = Cluster(rank, 2)
        batches = every(data.train_dataloader())
        sizes.append([len(batch.targets) for batch in batches])
        train += [shade for batch in batches for shade in shades(batch)]
        val += [shade for batch in every(data.val_dataloader()) for shade in shades(batch)]
    assert sizes[0] == sizes[1]
    assert len(train) == len(set(train)) == 8
    assert sorted(val) == [0, 1, 40, 41, 42]


@pytest.mark.parametrize(
    ("cores", "world_size", "num_nodes", "expected"),
    [(1, 1, 1, 0), (2, 1, 1, 1), (64, 1, 1, 8), (16, 4, 1, 3), (16, 8, 2, 3), (2, 4, 1, 0)],
)
def test_automatic_workers(split, monkeypatch, cores, world_size, num_nodes, expected):
    monkeypatch.setattr("scalablevit.training.data_module.available_cores", lambda: cores)
    data = ImageFolderData(split, **(PLAIN | {"num_workers": "auto"}))
    if world_size > 1:
        data.trainer = Cluster(0, world_size, num_nodes)
    assert data.num_workers == expected
    assert ImageFolderData(split, **(PLAIN | {"num_workers": 3})).num_workers == 3


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.json", '{"ant": "an ant", "bee": "a bee", "cat": "unused"}'),
        ("index.json", '{"0": ["ant", "an ant"], "1": ["bee", "a bee"]}'),
        ("names.txt", "ant an ant\nbee a bee\n\n"),
        ("names.tsv", "ant\tan ant\nbee\ta bee\n"),
    ],
)
def test_class_names_file(split, file, content):
    (split / file).write_text(content)
    data = ImageFolderData(split, class_names_file=split / file, **PLAIN)
    assert data.class_names == ["an ant", "a bee"]
    assert data.class_folders == ["ant", "bee"]


def test_a_name_may_stand_there_twice_and_hold_what_is_no_letter(split):
    (split / "n.json").write_text('{"ant": "x", "bee": "\\ud800\\n", "ant": "x"}')
    assert ImageFolderData(split, class_names_file=split / "n.json", **PLAIN).class_names == ["x", "\\ud800"]


def test_classes_of_one_name_are_told_apart(split):
    (split / "LOC_synset_mapping.txt").write_text("ant crane\nbee crane\n")
    data = ImageFolderData(split, class_names_file=split / "LOC_synset_mapping.txt", **PLAIN)
    assert data.class_names == ["crane (ant)", "crane (bee)"]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("n.txt", "ant an ant\n", "no name for 1 of 2 class folders .'bee'."),
        ("n.json", "[1]", "must be a JSON object"),
        ("n.json", '{"ant": 1}', "must be a JSON object"),
        ("n.json", "{", "not valid JSON"),
        ("n.json", "[" * 100_000, "not valid JSON"),
        ("n.json", '{"ant": ' + "9" * 6000 + "}", "not valid JSON"),
        ("n.json", '{"ant": "x", "bee": " "}', "no name for 1 of 2 class folders .'bee'.; add an entry"),
        ("n.json", '{"ant": "x", "ant": "y", "bee": "z"}', "'ant' has two names, 'x' and 'y'; remove one"),
        ("n.txt", "ant x\nbee z\nant y\n", "'ant' has two names, 'x' and 'y'; remove one"),
        ("n.txt", None, "not readable|cannot be read"),
    ],
)
def test_faulty_class_names_file(split, file, content, words):
    if content is not None:
        (split / file).write_text(content)
    with pytest.raises(ValueError, match=words):
        ImageFolderData(split, class_names_file=split / file, **PLAIN)


def test_builtin_digits_are_written_where_nothing_is(tmp_path):
    data = ImageFolderData(tmp_path / "digits", builtin="digits", **PLAIN)
    assert data.class_names == [str(digit) for digit in range(10)]
    assert len(data.train_dataset) + len(data.val_dataset) == 1797
    marker = tmp_path / "digits" / "train" / "0" / "mine.png"
    write(marker)
    again = ImageFolderData(tmp_path / "digits", builtin="digits", **PLAIN)
    assert len(again.train_dataset) == len(data.train_dataset) + 1


def test_summary(split):
    text = ImageFolderData(split, **PLAIN).summary()
    for words in (
        str(split),
        "9 images",
        "5 images (val)",
        "2: ant, bee",
        "3 (of bee) to 6 (of ant) training images",
        "3 x 16 x 16",
    ):
        assert words in text


def test_datasets_can_be_sent_to_spawned_workers(split):
    data = ImageFolderData(split, **(PLAIN | {"augmentation": Augmentation()}))
    copy = pickle.loads(pickle.dumps(data.train_dataset))
    assert copy.path(3) == data.train_dataset.path(3)
    assert copy[3].image.shape == (3, 16, 16)
