"""Batches of images and masks: labels, sizes, files that cannot be used, workers and processes."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from mask_folders import write_folder, write_image, write_mask, write_turned
from PIL import Image
from torch.utils.data import DataLoader

from scalablevit.data.unreadable import UnreadableFiles
from scalablevit.segmentation.data import MaskFolderData
from scalablevit.segmentation.dataset import SegmentationBatch, SegmentationSample, collate
from scalablevit.segmentation.transforms import Augmentation
from scalablevit.visualization.palette import class_colours

PLAIN = {
    "crop_size": [16, 24],
    "short_side": None,
    "long_side": None,
    "batch_size": 2,
    "num_workers": 0,
    "augmentation": None,
    "mean": [0.0] * 3,
    "std": [1.0] * 3,
}


def every(loader: DataLoader) -> list[SegmentationBatch]:
    return list(loader)


def labels_of(batches: list[SegmentationBatch]) -> set[int]:
    return set().union(*(batch.masks.unique().tolist() for batch in batches))


def test_a_folder_in_ade20ks_layout(tmp_path):
    data = MaskFolderData(write_folder(tmp_path), **PLAIN)
    assert data.class_names == ["class 0", "class 1", "class 2"]
    assert data.num_classes == 3
    batches = every(data.train_dataloader())
    assert len(batches) == 2
    batch = batches[0]
    assert (batch.images.shape, batch.images.dtype) == ((2, 3, 16, 24), torch.float32)
    assert (batch.masks.shape, batch.masks.dtype) == ((2, 16, 24), torch.int64)
    assert (batch.readable, batch.unreadable) == ([True, True], [])
    assert sorted(batches[0].indices + batches[1].indices) == [0, 1, 2, 3]
    for batch in batches:
        for image, index in zip(batch.images, batch.indices, strict=True):
            exact = np.asarray(Image.open(data.train_dataset.path(index)))
            np.testing.assert_allclose(image.permute(1, 2, 0) * 255, exact, atol=1e-4)


def test_validation_comes_singly_at_its_own_size(tmp_path):
    write_folder(tmp_path)
    write_image(tmp_path / "images/validation/v0.png", size=(40, 30))
    write_mask(tmp_path / "annotations/validation/v0.png", size=(40, 30))
    data = MaskFolderData(tmp_path, **(PLAIN | {"short_side": 8}))
    batches = every(data.val_dataloader())
    assert [batch.images.shape for batch in batches] == [(1, 3, 30, 40), (1, 3, 16, 24)]
    assert [batch.masks.shape for batch in batches] == [(1, 30, 40), (1, 16, 24)]
    assert [batch.indices for batch in batches] == [[0], [1]]
    exact = np.asarray(Image.open(tmp_path / "images/validation/v0.png"))
    np.testing.assert_allclose(batches[0].images[0].permute(1, 2, 0) * 255, exact, atol=1e-4)


@pytest.mark.parametrize("reduce", [False, True])
def test_label_0_is_reduced_once_in_training_and_validation(tmp_path, reduce):
    write_folder(tmp_path)
    for mask in tmp_path.glob("annotations/*/*.png"):
        write_mask(mask, np.tile([[0, 1, 2, 3, 150, 255]], (16, 4)))
    (tmp_path / "classes.txt").write_text("\n".join(f"c{i}" for i in range(150 if reduce else 151)))
    data = MaskFolderData(tmp_path, reduce_zero_label=reduce, **PLAIN)
    expected = [255, 0, 1, 2, 149, 255] if reduce else [0, 1, 2, 3, 150, 255]
    for batch in (*every(data.train_dataloader()), *every(data.val_dataloader())):
        assert batch.masks[0, 0, :6].tolist() == expected


def test_other_labels_can_be_ignored(tmp_path):
    data = MaskFolderData(write_folder(tmp_path), ignore_labels=[2], **PLAIN)
    assert data.num_classes == 2
    assert labels_of(every(data.val_dataloader())) == {0, 1, 255}


def test_class_names_from_the_folder_or_a_named_file(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\n")
    assert MaskFolderData(tmp_path, **PLAIN).class_names == ["sky", "sea", "sand"]
    (tmp_path / "mine.json").write_text('["a", "b", "c", "d"]')
    assert MaskFolderData(tmp_path, class_names_file=tmp_path / "mine.json", **PLAIN).num_classes == 4


def test_labels_beyond_the_named_classes_are_an_error_at_once(tmp_path):
    (tmp_path / "classes.txt").write_text("sky\nsea\n")
    write_folder(tmp_path)
    with pytest.raises(ValueError, match=r"t0.png: it has the label 2, but labels 0 to 1 are classes .*ignore_labels"):
        MaskFolderData(tmp_path, **PLAIN)
    for i in range(4):
        write_mask(tmp_path / f"annotations/training/t{i}.png", np.ones((16, 24)))
    with pytest.raises(ValueError, match=r"a validation mask cannot be used: .*v0.png: it has the label 2"):
        MaskFolderData(tmp_path, **PLAIN)


def test_masks_of_black_and_white_are_told(tmp_path):
    write_folder(tmp_path)
    for mask in tmp_path.glob("annotations/*/*.png"):
        write_mask(mask, np.where(np.arange(24) < 12, 0, 255)[None].repeat(16, axis=0))
    for options in ({}, {"ignore_labels": []}):
        with pytest.raises(ValueError, match=f"{tmp_path}: the masks have the labels 0 and 255.*rewrite 255 as 1"):
            MaskFolderData(tmp_path, **options, **PLAIN)


def test_masks_with_colours_are_told_though_some_are_black(tmp_path):
    write_folder(tmp_path)
    first, *others = sorted(tmp_path.glob("annotations/*/*.png"))
    write_mask(first, np.zeros((16, 24)))
    for mask in others:
        write_image(mask, seed=1)
    with pytest.raises(ValueError, match=r"t1\.png: it has colours"):
        MaskFolderData(tmp_path, **PLAIN)


def test_labels_with_gaps_are_warned_of(tmp_path, caplog):
    write_folder(tmp_path)
    write_mask(tmp_path / "annotations/training/t0.png", np.full((16, 24), 38))
    with caplog.at_level(logging.WARNING):
        data = MaskFolderData(tmp_path, **PLAIN)
    assert data.num_classes == 39
    assert "35 of 39 classes never occur" in caplog.text
    assert "shades of gray" in caplog.text


def test_files_without_counterpart_are_left_out_with_a_warning(tmp_path, caplog):
    write_folder(tmp_path)
    lone = write_image(tmp_path / "images/training/lone.png")
    with caplog.at_level(logging.WARNING):
        data = MaskFolderData(tmp_path, **PLAIN)
    assert len(data.train_dataset) == 4
    assert str(lone) in caplog.text
    assert "check-data" in caplog.text


@pytest.mark.parametrize("as_palette", [False, True])
def test_cvats_label_map_is_found_and_colours_become_classes(tmp_path, as_palette):
    write_folder(tmp_path)
    colours = np.array([(0, 0, 0), (200, 0, 0), (0, 200, 0)], np.uint8)
    for path in tmp_path.glob("annotations/*/*.png"):
        mask = Image.fromarray(colours[np.asarray(Image.open(path))])
        # Each with a palette of its own, as tools write them.
        (mask.quantize(3 + len(path.stem)) if as_palette else mask).save(path)
    (tmp_path / "labelmap.txt").write_text("# label:color_rgb:parts\nsky:0,200,0::\nsea:200,0,0::\nsand:0,0,0::")
    data = MaskFolderData(tmp_path, **PLAIN)
    assert data.class_names == ["sky", "sea", "sand"]
    assert data.palette == [(0, 200, 0), (200, 0, 0), (0, 0, 0)]
    assert every(data.val_dataloader())[0].masks[0, 0, :4].tolist() == [2, 1, 0, 2]
    assert "colours #00c800, #c80000, #000000 are classes" in data.summary()


def test_numbers_become_other_numbers(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "ids.json").write_text('{"0": 1, "1": 255, "2": 0}')
    (tmp_path / "classes.txt").write_text("two\nzero\n")
    data = MaskFolderData(tmp_path, label_map=tmp_path / "ids.json", **PLAIN)
    assert data.class_names == ["two", "zero"]
    assert every(data.val_dataloader())[0].masks[0, 0, :3].tolist() == [1, 255, 0]


def test_settings_that_contradict_the_label_map_are_refused(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "labelmap.txt").write_text("a:0,0,0::\nb:1,1,1::\nc:2,2,2::\n")
    with pytest.raises(ValueError, match=r"labelmap.txt: reduce_zero_label contradicts"):
        MaskFolderData(tmp_path, reduce_zero_label=True, **PLAIN)
    with pytest.raises(ValueError, match=r"ignore_labels \[255\] are numbers"):
        MaskFolderData(tmp_path, ignore_labels=[255], **PLAIN)
    assert MaskFolderData(tmp_path, **PLAIN).class_names == ["a", "b", "c"], "grays are colours too"
    assert MaskFolderData(tmp_path, label_map=None, **PLAIN).class_names == ["class 0", "class 1", "class 2"]


@pytest.mark.parametrize("reduce", [False, True])
def test_the_palette_is_that_of_the_masks(tmp_path, reduce):
    write_folder(tmp_path)
    colours = [(9, 9, 9), (200, 0, 0), (0, 200, 0)]
    for mask in tmp_path.glob("annotations/*/*.png"):
        image = Image.open(mask)
        image.putpalette([value for colour in colours for value in colour])
        image.save(mask)
    data = MaskFolderData(tmp_path, reduce_zero_label=reduce, **PLAIN)
    assert data.palette == (colours[1:] if reduce else colours)
    assert data.preprocessing.to_dict()["palette"] == [list(colour) for colour in data.palette]
    assert labels_of(every(data.val_dataloader())) == ({0, 1, 255} if reduce else {0, 1, 2})


def test_without_a_palette_colours_are_made_up(tmp_path):
    assert MaskFolderData(write_folder(tmp_path), **PLAIN).palette == class_colours(3)


def spoil(root: Path, part: str, name: str, how: str) -> Path:
    """Make one pair unfit for use; gives the file at fault."""
    image, mask = root / "images" / part / f"{name}.png", root / "annotations" / part / f"{name}.png"
    if how == "cut image":
        image.write_bytes(image.read_bytes()[:200])
    elif how == "empty mask":
        mask.write_bytes(b"")
    elif how == "vanished mask":
        mask.unlink()
    elif how == "colours":
        write_image(mask)
    elif how == "other size":
        write_mask(mask, size=(10, 10))
    else:
        write_mask(mask, np.full((16, 24), 77))
    return image if how == "cut image" else mask


FAULTS = ["cut image", "empty mask", "vanished mask", "colours", "other size", "outside"]


@pytest.mark.parametrize(("how", "num_workers"), [*((how, 0) for how in FAULTS), ("cut image", 1), ("outside", 1)])
def test_a_bad_pair_is_substituted_in_training_and_told(tmp_path, how, num_workers):
    data = MaskFolderData(write_folder(tmp_path), **(PLAIN | {"num_workers": num_workers}))
    bad = spoil(tmp_path, "training", "t1", how)
    batches = every(data.train_dataloader())
    assert sorted(index for batch in batches for index in batch.indices) == [0, 2, 2, 3]
    assert all(all(batch.readable) for batch in batches)
    (message,) = [message for batch in batches for message in batch.unreadable]
    assert message.startswith(f"{bad}: ")
    assert "; " in message
    assert labels_of(batches) == {0, 1, 2}
    account = UnreadableFiles(0)
    with pytest.raises(ValueError, match="1 images could not be read"):
        account.collect([message])


@pytest.mark.parametrize("how", FAULTS)
def test_a_bad_pair_is_left_out_of_validation(tmp_path, how):
    data = MaskFolderData(write_folder(tmp_path), **PLAIN)
    bad = spoil(tmp_path, "validation", "v0", how)
    first, second = every(data.val_dataloader())
    assert (first.readable, first.indices) == ([False], [0])
    assert (first.masks == 255).all()
    assert (first.images == 0).all()
    assert first.unreadable[0].startswith(f"{bad}: ")
    assert (second.readable, second.unreadable) == ([True], [])


def test_when_nothing_can_be_read_batches_still_come(tmp_path):
    data = MaskFolderData(write_folder(tmp_path), **PLAIN)
    for i in range(4):
        spoil(tmp_path, "training", f"t{i}", "empty mask")
    batch = every(data.train_dataloader())[0]
    assert batch.readable == [False, False]
    assert batch.images.shape == (2, 3, 16, 24)
    assert (batch.masks == 255).all()
    assert len(set(batch.unreadable)) == 4


@pytest.mark.parametrize("how", ["colours", "other size", "cut image"])
@pytest.mark.parametrize("part", ["training", "validation"])
def test_a_fault_of_all_pairs_is_told_before_training(tmp_path, part, how):
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    names = [path.stem for path in (tmp_path / "images" / part).iterdir()]
    for name in names:
        bad = spoil(tmp_path, part, name, how)
    with pytest.raises(ValueError, match=f"none of {len(names)} {part} images with masks") as caught:
        MaskFolderData(tmp_path, **PLAIN)
    assert str(bad.parent) in str(caught.value)
    assert "check-data" in str(caught.value)


def test_masks_with_colours_only_are_told_without_class_names_too(tmp_path):
    write_folder(tmp_path)
    for mask in tmp_path.glob("annotations/*/*.png"):
        write_image(mask)
    with pytest.raises(ValueError, match="class indices"):
        MaskFolderData(tmp_path, **PLAIN)


def ignore_all(root: Path, part: str, *names: str) -> list[Path]:
    """Masks without a pixel of a class."""
    return [write_mask(root / f"annotations/{part}/{name}.png", np.full((16, 24), 255)) for name in names]


def test_a_mask_that_is_all_ignored_is_a_sample_and_told(tmp_path, caplog):
    write_folder(tmp_path)
    masks = ignore_all(tmp_path, "training", "t1", "t3")
    with caplog.at_level(logging.WARNING):
        data = MaskFolderData(tmp_path, **(PLAIN | {"augmentation": Augmentation(), "batch_size": 4}))
    (batch,) = every(data.train_dataloader())
    assert batch.readable == [True] * 4
    for index, mask in zip(batch.indices, batch.masks, strict=True):
        assert (mask == 255).all() == (index in (1, 3))
    assert "all pixels are ignored in 2 of 4 training masks that were tried, so nothing can be learned" in caplog.text
    assert str(masks[0]) in caplog.text
    assert "validation" not in caplog.text


@pytest.mark.parametrize(
    ("part", "names", "words"),
    [
        ("training", ("t0", "t1", "t2", "t3"), "training mask are ignored, so nothing can be learned"),
        ("validation", ("v0", "v1"), "validation mask are ignored, so nothing can be measured"),
    ],
)
def test_masks_that_are_all_ignored_are_an_error(tmp_path, part, names, words):
    first, *_ = ignore_all(write_folder(tmp_path), part, *names)
    with pytest.raises(
        ValueError, match=f"{words}. Labels 0 to 2 are classes and 255 ignored: .*ignore_labels"
    ) as told:
        MaskFolderData(tmp_path, **PLAIN)
    assert str(told.value).startswith(f"{first}: ")


def test_a_few_masks_that_are_ignored_do_not_stand_for_all(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("scalablevit.segmentation.probe._PROBES", 2)
    ignore_all(write_folder(tmp_path), "training", "t0", "t2")  # those that are tried
    with caplog.at_level(logging.WARNING):
        MaskFolderData(tmp_path, **PLAIN)
    assert "in 2 of 2 training masks" in caplog.text


def test_masks_turn_with_their_images(tmp_path):
    write_folder(tmp_path)
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:4] = 255
    write_turned(tmp_path / "images/validation/v0.png", pixels, 6)
    upright = (pixels[..., 0] > 0).astype(np.uint8)
    Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "annotations/validation/v0.png")
    batch = every(MaskFolderData(tmp_path, **PLAIN).val_dataloader())[0]
    assert batch.readable == [True]
    np.testing.assert_array_equal(batch.masks[0], upright)
    np.testing.assert_array_equal(batch.images[0, 0], upright)


def test_how_masks_lie_can_be_told(tmp_path):
    write_folder(tmp_path)
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:4] = 255
    write_turned(tmp_path / "images/validation/v0.png", pixels, 3)
    write_mask(tmp_path / "annotations/validation/v0.png", pixels[..., 0] > 0)
    tops = {}
    for frame in ("auto", "stored", "upright"):
        batch = every(MaskFolderData(tmp_path, mask_frame=frame, **PLAIN).val_dataloader())[0]
        tops[frame] = int(batch.masks[0, 0, 0])
    assert tops == {"auto": 0, "stored": 0, "upright": 1}


def test_samples_hang_on_seed_and_epoch_not_on_workers(tmp_path):
    write_folder(tmp_path)
    options = PLAIN | {"augmentation": Augmentation(), "crop_size": 16}

    def images(**change: object) -> torch.Tensor:
        data = MaskFolderData(tmp_path, **(options | change))
        return torch.cat([batch.images for batch in every(data.train_dataloader())])

    first = images()
    assert torch.equal(first, images())
    assert torch.equal(first, images(num_workers=1))
    assert not torch.equal(first, images(seed=1))
    assert not torch.equal(first, images(augmentation=None))


def test_gray_input(tmp_path):
    data = MaskFolderData(write_folder(tmp_path), **(PLAIN | {"in_chans": 1, "mean": None, "std": None}))
    assert next(iter(data.train_dataloader())).images.shape == (2, 1, 16, 24)
    assert data.preprocessing.in_chans == 1


def test_data_sets_can_be_sent_to_processes(tmp_path):
    data = MaskFolderData(write_folder(tmp_path), **PLAIN)
    copy = pickle.loads(pickle.dumps(data.train_dataset))
    assert torch.equal(copy[0].image, data.train_dataset[0].image)
    assert copy.path(1) == tmp_path / "images/training/t1.png"
    assert copy.mask_path(1) == tmp_path / "annotations/training/t1.png"


def test_collate_keeps_the_order():
    blank = torch.zeros(3, 2, 2), torch.zeros(2, 2, dtype=torch.int64)
    batch = collate([SegmentationSample(*blank, i == 3, i, (f"file {i}",)) for i in (3, 1)])
    assert batch.indices == [3, 1]
    assert batch.readable == [True, False]
    assert batch.unreadable == ["file 3", "file 1"]
    assert batch.images.shape == (2, 3, 2, 2)


def test_summary(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\n")
    text = MaskFolderData(tmp_path, **(PLAIN | {"short_side": 64})).summary()
    for words in (
        f"data        {tmp_path}",
        "training    4 images with masks",
        "validation  2 images with masks (images/validation)",
        "classes     3: sky, sea, sand",
        "labels 0 to 2 are classes and 255 ignored",
        "resized to 64 px (short side), at most any px (long side)",
        "3 x 16 x 24",
    ):
        assert words in text


def test_builtin_scenes_are_written_where_there_is_nothing(tmp_path, monkeypatch):
    from scalablevit.data.builtin import scene_folders

    written = []
    whole = scene_folders.write_ade20k
    monkeypatch.setattr(
        scene_folders, "write_ade20k", lambda root: written.append(whole(root, num_train=3, num_val=2, size=(32, 48)))
    )
    for _ in range(2):
        data = MaskFolderData(tmp_path / "scenes", builtin="digit_scenes", reduce_zero_label=True, **PLAIN)
    assert written == [tmp_path / "scenes"]
    assert (len(data.train_dataset), len(data.val_dataset)) == (3, 2)
    assert data.class_names[:3] == ["background", "zero", "one"]
    assert labels_of(every(data.val_dataloader())) <= {*range(11), 255}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"num_workers": -1}, "num_workers"),
        ({"max_unreadable": -1}, "max_unreadable"),
        ({"crop_size": 0}, "crop_size"),
        ({"crop_size": [1, 2, 3]}, "crop_size"),
        ({"in_chans": 4}, "in_chans"),
        ({"mean": [0.5]}, "mean needs 3"),
        ({"short_side": 0}, "short_side"),
        ({"mask_frame": "other"}, "mask_frame"),
        ({"builtin": "other"}, "builtin"),
        ({"val": "none"}, "val"),
    ],
    ids=str,
)
def test_arguments_out_of_range(tmp_path, change, words):
    write_folder(tmp_path)
    with pytest.raises(ValueError, match=words):
        MaskFolderData(tmp_path, **(PLAIN | change))


def test_a_value_range_reaches_training_evaluation_and_the_weights(tmp_path):
    write_folder(tmp_path)
    for path in tmp_path.glob("images/*/*.png"):
        Image.fromarray(np.full((16, 24), 1000, np.uint16)).save(path)
    data = MaskFolderData(tmp_path, value_range=[0, 2000], **PLAIN)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        assert every(loader)[0].images.mean().item() == pytest.approx(0.5, abs=0.01)
    assert data.preprocessing.value_range == (0, 2000)
    with pytest.raises(ValueError, match="value_range must be"):
        MaskFolderData(tmp_path, value_range=[5, 5], **PLAIN)
