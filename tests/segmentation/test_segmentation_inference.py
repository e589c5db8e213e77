"""Sizes, windows, scales and flips by hand, and tiles against the whole image."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from scalablevit.segmentation import tiles
from scalablevit.segmentation.inference import MULTI_SCALE, InferenceSettings, segment
from scalablevit.segmentation.labels import class_pixels
from scalablevit.segmentation.models import semantic_fpn
from scalablevit.segmentation.tiles import Tiling

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RADIUS = 3  # how far a pixel of `nearby` sees


class Pointwise(nn.Module):
    """A pixel's logits are its channels: resizing and averaging can be followed by hand."""

    def forward(self, images: Tensor) -> Tensor:
        return images * 2


@pytest.fixture
def nearby() -> nn.Module:
    """Three 3x3 convolutions, which see no further than `RADIUS` pixels."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 5, 3, padding=1),
    ).eval()


def random_image(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def normalised(pixels: NDArray[np.uint8]) -> Tensor:
    x = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """What the network says of images whose last rows and columns are repeated to a multiple of 32."""
    height, width = images.shape[2:]
    padded = F.pad(images, (0, -width % 32, 0, -height % 32), mode="replicate")
    with torch.no_grad():
        return network(padded)[:, :, :height, :width]


def whole(network: nn.Module, pixels: NDArray[np.uint8]) -> Tensor:
    return logits_of(network, normalised(pixels)[None])[0]


def settings_of(**options: Any) -> tiles.TiledInference:
    """Settings of tiled inference, from those of `Tiling` among others."""
    names = [name for name in ("tile", "overlap", "batch_size", "carry_bytes") if name in options]
    rest = {name: value for name, value in options.items() if name not in names}
    return tiles.TiledInference(tiling=Tiling(**{name: options[name] for name in names}), **rest)


def segment_large(network: nn.Module, image: Any, **options: Any) -> NDArray[Any]:
    return tiles.segment_large(network, image, settings_of(**options))


def assembled(network: nn.Module, pixels: NDArray[np.uint8], **options: Any) -> Tensor:
    """All blocks in their places; every pixel is covered exactly once."""
    classes = options.pop("num_classes", 5)
    scores = torch.full((classes, *pixels.shape[:2]), float("nan"))
    covered = torch.zeros(pixels.shape[:2])
    settings = settings_of(num_classes=classes, mean=MEAN, std=STD, **options)
    for top, left, block in tiles.blended_scores(network, pixels, settings):
        scores[:, top : top + block.shape[1], left : left + block.shape[2]] = block
        covered[top : top + block.shape[1], left : left + block.shape[2]] += 1
    assert torch.equal(covered, torch.ones_like(covered))
    return scores


@pytest.mark.parametrize(
    ("short_side", "long_side", "size", "scale", "expected"),
    [
        (None, None, (300, 400), 1.0, (300, 400)),
        (512, 2048, (300, 400), 1.0, (512, 683)),
        (512, 2048, (400, 300), 1.0, (683, 512)),
        (512, 2048, (100, 1000), 1.0, (205, 2048)),  # the long side is the limit
        (512, 2048, (100, 1000), 0.5, (102, 1024)),  # and is scaled along
        (None, 200, (300, 400), 1.0, (150, 200)),
        (None, 800, (300, 400), 1.0, (300, 400)),  # a limit does not enlarge
        (512, None, (256, 256), 1.75, (896, 896)),
        (None, None, (1, 3), 0.25, (1, 1)),
    ],
)
def test_size_at_which_an_image_is_shown(
    short_side: int | None, long_side: int | None, size: tuple[int, int], scale: float, expected: tuple[int, int]
) -> None:
    assert InferenceSettings(short_side=short_side, long_side=long_side).resized(*size, scale) == expected


def test_one_pass_is_the_softmax_of_the_logits(nearby: nn.Module) -> None:
    image = torch.randn(3, 33, 47)
    probabilities = segment(nearby, image)
    assert not probabilities.requires_grad
    torch.testing.assert_close(probabilities, logits_of(nearby, image[None])[0].softmax(0))


def test_the_image_is_resized_with_antialiasing_and_logits_are_resized_back(nearby: nn.Module) -> None:
    image = torch.randn(3, 64, 96)
    small = F.interpolate(image[None], size=(32, 48), mode="bilinear", antialias=True)
    expected = F.interpolate(logits_of(nearby, small), size=(64, 96), mode="bilinear")[0].softmax(0)
    torch.testing.assert_close(segment(nearby, image, InferenceSettings(short_side=32)), expected)


def test_an_edge_to_the_mean_colour_is_not_shown() -> None:
    """A dark image of odd size: what a convolution makes of its right border must be what it makes of its middle."""
    blur = nn.Conv2d(3, 2, 5, padding=2, bias=False).eval()
    nn.init.constant_(blur.weight[0], 0.02)
    nn.init.constant_(blur.weight[1], -0.01)
    labels = segment(blur, torch.full((3, 33, 49), -2.0))
    torch.testing.assert_close(labels[:, 16, -1], labels[:, 16, 24])
    torch.testing.assert_close(labels[:, -1, 24], labels[:, 16, 24])


def test_several_passes_give_the_mean_of_the_single_passes(nearby: nn.Module) -> None:
    image = torch.randn(3, 40, 56)
    single = []
    for scale in MULTI_SCALE:
        once = InferenceSettings(short_side=32, scales=(scale,))
        single += [segment(nearby, image, once), segment(nearby, image.flip(-1), once).flip(-1)]
    assert not torch.allclose(single[0], single[1]), "a flip must matter for this test"
    together = segment(nearby, image, InferenceSettings(short_side=32, scales=MULTI_SCALE, flip=True))
    torch.testing.assert_close(together, torch.stack(single).mean(0))
    torch.testing.assert_close(together.sum(0), torch.ones(40, 56))


@pytest.mark.parametrize("size", [(20, 30), (16, 16), (7, 40), (7, 9)])
def test_windows_are_averaged_where_they_overlap(size: tuple[int, int], nearby: nn.Module) -> None:
    image = torch.randn(3, *size)
    total, count = torch.zeros(5, *size), torch.zeros(1, *size)
    rows = {7: [0], 16: [0], 20: [0, 4]}[size[0]]
    columns = {9: [0], 16: [0], 30: [0, 10, 14], 40: [0, 10, 20, 24]}[size[1]]
    for top in rows:
        for left in columns:
            window = (slice(None), slice(top, top + 16), slice(left, left + 16))
            total[window] += logits_of(nearby, image[window][None])[0]
            count[window] += 1
    got = segment(nearby, image, InferenceSettings(mode="slide", crop=16, stride=10))
    torch.testing.assert_close(got, (total / count).softmax(0))


def test_a_network_in_low_precision_is_averaged_in_float32() -> None:
    network = Pointwise().to(torch.bfloat16)
    image = torch.randn(3, 20, 20, dtype=torch.bfloat16)
    assert segment(network, image, InferenceSettings(mode="slide", crop=16, stride=7)).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"short_side": 0}, "short_side must be at least 1"),
        ({"long_side": -5}, "long_side must be at least 1"),
        ({"mode": "tiles"}, "'whole' or 'slide', got 'tiles'"),
        ({"crop": 0}, "crop must be"),
        ({"stride": 513}, r"1..crop \(512\)"),
        ({"stride": 0}, "stride must be"),
        ({"scales": ()}, "scales must be one or more"),
        ({"scales": (1.0, 0.0)}, "scales must be one or more"),
        ({"scales": (float("nan"),)}, "scales must be one or more"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        InferenceSettings(**options)


def test_settings_survive_json() -> None:
    given = InferenceSettings(short_side=512, long_side=2048, mode="slide", scales=[0.5, 1], flip=True)
    assert InferenceSettings.from_dict(json.loads(json.dumps(given.to_dict()))) == given
    with pytest.raises(ValueError, match=r"no inference setting strides; they are .*stride"):
        InferenceSettings.from_dict({"strides": 3})


def test_what_is_no_image_and_no_segmenter_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        segment(Pointwise(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="logits"):
        segment(nn.Conv2d(3, 5, 3), torch.zeros(3, 8, 8))


# Tiles


@pytest.mark.parametrize(
    "size", [(70, 90), (33, 32), (32, 100), (20, 90), (90, 20), (32, 32), (5, 6), (57, 56), (1, 1)]
)
@pytest.mark.parametrize("overlap", [None, 0, 1, 16])
def test_blending_changes_nothing_where_tiles_agree(size: tuple[int, int], overlap: int | None) -> None:
    pixels = random_image(*size)
    scores = assembled(Pointwise(), pixels, tile=32, overlap=overlap, batch_size=3, num_classes=3)
    torch.testing.assert_close(scores, whole(Pointwise(), pixels), rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 60),
    tile=st.integers(1, 17),
    share=st.floats(0, 1),
    batch_size=st.integers(1, 4),
    carry_bytes=st.integers(1, 6000),
)
def test_any_tiling_covers_the_image_once(
    height: int, width: int, tile: int, share: float, batch_size: int, carry_bytes: int
) -> None:
    pixels = random_image(height, width)
    scores = assembled(
        Pointwise(),
        pixels,
        tile=tile,
        overlap=int(share * (tile // 2)),
        batch_size=batch_size,
        carry_bytes=carry_bytes,
        num_classes=3,
    )
    torch.testing.assert_close(scores, whole(Pointwise(), pixels), rtol=1e-5, atol=1e-5)


def tile_edges(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin and end along an axis, the image's own border left out."""
    starts = sorted({min(i * (tile - overlap), length - tile) for i in range(length) if i * (tile - overlap) < length})
    return [edge for start in starts for edge in (start, start + tile) if 0 < edge < length]


