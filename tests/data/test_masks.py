"""Labels come out of every kind of mask file exactly as stored and upright, or as a clear error."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_image, read_upright
from scalablevit.data.masks import read_mask, read_upright_mask
from scalablevit.data.orientation import turn_upright

LABELS = np.array([[0, 1, 2, 3], [15, 7, 255, 150]], np.uint8)

# What was done to the upright image before it was stored, by EXIF orientation.
STORED_AS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def stored(image: Image.Image, orientation: int) -> tuple[Image.Image, Image.Exif]:
    how, exif = STORED_AS[orientation], Image.Exif()
    exif[0x0112] = orientation
    return (image if how is None else image.transpose(how)), exif


def png(path: Path, *, bits: int, color_type: int, width: int, rows: list[bytes]) -> Path:
    """A PNG by hand, for kinds that Pillow reads but does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", width, len(rows), bits, color_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\x00" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_read_upright_tells_how_the_image_lay(tmp_path, suffix, orientation):
    upright = Image.new("RGB", (40, 20), (255, 0, 0))
    upright.paste((0, 0, 255), (20, 10, 40, 20))
    turned, exif = stored(upright, orientation)
    path = saved(tmp_path / f"x.{suffix}", turned, exif=exif)
    image, applied, stored_size, _ = read_upright(path)
    assert (image.size, applied, stored_size) == ((40, 20), orientation, turned.size)
    assert image.tobytes() == read_image(path).tobytes()


@pytest.mark.parametrize("value", [0, 9, 255])
def test_an_orientation_that_does_not_exist_is_none(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    path = saved(tmp_path / "x.jpg", Image.new("RGB", (40, 20)), exif=exif)
    assert read_upright(path)[1:3] == (1, (40, 20))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_turns_nothing(tmp_path):
    broken = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01\x03"
    upright = read_upright(saved(tmp_path / "x.jpg", Image.new("RGB", (40, 20)), exif=broken))
    assert (upright.image.size, upright.orientation, upright.stored_size) == ((40, 20), 1, (40, 20))


@pytest.mark.parametrize("orientation", STORED_AS)
def test_turn_upright_is_what_reading_does(orientation):
    rng = np.random.default_rng(0)
    upright = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    turned, _ = stored(Image.fromarray(upright), orientation)
    np.testing.assert_array_equal(turn_upright(np.asarray(turned), orientation), upright)
    np.testing.assert_array_equal(turn_upright(np.asarray(turned)[..., 0], orientation), upright[..., 0])


@pytest.mark.parametrize("orientation", [0, 9])
def test_turn_upright_refuses_unknown_orientations(orientation):
    with pytest.raises(ValueError, match=f"1 to 8, got {orientation}"):
        turn_upright(np.zeros((2, 2)), orientation)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_a_mask_is_turned_by_its_own_exif(tmp_path, suffix, orientation):
    # Uncompressed gray TIFF came out scrambled where Pillow mapped the file into memory.
    turned, exif = stored(Image.fromarray(LABELS), orientation)
    mask = read_upright_mask(saved(tmp_path / f"x.{suffix}", turned, exif=exif))
    np.testing.assert_array_equal(mask.labels, LABELS)
    assert mask.orientation == orientation


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "pgm"])
def test_grayscale_labels_are_kept(tmp_path, suffix):
    labels = read_mask(saved(tmp_path / f"x.{suffix}", Image.fromarray(LABELS)))
    np.testing.assert_array_equal(labels, LABELS)


