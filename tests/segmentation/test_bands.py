"""Satellite images: any number of bands are trained on and predicted, and masks keep their place on the earth."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from mask_folders import write_mask
from PIL import Image, TiffImagePlugin

from command_line import scalablevit
from scalablevit.cli import main
from scalablevit.cli.save_images import save
from scalablevit.data import bands
from scalablevit.data.bands import read_bands
from scalablevit.data.georeference import georeference_of
from scalablevit.data.image_file import ImageError
from scalablevit.segmentation import InferenceSettings, Preprocessing, Segmenter, semantic_fpn
from scalablevit.segmentation.check import check_masks
from scalablevit.segmentation.data import MaskFolderData
from scalablevit.segmentation.transforms import Augmentation
from scalablevit.weights import save_network

rasterio = pytest.importorskip("rasterio")
from rasterio.transform import from_origin  # noqa: E402

PLACE = {"crs": "EPSG:32632", "transform": from_origin(500000, 5600000, 0.5, 0.5)}
SMALL = {"crop_size": [16, 24], "short_side": None, "long_side": None, "num_workers": 0}
FIVE = {"in_chans": 5, "mean": [0.1, 0.2, 0.3, 0.4, 0.5], "std": [0.5] * 5}


def write_bands(path: Path, pixels: np.ndarray, **place: object) -> Path:
    """A TIFF of the bands of (H, W, C)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width, count = pixels.shape
    sizes = {"height": height, "width": width, "count": count, "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", **sizes, **(place or PLACE)) as file:
        file.write(np.moveaxis(pixels, -1, 0))
    return path


