import io
import struct

import pytest

from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_image
from scalablevit.data.unread_formats import unread_format


def tiff(bands: int, bits: int, *, width: int = 4, tags: int = 5) -> bytes:
    """A TIFF of zeros, 4 rows high, of which Pillow reads only some bands and depths."""
    pixels = bytes(bands * bits // 8 * width * 4)
    entries = [(256, width), (257, 4), (258, bits), (262, 1), (273, 8), (277, bands), (278, 4), (279, len(pixels))]
    at = 8 + len(pixels)
    start = struct.pack("<2sHI", b"II", 42, at) + pixels
    return start + struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", k, 4, 1, v) for k, v in entries)


@pytest.mark.parametrize(("bands", "bits"), [(3, 16), (5, 8), (8, 16), (1, 64)])
def test_a_tiff_that_is_not_read_is_told_with_its_bands_and_bits(bands, bits, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(bands, bits) + bytes(4))
    named = f"this is a TIFF of {bands} bands? of {bits} bits, which is not read; export red, green and blue"
    with pytest.raises(ImageError, match=named) as told:
        read_image(path)
    assert told.value.kind == "not-an-image"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"\n <html><body>404", "a web page"),
        (b"<!doctype HTML>", "a web page"),
        (b"\0\0\0\x18ftypmp42" + bytes(90), "a video"),
        (b"RIFF\0\0\0\0AVI LIST", "a video"),
        (bytes(128) + b"DICM", "a DICOM file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04", "a ZIP archive"),
    ],
)
def test_what_lies_under_the_name_of_an_image_is_named(content, named, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=rf"this is .*{named}"):
        read_image(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"II", b"II*\0" + b"\xff" * 40, b"II*\0" + bytes(40), tiff(3, 16)[:110], b"\0\0\0\x18ftypheic", b"no"],
)
def test_damaged_files_are_not_called_anything(content):
    assert unread_format(io.BytesIO(content)) is None
