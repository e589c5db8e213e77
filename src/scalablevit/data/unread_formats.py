"""Name what a file holds that is not read as an image, so that the message can say what to do with it."""

import warnings
from typing import BinaryIO

from PIL import TiffImagePlugin

# (offset, bytes there, what it is)
_SIGNATURES = (
    (0, b"%PDF", "a PDF document"),
    (0, b"%!PS", "PostScript (EPS)"),
    (0, b"8BPS", "a Photoshop document (PSD)"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska or WebM)"),
    (8, b"AVI ", "a video (AVI)"),
    (0, b"v/1\x01", "OpenEXR"),
    (128, b"DICM", "a DICOM file"),
    (0, b"<svg", "an SVG file"),
    (0, b"<!DOCTYPE html", "a web page (HTML)"),
    (0, b"<html", "a web page (HTML)"),
)
_VIDEO_BRANDS = (b"isom", b"iso2", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ")
_GIT_LFS = b"version https://git-lfs"
_CONVERT = "remove it, copy it again, or convert it to PNG or JPEG"


def unread_format(file: BinaryIO) -> tuple[str, str] | None:
    """Tell what a file is that no image could be read of.

    Args:
        file: opened in binary mode, of any content; it is read from its start.

    Returns:
        reason and remedy, as of `ImageError`; None: nothing is recognised.
    """
    file.seek(0)
    start = file.read(256)
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return _tiff(file, start)
    if start[4:8] == b"ftyp" and start[8:12] in _VIDEO_BRANDS:
        return "this is not an image but a video (MP4 or QuickTime)", "extract its frames, or remove it"
    if start.startswith(_GIT_LFS):
        return "this is a pointer of Git LFS in the place of the file", "fetch the file by `git lfs pull`"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    for offset, signature, what in _SIGNATURES:
        if (text if offset == 0 else start[offset:])[: len(signature)].lower() == signature.lower():
            return f"this is not an image but {what}", _CONVERT
    return None


def _tiff(file: BinaryIO, start: bytes) -> tuple[str, str] | None:
    """What a TIFF holds; Pillow reads 1, 3 or 4 bands of 8 bits, and one band of more."""
    file.seek(0)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(16 if start[2] == 43 else 8))
        file.seek(tags.next)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow tells of tags that are cut off
            tags.load(file)
        bands = int(tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1))
        bits = int(max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,))))
        is_whole = int(tags[TiffImagePlugin.IMAGEWIDTH]) > 0
    except Exception:  # damaged in any way, which Pillow meets with any exception
        return None
    if not is_whole:
        return None
    what = f"this is a TIFF of {bands} band{'s' if bands != 1 else ''} of {bits} bits, which is not read"
    remedy = "export red, green and blue as 8 bits each, or one band of 16 bits"
    return what, f"{remedy}; docs/segmentation.md says how to train on more bands"
