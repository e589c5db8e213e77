"""Images and masks are varied together: every pixel keeps its label, and every setting matters."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from scalablevit.data.resizing import resized_size
from scalablevit.segmentation.transforms import (
    Augmentation,
    PhotometricDistortion,
    Preprocessing,
    ScaledCrop,
)
from scalablevit.visualization.palette import class_colours

PLAIN = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, short_side=None, long_side=None)
GEOMETRY = Augmentation(photometric_prob=0.0)


def blocks(height: int = 64, width: int = 96, *, side: int = 16) -> tuple[Image.Image, np.ndarray]:
    """An image of squares, each in the shade that its label has in the mask."""
    rows, columns = np.arange(height) // side, np.arange(width) // side
    labels = (rows[:, None] * (width // side) + columns).astype(np.uint8)
    return Image.fromarray(np.stack([labels * 8] * 3, axis=-1)), labels


def test_evaluation_only_normalises():
    image, _ = blocks()
    settings = Preprocessing(mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0), short_side=32)
    got = settings.eval_transform()(image)
    exact = (np.asarray(image) / 255 - [0.5, 0.25, 0.0]) / [0.5, 1.0, 2.0]
    assert type(got) is torch.Tensor
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.permute(1, 2, 0), exact, atol=1e-6)


def test_gray_networks_get_one_channel():
    image, labels = blocks()
    settings = Preprocessing(mean=(0.5,), std=(0.5,), short_side=None)
    assert settings.eval_transform()(image).shape == (1, 64, 96)
    pixels, _ = settings.train_transform(Augmentation(), (32, 32))(image, labels)
    assert pixels.shape == (1, 32, 32)


def test_without_augmentation_the_middle_is_taken():
    image, labels = blocks()
    pixels, mask = PLAIN.train_transform(None, (32, 48))(image, labels)
    np.testing.assert_array_equal(mask, labels[16:48, 24:72])
    np.testing.assert_allclose(pixels[0] * 255, np.asarray(image)[16:48, 24:72, 0], atol=1e-4)
    assert mask.dtype == torch.int64


@pytest.mark.parametrize("augmentation", [None, GEOMETRY])
def test_small_images_are_filled_up_with_the_mean_and_ignored(augmentation):
    image, labels = blocks(16, 16)
    settings = dataclasses.replace(PLAIN, mean=(0.4, 0.5, 0.6))
    pixels, mask = settings.train_transform(augmentation, (64, 96))(image, labels)
    assert pixels.shape == (3, 64, 96)
    filled = mask == 255
    assert (pixels[:, filled] == 0).all()
    assert filled[:, 32:].all()
    assert filled[32:].all()
    assert not filled[0, 0]
    assert set(mask[~filled].tolist()) == {0}


@pytest.mark.parametrize("seed", range(12))
def test_pixels_keep_their_labels(seed):
    """Whatever the scale, the crop and the flips, away from edges the shade tells the label."""
    image, labels = blocks()
    torch.manual_seed(seed)
    settings = dataclasses.replace(PLAIN, short_side=80, long_side=200)
    augmentation = dataclasses.replace(GEOMETRY, vflip_prob=0.5)
    pixels, mask = settings.train_transform(augmentation, (48, 56))(image, labels)
    known = mask != 255
    assert known.any()
    right = ((pixels[0] * 255 / 8).round() == mask)[known].float().mean()
    assert right > 0.75  # the rest lies along the edges of squares, which bilinear resizing blends
    assert set(mask[known].tolist()) <= set(labels.ravel().tolist())


def test_masks_are_resized_to_the_nearest_pixel():
    labels = np.where(np.arange(64)[None] < 32, 0, 200).astype(np.uint8).repeat(64, axis=0)
    image = Image.fromarray(np.stack([labels] * 3, axis=-1))
    for _ in range(10):
        pixels, mask = PLAIN.train_transform(GEOMETRY, (48, 48))(image, labels)
        assert set(mask.unique().tolist()) <= {0, 200, 255}
        assert (pixels >= 0).all()


def test_masks_are_resized_about_pixel_centres_as_images_are():
    labels = np.arange(9, dtype=np.uint8)[None].repeat(9, axis=0)
    settings = dataclasses.replace(PLAIN, short_side=3)
    _, mask = settings.train_transform(None, (3, 3))(Image.fromarray(labels).convert("RGB"), labels)
    assert mask.tolist() == [[1, 4, 7]] * 3


def test_the_scale_is_drawn_from_its_range():
    image, labels = blocks(64, 64, side=8)
    sizes = []
    for _ in range(100):
        _, mask = PLAIN.train_transform(Augmentation(scale=(0.5, 2.0)), (200, 200))(image, labels)
        sizes.append(int((mask[:, 0] != 255).sum()))
    assert 32 <= min(sizes) < 40
    assert 116 < max(sizes) <= 128
    assert sum(size > 64 for size in sizes) > 50  # drawn evenly between the factors: two thirds are above 1


def test_short_and_long_side():
    assert resized_size(683, 1024, short_side=512, long_side=2048) == (512, 768)
    assert resized_size(100, 1000, short_side=512, long_side=2048) == (205, 2048)
    assert resized_size(100, 1000, short_side=512, long_side=2048, factor=0.5) == (102, 1024)
    assert resized_size(100, 300, short_side=None, long_side=None, factor=2.0) == (200, 600)
    assert resized_size(100, 300, short_side=None, long_side=150) == (50, 150)
    assert resized_size(1, 1000, short_side=None, long_side=10) == (1, 10)


def test_crops_of_mostly_one_class_are_drawn_again():
    labels = np.zeros((32, 400), np.uint8)
    labels[:, :40] = np.arange(40) % 2 + 1  # stripes at the left: few windows see them
    mask = tv_tensors.Mask(torch.from_numpy(labels))
    image = tv_tensors.Image(torch.zeros(3, 32, 400, dtype=torch.uint8))

    def varied(cat_max_ratio: float) -> int:
        crop = ScaledCrop((32, 32), short_side=None, long_side=None, scale=(1.0, 1.0), cat_max_ratio=cat_max_ratio)
        torch.manual_seed(0)
        shares = (crop(image, mask)[1].flatten().bincount().max() / 1024 for _ in range(60))
        return sum(float(share) < 0.75 for share in shares)

    once, often = varied(1.0), varied(0.75)
    assert once < 10
    assert 20 < often < 60  # and after ten tries the last is taken


def test_ignored_pixels_do_not_count_as_a_class():
    labels = np.full((16, 64), 255, np.uint8)
    labels[:, :8], labels[:, 56:] = 1, np.arange(16)[:, None] % 2  # only the right end has two classes
    mask = tv_tensors.Mask(torch.from_numpy(labels))
    image = tv_tensors.Image(torch.zeros(3, 16, 64, dtype=torch.uint8))
    crop = ScaledCrop((16, 16), short_side=None, long_side=None, scale=(1.0, 1.0), cat_max_ratio=0.75)
    seen = [set(crop(image, mask)[1].unique().tolist()) for _ in range(40)]
    assert sum({0, 1} <= labels for labels in seen) > 25


def test_a_mask_that_is_all_ignored_passes():
    image, labels = blocks()
    _, mask = PLAIN.train_transform(Augmentation(), (32, 32))(image, np.full_like(labels, 255))
    assert (mask == 255).all()


def test_photometric_distortion_leaves_the_mask_and_its_range():
    rng = np.random.default_rng(0)
    image = tv_tensors.Image(torch.from_numpy(rng.integers(0, 256, (3, 20, 30), dtype=np.uint8)))
    mask = tv_tensors.Mask(torch.arange(600).view(20, 30) % 7)
    results = []
    for _ in range(20):
        got, same = PhotometricDistortion(Augmentation(photometric_prob=1.0))(image, mask)
        assert same is mask
        assert 0 <= float(got.min()) <= float(got.max()) <= 1
        results.append(got)
    assert not torch.equal(results[0], results[1])
    untouched, _ = PhotometricDistortion(Augmentation(photometric_prob=0.0))(image, mask)
    assert torch.equal(untouched, image)


@pytest.mark.parametrize(
    "only",
    [
        {"brightness": 0.1},
        {"contrast": (0.5, 0.5)},
        {"saturation": (0.0, 0.0)},
        {"hue": 0.5},
    ],
    ids=str,
)
def test_every_photometric_setting_matters(only):
    off = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0, "photometric_prob": 1.0}
    image = tv_tensors.Image(torch.tensor([200, 90, 30], dtype=torch.uint8)[:, None, None].expand(3, 4, 4))
    mask = tv_tensors.Mask(torch.zeros(4, 4, dtype=torch.uint8))
    same, _ = PhotometricDistortion(Augmentation(**off))(image, mask)
    torch.testing.assert_close(same.as_subclass(torch.Tensor), image.as_subclass(torch.Tensor) / 255, atol=1e-3, rtol=0)
    got, _ = PhotometricDistortion(Augmentation(**(off | only)))(image, mask)
    red, green, blue = (got[:, 0, 0] * 255).tolist()
    if "brightness" in only:
        assert abs(red - 200) > 0.5
        assert (red - green, green - blue) == pytest.approx((110, 60), abs=0.1)
    elif "contrast" in only:
        assert [red, green, blue] == pytest.approx([100, 45, 15], abs=0.1)
    elif "saturation" in only:
        assert red == pytest.approx(green, abs=0.1) == pytest.approx(blue, abs=0.1)
    else:
        assert [red, green, blue] != pytest.approx([200, 90, 30], abs=2)
        assert max(red, green, blue) == pytest.approx(200, abs=1)


def test_the_same_seed_gives_the_same_sample():
    image, labels = blocks()
    transform = PLAIN.train_transform(Augmentation(), (32, 32))
    samples = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        samples.append(transform(image, labels))
    assert torch.equal(samples[0][0], samples[1][0])
    assert torch.equal(samples[0][1], samples[1][1])
    assert not torch.equal(samples[0][0], samples[2][0])


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (700, 2)])
def test_strange_shapes(shape):
    image = Image.new("RGB", shape[::-1])
    settings = dataclasses.replace(PLAIN, short_side=64, long_side=256)
    pixels, mask = settings.train_transform(Augmentation(), (32, 32))(image, np.zeros(shape, np.uint8))
    assert pixels.shape == (3, 32, 32)
    assert mask.shape == (32, 32)


def test_settings_travel_as_json():
    settings = Preprocessing(
        mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), short_side=None, long_side=7, palette=((1, 2, 3), (4, 5, 6))
    )
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    with pytest.raises(ValueError, match=r"missing \['std'\], unknown \['sdt'\]"):
        Preprocessing.from_dict({("sdt" if k == "std" else k): v for k, v in settings.to_dict().items()})
    with pytest.raises(ValueError, match="wrong type"):
        Preprocessing.from_dict(settings.to_dict() | {"mean": 3})


def test_colours_are_made_up_where_the_palette_is_too_short():
    settings = dataclasses.replace(PLAIN, palette=((1, 2, 3), (4, 5, 6)))
    assert settings.colours(2) == [(1, 2, 3), (4, 5, 6)]
    assert settings.colours(3) == class_colours(3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": (0.5, 0.5)}, "mean and std"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be above 0"),
        ({"short_side": 0}, "short_side"),
        ({"long_side": -1}, "long_side"),
        ({"palette": ((1, 2),)}, "palette"),
        ({"palette": ((1, 2, 256),)}, "palette"),
    ],
)
def test_preprocessing_out_of_range(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(PLAIN, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": (2.0, 0.5)},
        {"scale": (0.0, 1.0)},
        {"contrast": (-0.5, 1.0)},
        {"saturation": (1.0,)},
        {"cat_max_ratio": 0.0},
        {"cat_max_ratio": 1.1},
        {"hflip_prob": 1.5},
        {"vflip_prob": -0.1},
        {"photometric_prob": 2},
        {"brightness": -1},
        {"hue": 0.6},
    ],
    ids=str,
)
def test_augmentation_out_of_range(change):
    with pytest.raises(ValueError, match=f"augmentation.{next(iter(change))}"):
        Augmentation(**change)


def test_crop_size_out_of_range():
    with pytest.raises(ValueError, match="crop_size"):
        PLAIN.train_transform(None, (0, 32))