def five(seed: int = 0, dtype: type = np.uint8) -> np.ndarray:
    most = 256 if dtype is np.uint8 else 10001
    return np.random.default_rng(seed).integers(0, most, (16, 24, 5)).astype(dtype)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five bands of 8 bits, of which the last one alone tells the class."""
    for i in range(6):
        pixels = five(i)
        labels = pixels[..., 4] // 128
        write_bands(tmp_path / f"images/{i}.tif", pixels)
        write_mask(tmp_path / f"masks/{i}.png", labels)
    return tmp_path


def test_bands_of_8_bits_are_read_as_they_are(tmp_path):
    pixels, losses = read_bands(write_bands(tmp_path / "x.tif", five()), 5)
    np.testing.assert_array_equal(pixels, five())
    assert losses == ()


def test_fewer_bands_than_there_are_is_told(tmp_path):
    pixels, (loss,) = read_bands(write_bands(tmp_path / "x.tif", five()), 4)
    np.testing.assert_array_equal(pixels, five()[..., :4])
    assert loss.kind == "extra-band"


def test_16_bits_are_scaled_by_the_range_and_told_without(tmp_path):
    path = write_bands(tmp_path / "x.tif", five(dtype=np.uint16))
    pixels, losses = read_bands(path, 5, value_range=(0, 10000))
    np.testing.assert_array_equal(pixels, np.rint(five(dtype=np.uint16) / 10000 * 255))
    assert losses == ()
    pixels, (loss,) = read_bands(path, 5)
    np.testing.assert_array_equal(pixels, np.rint(five(dtype=np.uint16) / 257))
    assert loss.kind == "dark-16-bit"


def test_floats_need_a_range_and_gaps_are_its_lowest(tmp_path):
    values = five().astype(np.float32)
    values[0, 0] = np.nan
    path = write_bands(tmp_path / "x.tif", values)
    with pytest.raises(ImageError, match=r"float32.*data.value_range"):
        read_bands(path, 5)
    pixels, _ = read_bands(path, 5, value_range=(0, 255))
    assert (pixels[0, 0] == 0).all()
    np.testing.assert_array_equal(pixels[1:], five()[1:])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: write_bands(path, five()[..., :4]), "it has 4 band.*lower in_chans"),
        (lambda path: path.write_bytes(b"no image"), "no TIFF of 5 bands"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.mkdir(), "folder"),
        (lambda path: Image.new("RGB", (8, 8)).save(path, format="PNG"), "no TIFF of 5 bands"),
        (lambda path: path.write_text("<VRTDataset rasterXSize='9' rasterYSize='9'/>"), "no TIFF of 5 bands"),
        (lambda path: None, "no such file"),
    ],
)
def test_what_is_no_tiff_of_so_many_bands_is_an_image_error(tmp_path, write, words):
    write(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=words):
        read_bands(tmp_path / "x.tif", 5)


def test_giant_files_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    path = write_bands(tmp_path / "x.tif", np.concatenate([five()] * 4, axis=2))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 24 // 2)
    read_bands(path, 9)
    with pytest.raises(ImageError, match="too many pixels"):
        read_bands(path, 20)  # bytes count, not pixels alone
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match="too many pixels"):
        read_bands(path, 5)


def test_the_extra_is_named_where_rasterio_lacks(tmp_path, monkeypatch):
    monkeypatch.setattr(bands, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"in_chans 5 needs rasterio: pip install 'scalablevit\[geo\]'"):
        MaskFolderData(tmp_path, **FIVE)


def test_check_data_prints_the_statistics_that_training_asks_for(folder, capsys):
    with pytest.raises(ValueError, match=r"in_chans 5 needs a mean of each band.*--in-chans 5"):
        MaskFolderData(folder, in_chans=5, **SMALL)
    report = check_masks(folder, in_chans=5)
    assert report.ok
    train = [five(i) for i in range(6)]
    chosen = [pixels for i, pixels in enumerate(train) if f"{i}.tif" in _training_names(folder)]
    values = np.concatenate([pixels.reshape(-1, 5) for pixels in chosen]) / 255
    np.testing.assert_allclose(report.bands["mean"], values.mean(0), atol=1e-4)
    np.testing.assert_allclose(report.bands["std"], values.std(0), atol=1e-4)
    assert main(["check-data", str(folder), "--in-chans", "5"]) == 0
    assert f"mean        {report.bands['mean']}" in capsys.readouterr().out


def _training_names(folder: Path) -> set[str]:
    data = MaskFolderData(folder, **SMALL, **FIVE)
    return {data.train_dataset.path(i).name for i in range(len(data.train_dataset))}


def test_training_and_evaluation_see_every_band(folder, caplog):
    with caplog.at_level(logging.WARNING):
        data = MaskFolderData(folder, augmentation=None, **SMALL, **FIVE)
    assert caplog.text == ""
    for dataset in (data.train_dataset, data.val_dataset):
        sample = dataset[0]
        pixels = five(int(dataset.path(0).stem)) / 255
        expected = (pixels - FIVE["mean"]) / FIVE["std"]
        np.testing.assert_allclose(sample.image.permute(1, 2, 0).numpy(), expected, atol=1e-5)
        np.testing.assert_array_equal(sample.mask.numpy(), pixels[..., 4] * 255 // 128)


def test_colours_of_bands_are_not_shifted(folder):
    """Saturation and hue are of RGB; brightness and contrast of anything."""
    varied = Augmentation(photometric_prob=1.0, scale=(1.0, 1.0), hflip_prob=0.0, brightness=0.0, contrast=(1.0, 1.0))
    data = MaskFolderData(folder, augmentation=varied, **SMALL, **FIVE)
    pixels = five(int(data.train_dataset.path(0).stem)) / 255
    got = data.train_dataset[0].image.permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, (pixels - FIVE["mean"]) / FIVE["std"], atol=1e-5)
    brighter = Augmentation(photometric_prob=1.0, scale=(1.0, 1.0), hflip_prob=0.0, brightness=0.5)
    data = MaskFolderData(folder, augmentation=brighter, **SMALL, **FIVE)
    assert not np.allclose(data.train_dataset[0].image.permute(1, 2, 0).numpy(), got)


class LastBand(torch.nn.Module):
    """Class 1 where the last of five bands is bright."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 5, H, W) in 0..1 -> (B, 2, H, W)."""
        bright = images[:, 4:] - 127.5 / 255
        return torch.cat([-bright, bright], dim=1)


@pytest.fixture
def last_band() -> Segmenter:
    preprocessing = Preprocessing(mean=(0.0,) * 5, std=(1.0,) * 5, short_side=None, long_side=None)
    return Segmenter(LastBand(), class_names=["dark", "bright"], preprocessing=preprocessing, device="cpu")