def test_palette_gives_indices_and_colours(tmp_path):
    image = Image.fromarray(LABELS).convert("L")
    image.putpalette([value for i in range(256) for value in (255 - i, i // 2, 7)])
    mask = read_upright_mask(saved(tmp_path / "x.png", image))
    assert image.mode == "P"
    np.testing.assert_array_equal(mask.labels, LABELS)
    assert mask.palette is not None
    assert mask.palette[:2] == ((255, 0, 7), (254, 0, 7))
    assert read_upright_mask(saved(tmp_path / "y.png", Image.fromarray(LABELS))).palette is None


def test_a_transparent_palette_entry_is_a_label_like_others(tmp_path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
    path = saved(tmp_path / "x.png", image, transparency=0)
    assert read_mask(path).tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_low_bit_palettes(tmp_path, bits):
    labels = np.arange(2**bits, dtype=np.uint8)[None]
    image = Image.fromarray(labels)
    image.putpalette(list(range(3 * 2**bits)))
    assert read_mask(saved(tmp_path / "x.png", image, bits=bits)).tolist() == labels.tolist()


@pytest.mark.parametrize(("bits", "row"), [(1, b"\x40"), (2, b"\x1b"), (4, b"\x01\x2f")])
def test_low_bit_grayscale_is_not_spread_over_the_byte(tmp_path, bits, row):
    expected = {1: [0, 1, 0, 0], 2: [0, 1, 2, 3], 4: [0, 1, 2, 15]}[bits]
    path = png(tmp_path / "x.png", bits=bits, color_type=0, width=4, rows=[row])
    assert read_mask(path).tolist() == [expected]


@pytest.mark.parametrize("maximum", [1, 18, 150, 254, 255, 256, 1000, 65535])
@pytest.mark.parametrize("plain", [False, True])
def test_a_pgm_with_a_maximum_of_its_own(tmp_path, maximum, plain):
    labels = np.unique(np.linspace(0, maximum, 40).astype(int))
    if plain:
        content = f"P2 {labels.size} 1 {maximum}\n".encode() + " ".join(map(str, labels)).encode()
    else:
        content = f"P5 {labels.size} 1 {maximum}\n".encode() + labels.astype(">u2" if maximum > 255 else "u1").tobytes()
    path = tmp_path / "x.pgm"
    path.write_bytes(content)
    assert read_mask(path)[0].tolist() == labels.tolist()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_labels_are_not_scaled(tmp_path, suffix):
    labels = np.array([[0, 1, 256], [150, 255, 65535]], np.uint16)
    got = read_mask(saved(tmp_path / f"x.{suffix}", Image.fromarray(labels)))
    np.testing.assert_array_equal(got, labels)
    assert np.issubdtype(got.dtype, np.integer)


def test_32_bit_and_whole_float_labels(tmp_path):
    labels = np.array([[0, 70000, -1]], np.int32)
    assert read_mask(saved(tmp_path / "i.tif", Image.fromarray(labels))).tolist() == [[0, 70000, -1]]
    assert read_mask(saved(tmp_path / "f.tif", Image.fromarray(labels.astype(np.float32)))).tolist() == [[0, 70000, -1]]


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf"), 1e20])
def test_fractions_are_no_labels(tmp_path, value):
    path = saved(tmp_path / "x.tif", Image.fromarray(np.full((2, 2), value, np.float32)))
    with pytest.raises(ImageError, match="fractions") as caught:
        read_mask(path)
    assert caught.value.kind == "not-a-mask"


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_equal_channels_are_labels(tmp_path, mode):
    image = Image.fromarray(LABELS).convert(mode)
    if mode == "RGBA":
        image.putalpha(3)
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "x.png", image)), LABELS)


def test_gray_with_alpha_ignores_the_alpha(tmp_path):
    image = Image.fromarray(LABELS).convert("LA")
    image.putalpha(0)
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "x.png", image)), LABELS)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "CMYK"])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_colours_are_no_labels(tmp_path, mode, channel):
    colour = [5, 5, 5] + [255] * (len(mode) - 3)
    colour[channel] = 6
    image = Image.new(mode, (4, 4), (5, 5, 5, 255)[: len(mode)])
    image.putpixel((2, 1), tuple(colour))
    path = saved(tmp_path / ("x.tif" if mode == "CMYK" else "x.png"), image)
    with pytest.raises(ImageError, match="convert its colours to class indices") as caught:
        read_mask(path)
    assert caught.value.kind == "not-a-mask"
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_16_bit_channels_that_would_lose_the_label_are_refused(tmp_path, color_type, channels):
    row = struct.pack(f">{channels}H", *[3] * channels)
    path = png(tmp_path / "x.png", bits=16, color_type=color_type, width=1, rows=[row])
    with pytest.raises(ImageError, match="16 bits"):
        read_mask(path)


