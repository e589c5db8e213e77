"""Only regular files of known formats are opened, and a small file cannot fill the memory."""

import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from scalablevit.data.find_images import IMAGE_SUFFIXES
from scalablevit.data.image_file import FORMATS, ImageError
from scalablevit.data.images import read_image

RED = (255, 0, 0)


def refused(path: str | Path, kind: str, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        read_image(path)
    assert caught.value.kind == kind


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    refused(tmp_path / "x.jpg", "not-an-image", "a pipe.*remove it")


def test_a_socket_and_a_device_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("x.png")
        refused("x.png", "not-an-image", "a socket")
    refused("/dev/zero", "not-an-image", "a device")
    os.symlink("/dev/zero", tmp_path / "y.png")
    refused(tmp_path / "y.png", "not-an-image", "a device")


def test_a_file_of_the_system_without_size_is_empty():
    refused("/proc/self/maps", "empty", "0 bytes")


def test_a_loop_of_links_and_a_name_too_long_are_named(tmp_path):
    os.symlink("b.png", tmp_path / "a.png")
    os.symlink("a.png", tmp_path / "b.png")
    refused(tmp_path / "a.png", "unreadable", "cannot be opened")
    refused(tmp_path / ("n" * 300 + ".png"), "unreadable", "too long")


@pytest.mark.parametrize("ending", [".jpg", ".png", ".tif", ".eps"])
def test_postscript_starts_no_program(tmp_path, monkeypatch, ending):
    path = tmp_path / f"x{ending}"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **kwargs: pytest.fail("a program is started"))
    refused(path, "not-an-image", "not an image")


@pytest.mark.parametrize("other", ["PCX", "SGI", "ICO", "DDS", "PSD", "XBM"])
def test_formats_beyond_the_documented_ones_are_refused(tmp_path, other):
    if other == "PSD":
        (tmp_path / "x.png").write_bytes(b"8BPS\0\1" + bytes(60))
    else:
        Image.new("1" if other == "XBM" else "RGB", (16, 16)).save(tmp_path / "x.png", format=other)
    refused(tmp_path / "x.png", "not-an-image", "this is not an image")


def test_the_documented_formats_are_read_whatever_the_ending(tmp_path):
    for name in ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP"):
        assert name in FORMATS
        Image.new("RGB", (16, 16), "red").save(tmp_path / "x.jpg", format=name)
        assert np.abs(np.array(read_image(tmp_path / "x.jpg").getpixel((5, 5))) - RED).max() <= 3, name


def test_photographs_of_phones_are_read_where_the_package_is_installed(tmp_path):
    pytest.importorskip("pillow_heif")
    read_image(png(tmp_path / "any.png"))  # registers the plugins
    Image.new("RGB", (64, 64), "red").save(tmp_path / "x.heic", format="HEIF")
    assert ".heic" in IMAGE_SUFFIXES
    assert np.abs(np.array(read_image(tmp_path / "x.heic").getpixel((5, 5))) - RED).max() <= 3


def png(path: Path, **options: object) -> Path:
    Image.new("RGB", (16, 16), "red").save(path, **options)
    return path


def test_large_metadata_of_a_png_does_not_cost_the_image(tmp_path):
    texts = {}
    for name in ("text", "international", "plain", "many"):
        texts[name] = PngImagePlugin.PngInfo()
    texts["text"].add_text("note", "x" * 2_000_000, zip=True)
    texts["international"].add_itxt("XML:com.adobe.xmp", "x" * 2_000_000, zip=True)
    texts["plain"].add_text("note", "x" * 2_000_000)
    for i in range(80):
        texts["many"].add_text(f"note{i}", "x" * 1_000_000, zip=True)
    for name, info in texts.items():
        assert read_image(png(tmp_path / f"{name}.png", pnginfo=info)).getpixel((3, 3)) == RED, name
    assert read_image(png(tmp_path / "profile.png", icc_profile=bytes(3_000_000))).getpixel((3, 3)) == RED


def test_large_metadata_of_a_png_does_not_cost_the_small_which_says_what_is_up(tmp_path):
    description = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/>'
    exif = Image.Exif()
    exif[0x112] = 6
    content = exif.tobytes()
    texts = {"xmp": PngImagePlugin.PngInfo(), "exif": PngImagePlugin.PngInfo()}
    texts["xmp"].add_itxt("XML:com.adobe.xmp", description)
    texts["exif"].add_text("Raw profile type exif", f"\nexif\n{len(content):8d}\n{content.hex()}\n", zip=True)
    for name, info in texts.items():
        info.add_text("history", "x" * 2_000_000, zip=True)
        Image.new("RGB", (20, 10)).save(tmp_path / "x.png", pnginfo=info, icc_profile=bytes(3_000_000))
        assert read_image(tmp_path / "x.png").size == (10, 20), name


def test_text_behind_the_pixels_does_not_cost_the_image(tmp_path):
    content = png(tmp_path / "x.png").read_bytes()
    end = content.index(b"IEND") - 4
    text = b"note\0\0" + zlib.compress(b"x" * 2_000_000)
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    (tmp_path / "x.png").write_bytes(content[:end] + chunk + content[end:])
    assert read_image(tmp_path / "x.png").getpixel((3, 3)) == RED


def test_a_png_that_is_cut_off_stays_damaged(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("note", "x" * 2_000_000, zip=True)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png", pnginfo=info)
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:-1000])
    refused(tmp_path / "x.png", "truncated", "truncated or damaged")


_PEAK = """
import resource, sys
from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_image
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try: read_image(sys.argv[1])
except ImageError as error: print(error.kind)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["F", "I", "I;16", "RGBA", "P", "CMYK"])
def test_memory_is_bounded_by_bytes_whatever_the_pixels_are(tmp_path, mode):
    side = 13_300  # just within Pillow's limit of 179 million pixels
    image = Image.new(mode, (side, side))
    if mode == "P":
        image.info["transparency"] = 0
    path = tmp_path / ("x.tif" if mode in ("F", "I", "CMYK") else "x.png")
    image.save(path, **({"compression": "tiff_adobe_deflate"} if path.suffix == ".tif" else {}))
    del image
    assert path.stat().st_size < 3_000_000
    done = subprocess.run([sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 1800, done.stdout


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_formats_whose_decoders_take_more_have_a_lower_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16 * 16 // 2)
    assert read_image(png(tmp_path / "x.png")).size == (16, 16)
    Image.new("RGB", (16, 16)).save(tmp_path / "x.jp2")
    refused(tmp_path / "x.jp2", "huge", "too many pixels to decode safely")


def test_reading_leaves_no_file_open(tmp_path):
    path = png(tmp_path / "x.png")
    count = len(os.listdir("/proc/self/fd"))
    image = read_image(path)
    assert len(os.listdir("/proc/self/fd")) == count
    image.save(io.BytesIO(), "PNG")
