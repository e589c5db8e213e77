"""What `check-data` warns of, training tells too: classes without pixels, palettes that differ, lossy masks, shades."""

import logging
from pathlib import Path

import numpy as np
import pytest
from mask_folders import write_folder, write_image, write_mask
from PIL import Image

from scalablevit.segmentation import survey
from scalablevit.segmentation.check import check_masks
from scalablevit.segmentation.data import MaskFolderData

SMALL = {"crop_size": [16, 24], "short_side": None, "long_side": None, "num_workers": 0, "augmentation": None}
COLOURS = np.array([(0, 0, 0), (200, 30, 30), (30, 200, 30)], np.uint8)
HALVES = np.where(np.arange(24) < 12, 0, 255)[None].repeat(16, axis=0)


def masks(root: Path) -> list[Path]:
    return sorted(root.glob("annotations/*/*.png"))


def told(root: Path, caplog: pytest.LogCaptureFixture, **settings: object) -> str:
    """What training warns of."""
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        MaskFolderData(root, **{**SMALL, **settings})
    return caplog.text


def kinds(root: Path) -> list[str]:
    return [problem.kind for problem in check_masks(root).problems]


def test_black_and_white_masks_with_named_classes_are_told(tmp_path, caplog):
    write_folder(tmp_path)
    for mask in masks(tmp_path):
        write_mask(mask, HALVES)
    (tmp_path / "classes.txt").write_text("ground\nthing\n")
    text = told(tmp_path, caplog)
    assert "all pixels of the masks are 'ground' or ignored" in text
    assert "`255 thing`" in text
    assert "1 of 2 classes never occur: 'thing'" in text
    assert {"one-class", "class-never-occurs"} <= set(kinds(tmp_path))
    (tmp_path / "map.txt").write_text("0 ground\n255 thing\n")  # the remedy
    data = MaskFolderData(tmp_path, label_map=tmp_path / "map.txt", **SMALL)
    assert data.val_dataset[0].mask.unique().tolist() == [0, 1]


def test_a_named_class_without_a_training_pixel_is_told(tmp_path, caplog):
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\n")
    for mask in (tmp_path / "annotations/training").iterdir():
        write_mask(mask, np.arange(24)[None].repeat(16, axis=0) % 2)
    assert "1 of 3 classes have no training pixels: 'sand'; they cannot be learned" in told(tmp_path, caplog)


def test_all_is_well_where_every_class_is_there(tmp_path, caplog):
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\n")
    assert told(tmp_path, caplog) == ""


