"""Sizes of images from the starts of their files: right, without decoding, and never from an earlier call."""

from pathlib import Path

import pytest
from PIL import Image, ImageFile

from scalablevit.data.image_size import size_in_header, sizes_in_headers


def write(path: Path, size: tuple[int, int], orientation: int = 1) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, "red").save(path, exif=exif)
    return path


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_upright_size_follows_exif(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = write(tmp_path / f"a{suffix}", (30, 20), orientation)
    assert size_in_header(path, upright=False) == (30, 20)
    assert size_in_header(path, upright=True) == ((20, 30) if orientation == 6 else (30, 20))


def test_a_png_is_not_decoded_unless_exif_stands_behind_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    front = write(tmp_path / "front.png", (30, 20), 6)
    data = front.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    (tmp_path / "behind.png").write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])
    decoded: list[object] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: decoded.append(image) or load(image))
    assert size_in_header(front, upright=True) == (20, 30)
    assert size_in_header(write(tmp_path / "none.png", (30, 20)), upright=True) == (30, 20)
    assert not decoded
    assert size_in_header(tmp_path / "behind.png", upright=True) == (20, 30)
    assert len(decoded) == 1


def test_many_sizes_keep_their_order_and_see_a_changed_file(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i:03}.png", (10 + i, 8)) for i in range(150)]
    (tmp_path / "broken.png").write_bytes(b"no image")
    paths.insert(70, tmp_path / "broken.png")
    expected: list[tuple[int, int] | None] = [(10 + i, 8) for i in range(150)]
    expected.insert(70, None)
    assert sizes_in_headers(paths, upright=True) == expected
    write(paths[3], (99, 77))
    assert sizes_in_headers(paths, upright=True)[3] == (99, 77)
