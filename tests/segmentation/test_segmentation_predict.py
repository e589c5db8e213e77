"""Labels, areas and images of files, whole and in tiles."""

import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.cli import main
from scalablevit.data import image_batches
from scalablevit.data.images import read_upright
from scalablevit.data.orientation import UprightImage
from scalablevit.segmentation import InferenceSettings, Preprocessing, Segmenter, bands, predict
from scalablevit.segmentation.inference import segment
from scalablevit.segmentation.label_map import LabelMap, pack_colours
from scalablevit.segmentation.models import build_segmenter
from scalablevit.visualization.palette import class_colours
from scalablevit.weights import WeightsError, save_model, save_network

NAMES = ["night", "grün", "day"]
LEVELS = (0.0, 0.5, 1.0)


class Brightness(nn.Module):
    """Class 0, 1 or 2 by how bright a pixel is; keeps the sizes of the images that it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, int]] = []

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) in 0..1 -> (B, 3, H, W)."""
        self.seen.append((len(images), *images.shape[2:]))
        gray = images.mean(1, keepdim=True)
        return -50 * (gray - torch.tensor(LEVELS).view(-1, 1, 1)) ** 2


def segmenter(network: nn.Module | None = None, *, channels: int = 3, **inference: Any) -> Segmenter:
    preprocessing = Preprocessing(mean=(0.0,) * channels, std=(1.0,) * channels, short_side=None, long_side=None)
    settings = InferenceSettings(**inference)
    made = Brightness() if network is None else network
    return Segmenter(made, class_names=NAMES, preprocessing=preprocessing, inference=settings, device="cpu")


def write_image(path: Path, labels: np.ndarray, **save: Any) -> Path:
    """A gray image whose brightness is that of the classes."""
    gray = np.array(LEVELS)[labels] * 255
    Image.fromarray(gray.astype(np.uint8)).convert("RGB").save(path, **save)
    return path


def blocks(height: int, width: int) -> np.ndarray:
    """Rectangles of the classes, of which class 2 has the fewest."""
    labels = np.zeros((height, width), dtype=np.uint8)
    labels[: height // 2, : width // 2] = 1
    labels[-height // 4 :, -width // 4 :] = 2
    return labels


def shown(made: Segmenter) -> list[tuple[int, int, int]]:
    """Sizes of what the network saw since the last call."""
    assert isinstance(made.network, Brightness)
    seen, made.network.seen = made.network.seen, []
    return seen


def test_labels_are_those_of_the_pixels(tmp_path: Path) -> None:
    expected = blocks(30, 47)
    (said,) = segmenter().predict([write_image(tmp_path / "a.png", expected)])
    assert said.labels is not None
    assert said.labels.dtype == np.uint8
    assert np.array_equal(said.labels, expected)
    assert said.output_images() == {}, "the image was not kept"


def test_a_single_path_is_one_image(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", blocks(30, 47))
    for given in (path, str(path)):
        (said,) = segmenter().predict(given)
        assert said.path == path


def test_areas_as_json_and_table(tmp_path: Path) -> None:
    path = write_image(tmp_path / "a.png", blocks(40, 60))
    (said,) = segmenter().predict([path])
    assert json.loads(json.dumps(said.to_dict())) == {
        "path": str(path),
        "width": 60,
        "height": 40,
        "classes": [
            {"class": "night", "pixels": 1650, "share": 0.6875},
            {"class": "grün", "pixels": 600, "share": 0.25},
            {"class": "day", "pixels": 150, "share": 0.0625},
        ],
    }
    assert said.table_rows() == [("night", "68.8%"), ("grün", "25.0%"), ("day", "6.2%")]


def test_images_to_save(tmp_path: Path) -> None:
    expected = blocks(400, 360)
    (said,) = segmenter().predict([write_image(tmp_path / "a.png", expected)], keep_images=True)
    saved = said.output_images()
    assert set(saved) == {"", "-mask"}
    assert saved[""].width >= 360
    assert saved[""].height > 400
    saved["-mask"].save(tmp_path / "mask.png")
    mask = Image.open(tmp_path / "mask.png")
    assert mask.mode == "P"
    assert np.array_equal(np.asarray(mask), expected)
    assert mask.convert("RGB").getpixel((0, 0)) == class_colours(3)[1]


COLOURS = ((200, 0, 0), (0, 0, 0), (0, 0, 200))
MAPS = {
    "reduced": (LabelMap(3, reduce_zero_label=True), [1, 2, 3], {"label": 1}),
    "numbers": (LabelMap(3, entries=((7, 0), (8, 0), (255, 1), (40, 2))), [7, 255, 40], {"label": 7}),
    "large": (LabelMap(3, entries=((300, 0), (8, 1), (9, 2))), [300, 8, 9], {"label": 300}),
    "colours": (
        LabelMap(3, entries=tuple((int(pack_colours(np.uint8(c))), k) for k, c in enumerate(COLOURS)), in_colours=True),
        COLOURS,
        {"colour": [200, 0, 0]},
    ),
}


@pytest.mark.parametrize("kind", MAPS)
def test_masks_and_json_have_the_labels_of_the_training_masks(tmp_path: Path, kind: str) -> None:
    label_map, labels, first = MAPS[kind]
    made = segmenter()
    made.label_map = label_map
    classes = blocks(40, 60)
    (said,) = made.predict([write_image(tmp_path / "a.png", classes)], keep_images=True)
    said.output_images()["-mask"].save(tmp_path / "mask.png")
    expected = np.array(labels)[classes]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "mask.png")), expected)
    assert np.array_equal(said.mask_labels(), expected)
    assert np.array_equal(said.labels, classes), "class indices stay what they are"
    assert {"class": "night", **first, "pixels": 1650, "share": 0.6875} in said.to_dict()["classes"]


