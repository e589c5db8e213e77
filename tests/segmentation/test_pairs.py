"""Images find their masks in every known layout, lie on each other, and faults of a folder are told in words."""

import re
from pathlib import Path

import numpy as np
import pytest
from mask_folders import STORED_AS, write_folder, write_image, write_mask, write_part, write_turned
from PIL import Image

from scalablevit.data.image_file import ImageError
from scalablevit.data.orientation import turn_upright
from scalablevit.segmentation.mask_settings import MaskSettings
from scalablevit.segmentation.pairs import Pair, scan_pairs
from scalablevit.segmentation.read_pair import PairError, read_pair


def names(pairs: list[Pair]) -> list[tuple[str, str]]:
    return [(Path(image).name, Path(mask).name) for image, mask in pairs]


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{train}/a.jpg", "annotations/{train}/a.png"),
        ("images/{train}/a.jpg", "masks/{train}/a.png"),
        ("images/{train}/deep/a.jpg", "labels/{train}/deep/a.png"),
        ("{train}/images/a.jpg", "{train}/masks/a.png"),
        ("{train}/Images/a.jpg", "{train}/Labels/a_mask.png"),
        ("{train}/a.jpg", "{train}annot/a.png"),
        ("{train}/a.jpg", "{train}_labels/a_L.png"),
    ],
)
@pytest.mark.parametrize(("train", "val"), [("train", "val"), ("training", "validation"), ("Train", "Valid")])
def test_layouts_with_a_validation_folder(tmp_path, image, mask, train, val):
    for part in (train, val):
        write_image(tmp_path / image.format(train=part))
        write_mask(tmp_path / mask.format(train=part))
    scan = scan_pairs(tmp_path)
    scan.raise_for_errors()
    assert scan.train == [Pair(image.format(train=train), mask.format(train=train))]
    assert scan.val == [Pair(image.format(train=val), mask.format(train=val))]
    assert not scan.is_split
    assert scan.unpaired == []


def test_masks_of_labelme_beside_arrays_and_previews(tmp_path):
    for i in range(4):
        write_image(tmp_path / "JPEGImages" / f"{i}.jpg")
        write_mask(tmp_path / "SegmentationClassPNG" / f"{i}.png")
        write_image(tmp_path / "SegmentationClassVisualization" / f"{i}.jpg")
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        np.save(tmp_path / "SegmentationClass" / f"{i}.npy", np.zeros(3))
    scan = scan_pairs(tmp_path)
    scan.raise_for_errors()
    assert {Path(pair.mask).parent.name for pair in (*scan.train, *scan.val)} == {"SegmentationClassPNG"}


def test_the_settings_for_cityscapes_are_told_and_work(tmp_path):
    for part in ("train", "val"):
        write_image(tmp_path / "leftImg8bit" / part / "ulm" / "ulm_0_leftImg8bit.png")
        for what in ("labelIds", "instanceIds", "color"):
            write_mask(tmp_path / "gtFine" / part / "ulm" / f"ulm_0_gtFine_{what}.png")
    (problem,) = scan_pairs(tmp_path).problems
    told = dict(re.findall(r"(images|masks|image_pattern|mask_pattern) to '?([^',]+)", problem.message))
    scan = scan_pairs(tmp_path, **told)
    scan.raise_for_errors()
    pair = Pair("leftImg8bit/{}/ulm/ulm_0_leftImg8bit.png", "gtFine/{}/ulm/ulm_0_gtFine_labelIds.png")
    assert scan.train == [Pair(*(path.format("train") for path in pair))]
    assert scan.val == [Pair(*(path.format("val") for path in pair))]


def test_parts_may_be_named_differently_for_images_and_masks(tmp_path):
    for images, masks in (("train", "training"), ("val", "validation")):
        write_image(tmp_path / "images" / images / "a.png")
        write_mask(tmp_path / "annotations" / masks / "a.png")
    scan = scan_pairs(tmp_path)
    scan.raise_for_errors()
    assert scan.train == [Pair("images/train/a.png", "annotations/training/a.png")]