def test_jpeg_is_told_apart(tmp_path):
    assert read_upright_mask(saved(tmp_path / "x.jpg", Image.fromarray(LABELS))).lossy
    assert not read_upright_mask(saved(tmp_path / "x.png", Image.fromarray(LABELS))).lossy


def test_broken_masks_fail_as_images_do(tmp_path):
    whole = saved(tmp_path / "x.png", Image.fromarray(np.random.default_rng(0).integers(0, 9, (64, 64), np.uint8)))
    for name, content, kind in (
        ("empty.png", b"", "empty"),
        ("text.png", b"no image", "not-an-image"),
        ("cut.png", whole.read_bytes()[:600], "truncated"),
    ):
        (tmp_path / name).write_bytes(content)
        for read in (read_mask, read_upright):
            with pytest.raises(ImageError) as caught:
                read(tmp_path / name)
            assert caught.value.kind == kind
    with pytest.raises(ImageError) as caught:
        read_mask(tmp_path / "none.png")
    assert caught.value.kind == "missing"


LOSSY = {
    "x.jpg": ({"format": "JPEG"}, "JPEG"),
    "renamed.png": ({"format": "JPEG"}, "JPEG"),
    "x.webp": ({"format": "WEBP", "quality": 50}, "lossy WebP"),
    "plain.webp": ({"format": "WEBP", "lossless": True}, ""),
    "x.tif": ({"format": "TIFF", "compression": "jpeg"}, "TIFF with JPEG compression"),
    "plain.tif": ({"format": "TIFF", "compression": "tiff_lzw"}, ""),
    "x.jp2": ({"format": "JPEG2000", "irreversible": True}, "lossy JPEG 2000"),
    "plain.jp2": ({"format": "JPEG2000", "irreversible": False}, ""),
    "x.png": ({"format": "PNG"}, ""),
}


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_are_told_by_content(tmp_path, name):
    options, expected = LOSSY[name]
    Image.fromarray(np.tile(np.arange(64, dtype=np.uint8), (64, 1))).save(tmp_path / name, **options)
    assert read_upright_mask(tmp_path / name).lossy == expected


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1"])
def test_colours_are_read_from_any_mode(tmp_path, mode):
    gray = mode in ("L", "1")
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[:, 3:] = 255 if gray else (10, 200, 30)
    image = Image.fromarray(pixels)
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    path = saved(tmp_path / "x.png", image)
    labels = read_upright_mask(path, in_colours=True).labels
    assert (labels.dtype, labels.shape) == (np.int32, (4, 6))
    assert np.unique(labels).tolist() == [0, 0xFFFFFF if gray else 0x0AC81E]


def test_colours_of_16_bits_are_refused(tmp_path):
    path = saved(tmp_path / "x.png", Image.fromarray(np.full((4, 6), 300, np.uint16)))
    with pytest.raises(ImageError, match="the label map has colours") as told:
        read_upright_mask(path, in_colours=True)
    assert told.value.kind == "not-a-mask"


def test_what_a_mask_holds_beside_its_labels_is_told(tmp_path):
    alpha = np.tile(np.arange(6, dtype=np.uint8), (4, 1))
    both = saved(tmp_path / "x.png", Image.merge("LA", [Image.new("L", (6, 4), 3), Image.fromarray(alpha)]))
    assert [loss.kind for loss in read_upright_mask(both).losses] == ["transparent-band"]
    assert (read_upright_mask(both).labels == 3).all()
    opaque = saved(tmp_path / "y.png", Image.merge("LA", [Image.new("L", (6, 4), 3), Image.new("L", (6, 4), 255)]))
    assert read_upright_mask(opaque).losses == ()
    frames = [Image.new("L", (6, 4), value) for value in (1, 2)]
    frames[0].save(tmp_path / "z.tif", save_all=True, append_images=frames[1:])
    assert [loss.kind for loss in read_upright_mask(tmp_path / "z.tif").losses] == ["pages"]