def test_the_palette_stands_at_the_labels(tmp_path: Path) -> None:
    made = segmenter()
    made.label_map = LabelMap(3, reduce_zero_label=True)
    (said,) = made.predict([write_image(tmp_path / "a.png", blocks(40, 60))], keep_images=True)
    shown = np.asarray(said.output_images()["-mask"].convert("RGB"))
    assert np.array_equal(shown, np.array(made.palette)[blocks(40, 60)])


def test_a_turned_image_is_labelled_upright(tmp_path: Path) -> None:
    upright = blocks(20, 50)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    path = write_image(tmp_path / "a.png", np.rot90(upright).copy(), exif=exif)
    (said,) = segmenter().predict([path])
    assert said.labels is not None
    assert np.array_equal(said.labels, upright)
    assert (said.to_dict()["width"], said.to_dict()["height"]) == (50, 20)


def test_a_broken_file_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"junk")
    paths = [
        write_image(tmp_path / "a.png", blocks(9, 9)),
        tmp_path / "b.png",
        write_image(tmp_path / "c.png", blocks(1, 1)),
    ]
    first, broken, last = segmenter().predict(paths, keep_images=True)
    assert first.error is None
    assert last.labels is not None
    assert broken.error is not None
    assert "b.png" in broken.error
    assert broken.to_dict() == {"path": str(tmp_path / "b.png"), "error": broken.error}
    assert broken.table_rows() == []
    assert broken.output_images() == {}