@pytest.mark.parametrize("options", [{}, {"tile": 32}, {"short_side": 80, "tile": 32}])
def test_prediction_reads_every_band_also_in_tiles(tmp_path, last_band, options):
    pixels = five().repeat(4, axis=0).repeat(4, axis=1)  # (64, 96)
    path = write_bands(tmp_path / "x.tif", pixels)
    paths = [path, write_bands(tmp_path / "y.tif", pixels), write_bands(tmp_path / "few.tif", pixels[..., :3])]
    whole, again, few = last_band.predict(paths, keep_images=True, **options)
    expected = pixels[..., 4] // 128
    if options.get("short_side"):
        assert (whole.labels == expected).mean() > 0.8  # edges are smoothed
    else:
        np.testing.assert_array_equal(whole.labels, expected)
    np.testing.assert_array_equal(again.labels, whole.labels)
    np.testing.assert_array_equal(np.asarray(whole.image), pixels[..., :3])
    assert "it has 3 band(s)" in few.error
    (memory,) = last_band.predict([pixels])
    np.testing.assert_array_equal(memory.labels, expected)
    (wrong,) = last_band.predict([pixels[..., :3]])
    assert "(H, W, 5)" in wrong.error


@pytest.mark.parametrize("channels", [5, 3])
def test_saved_masks_keep_the_place_on_the_earth(tmp_path, last_band, channels):
    pixels = five()[..., :channels]
    path = write_bands(tmp_path / "x.tif", pixels)
    if channels == 3:
        preprocessing = Preprocessing(mean=(0.0,) * 3, std=(1.0,) * 3, short_side=None, long_side=None)
        network = torch.nn.Conv2d(3, 2, 1)
        last_band = Segmenter(network, class_names=["a", "b"], preprocessing=preprocessing, device="cpu")
    (prediction,) = last_band.predict([path], keep_images=True)
    written = {"documents": prediction.output_documents()}
    saved = save(prediction.output_images(), tmp_path / "out", Path("x"), **written)
    assert [file.name for file in saved] == ["x.png", "x-mask.png", "x-mask.tif"]
    with rasterio.open(saved[2]) as file:
        assert file.crs == PLACE["crs"]
        assert file.transform == PLACE["transform"]
        np.testing.assert_array_equal(file.read(1), prediction.labels)
    again = save(prediction.output_images(), tmp_path / "out", Path("x"), **written)
    assert [file.name for file in again] == ["x_2.png", "x_2-mask.png", "x_2-mask.tif"]


def test_files_without_a_place_have_no_tiff(tmp_path, last_band):
    path = write_bands(tmp_path / "x.tif", five(), nodata=0)
    (prediction,) = last_band.predict([path], keep_images=True)
    assert prediction.output_documents() == {}
    cut = TiffImagePlugin.ImageFileDirectory_v2()
    cut[33550] = (0.5, 0.5, 0.0)
    cut.tagtype[33550] = 12
    Image.new("RGB", (8, 8)).save(tmp_path / "y.tif", tiffinfo=cut)
    assert georeference_of(tmp_path / "y.tif", (8, 8)) is not None
    assert georeference_of(tmp_path / "y.tif", (4, 8)) is None
    assert georeference_of(tmp_path / "missing.tif", (8, 8)) is None


def write_segmenter(folder: Path) -> Path:
    """An untrained segmenter of five bands."""
    torch.manual_seed(0)
    options = {"in_chans": 5, "fpn_channels": 16, "channels": 16}
    preprocessing = Preprocessing(mean=(0.2,) * 5, std=(0.5,) * 5, short_side=None, long_side=None)
    metadata = {
        "task": "segmentation",
        "variant": "scalablevit_atto",
        "segmenter": "semantic_fpn",
        "class_names": ["a", "b"],
        "model_args": options,
        "inference": InferenceSettings().to_dict(),
        "preprocessing": preprocessing.to_dict(),
    }
    save_network(semantic_fpn("scalablevit_atto", num_classes=2, **options).eval(), folder, metadata=metadata)
    return folder


def test_a_network_of_bands_is_explained(folder, tmp_path):
    run = write_segmenter(tmp_path / "run")
    path = write_bands(tmp_path / "x.tif", five())
    methods = ("--method", "cam", "attention", "features")
    outcome = scalablevit("explain", path, "--weights", run, *methods, "--json", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) == 3
    outcome = scalablevit("explain", "--study", run, "--data", folder, "--images", "1", "--json", "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert "energy_inside" in outcome.out


@pytest.mark.slow
def test_a_network_of_bands_is_exported_and_predicts(tmp_path):
    write_segmenter(tmp_path)
    assert main(["export", str(tmp_path), "--format", "onnx"]) == 0
    path = write_bands(tmp_path / "x.tif", five())
    (expected,) = Segmenter.load(tmp_path, device="cpu").predict([path])
    (found,) = Segmenter.load(tmp_path / "model.onnx").predict([path])
    assert (found.labels != expected.labels).mean() <= 5e-3
