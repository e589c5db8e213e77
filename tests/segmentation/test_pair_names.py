"""Images find their masks by name, pattern and list, in one folder or two; none becomes its own mask."""

import os
import unicodedata
from pathlib import Path

import pytest
from mask_folders import write_folder, write_image, write_mask

from scalablevit.segmentation.mask_settings import MaskSettings
from scalablevit.segmentation.pair_names import NamePattern, match_names
from scalablevit.segmentation.pairs import Pair, PairScan, scan_pairs


def scan(root: Path, **settings: object) -> PairScan:
    return scan_pairs(root, MaskSettings(**settings))


def pairs(root: Path, **settings: object) -> dict[str, str]:
    found = scan(root, **settings)
    assert not found.problems, found.problems
    return {pair.image: pair.mask for pair in (*found.train, *found.val)}


def fault(root: Path, **settings: object) -> str:
    with pytest.raises(ValueError, match=str(root)) as told:
        scan(root, **settings).raise_for_errors()
    return str(told.value)


def write_beside(folder: Path, *names: str) -> None:
    for i, name in enumerate(names):
        write_image(folder / f"{name}.jpg", seed=i)
        write_mask(folder / f"{name}_mask.png")


@pytest.mark.parametrize("pattern", ["{name}_mask.png", "{name}_mask", "{name}_m*"])
def test_images_and_masks_in_one_folder(tmp_path, pattern):
    write_beside(tmp_path / "train", "a", "b", "sub/c")
    write_beside(tmp_path / "valid", "d")
    found = scan(tmp_path, mask_pattern=pattern)
    assert found.problems == found.unpaired == []
    assert found.val == [Pair("valid/d.jpg", "valid/d_mask.png")]
    assert [pair.image for pair in found.train] == ["train/a.jpg", "train/b.jpg", "train/sub/c.jpg"]
    assert all(pair.mask == pair.image.replace(".jpg", "_mask.png") for pair in found.train)


def test_one_folder_without_parts(tmp_path):
    write_beside(tmp_path, "a", "b")
    assert pairs(tmp_path, mask_pattern="{name}_mask.png") == {"./a.jpg": "./a_mask.png", "./b.jpg": "./b_mask.png"}


def test_one_folder_for_both_is_refused_and_the_pattern_is_named(tmp_path):
    write_beside(tmp_path / "train", "a", "b")
    write_beside(tmp_path / "valid", "c")
    for settings in ({}, {"images": ".", "masks": "."}):
        assert "{name}_mask.png" in fault(tmp_path, **settings)
    assert "images and masks are one folder" in fault(tmp_path, images=".", masks=".")


def test_cityscapes_names(tmp_path):
    for city in ("aachen", "ulm"):
        write_image(tmp_path / f"leftImg8bit/train/{city}/x_leftImg8bit.png")
        for what in ("labelIds", "instanceIds", "color"):
            write_mask(tmp_path / f"gtFine/train/{city}/x_gtFine_{what}.png")
    found = pairs(
        tmp_path,
        images="leftImg8bit",
        masks="gtFine",
        image_pattern="{name}_leftImg8bit.png",
        mask_pattern="{name}_gtFine_labelIds.png",
    )
    assert found == {
        f"leftImg8bit/train/{city}/x_leftImg8bit.png": f"gtFine/train/{city}/x_gtFine_labelIds.png"
        for city in ("aachen", "ulm")
    }


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_link_to_the_image_is_no_mask(tmp_path, link):
    write_folder(tmp_path)
    mask = tmp_path / "annotations/training/t1.png"
    mask.unlink()
    link(tmp_path / "images/training/t1.png", mask)
    found = scan(tmp_path)
    assert len(found.train) == 3
    (problem,) = found.unpaired
    assert problem.kind == "own-mask"
    assert "the image is its own mask" in problem.message
    for path in (tmp_path / "annotations").glob("*/*.png"):
        path.unlink()
        link(tmp_path / "images" / path.parent.name / path.name, path)
    assert "is its own mask" in fault(tmp_path)


def test_a_folder_of_masks_that_leads_to_the_images(tmp_path):
    write_image(tmp_path / "images/a.png")
    (tmp_path / "masks").symlink_to(tmp_path / "images")
    assert "images and masks are one folder" in fault(tmp_path)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("straße ä.jpg", unicodedata.normalize("NFD", "straße ä.png")),
        ("IMG_1.JPG", "img_1.png"),
        ("a b.jpg", "a%20b.png"),
        ("a:b.jpg", "a%3Ab_mask.png"),
        ("a.jpg", "a.jpg.png"),
        ("a.jpg", "a_L.png"),
    ],
)
def test_names_that_differ_in_form_alone(image, mask):
    found = match_names([image], [mask])
    assert found.pairs == [(image, mask)]


def test_what_differs_in_case_alone_needs_its_very_name():
    found = match_names(["A.png", "a.png"], ["a.png", "A.png"])
    assert found.pairs == [("A.png", "A.png"), ("a.png", "a.png")]
    found = match_names(["B.png", "b.png"], ["b.PNG", "%62.png"])
    assert found.pairs == [("b.png", "b.PNG")], "which of the two %62 means is not clear"