def test_outputs_that_are_not_numbers_are_no_labels(tmp_path: Path) -> None:
    class Lost(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.new_full((len(images), 3, *images.shape[2:]), torch.nan)

    write_image(tmp_path / "a.png", blocks(40, 48))
    for options in ({}, {"tile": 32}):
        (found,) = segmenter(Lost()).predict(tmp_path / "a.png", **options)
        assert found.labels is None
        assert "values that are not numbers (NaN)" in str(found.error)


def test_size_scales_and_flip_reach_the_network(tmp_path: Path) -> None:
    made, path = segmenter(short_side=32), write_image(tmp_path / "a.png", blocks(80, 160))
    for options, expected in (
        ({}, [(1, 32, 64)]),
        ({"short_side": 64}, [(1, 64, 128)]),
        ({"short_side": 0}, [(1, 96, 160)]),  # filled up to a multiple of 32
        ({"flip": True}, [(1, 32, 64)] * 2),
        ({"scales": (1.0, 3.0)}, [(1, 32, 64), (1, 96, 192)]),
    ):
        (said,) = made.predict([path], **options)  # type: ignore[arg-type]
        assert shown(made) == expected, options
        assert said.labels is not None
        assert said.labels.shape == (80, 160)
        assert (said.labels == blocks(80, 160)).mean() > 0.8


def test_tiles_that_are_asked_for(tmp_path: Path) -> None:
    """Labels as without them; a smaller image goes whole."""
    made, expected = segmenter(), blocks(100, 150)
    (said,) = made.predict([write_image(tmp_path / "a.png", expected)], tile=64, batch_size=2)
    assert said.labels is not None
    assert np.array_equal(said.labels, expected)
    seen = shown(made)
    assert {size for _, *size in seen for size in [tuple(size)]} == {(64, 64)}
    assert max(batch for batch, *_ in seen) == 2
    (said,) = made.predict([write_image(tmp_path / "b.png", blocks(64, 40))], tile=64)
    assert shown(made) == [(1, 64, 64)]


def test_large_images_go_in_tiles_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, expected = segmenter(), blocks(700, 600)
    path = write_image(tmp_path / "a.png", expected)
    monkeypatch.setattr(predict, "_MOST_PIXELS", 600_000)
    (said,) = made.predict([path])
    assert shown(made) == [(1, 704, 608)]
    for scales in ((1.0,), (2.0,)):
        monkeypatch.setattr(predict, "_MOST_PIXELS", 700 * 600 * scales[0] ** 2 - 1)
        (said,) = made.predict([path], scales=scales)
        assert set(shown(made)) == {(1, round(512 * scales[0]), round(512 * scales[0]))}
        assert said.labels is not None
        assert (said.labels == expected).mean() > 0.995
    monkeypatch.setattr(predict, "_MOST_PIXELS", 10**9)
    monkeypatch.setattr(predict, "MOST_SCORES", 3 * 700 * 600 - 1)
    (said,) = made.predict([path])
    assert set(shown(made)) == {(1, 512, 512)}, "for the memory of the probabilities"


def test_large_images_of_a_sliding_window_have_tiles_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = segmenter(mode="slide", crop=48, stride=32)
    path = write_image(tmp_path / "a.png", blocks(60, 60))
    list(made.predict([path]))
    assert set(shown(made)) == {(1, 64, 64)}
    monkeypatch.setattr(predict, "MOST_SCORES", 3 * 60 * 60 - 1)
    (said,) = made.predict([path])
    assert set(shown(made)) == {(1, 64, 64)}
    assert said.labels is not None
    assert np.array_equal(said.labels, blocks(60, 60))


def test_a_large_image_that_is_shown_small_is_enlarged_in_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_image(tmp_path / "a.png", blocks(400, 600))
    (exact,) = segmenter(short_side=40).predict([path])
    for module in (predict, bands):
        monkeypatch.setattr(module, "MOST_SCORES", 3 * 600 * 100)
    made = segmenter(short_side=40)
    (banded,) = made.predict([path])
    assert shown(made) == [(1, 64, 64)]
    assert exact.labels is not None
    assert banded.labels is not None
    assert (exact.labels == banded.labels).mean() > 0.999


def test_tiles_of_an_image_that_is_shown_at_another_size(tmp_path: Path) -> None:
    made, expected = segmenter(short_side=100), blocks(50, 75)
    (said,) = made.predict([write_image(tmp_path / "a.png", expected)], tile=64, short_side=100)
    assert set(shown(made)) == {(1, 64, 64)}
    assert said.labels is not None
    assert said.labels.shape == (50, 75)
    assert (said.labels == expected).mean() > 0.95


def test_tiles_are_of_the_image_at_its_own_size(tmp_path: Path) -> None:
    """Unless a size is given: one that is trained at 40 pixels would label a large map as blurred as that."""
    made, expected = segmenter(short_side=40, long_side=80), blocks(100, 200)
    expected[50:52, 100:102] = 2
    path = write_image(tmp_path / "a.png", expected)
    (said,) = made.predict([path], tile=64)
    assert set(shown(made)) == {(1, 64, 64)}
    assert said.labels is not None
    assert np.array_equal(said.labels, expected)
    list(made.predict([path], tile=64, short_side=32))
    assert shown(made) == [(1, 32, 64)]


def watch_images(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Image.Image]]:
    """The images that are read from now on; none is read while an earlier one is still there."""
    kept: list[weakref.ref[Image.Image]] = []

    def read(path: Path, **options: Any) -> UprightImage:
        upright = read_upright(path, **options)
        assert all(image() is None for image in kept), "an earlier image is still there"
        kept.append(weakref.ref(upright.image))
        return upright

    monkeypatch.setattr(image_batches, "read_upright", read)
    monkeypatch.setattr(image_batches, "PIXELS_AHEAD", 0)  # to this limit, all images are large
    return kept


