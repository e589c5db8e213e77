"""Images in memory are predicted as files are."""

import io
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from scalablevit.data import image_batches
from scalablevit.data.image_batches import read_batches


def test_files_images_and_arrays_come_in_one_order(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (batch,) = read_batches([tmp_path / "a.png", Image.fromarray(pixels), pixels, pixels[..., 0]], 4)
    for read in batch[:3]:
        assert read.image is not None
        assert np.array_equal(np.asarray(read.image), pixels)
    assert batch[3].image is not None
    assert batch[3].image.mode == "RGB"
    assert [str(read.path) for read in batch[1:]] == ["image 1", "image 2", "image 3"]
    ((one,),) = read_batches(pixels, 4)
    assert one.error is None


def test_transparency_in_memory_is_laid_on_white():
    ((read,),) = read_batches(Image.new("RGBA", (2, 2), (9, 9, 9, 0)), 1)
    assert read.image is not None
    assert read.image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["turned", "16 bits", "32 bits", "inks", "palette", "several frames"])
def test_an_open_image_is_read_as_its_file_is(kind, tmp_path, caplog):
    noise = Image.effect_noise((9, 6), 80)
    path = tmp_path / {"turned": "a.jpg", "inks": "a.tif", "32 bits": "a.tif"}.get(kind, "a.png")
    if kind == "turned":
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        noise.save(path, exif=exif)
    elif kind == "16 bits":
        Image.fromarray(np.asarray(noise).astype(np.uint16) * 200).save(path)
    elif kind == "32 bits":
        Image.fromarray(np.asarray(noise).astype(np.float32) / 255).save(path)
    elif kind == "inks":
        noise.convert("RGB").convert("CMYK").save(path)
    elif kind == "palette":
        noise.convert("P").save(path, transparency=3)
    else:
        noise.save(path, save_all=True, append_images=[noise.rotate(90)])
    for value_range in (None, (0, 9000)):
        with Image.open(path) as opened:
            before = (opened.mode, opened.size)
            file, image = next(read_batches([path, opened], 2, value_range=value_range))
            assert (opened.mode, opened.size) == before, "the caller's image is left as it is"
        assert file.image is not None
        assert image.image is not None
        assert np.array_equal(np.asarray(file.image), np.asarray(image.image))


def test_an_image_in_memory_that_cannot_be_decoded_is_one_line(tmp_path):
    Image.effect_noise((64, 64), 80).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    opened = Image.open(io.BytesIO(content[: len(content) // 2]))
    empty = Image.new("RGB", (0, 4))
    (batch,) = read_batches([opened, empty, np.zeros((0, 4, 3), np.uint8)], 3)
    assert [read.image for read in batch] == [None] * 3
    assert "image 0: the image is truncated or damaged" in (batch[0].error or "")
    assert all("has no pixels" in (read.error or "") for read in batch[1:])


def test_an_array_that_is_no_image_is_one_line():
    ((read,),) = read_batches([np.zeros((2, 2, 4))], 1)
    assert read.image is None
    assert "must be uint8 of shape (H, W) or (H, W, 3), got float64 of shape (2, 2, 4)" in (read.error or "")


def test_a_loss_is_told_once_and_the_range_applies(tmp_path, caplog):
    for name in ("a", "b"):
        Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(tmp_path / f"{name}.png")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    list(read_batches(paths, 1))
    assert caplog.text.count("16-bit grayscale") == 1
    ((bright, _),) = read_batches(paths, 2, value_range=(0, 4095))
    assert bright.image is not None
    assert bright.image.getpixel((0, 0)) == (255, 255, 255)


def photographs(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{i:02d}.png" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(np.full((4, 4, 3), i, np.uint8)).save(path)
    return paths


def test_a_list_is_read_ahead_in_order_and_an_iterator_is_not(tmp_path, monkeypatch):
    paths = photographs(tmp_path, 9)
    read: list[Path] = []
    real = image_batches.read_upright
    monkeypatch.setattr(
        image_batches, "read_upright", lambda path, **options: read.append(path) or real(path, **options)
    )
    lazily = read_batches(iter(paths), 2)
    next(lazily)
    assert read == paths[:2]
    lazily.close()
    read.clear()
    batches = read_batches(paths, 2)
    first = next(batches)
    for _ in range(1000):
        if len(read) >= 6:
            break
        time.sleep(0.01)
    assert sorted(read) == paths[:6], "the batch that is used and the next two"
    found = [*first, *(file for batch in batches for file in batch)]
    assert [file.path for file in found] == paths
    assert [file.image.getpixel((0, 0))[0] for file in found] == list(range(9))


def test_images_are_converted_where_they_are_read_and_then_let_go(tmp_path):
    paths = photographs(tmp_path, 3)
    (tmp_path / "01.png").write_bytes(b"no image")
    for given in (paths, iter(paths)):
        (batch,) = read_batches(given, 3, convert=lambda image: image.size, keep_images=False)
        assert [file.converted for file in batch] == [(4, 4), None, (4, 4)]
        assert [file.image for file in batch] == [None] * 3
        assert [file.error is None for file in batch] == [True, False, True]
    (batch,) = read_batches(paths, 3, convert=lambda image: image.size)
    assert batch[0].image is not None


def test_warnings_of_large_images_are_left_as_they_were(tmp_path, monkeypatch):
    paths = photographs(tmp_path, 4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    before = list(warnings.filters)
    batches = read_batches(paths, 1)
    assert next(batches)[0].error is None
    batches.close()
    assert warnings.filters == before
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(paths[0])
