"""What an image file holds beyond 8 bits and three bands is scaled as it is told, or its loss is named."""

import struct
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, TiffImagePlugin

from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_image, read_upright


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def gray(path: Path, values: object, dtype: type = np.uint16) -> Path:
    return saved(path, Image.fromarray(np.array([values], dtype)))


def kinds(path: Path, **options: object) -> list[str]:
    return [loss.kind for loss in read_upright(path, **options).losses]


def shades(path: Path, **options: object) -> list[int]:
    return np.asarray(read_image(path, **options))[0, :, 0].tolist()


def georeferenced(path: Path, bands: np.ndarray, mode: str) -> Path:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[33550] = (0.5, 0.5, 0.0)
    tags.tagtype[33550] = 12
    return saved(path, Image.fromarray(bands, mode), tiffinfo=tags)


def test_12_bits_in_a_16_bit_file_are_told_and_the_range_keeps_their_shades(tmp_path):
    path = gray(tmp_path / "x.png", range(4096))
    assert len(set(shades(path))) == 17
    (loss,) = read_upright(path).losses
    assert loss.kind == "dark-16-bit"
    assert "4,095 of 65,535, of which 16 shades" in loss.found
    assert "12 bits, set data.value_range [0, 4095]" in loss.remedy
    assert len(set(shades(path, value_range=(0, 4095)))) == 256
    assert kinds(path, value_range=(0, 4095)) == []


def test_16_bits_that_are_used_are_no_loss_to_tell(tmp_path):
    assert kinds(gray(tmp_path / "x.png", [0, 40000, 65535])) == []
    assert kinds(gray(tmp_path / "black.png", [0, 0, 0])) == []


def test_values_beyond_the_range_are_black_and_white(tmp_path):
    path = gray(tmp_path / "x.tif", [-3.0, 0.0, 5.0, 10.0, 400.0], np.float32)
    assert shades(path, value_range=(0, 10)) == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_a_range_by_image_is_told(tmp_path, dtype):
    path = gray(tmp_path / "x.tif", [0, 50_000, 100_000], dtype)
    (loss,) = read_upright(path).losses
    assert loss.kind == "stretched"
    assert "from 0 to 100000" in loss.found
    assert kinds(gray(tmp_path / "y.tif", [0, 200], dtype)) == []


def test_gaps_in_float_images_are_told(tmp_path):
    assert kinds(gray(tmp_path / "x.tif", [0.0, float("nan"), 1.0], np.float32)) == ["not-finite"]


def test_a_range_that_applies_to_nothing_is_told(tmp_path):
    assert kinds(saved(tmp_path / "x.png", Image.new("RGB", (4, 4))), value_range=(0, 4095)) == ["unused-range"]


def test_16_bits_whose_zero_is_white_are_inverted(tmp_path):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    path = saved(tmp_path / "x.tif", Image.fromarray(np.array([[0, 65535]], np.uint16)), tiffinfo=tags)
    content = path.read_bytes()
    assert Image.open(path).tag_v2[262] in (0, 1)
    if Image.open(path).tag_v2[262] == 1:  # Pillow writes its own
        place = content.index(b"\x06\x01\x03\x00")
        path.write_bytes(content[: place + 8] + b"\0\0" + content[place + 10 :])
    assert shades(path) == [255, 0]


def near_infrared() -> np.ndarray:
    bands = np.zeros((8, 64, 4), np.uint8)
    bands[...] = (200, 100, 50, 0)
    bands[..., 3] = np.linspace(0, 255, 64)
    return bands


def test_near_infrared_is_no_transparency(tmp_path):
    path = georeferenced(tmp_path / "x.tif", near_infrared(), "RGBA")
    assert (np.asarray(read_image(path)) == (200, 100, 50)).all()
    (loss,) = read_upright(path).losses
    assert loss.kind == "extra-band"
    assert "near infrared" in loss.found


def test_near_infrared_that_is_tagged_as_premultiplied_is_none_either(tmp_path):
    path = georeferenced(tmp_path / "x.tif", near_infrared(), "RGBA")
    content = path.read_bytes()
    place = content.index(b"\x52\x01\x03\x00")  # ExtraSamples
    path.write_bytes(content[: place + 8] + b"\x01" + content[place + 9 :])
    assert (np.asarray(read_image(path)) == (200, 100, 50)).all()


def test_transparency_of_a_georeferenced_image_stays_transparency(tmp_path):
    bands = near_infrared()
    bands[..., 3] = np.where(np.arange(64) < 32, 0, 255)
    path = georeferenced(tmp_path / "x.tif", bands, "RGBA")
    got = np.asarray(read_image(path))[0]
    assert got[0].tolist() == [255, 255, 255]
    assert got[-1].tolist() == [200, 100, 50]
    assert kinds(path) == ["transparent-band"]


def test_a_band_of_a_tiff_that_may_be_transparency_is_told(tmp_path):
    assert kinds(saved(tmp_path / "x.tif", Image.fromarray(near_infrared(), "RGBA"))) == ["transparent-band"]


@pytest.mark.parametrize("name", ["x.png", "x.webp"])
def test_a_further_band_that_looks_like_no_transparency_is_told(tmp_path, name):
    """Tools that know RGBA alone store near infrared as alpha; soft edges of a cut-out image are few."""
    bands = near_infrared()
    options = {"lossless": True, "exact": True} if name == "x.webp" else {}
    (loss,) = read_upright(saved(tmp_path / name, Image.fromarray(bands, "RGBA"), **options)).losses
    assert loss.kind == "transparent-band"
    assert "near infrared" in loss.remedy
    gray = Image.merge("LA", [Image.new("L", (64, 8), 90), Image.fromarray(np.ascontiguousarray(bands[..., 3]))])
    assert kinds(saved(tmp_path / name, gray, **options)) == ["transparent-band"]
    bands[..., 3] = np.clip((np.arange(64) - 24) * 16, 0, 255)  # a cut-out with a soft edge
    assert kinds(saved(tmp_path / name, Image.fromarray(bands, "RGBA"), **options)) == []