def test_which_masks_were_read_is_told(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(survey, "_MOST_TRAINING", 2)
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    text = told(tmp_path, caplog)
    assert "1 of 4 classes never occur in the 4 of 6 masks that were read: 'd'" in text


def test_a_class_that_may_lie_in_masks_that_were_not_read_is_not_given_up(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(survey, "_MOST_TRAINING", 2)
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\n")
    write_mask(masks(tmp_path)[-1], np.full((16, 24), 3))
    assert "they cannot be learned, unless others have some" in told(tmp_path, caplog)


def test_palettes_that_differ_are_told(tmp_path, caplog):
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("ground\nred\ngreen\n")
    for i, path in enumerate(masks(tmp_path)):
        labels = np.array([0, 1 + i % 2], np.uint8)[np.arange(24) // 12][None].repeat(16, axis=0)
        Image.fromarray(COLOURS[labels]).quantize(2).save(path)  # red and green are both index 1, or 0
    text = told(tmp_path, caplog)
    assert "the palettes of the masks differ: label 0 is the colour #" in text
    assert "label_map" in text
    assert "palettes-differ" in kinds(tmp_path)
    (tmp_path / "classes.txt").unlink()
    (tmp_path / "labelmap.txt").write_text("ground:0,0,0::\nred:200,30,30::\ngreen:30,200,30::\n")  # the remedy
    assert told(tmp_path, caplog) == ""
    assert "palettes-differ" not in kinds(tmp_path)


def test_one_palette_for_all_is_no_fault(tmp_path, caplog):
    write_folder(tmp_path)
    for path in masks(tmp_path):
        mask = Image.open(path)
        mask.putpalette(COLOURS.tobytes())
        mask.save(path)
    assert told(tmp_path, caplog) == ""


@pytest.mark.parametrize(("suffix", "options"), [(".jpg", {"quality": 95}), (".webp", {"quality": 90}), (".png", {})])
def test_lossy_masks_are_told_whatever_they_are_called(tmp_path, caplog, suffix, options):
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join("abcdefghij"))
    for path in masks(tmp_path):
        path.unlink()
        format = "JPEG" if suffix == ".png" else None
        Image.fromarray(np.full((16, 24), 3, np.uint8)).save(path.with_suffix(suffix), format=format, **options)
    text = told(tmp_path, caplog)
    assert "which is lossy, has wrong labels along its edges" in text
    assert "(so are 6 of the 6 masks that were read)" in text
    assert kinds(tmp_path).count("lossy-mask") == 6
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(ValueError, match="6 of 6 masks are saved in a lossy format"):
        MaskFolderData(tmp_path, **SMALL)


@pytest.mark.parametrize("half", [False, True])
def test_shades_of_gray_are_an_error_unless_they_are_named(tmp_path, half):
    write_folder(tmp_path)
    for i, path in enumerate(masks(tmp_path)):
        if not (half and i % 2):
            write_mask(path, (np.arange(24) % 3 * 127)[None].repeat(16, axis=0))
    with pytest.raises(ValueError, match=r"look like shades of gray .*label_map with lines such as `254 road`"):
        MaskFolderData(tmp_path, **SMALL)
    assert "shades-of-gray" in kinds(tmp_path)
    if half:
        return
    (tmp_path / "map.txt").write_text("0 ground\n127 road\n254 car\n")
    assert MaskFolderData(tmp_path, label_map=tmp_path / "map.txt", **SMALL).class_names == ["ground", "road", "car"]
    (tmp_path / "classes.txt").write_text("\n".join(f"c{i}" for i in range(255)))
    assert MaskFolderData(tmp_path, **SMALL).num_classes == 255


def test_further_bands_and_pages_are_told(tmp_path, caplog):
    write_folder(tmp_path)
    for path in masks(tmp_path):
        mask = Image.open(path)
        Image.merge("LA", [mask, mask]).save(path)
    text = told(tmp_path, caplog)
    assert "further band or transparency that varies, which is ignored" in text
    assert kinds(tmp_path).count("transparent-band") == 6


def test_images_that_lose_something_are_told(tmp_path, caplog):
    write_folder(tmp_path)
    for path in tmp_path.glob("images/*/*.png"):
        values = np.random.default_rng(0).integers(0, 4096, (16, 24), np.uint16)  # 12 bits in a 16-bit file
        Image.fromarray(values).save(path)
    text = told(tmp_path, caplog)
    assert "images/training/t0.png: " in text
    assert "(so are 4 of 4 training pairs that were tried)" in text
    assert "dark-16-bit" in kinds(tmp_path)


def test_an_orientation_that_leaves_it_open_how_the_mask_lies_is_told(tmp_path, caplog):
    write_folder(tmp_path)
    write_image(tmp_path / "images/training/t0.jpg", size=(24, 24))
    (tmp_path / "images/training/t0.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(tmp_path / "images/training/t0.jpg").save(tmp_path / "images/training/t0.jpg", exif=exif)
    write_mask(tmp_path / "annotations/training/t0.png", size=(24, 24))
    assert "is turned by an EXIF orientation, and the size does not tell" in told(tmp_path, caplog)


def test_a_numbered_class_without_a_training_pixel_is_told(tmp_path, caplog):
    write_folder(tmp_path)
    for mask in (tmp_path / "annotations/training").iterdir():
        write_mask(mask, np.arange(24)[None].repeat(16, axis=0) % 2)
    assert "1 of 3 classes have no training pixels: 'class 2'; they cannot be learned" in told(tmp_path, caplog)


def test_lossy_masks_without_class_names_are_an_error_of_check_data_too(tmp_path):
    write_folder(tmp_path)
    for path in masks(tmp_path):
        Image.fromarray(HALVES.astype(np.uint8)).save(path, format="JPEG")
    assert "classes" in [problem.kind for problem in check_masks(tmp_path).problems if problem.severity == "error"]


def test_nothing_is_said_of_one_class_where_labels_are_no_class(tmp_path):
    """Colours and numbers that no map knows are the fault, not that the rest is of one class."""
    write_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for path in masks(tmp_path):
        write_mask(path, np.where(HALVES == 0, 0, 77))
    assert "outside-classes" in kinds(tmp_path)
    assert "one-class" not in kinds(tmp_path)


@pytest.mark.parametrize("copied", ["file", "gray copy"])
def test_an_image_that_was_copied_to_the_masks_is_told(tmp_path, caplog, copied):
    """A gray image in the place of its mask trains to a perfect figure."""
    write_folder(tmp_path)
    for i, path in enumerate(sorted(tmp_path.glob("images/*/*.png"))):
        shade = np.random.default_rng(i).integers(0, 3, (16, 24), np.uint8)
        Image.fromarray(shade if copied == "file" else shade[..., None].repeat(3, axis=2)).save(path)
        write_mask(tmp_path / "annotations" / path.relative_to(tmp_path / "images"), shade)
    words = "the mask has the very pixels of its image"
    assert words in told(tmp_path, caplog)
    assert kinds(tmp_path).count("own-mask") == 6


def test_a_blank_image_with_an_empty_mask_is_no_copy(tmp_path, caplog):
    write_folder(tmp_path)
    Image.new("RGB", (24, 16)).save(tmp_path / "images/training/t0.png")
    write_mask(tmp_path / "annotations/training/t0.png", np.zeros((16, 24)))
    assert told(tmp_path, caplog) == ""
    assert kinds(tmp_path) == []


def test_files_and_links_that_are_left_out_are_told(tmp_path, caplog):
    write_folder(tmp_path)
    image = tmp_path / "images/training/t0.png"
    image.rename(image.with_suffix(".psd"))
    image.with_suffix(".psd").write_bytes(b"8BPS" + bytes(40))
    (tmp_path / "images/training/again").symlink_to(tmp_path / "images/training")
    text = told(tmp_path, caplog)
    assert "t0.psd: 1 files ending in .psd are left out, though they look like images" in text
    assert "images/training/again: links to folders that are searched already" in text
    assert {"left-out", "repeated-link"} <= set(kinds(tmp_path))