def test_one_image_is_kept_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_image(tmp_path / f"{i}.png", blocks(9, 9)) for i in range(4)]
    kept = watch_images(monkeypatch)
    predictions = segmenter().predict(paths, keep_images=True)
    for _ in paths:
        assert next(predictions).image is kept[-1]()
    assert len(kept) == 4


@pytest.mark.parametrize("tile", [None, 32])
def test_a_network_for_grayscale(tmp_path: Path, tile: int | None) -> None:
    expected = blocks(50, 60)
    (said,) = segmenter(channels=1).predict([write_image(tmp_path / "a.png", expected)], tile=tile)
    assert said.labels is not None
    assert np.array_equal(said.labels, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"tile": 31}, "tile must be at least 32 pixels, got 31"),
        ({"short_side": -1}, "short_side must be at least 1 pixel, or 0"),
        ({"scales": ()}, "scales must be"),
        ({"scales": (0.0,)}, "scales must be"),
    ],
)
def test_wrong_arguments_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmenter().predict([], **options)


def metadata(**changes: Any) -> dict[str, Any]:
    preprocessing = Preprocessing(mean=(0.5,) * 3, std=(0.2,) * 3, short_side=40, long_side=None)
    return {
        "task": "segmentation",
        "variant": "scalablevit_atto",
        "segmenter": "semantic_fpn",
        "model_args": {"channels": 16, "fpn_channels": 16},
        "class_names": NAMES,
        "preprocessing": preprocessing.to_dict(),
        "inference": InferenceSettings(short_side=40).to_dict(),
        **changes,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's model.safetensors."""
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("run")
    save_network(build_segmenter("semantic_fpn", "scalablevit_atto", 3, channels=16, fpn_channels=16), made,
                 metadata=metadata())  # fmt: skip
    return made


def test_saved_weights_predict_as_the_network_does(folder: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (30, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for source in (folder, folder / "model.safetensors"):
        made = Segmenter.load(source, device="cpu")
        assert made.class_names == NAMES
        (said,) = made.predict([tmp_path / "a.png"])
        image = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.2
        expected = segment(made.network, image, InferenceSettings(short_side=40)).argmax(0)
        assert said.labels is not None
        assert (torch.from_numpy(said.labels) == expected).float().mean() > 0.999


def test_the_command_keeps_one_image_at_a_time(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_image(tmp_path / f"{i}.png", blocks(9, 9)) for i in range(3)]
    kept = watch_images(monkeypatch)
    words = ["--weights", str(folder), "--device", "cpu", "--save", str(tmp_path / "out")]
    assert main(["predict", *map(str, paths), *words]) == 0
    assert len(kept) == 3
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_larger_images_than_pillow_takes_are_asked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_image(tmp_path / "a.png", blocks(40, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    words = ["predict", str(path), "--weights", str(folder), "--device", "cpu", "--json"]
    assert main(words) == 1
    refused = capsys.readouterr()
    assert "too many pixels" in refused.err
    assert "--max-pixels" in refused.err
    assert main([*words, "--max-pixels", "1", "--tile", "32"]) == 0
    assert json.loads(capsys.readouterr().out)["width"] == 60
    assert Image.MAX_IMAGE_PIXELS == 1000
    assert main([*words, "--max-pixels", "0"]) == 2
    assert "--max-pixels must be at least 1" in capsys.readouterr().err


def test_weights_of_other_kinds_are_refused(folder: Path, tmp_path: Path) -> None:
    classifier = ScalableViT(num_classes=3, **VARIANTS["scalablevit_atto"])
    save_model(classifier, tmp_path / "c", architecture="scalablevit_atto", model_args={}, metadata={"task": "x"})
    with pytest.raises(WeightsError, match="not for segmentation"):
        Segmenter.load(tmp_path / "c")
    (tmp_path / "last.ckpt").write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"takes a run folder, its model\.safetensors, or an exported file"):
        Segmenter.load(tmp_path / "last.ckpt")
    network = Segmenter.load(folder, device="cpu").network
    for changes, message in (
        ({"preprocessing": {}}, "preprocessing needs exactly"),
        ({"inference": {"depth": 3}}, "no inference setting depth"),
        ({"segmenter": "unet"}, "segmenter must be one of"),
        ({"class_names": ["a", "b"]}, "does not fit"),
    ):
        save_network(network, tmp_path / "w", metadata=metadata(**changes))
        with pytest.raises(WeightsError, match=message):
            Segmenter.load(tmp_path / "w")