def test_bands_that_are_left_out_are_told(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "4.tif", near_infrared(), photometric="rgb", extrasamples=[0])
    assert kinds(tmp_path / "4.tif") == ["extra-band"]
    assert (np.asarray(read_image(tmp_path / "4.tif")) == (200, 100, 50)).all()
    two = np.ascontiguousarray(near_infrared()[..., :2])
    tifffile.imwrite(tmp_path / "2.tif", two, photometric="minisblack", planarconfig="contig", extrasamples=[0])
    if int(PIL.__version__.split(".")[0]) < 13:  # Pillow does not open it
        with pytest.raises(ImageError, match="TIFF of 2 bands of 8 bits"):
            read_image(tmp_path / "2.tif")
        return
    assert kinds(tmp_path / "2.tif") == ["extra-band"]
    assert shades(tmp_path / "2.tif")[0] == 200


def test_pages_and_frames_are_told_and_smaller_copies_are_not(tmp_path):
    image, other = Image.new("L", (8, 8), 9), Image.new("L", (8, 8), 99)
    for name in ("x.tif", "x.gif", "x.webp", "x.png"):
        path = saved(tmp_path / name, image, save_all=True, append_images=[other])
        assert "pages" in kinds(path), name
        assert abs(shades(path)[0] - 9) <= 2
        assert "pages" not in kinds(saved(tmp_path / name, image)), name
    other.encoderinfo = {"tiffinfo": {254: 1}}
    with TiffImagePlugin.AppendingTiffWriter(tmp_path / "y.tif", True) as file:
        image.save(file, format="TIFF")
        file.newFrame()
        other.save(file, format="TIFF", tiffinfo={254: 1})
    assert Image.open(tmp_path / "y.tif").n_frames == 2
    assert kinds(tmp_path / "y.tif") == []


@pytest.mark.parametrize("mode", ["CMYK", "LAB"])
def test_colours_of_print_are_told(tmp_path, mode):
    path = saved(tmp_path / "x.tif", Image.new(mode, (4, 4)))
    assert kinds(path) == ["ink-colours"]


def test_dark_16_bit_colours_are_told(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(tmp_path / "dark.tif", np.full((4, 4, 3), 4095, np.uint16), photometric="rgb")
    assert kinds(tmp_path / "dark.tif") == ["dark-16-bit"]
    tifffile.imwrite(tmp_path / "bright.tif", np.full((4, 4, 3), 40950, np.uint16), photometric="rgb")
    assert kinds(tmp_path / "bright.tif") == []


def test_black_and_white_files_are_read_as_they_look(tmp_path):
    path = saved(tmp_path / "x.tif", Image.fromarray(np.array([[True, False]])), compression="group4")
    assert shades(path) == [255, 0]
    assert kinds(path) == []


@pytest.mark.parametrize("name", ["x.pgm", "x.ppm", "i.tif", "f.tif"])
def test_a_part_of_the_range_is_told_in_every_form(tmp_path, name):
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    path = tmp_path / name
    if path.suffix == ".tif":
        path = gray(path, values[0] * 65, np.int32 if name == "i.tif" else np.float32)
    else:
        bands = values if path.suffix == ".pgm" else np.dstack([values] * 3)
        magic = b"P5" if path.suffix == ".pgm" else b"P6"
        path.write_bytes(magic + b" 64 64 65535\n" + bands.astype(">u2").tobytes())
    assert kinds(path) == ["dark-16-bit"]


def test_integers_of_8_bits_lose_nothing_and_dark_floats_do(tmp_path):
    assert kinds(gray(tmp_path / "i.tif", [0, 10], np.int32)) == []
    (loss,) = read_upright(gray(tmp_path / "f.tif", [0.0, 0.001], np.float32)).losses
    assert "values up to 0.001, taken as 0 to 1, of which 1 shades are left" in loss.found


def test_a_last_band_of_jpeg_2000_is_told_and_left_out_where_it_is_near_infrared(tmp_path):
    path = saved(tmp_path / "x.jp2", Image.fromarray(near_infrared(), "RGBA"))
    assert kinds(path) == ["transparent-band"]
    content = path.read_bytes()
    box = b"uuid" + bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03") + b"II*\0"
    place = content.index(b"jp2c") - 4
    path.write_bytes(content[:place] + (len(box) + 4).to_bytes(4, "big") + box + content[place:])
    assert kinds(path) == ["extra-band"]
    assert (np.asarray(read_image(path)) == (200, 100, 50)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_16_bits_is_laid_on_white(tmp_path, channels):
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = np.full((2, channels), 30000, ">u2")
    pixels[1] = 50000
    header = struct.pack(">IIBBBBB", 2, 1, 16, 0 if channels == 1 else 2, 0, 0, 0)
    transparent = chunk(b"tRNS", pixels[0].tobytes())
    content = chunk(b"IHDR", header) + transparent + chunk(b"IDAT", zlib.compress(b"\0" + pixels.tobytes()))
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content + chunk(b"IEND", b""))
    assert shades(tmp_path / "x.png") == [255, 195]