def test_without_a_validation_folder_a_share_is_set_aside(tmp_path):
    for i in range(20):
        write_image(tmp_path / "images" / f"{i}.png")
        write_mask(tmp_path / "masks" / f"{i}.png")
    scan = scan_pairs(tmp_path, MaskSettings(val_fraction=0.25))
    assert (len(scan.train), len(scan.val)) == (15, 5)
    assert scan.is_split
    assert set(scan.train) | set(scan.val) == {Pair(f"images/{i}.png", f"masks/{i}.png") for i in range(20)}
    write_image(tmp_path / "images" / "new.png")
    write_mask(tmp_path / "masks" / "new.png")
    # Chosen by name: one more image moves none from one side to the other, but where the count asks for it.
    assert len(set(scan_pairs(tmp_path, MaskSettings(val_fraction=0.25)).val) & set(scan.val)) >= 4


def test_names_of_folders_can_be_given(tmp_path):
    write_image(tmp_path / "rgb" / "a1" / "x.png")
    write_mask(tmp_path / "seg" / "a1" / "x.png")
    write_image(tmp_path / "rgb" / "a2" / "y.png")
    write_mask(tmp_path / "seg" / "a2" / "y.png")
    scan = scan_pairs(tmp_path, MaskSettings(images="rgb", masks="seg", train="a1", val="a2"))
    scan.raise_for_errors()
    assert (names(scan.train), names(scan.val)) == ([("x.png", "x.png")], [("y.png", "y.png")])


def test_a_folder_of_annotations_without_images_is_passed_over(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "annotations").rename(tmp_path / "labels")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "instances.json").write_text("{}")
    scan = scan_pairs(tmp_path)
    scan.raise_for_errors()
    assert len(scan.train) == 4


def test_files_without_counterpart_are_left_out_and_told(tmp_path):
    write_folder(tmp_path)
    lone_image = write_image(tmp_path / "images/training/lone.png")
    lone_mask = write_mask(tmp_path / "annotations/validation/alone.png")
    scan = scan_pairs(tmp_path)
    scan.raise_for_errors()
    assert (len(scan.train), len(scan.val)) == (4, 2)
    assert [(problem.kind, problem.path) for problem in scan.unpaired] == [
        ("no-mask", str(lone_image)),
        ("no-image", str(lone_mask)),
    ]
    told = scan.unpaired_summary()
    assert any("1 images without a mask" in line and str(lone_image) in line for line in told)
    assert any("1 masks without an image" in line and str(lone_mask) in line for line in told)


def test_two_files_for_one_pair(tmp_path):
    write_folder(tmp_path, num_train=1)
    second = write_image(tmp_path / "images/training/t0.tif")
    other = write_mask(tmp_path / "annotations/training/t0_mask.png")
    scan = scan_pairs(tmp_path)
    assert names(scan.train) == [("t0.png", "t0.png")]
    assert [(p.kind, p.path) for p in scan.unpaired] == [("same-name", str(second)), ("same-name", str(other))]


@pytest.mark.parametrize("ending", ["_mask", "-mask", "_labels", "_gt", "_L"])
def test_usual_endings_of_mask_names(tmp_path, ending):
    write_folder(tmp_path)
    for mask in tmp_path.glob("annotations/*/*.png"):
        mask.rename(mask.with_name(mask.stem + ending + ".png"))
    scan = scan_pairs(tmp_path)
    assert (len(scan.train), len(scan.val), scan.unpaired) == (4, 2, [])


def test_an_image_may_itself_have_such_an_ending(tmp_path):
    write_part(tmp_path, "train", ["a", "a_mask"])
    scan = scan_pairs(tmp_path)
    assert sorted(names(scan.train + scan.val)) == [("a.png", "a.png"), ("a_mask.png", "a_mask.png")]


def fault(root: Path, **options: str) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        scan_pairs(root, MaskSettings(**options)).raise_for_errors()
    return str(caught.value)


