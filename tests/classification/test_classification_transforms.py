"""Evaluation equals torchvision's and timm's transform; training is timm's, call by call."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp
from torchvision import transforms

from scalablevit.data.image_transforms import Augmentation, Preprocessing, ResizeToCover

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photo(width: int = 90, height: int = 70) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (14, 18, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def preprocessing(**changes: object) -> Preprocessing:
    settings = {
        "image_size": (32, 32),
        "crop_ratio": 0.875,
        "interpolation": "bicubic",
        "mean": MEAN,
        "std": STD,
    }
    return Preprocessing(**(settings | changes))


def seed(value: int) -> None:
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def test_imagenet_evaluation_resizes_to_256_for_224():
    assert preprocessing(image_size=(224, 224)).resize_size == (256, 256)
    assert preprocessing(image_size=(224, 448), crop_ratio=0.9).resize_size == (248, 497)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos", "nearest"])
@pytest.mark.parametrize("size", [(90, 70), (70, 91), (33, 33), (8, 8), (301, 20)], ids=str)
def test_evaluation_equals_timm(size, interpolation):
    ours = preprocessing(interpolation=interpolation)
    theirs = create_transform(32, interpolation=interpolation, mean=MEAN, std=STD, crop_pct=0.875)
    torch.testing.assert_close(ours.eval_transform()(photo(*size)), theirs(photo(*size)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(90, 70), (70, 91), (33, 200), (5, 3)], ids=str)
def test_resize_to_cover_equals_torchvision_resize(size):
    ours = ResizeToCover((36, 36), interpolation="bicubic")(photo(*size))
    theirs = transforms.Resize(36, interpolation=transforms.InterpolationMode.BICUBIC)(photo(*size))
    assert ours.size == theirs.size
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("size", [(90, 70), (70, 90), (10, 200), (200, 10), (48, 24), (1, 1)], ids=str)
def test_non_square_input(size):
    image = preprocessing(image_size=(24, 48), crop_ratio=1.0).eval_transform()(photo(*size))
    assert image.shape == (3, 24, 48)
    covered = ResizeToCover((24, 48), interpolation="bicubic")(photo(*size))
    assert covered.height >= 24
    assert covered.width >= 48
    assert covered.height == 24 or covered.width == 48


@pytest.mark.parametrize("size", [(60_000, 2), (2, 60_000)], ids=str)
def test_a_strip_does_not_exhaust_the_memory(size):
    assert max(ResizeToCover((64, 64), interpolation="bicubic")(Image.new("RGB", size)).size) <= 64 * 16 + 64
    assert preprocessing(image_size=(64, 64)).eval_transform()(Image.new("RGB", size)).shape == (3, 64, 64)


def test_values_are_normalised():
    image = Image.new("RGB", (50, 40), (255, 0, 128))
    got = preprocessing().eval_transform()(image)
    assert got.dtype == torch.float32
    assert type(got) is torch.Tensor
    expected = (torch.tensor([255.0, 0.0, 128.0]) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(got[:, 3, 5], expected)


def test_grayscale_input():
    gray = preprocessing(mean=(0.4,), std=(0.2,))
    assert gray.in_chans == 1
    got = gray.eval_transform()(Image.new("RGB", (40, 40), (51, 51, 51)))
    torch.testing.assert_close(got, torch.full((1, 32, 32), (0.2 - 0.4) / 0.2))
    policies = ["rand-m9-mstd0.5-inc1", "augmix-m3-w3", "original", None]
    for policy in policies:
        transform = gray.train_transform(Augmentation(rand_augment=policy))
        for value in range(20):
            seed(value)
            assert transform(photo()).shape == (1, 32, 32)


def test_grayscale_is_augmented_like_gray_rgb():
    augmentation = Augmentation(rand_augment="rand-m9-n4-mstd0.5-inc1", erasing_prob=0.0)
    gray, color = (
        preprocessing(mean=(0.4,) * channels, std=(1.0,) * channels).train_transform(augmentation)
        for channels in (1, 3)
    )
    image = photo().convert("L").convert("RGB")
    for value in range(30):
        seed(value)
        expected = color(image)
        seed(value)
        torch.testing.assert_close(gray(image).expand(3, -1, -1), expected, rtol=0, atol=1.1 / 255)


@pytest.mark.parametrize(
    ("ours", "flags"),
    [
        ({}, {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_mode": "pixel"}),
        (
            {"rand_augment": None, "erasing_prob": 1.0, "erasing_mode": "const", "erasing_count": 3},
            {"re_prob": 1.0, "re_mode": "const", "re_count": 3},
        ),
        (
            {"rand_augment": None, "color_jitter": 0.9, "erasing_prob": 0.0, "grayscale_prob": 0.5},
            {"color_jitter": 0.9, "grayscale_prob": 0.5},
        ),
        (
            {"rand_augment": None, "color_jitter": None, "scale": (0.5, 0.6), "ratio": (1.0, 2.0)}
            | {"hflip_prob": 1.0, "vflip_prob": 0.5, "erasing_prob": 0.0},
            {"color_jitter": None, "scale": (0.5, 0.6), "ratio": (1.0, 2.0), "hflip": 1.0, "vflip": 0.5},
        ),
    ],
    ids=["imagenet", "erasing", "jitter", "geometry"],
)
def test_training_equals_timm(ours, flags):
    transform = preprocessing().train_transform(Augmentation(**ours))
    theirs = create_transform(32, is_training=True, interpolation="bicubic", mean=MEAN, std=STD, **flags)
    results = []
    for value in range(12):
        seed(value)
        got = transform(photo())
        seed(value)
        torch.testing.assert_close(got, theirs(photo()), rtol=0, atol=0)
        results.append(got)
    assert any(not torch.equal(results[0], other) for other in results[1:])


def test_jitter_is_left_out_beside_rand_augment_as_in_timm():
    with_jitter = preprocessing().train_transform(Augmentation(color_jitter=0.9))
    without = preprocessing().train_transform(Augmentation(color_jitter=None))
    seed(3)
    got = with_jitter(photo())
    seed(3)
    assert torch.equal(got, without(photo()))


def test_policies_that_keep_no_bits_give_black_with_every_pillow():
    # Magnitude 10 keeps 0 bits; Pillow 13 refuses that, and earlier ones make the image black.
    transform = preprocessing().train_transform(
        Augmentation(rand_augment="rand-m10-n1-inc1", erasing_prob=0.0, scale=(1.0, 1.0))
    )
    (rand_augment,) = [step for stage in transform.transforms for step in stage.transforms if hasattr(step, "ops")]
    (posterize,) = [op for op in rand_augment.ops if op.name == "PosterizeIncreasing"]
    assert isinstance(posterize, AugmentOp)
    posterize.prob = 1.0
    assert np.asarray(posterize(photo())).max() == 0
    posterize.magnitude = 5
    np.testing.assert_array_equal(np.asarray(posterize(photo())), np.asarray(ImageOps.posterize(photo(), 2)))


def test_no_augmentation_is_the_evaluation_transform():
    plain = preprocessing().train_transform(None)
    assert torch.equal(plain(photo()), preprocessing().eval_transform()(photo()))


def test_dict_round_trip_through_json():
    settings = preprocessing(image_size=[24, 48])
    text = json.dumps(settings.to_dict())
    assert Preprocessing.from_dict(json.loads(text)) == settings
    assert set(settings.to_dict()) == {"image_size", "crop_ratio", "interpolation", "mean", "std"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"crop_pct": 0.9}, "unknown .'crop_pct'."),
        ({"mean": 0.5}, "wrong type"),
        ({"image_size": [0, 4]}, "at least 1 pixel"),
        ({"crop_ratio": 1.5}, "crop_ratio must be above 0 and at most 1, got 1.5"),
        ({"interpolation": "cubic"}, "interpolation must be one of bicubic.*'cubic'"),
        ({"mean": [0.5, 0.5]}, "three each"),
        ({"std": [0.2, 0.2, 0.0]}, "std must be above 0"),
    ],
)
def test_from_dict_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        Preprocessing.from_dict(preprocessing().to_dict() | change)


def test_from_dict_names_missing_keys():
    settings = preprocessing().to_dict()
    del settings["std"]
    with pytest.raises(ValueError, match=r"missing \['std'\]"):
        Preprocessing.from_dict(settings)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale": (0.5, 1.5)}, "share of the image"),
        ({"ratio": (2.0, 1.0)}, "the smaller first"),
        ({"hflip_prob": 2.0}, "hflip_prob must be between 0 and 1, got 2.0"),
        ({"erasing_mode": "noise"}, "'pixel', 'rand' or 'const', got 'noise'"),
        ({"erasing_count": 0}, "erasing_prob=0 turns erasing off"),
    ],
)
def test_augmentation_refuses(change, words):
    with pytest.raises(ValueError, match=words):
        Augmentation(**change)


@pytest.mark.parametrize("policy", ["rand-z9", "no-such-policy"])
def test_unknown_policy(policy):
    with pytest.raises(ValueError, match=f"rand_augment='{policy}' is no policy that timm knows"):
        preprocessing().train_transform(Augmentation(rand_augment=policy))
