"""Images in memory are predicted as files are."""

import numpy as np
from PIL import Image

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