def test_labels_equal_those_of_the_whole_image_where_a_tile_sees_all_that_they_need(nearby: nn.Module) -> None:
    pixels = random_image(131, 157)
    away = np.ones((131, 157), bool)
    for edge in tile_edges(131, 48, 12):
        away[max(edge - RADIUS, 0) : edge + RADIUS] = False
    for edge in tile_edges(157, 48, 12):
        away[:, max(edge - RADIUS, 0) : edge + RADIUS] = False
    assert 0.3 < away.mean() < 0.8
    expected = whole(nearby, pixels)
    scores = assembled(nearby, pixels, tile=48, batch_size=2)
    torch.testing.assert_close(scores[:, away], expected[:, away], rtol=1e-5, atol=1e-5)
    labels = segment_large(nearby, pixels, num_classes=5, mean=MEAN, std=STD, tile=48)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels[away], expected.argmax(0).numpy()[away])

    # Nor does anything jump at the seams, where the pixels near a tile's edge fade out.
    off = (scores - expected).abs().amax(0).numpy()
    without = (assembled(nearby, pixels, tile=48, overlap=0) - expected).abs().amax(0).numpy()
    assert off.max() < 0.1 * without.max()


def test_tiles_fade_smoothly_into_each_other() -> None:
    class TileNumber(nn.Module):
        """Each tile claims a score of its own, so that the weights themselves can be seen."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return torch.full((len(images), 1, *images.shape[2:]), float(self.calls % 2))

    scores = assembled(TileNumber(), random_image(32, 104), tile=32, num_classes=1)[0]
    assert scores.min() == 0
    assert scores.max() == 1
    assert (scores[:, 1:] - scores[:, :-1]).abs().max() < 0.2, "no step from one tile to the next"
    torch.testing.assert_close(scores[:, 8:24], torch.ones(32, 16))  # of the first tile alone


def test_a_transformer_agrees_mostly() -> None:
    torch.manual_seed(0)
    network = semantic_fpn("scalablevit_atto", 4, fpn_channels=16, channels=8).eval()
    ramp = np.linspace(0, 255, 160)
    pixels = np.stack([np.tile(ramp, (128, 1)), np.tile(ramp[:128, None], (1, 160)), np.zeros((128, 160))], 2)
    pixels = (pixels * 0.7 + random_image(128, 160) * 0.3).astype(np.uint8)
    expected = whole(network, pixels)
    tiled = assembled(network, pixels, tile=96, num_classes=4)
    spread = expected.std(dim=(1, 2)).mean()
    assert (tiled - expected).abs().mean() < 0.5 * spread
    assert (tiled.argmax(0) == expected.argmax(0)).float().mean() > 0.8


def test_a_small_image_is_one_tile(nearby: nn.Module) -> None:
    pixels = random_image(20, 31)
    labels = segment_large(nearby, pixels, num_classes=5, mean=MEAN, std=STD, tile=32)
    assert np.array_equal(labels, whole(nearby, pixels).argmax(0).numpy())


def test_scales_and_flips_of_a_tile_are_those_of_an_image(nearby: nn.Module) -> None:
    pixels = random_image(20, 31)
    passes = InferenceSettings(scales=(0.5, 1.0), flip=True)
    scores = assembled(nearby, pixels, tile=32, scales=(0.5, 1.0), flip=True)
    torch.testing.assert_close(scores, segment(nearby, normalised(pixels), passes))


def test_strips_of_a_wide_image_leave_no_trace(nearby: nn.Module) -> None:
    pixels = random_image(50, 300)
    calls: list[int] = []
    hook = nearby.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    expected = assembled(nearby, pixels, tile=32)
    count = sum(calls)
    calls.clear()
    scores = assembled(nearby, pixels, tile=32, carry_bytes=4 * 5 * 8 * 100)  # strips of 100 px
    hook.remove()
    assert count < sum(calls) <= 1.5 * count
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)


def test_batches_hold_as_many_tiles_as_asked(nearby: nn.Module) -> None:
    pixels, sizes = random_image(40, 120), []
    nearby.register_forward_hook(lambda _, inputs, __: sizes.append(tuple(inputs[0].shape)))
    assembled(nearby, pixels, tile=32, batch_size=3)
    assert {shape[1:] for shape in sizes} == {(3, 32, 32)}, "also at the border, tiles have the full size"
    assert max(shape[0] for shape in sizes) == 3


def test_waiting_scores_are_bounded(nearby: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[Sequence[int]] = []
    empty = torch.empty

    def recording(*shape: Any, **options: Any) -> Tensor:
        shapes.append(shape)
        return empty(*shape, **options)

    monkeypatch.setattr(torch, "empty", recording)
    assembled(nearby, random_image(100, 400), tile=32, carry_bytes=10_000)
    assert len(shapes) > 1
    assert all(4 * k * rows * columns <= 10_000 for k, rows, columns in shapes)
    assert all(rows == 8 for _, rows, _ in shapes), "only the rows that tiles share wait"


def test_a_pil_image_and_a_memory_map_are_as_good_as_an_array(nearby: nn.Module, tmp_path: Any) -> None:
    pixels = random_image(45, 70)
    options: dict[str, Any] = dict(num_classes=5, mean=MEAN, std=STD, tile=32)
    expected = segment_large(nearby, pixels, **options)
    assert np.array_equal(segment_large(nearby, Image.fromarray(pixels), **options), expected)
    np.save(tmp_path / "pixels.npy", pixels)
    assert np.array_equal(segment_large(nearby, np.load(tmp_path / "pixels.npy", mmap_mode="r"), **options), expected)
    gray = Image.fromarray(pixels[:, :, 0])
    labels = segment_large(nn.Conv2d(1, 2, 1), gray, num_classes=2, mean=(0.5,), std=(0.5,), tile=32)
    assert labels.shape == (45, 70)


@pytest.mark.parametrize(("num_classes", "dtype"), [(255, np.uint8), (256, np.uint16)])
def test_labels_leave_255_free(num_classes: int, dtype: type) -> None:
    class Last(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits = torch.zeros(len(images), num_classes, *images.shape[2:])
            logits[:, -1] = 1
            return logits

    labels = segment_large(Last(), random_image(9, 12), num_classes=num_classes, mean=MEAN, std=STD, tile=8)
    assert labels.dtype == dtype
    assert (labels == num_classes - 1).all()


def test_progress_counts_every_tile(nearby: nn.Module) -> None:
    seen: list[tuple[int, int]] = []
    segment_large(
        nearby, random_image(40, 60), num_classes=5, mean=MEAN, std=STD, tile=32, on_progress=lambda *x: seen.append(x)
    )
    assert seen == [(i, 6) for i in range(1, 7)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": 0}, "tile must be at least 1"),
        ({"overlap": 17}, "overlap must be in 0..16"),
        ({"overlap": -1}, "overlap must be in"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"carry_bytes": 0}, "carry_bytes must be at least 1"),
        ({"num_classes": 0}, "num_classes must be in"),
        ({"num_classes": 4}, "the network gives 5 classes, num_classes is 4"),
        ({"mean": (0.5,)}, "image has 3 channels, mean and std are of 1 and 3"),
        ({"scales": (-1.0,)}, "scales must be"),
    ],
)
def test_wrong_tiles_are_named(options: dict[str, Any], words: str, nearby: nn.Module) -> None:
    with pytest.raises(ValueError, match=words):
        segment_large(nearby, random_image(8, 8), **{**dict(num_classes=5, mean=MEAN, std=STD, tile=32), **options})


@pytest.mark.parametrize("pixels", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)])
def test_what_is_no_image_is_refused(pixels: Any, nearby: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"must be \(H, W, C\) uint8"):
        segment_large(nearby, pixels, num_classes=5, mean=MEAN, std=STD)


def test_pixels_of_each_class() -> None:
    labels = np.random.default_rng(0).choice(np.array([0, 1, 3, 255], np.uint8), (3000, 2000))
    counts = class_pixels(labels, 5)
    assert counts == [int((labels == k).sum()) for k in range(5)]
    assert counts[2] == counts[4] == 0
    assert class_pixels(labels[:0], 2) == [0, 0]
