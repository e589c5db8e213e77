"""Views of images: sizes, crops, flips, and objects that stay where they are in the image."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from scalablevit.detection.transforms import Augmentation, Preprocessing, TrainTransform, View, view_objects


def scene(height: int, width: int, boxes: list[tuple[int, int, int, int]]) -> tuple[Image.Image, np.ndarray, list]:
    """White rectangles on black, their boxes and masks."""
    pixels = np.zeros((height, width, 3), np.uint8)
    masks = []
    for left, top, right, bottom in boxes:
        pixels[top:bottom, left:right] = 255
        mask = np.zeros((height, width), np.uint8)
        mask[top:bottom, left:right] = 1
        masks.append(lambda mask=mask: mask)
    return Image.fromarray(pixels), np.array(boxes, float).reshape(-1, 4), masks


def seeded(transform: TrainTransform, seed: int, *inputs):
    random.seed(seed)
    torch.manual_seed(seed)
    return transform(*inputs)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (480, 640, (800, 1067)),
        (640, 480, (1067, 800)),
        (400, 1200, (444, 1333)),
        (1, 20000, (1, 1333)),
        (5, 5, (800, 800)),
    ],
)
def test_resized_keeps_proportions_and_the_limit(height, width, expected):
    assert Preprocessing().resized(height, width) == expected


def test_plain_resize():
    source, boxes, masks = scene(30, 40, [(10, 5, 20, 25)])
    transform = TrainTransform(Preprocessing(min_size=60, max_size=100), None)
    image, target = transform(source, boxes, np.array([3]), masks)
    assert image.shape == (3, 60, 80)
    assert type(image) is torch.Tensor
    assert image.dtype == torch.float32
    assert (image.min(), image.max()) == (0, 1)
    assert target["boxes"].tolist() == [[20, 10, 40, 50]]
    assert type(target["boxes"]) is type(target["masks"]) is torch.Tensor
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].tolist() == [3]
    assert target["labels"].dtype == torch.int64
    assert target["masks"].dtype == torch.uint8
    assert torch.equal(target["masks"][0].bool(), image[0] > 0.5)
    assert set(TrainTransform(Preprocessing(), None)(source, boxes, np.array([3]))[1]) == {"boxes", "labels"}


def test_without_objects():
    source, boxes, masks = scene(30, 40, [])
    transform = TrainTransform(
        Preprocessing(min_size=60, max_size=100), Augmentation(crop_prob=1, crop_resize=(60,), crop_size=(30, 60))
    )
    image, target = transform(source, boxes, np.zeros(0), masks)
    assert target["boxes"].shape == (0, 4)
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].dtype == torch.int64
    assert target["masks"].shape == (0, *image.shape[1:])
    assert target["masks"].dtype == torch.uint8


@pytest.mark.parametrize(("hflip", "vflip"), [(True, False), (False, True), (True, True)])
def test_flips(hflip, vflip):
    source, boxes, masks = scene(30, 40, [(10, 5, 20, 12)])
    augmentation = Augmentation(hflip_prob=float(hflip), vflip_prob=float(vflip))
    image, target = TrainTransform(Preprocessing(30, 40), augmentation)(source, boxes, np.array([0]), masks)
    left, right = (20, 30) if hflip else (10, 20)
    top, bottom = (18, 25) if vflip else (5, 12)
    assert target["boxes"].tolist() == [[left, top, right, bottom]]
    assert torch.equal(target["masks"][0].bool(), image[0] > 0.5)
    assert image[0, top:bottom, left:right].min() == 1


def test_sizes_are_drawn():
    augmentation = Augmentation(sizes=(30, 45, 60), hflip_prob=0)
    transform = TrainTransform(Preprocessing(60, 70), augmentation)
    shapes = {seeded(transform, seed, *scene(30, 40, [])[:2], np.zeros(0))[0].shape[1:] for seed in range(30)}
    assert shapes == {(30, 40), (45, 60), (53, 70)}  # the last meets the limit


def test_boxes_and_masks_follow_any_view():
    transform = TrainTransform(
        Preprocessing(96, 160),
        Augmentation(sizes=(64, 80, 96), vflip_prob=0.5, crop_prob=0.8, crop_resize=(60, 90), crop_size=(30, 60)),
    )
    source, boxes, masks = scene(60, 90, [(10, 5, 34, 47), (40, 20, 85, 52)])
    shown, cropped = 0, 0
    for seed in range(40):
        image, target = seeded(transform, seed, source, boxes, np.array([0, 1]), masks)
        assert max(image.shape[1:]) <= 160
        cropped += len(target["boxes"]) < 2
        for box, mask in zip(target["boxes"], target["masks"], strict=True):
            rows, columns = mask.nonzero(as_tuple=True)
            around = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            # to the nearest pixel of either image
            assert (around - box).abs().max() <= 1.01 * image.shape[1] / 20
            assert image[0][mask.bool()].mean() > 0.8
            assert (box >= 0).all()
            assert box[2] <= image.shape[2]
            assert box[3] <= image.shape[1]
            shown += 1
        covered = target["masks"].sum(0).bool() if len(target["masks"]) else torch.zeros(image.shape[1:], dtype=bool)
        assert image[0][~covered].mean() < 0.15
    assert shown > 40
    assert cropped > 3


def test_crop_has_the_size_it_should():
    transform = TrainTransform(Preprocessing(), Augmentation(crop_prob=1, crop_resize=(120,), crop_size=(40, 60)))
    for seed in range(20):
        random.seed(seed)
        top, left, height, width = transform.draw_view(60, 90).crop
        assert 20 <= height <= 30
        assert 20 <= width <= 30
        assert 0 <= top <= 60 - height
        assert 0 <= left <= 90 - width
    # an image smaller than the crop is taken whole
    small = TrainTransform(Preprocessing(), Augmentation(crop_prob=1, crop_resize=(20,), crop_size=(384, 600)))
    assert small.draw_view(60, 90).crop == (0, 0, 60, 90)


def test_what_a_crop_cuts_off_is_left_out():
    _, boxes, masks = scene(60, 60, [(0, 0, 10, 10), (0, 0, 30, 30), (20, 20, 40, 40), (0, 40, 21, 60)])
    view = View((20, 20, 30, 30), (60, 60))
    target = view_objects(view, (60, 60), boxes, np.arange(4), masks)
    # (0, 40, 21, 60) is left with a sliver of one pixel, which is just kept
    assert target["labels"].tolist() == [1, 2, 3]
    assert target["boxes"].tolist() == [[0, 0, 20, 20], [0, 0, 40, 40], [0, 40, 2, 60]]
    assert target["masks"].sum((1, 2)).tolist() == [400, 1600, 40]
    boxes[3, 2] = 20.9
    assert view_objects(view, (60, 60), boxes, np.arange(4), masks)["labels"].tolist() == [1, 2]
    hollow = [*masks[:1], masks[0], *masks[2:]]  # of the second, the mask lies outside the crop
    assert view_objects(view, (60, 60), boxes, np.arange(4), hollow)["labels"].tolist() == [2]


def test_small_objects_are_not_lost():
    boxes = np.array([[30.2, 30.1, 30.7, 30.4], [0, 0, 1, 1], [59, 59, 60, 60], [10, 10, 10.01, 10.01]])
    masks = []
    for left, top in ((30, 30), (0, 0), (59, 59), (10, 10)):
        mask = np.zeros((60, 60), np.uint8)
        mask[top, left] = 1
        masks.append(lambda mask=mask: mask)
    for crop in (None, (0, 0, 60, 60)):
        target = view_objects(View(crop, (7, 7)), (60, 60), boxes, np.arange(4), masks)
        assert target["labels"].tolist() == [0, 1, 2, 3]
        assert (target["masks"].sum((1, 2)) >= 1).all()
        sides = target["boxes"][:, 2:] - target["boxes"][:, :2]
        assert (sides > 0).all()


def test_an_object_whose_mask_has_no_pixel_is_learnt_by_its_box():
    """Left out, it would be background. One whose mask the crop cuts off is left out."""
    _, boxes, masks = scene(30, 40, [(10, 5, 20, 25), (0, 0, 4, 4)])
    decoders = [lambda: np.zeros((30, 40), np.uint8), masks[1]]
    target = view_objects(View(None, (30, 40)), (30, 40), boxes, np.array([0, 1]), decoders)
    assert target["boxes"].tolist() == boxes.tolist()
    assert target["has_mask"].tolist() == [False, True]
    cut = view_objects(View((5, 5, 25, 35), (25, 35)), (30, 40), boxes, np.array([0, 1]), decoders)
    assert cut["labels"].tolist() == [0]
    assert cut["has_mask"].tolist() == [False]


def test_masks_are_decoded_one_by_one_and_only_where_needed():
    _, boxes, masks = scene(60, 60, [(0, 0, 10, 10), (30, 30, 40, 40)])

    def never() -> np.ndarray:
        raise AssertionError("decoded a mask outside the crop")

    view_objects(View((20, 20, 30, 30), (60, 60)), (60, 60), boxes, np.arange(2), [never, masks[1]])


def test_color_jitter_changes_the_image_only():
    source, boxes, masks = scene(30, 40, [(10, 5, 20, 25)])
    plain = TrainTransform(Preprocessing(30, 40), Augmentation(hflip_prob=0))
    jitter = TrainTransform(Preprocessing(30, 40), Augmentation(hflip_prob=0, color_jitter=0.5))
    image, target = seeded(plain, 1, source, boxes, np.array([0]), masks)
    other, same = seeded(jitter, 1, source, boxes, np.array([0]), masks)
    assert not torch.equal(image, other)
    assert other.min() >= 0
    assert other.max() <= 1
    assert torch.equal(target["boxes"], same["boxes"])
    assert torch.equal(target["masks"], same["masks"])
    assert torch.equal(other, seeded(jitter, 1, source, boxes, np.array([0]))[0])


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_strips_and_specks(size):
    source = Image.new("RGB", size)
    width, height = size
    augmentation = Augmentation(crop_prob=1, crop_resize=(40,), crop_size=(30, 60))
    for chosen in (None, augmentation):
        boxes = np.array([[0, 0, width, height]], float)
        image, target = TrainTransform(Preprocessing(64, 100), chosen)(source, boxes, np.array([0]))
        assert min(image.shape[1:]) >= 1
        assert len(target["boxes"]) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"min_size": 0}, "min_size must be at least 1 pixel"),
        ({"min_size": 800, "max_size": 799}, r"max_size must be at least min_size \(800\)"),
        ({"mean": (0.5,)}, "three values"),
        ({"std": (0.5, 0, 0.5)}, "std must be above 0"),
    ],
)
def test_bad_preprocessing(settings, words):
    with pytest.raises(ValueError, match=words):
        Preprocessing(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sizes": ()}, "augmentation.sizes"),
        ({"sizes": (0, 4)}, "augmentation.sizes"),
        ({"crop_size": (600, 384)}, "smaller first"),
        ({"crop_size": (600,)}, "two lengths"),
        ({"crop_prob": 1.5}, "augmentation.crop_prob must be between 0 and 1"),
        ({"color_jitter": -0.1}, "augmentation.color_jitter"),
    ],
)
def test_bad_augmentation(settings, words):
    with pytest.raises(ValueError, match=words):
        Augmentation(**settings)


def test_preprocessing_as_json():
    preprocessing = Preprocessing(96, 128, [0.1, 0.2, 0.3], [1, 2, 3])
    assert Preprocessing.from_dict(preprocessing.to_dict()) == preprocessing
    assert preprocessing.to_dict()["mean"] == [0.1, 0.2, 0.3]
    with pytest.raises(ValueError, match=r"missing \['max_size'\], unknown \['size'\]"):
        Preprocessing.from_dict({"min_size": 1, "size": 2, "mean": [0] * 3, "std": [1] * 3})
    with pytest.raises(ValueError, match="wrong type"):
        Preprocessing.from_dict({**preprocessing.to_dict(), "min_size": "big"})