def test_the_same_names_in_other_folders_are_others():
    found = match_names(["cam1/00.png", "cam2/00.png"], ["cam1/00.png", "00.png"])
    assert found.pairs == [("cam1/00.png", "cam1/00.png")]
    assert list(found.lone_masks.values()) == ["00.png"]


def test_doubled_stems():
    images = ["a.jpg", "a.png"]
    assert match_names(images, ["a.jpg.png", "a.png.png"]).pairs == [("a.jpg", "a.jpg.png"), ("a.png", "a.png.png")]
    found = match_names(images, ["a.png"])
    assert found.pairs == [("a.jpg", "a.png")]
    assert found.repeated_images == [("a.png", "a.jpg")]


def test_a_mask_of_the_very_name_goes_first():
    found = match_names(["a.png", "A2.png"], ["a_mask.png", "a.png", "a2.png"])
    assert found.pairs == [("a.png", "a.png"), ("A2.png", "a2.png")]
    assert found.repeated_masks == [("a_mask.png", "a.png")]


@pytest.mark.parametrize("pattern", ["mask.png", "{name}/{name}.png", "masks/{name}.png"])
def test_patterns_without_a_name(pattern):
    with pytest.raises(ValueError, match=r"mask_pattern must have \{name\} once"):
        NamePattern(pattern, "mask_pattern")


def test_vocs_lists_are_found(tmp_path):
    for name in ("2007_01", "2007_02", "2007_03", "unlabelled"):
        write_image(tmp_path / f"JPEGImages/{name}.jpg")
        write_mask(tmp_path / f"SegmentationClass/{name}.png")
    (tmp_path / "SegmentationClass/unlabelled.png").unlink()
    lists = tmp_path / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_bytes("\ufeff2007_01\r\n2007_03\r\n".encode())
    (lists / "val.txt").write_text("2007_02\n")
    found = scan(tmp_path)
    assert [pair.image for pair in found.train] == ["JPEGImages/2007_01.jpg", "JPEGImages/2007_03.jpg"]
    assert [pair.image for pair in found.val] == ["JPEGImages/2007_02.jpg"]
    assert found.problems == found.unpaired == []
    assert not found.is_split


def test_lists_of_any_form(tmp_path):
    for name in ("one/00", "two/00", "one/01", "a b"):
        write_image(tmp_path / f"images/{name}.jpg")
        write_mask(tmp_path / f"masks/{name}.png")
    (tmp_path / "t.txt").write_text("images/one/00.jpg masks/one/00.png\n/far/away/two/00.jpg\na b.jpg\n00\nnone\n")
    (tmp_path / "v.txt").write_text("01.jpg,masks/one/01.png\ntwo/00\n")
    found = scan(tmp_path, train_list="t.txt", val_list=tmp_path / "v.txt")
    assert [pair.image for pair in found.train] == ["images/one/00.jpg", "images/two/00.jpg", "images/a b.jpg"]
    assert [pair.image for pair in found.val] == ["images/one/01.jpg", "images/two/00.jpg"]
    assert {problem.kind for problem in found.unpaired} == {"list-without-pair", "leak"}
    assert "2 of 5 names have no image with a mask, or more than one, and are left out: 00, none" in str(found.unpaired)
    assert any("1 images lie in" in sentence for sentence in found.unpaired_summary())


def test_a_list_for_training_alone_sets_a_share_aside(tmp_path):
    write_folder(tmp_path / "d", num_train=8)
    (tmp_path / "t.txt").write_text("\n".join(f"t{i}" for i in range(8)))
    found = scan(tmp_path / "d", train_list=tmp_path / "t.txt", val_fraction=0.25)
    assert (len(found.train), len(found.val), found.is_split) == (6, 2, True)


@pytest.mark.parametrize(
    ("content", "words"),
    [("x\ny\n", "names no image that has a mask"), ("", "names no image"), (None, "cannot be read")],
)
def test_lists_that_are_none(tmp_path, content, words):
    write_folder(tmp_path / "d")
    if content is not None:
        (tmp_path / "d/t.txt").write_text(content)
    assert words in fault(tmp_path / "d", train_list="t.txt")
    with pytest.raises(ValueError, match="val_list needs train_list"):
        MaskSettings(val_list="v.txt")


@pytest.mark.parametrize("pattern", ["{name}_mask.png", "{name}_mask.PNG"])
def test_the_ending_of_a_pattern_fits_in_any_case(tmp_path, pattern):
    write_image(tmp_path / "a.JPG")
    write_mask(tmp_path / "a.png").rename(tmp_path / "a_mask.PNG")
    write_image(tmp_path / "b.jpg")
    write_mask(tmp_path / "b_mask.png")
    assert pairs(tmp_path, mask_pattern=pattern) == {"./a.JPG": "./a_mask.PNG", "./b.jpg": "./b_mask.png"}


@pytest.mark.parametrize(("images", "masks"), [("images", "images/masks"), (".", "masks")])
def test_a_folder_of_masks_among_the_images_holds_no_images(tmp_path, images, masks):
    for name in ("a", "b"):
        write_image(tmp_path / images / f"{name}.jpg")
        write_mask(tmp_path / masks / f"{name}.png")
    found = scan(tmp_path, images=images, masks=masks)
    assert found.unpaired == []
    assert len(found.train) + len(found.val) == 2