def test_faults_of_the_layout(tmp_path):
    assert "does not exist" in fault(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert "is a file" in fault(tmp_path / "file")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "known layouts are" in fault(empty)
    inner = write_folder(tmp_path / "outer" / "ADEChallengeData2016")
    assert f"root should be {inner}" in fault(inner.parent)


def test_images_without_any_folder_of_masks(tmp_path):
    write_image(tmp_path / "images/train/a.png")
    assert "no folder with masks" in fault(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train2017.json").write_text("{}")
    assert "instances_train2017.json are for detection" in fault(tmp_path)
    assert "it has no folder 'segs'; check the name given as masks" in fault(tmp_path, masks="segs")


def test_faults_of_parts(tmp_path):
    write_folder(tmp_path)
    assert "no folder 'holdout'; check the name given as val" in fault(tmp_path, val="holdout")
    assert "no folder 'learn'; check the name given as train" in fault(tmp_path, train="learn")
    (tmp_path / "annotations/validation").rename(tmp_path / "annotations/elsewhere")
    assert str(tmp_path / "annotations") + ": it has no folder for 'validation'" in fault(tmp_path)
    (tmp_path / "images/training").rename(tmp_path / "images/elsewhere")
    (tmp_path / "annotations/training").rename(tmp_path / "annotations/validation")
    assert "but no training folder" in fault(tmp_path)


def test_a_part_without_pairs(tmp_path):
    write_folder(tmp_path)
    for i, mask in enumerate(sorted(tmp_path.glob("annotations/validation/*.png"))):
        mask.rename(mask.with_name(f"other{i}.png"))
    assert "no image has a mask of its name" in fault(tmp_path)
    for mask in tmp_path.glob("annotations/validation/*.png"):
        mask.unlink()
    assert f"{tmp_path / 'annotations/validation'}: the folder has no masks" in fault(tmp_path)


def test_one_pair_is_too_few_to_split(tmp_path):
    write_image(tmp_path / "images/a.png")
    write_mask(tmp_path / "masks/a.png")
    assert "too few to set one aside" in fault(tmp_path)


@pytest.mark.parametrize("fraction", [0, 1, -0.1])
def test_share_out_of_range(tmp_path, fraction):
    with pytest.raises(ValueError, match="val_fraction"):
        scan_pairs(tmp_path, MaskSettings(val_fraction=fraction))


LABELS = np.arange(6 * 4, dtype=np.uint8).reshape(4, 6)
PIXELS = np.stack([LABELS * 10] * 3, axis=-1)


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("frame", ["stored", "upright", "its own EXIF"])
@pytest.mark.parametrize("told", [False, True])
def test_masks_lie_on_turned_images(tmp_path, orientation, frame, told):
    """Whether the mask was drawn over stored pixels, over the upright image, or is turned itself."""
    image = write_turned(tmp_path / "i.png", PIXELS, orientation)
    mask = tmp_path / "m.png"
    if frame == "its own EXIF":
        write_turned(mask, LABELS, orientation)
    elif frame == "stored":
        Image.fromarray(LABELS).transpose(STORED_AS[orientation]).save(mask)
    else:
        Image.fromarray(LABELS).save(mask)
    same_size = orientation < 5
    guess = "auto"
    if told:
        guess = "upright" if frame == "its own EXIF" else frame
    pair = read_pair(image, mask, mask_frame=guess)
    wrong_guess = frame == "upright" and same_size and not told
    np.testing.assert_array_equal(pair.labels, turn_upright(LABELS, orientation) if wrong_guess else LABELS)
    np.testing.assert_array_equal(np.asarray(pair.image), PIXELS)
    assert pair.unclear == (same_size and not told and frame != "its own EXIF")


def test_a_mask_of_another_size(tmp_path):
    image, mask = write_image(tmp_path / "i.png", size=(24, 16)), write_mask(tmp_path / "m.png", size=(12, 8))
    with pytest.raises(
        PairError, match=r"m.png: the mask has 12 x 8 pixels, but its image .*i.png has 24 x 16"
    ) as caught:
        read_pair(image, mask)
    assert (caught.value.path, caught.value.kind) == (str(mask), "other-size")
    # Only an EXIF orientation of the image explains sides that are swapped.
    with pytest.raises(PairError):
        read_pair(image, write_mask(tmp_path / "m.png", size=(16, 24)))


def test_a_mask_with_colours(tmp_path):
    image, mask = write_image(tmp_path / "i.png"), write_image(tmp_path / "m.png")
    with pytest.raises(ImageError, match="class indices"):
        read_pair(image, mask)
