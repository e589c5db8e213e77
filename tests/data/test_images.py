"""Every odd kind of image comes out upright, RGB and with the right values, or as a clear error."""

import io
import os
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scalablevit.data.find_images import IMAGE_SUFFIXES, WalkReport, find_images, walk_images
from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def corners() -> Image.Image:
    """40 x 20 with another colour in each quarter."""
    image = Image.new("RGB", (40, 20), RED)
    image.paste(GREEN, (20, 0, 40, 10))
    image.paste(BLUE, (0, 10, 20, 20))
    image.paste(WHITE, (20, 10, 40, 20))
    return image


def photo(width: int = 64, height: int = 48) -> Image.Image:
    """Smooth colour noise, much like a photograph to a codec."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


# The orientations of the EXIF standard: what was done to the upright image before it was stored.
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


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    how = STORED_AS[orientation]
    stored = corners() if how is None else corners().transpose(how)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {}
    image = read_image(saved(tmp_path / f"x.{suffix}", stored, exif=exif, **options))
    assert image.size == (40, 20)
    for at, color in (((5, 4), RED), ((35, 4), GREEN), ((5, 16), BLUE), ((35, 16), WHITE)):
        assert np.abs(np.subtract(image.getpixel(at), color)).max() < 12, at


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_damaged_exif_block_does_not_cost_the_image(tmp_path):
    broken = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xff\x12\x01\x03"
    path = saved(tmp_path / "x.jpg", corners(), exif=broken)
    assert read_image(path).size == (40, 20)


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grayscale(tmp_path, mode):
    gray = Image.new("L", (4, 4), 255 if mode == "1" else 77)
    assert (pixels(saved(tmp_path / "x.png", gray.convert(mode))) == (255 if mode == "1" else 77)).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_grayscale_is_scaled_not_clipped(tmp_path, suffix):
    values = np.array([[0, 257, 256 * 100], [30000, 65534, 65535]], np.uint16)
    got = pixels(saved(tmp_path / f"x.{suffix}", Image.fromarray(values)))
    np.testing.assert_array_equal(got[..., 0], np.rint(values / 257))
    np.testing.assert_array_equal(got[..., 0], got[..., 2])


def test_big_endian_16_bit_tiff(tmp_path):
    # Minimal by hand: 2 x 1, 16 bits, "MM" byte order.
    fields = [(256, 2), (257, 1), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 4)]
    head = b"MM\x00*" + struct.pack(">I", 12) + struct.pack(">HH", 65535, 128 * 257)
    entries = b"".join(struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in fields)
    path = tmp_path / "x.tif"
    path.write_bytes(head + struct.pack(">H", len(fields)) + entries + b"\x00\x00\x00\x00")
    assert pixels(path)[0, :, 0].tolist() == [255, 128]


def test_16_bit_rgb_png(tmp_path):
    row = b"\x00" + struct.pack(">3H", 65535, 32896, 0)

    def chunk(name: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + crc

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    path = tmp_path / "x.png"
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(row)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert pixels(path)[0, 0].tolist() == [255, 128, 0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 257 * 40, 65535], [0, 40, 255]),
        ([-100, 0, 100], [0, 128, 255]),
        ([0, 50000, 100000], [0, 128, 255]),
        ([7, 7, 7], [7, 7, 7]),
    ],
)
def test_32_bit_integer_tiff(tmp_path, values, expected):
    path = saved(tmp_path / "x.tif", Image.fromarray(np.array([values], np.int32)))
    assert np.abs(pixels(path)[0, :, 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.2, 1.0], [0, 51, 255]),
        ([0.0, 51.0, 255.0], [0, 51, 255]),
        ([0.0, 257.0 * 51, 65535.0], [0, 51, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([0.0, float("nan"), 1.0], [0, 0, 255]),
        ([0.0, float("inf"), 0.2], [0, 51, 51]),
        ([1e6, 1e6, 1e6], [0, 0, 0]),
    ],
)
def test_float_tiff(tmp_path, values, expected):
    path = saved(tmp_path / "x.tif", Image.fromarray(np.array([values], np.float32)))
    assert np.abs(pixels(path)[0, :, 0].astype(int) - expected).max() <= 1


def test_float_tiff_without_any_number(tmp_path):
    path = saved(tmp_path / "x.tif", Image.fromarray(np.full((2, 2), np.nan, np.float32)))
    with pytest.raises(ImageError, match="no finite pixel value"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_alpha_is_laid_on_white(tmp_path, suffix):
    # Black under full transparency shows where alpha is dropped instead.
    image = Image.new("RGBA", (3, 1))
    for x, color in enumerate([(0, 0, 0, 0), (255, 0, 0, 128), (0, 0, 255, 255)]):
        image.putpixel((x, 0), color)
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    got = pixels(saved(tmp_path / f"x.{suffix}", image, **options))[0]
    assert got[0].tolist() == [255, 255, 255]
    assert np.abs(got[1].astype(int) - [255, 127, 127]).max() <= 1
    assert got[2].tolist() == [0, 0, 255]


def test_gray_with_alpha_is_laid_on_white(tmp_path):
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (10, 255))
    assert pixels(saved(tmp_path / "x.png", image))[0, :, 0].tolist() == [255, 10]


@pytest.mark.parametrize("transparency", [1, b"\xff\x00"], ids=["one colour", "alpha of each colour"])
def test_palette_with_transparency(tmp_path, transparency):
    image = Image.new("P", (2, 1))
    image.putpalette([200, 100, 50, 0, 0, 0])
    image.putpixel((1, 0), 1)
    got = pixels(saved(tmp_path / "x.png", image, transparency=transparency))[0]
    assert got.tolist() == [[200, 100, 50], [255, 255, 255]]


def test_transparent_colour_of_an_rgb_png(tmp_path):
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), (1, 2, 3))
    got = pixels(saved(tmp_path / "x.png", image, transparency=(1, 2, 3)))[0]
    assert got.tolist() == [list(RED), list(WHITE)]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk_is_not_inverted(tmp_path, suffix):
    # Pillow writes CMYK JPEG as Photoshop does: inverted, with an Adobe marker.
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    image.paste((0, 0, 0, 0), (8, 0, 16, 16))
    path = saved(tmp_path / f"x.{suffix}", image, **({"quality": 100} if suffix == "jpg" else {}))
    assert (b"Adobe" in path.read_bytes()) == (suffix == "jpg")
    got = pixels(path).astype(int)
    assert np.abs(got[0, 0] - RED).max() < 12
    assert np.abs(got[0, 15] - WHITE).max() < 12


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, GREEN, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as stored:
        assert stored.n_frames == 3
    assert pixels(path)[4, 4].tolist() == list(RED)


def test_the_file_is_closed_and_the_image_stays(tmp_path):
    path = saved(tmp_path / "x.png", photo())
    image = read_image(path)
    path.unlink()
    np.testing.assert_array_equal(np.asarray(image), np.asarray(photo()))


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.99])
def test_truncated_files(tmp_path, suffix, share):
    image = photo().quantize() if suffix == "gif" else photo()
    path = saved(tmp_path / f"x.{suffix}", image)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert caught.value.kind in ("truncated", "not-an-image")
    assert str(path) in str(caught.value)


def test_words_of_each_error(tmp_path, monkeypatch):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    whole = saved(tmp_path / "whole.jpg", photo())
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:-200])
    (tmp_path / "folder.jpg").mkdir()
    cases = {
        "missing.jpg": ("missing", "no such file; check the path"),
        "empty.jpg": ("empty", "0 bytes.*copy it again"),
        "page.jpg": ("not-an-image", "not an image.*or convert it to PNG"),
        "cut.jpg": ("truncated", "truncated or damaged.*copy or export it again"),
        "folder.jpg": ("not-an-image", "a folder; name an image in it"),
    }
    for name, (kind, words) in cases.items():
        with pytest.raises(ImageError, match=f"{name}: .*{words}") as caught:
            read_image(tmp_path / name)
        assert caught.value.kind == kind
        assert caught.value.path == str(tmp_path / name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"whole.jpg: too many pixels.*MAX_IMAGE_PIXELS") as caught:
        read_image(whole)
    assert caught.value.kind == "huge"


def test_lab(tmp_path):
    path = saved(tmp_path / "x.tif", Image.new("LAB", (2, 2), (255, 128, 128)))
    assert pixels(path).min() > 240


def test_noise_in_a_file_never_raises_anything_but_image_error(tmp_path):
    random = np.random.default_rng(0)
    for suffix in ("png", "jpg", "gif", "bmp", "webp"):
        buffer = io.BytesIO()
        photo(24, 16).save(buffer, {"jpg": "jpeg"}.get(suffix, suffix))
        whole = np.frombuffer(buffer.getvalue(), np.uint8)
        path = tmp_path / f"x.{suffix}"
        failures = 0
        for _ in range(60):
            content = whole.copy()
            content[random.integers(0, len(whole), 8)] = random.integers(0, 256, 8)
            path.write_bytes(content.tobytes())
            try:
                assert read_image(path).mode == "RGB"
            except ImageError:
                failures += 1
        assert failures > 0


def test_image_error_crosses_processes():
    error = ImageError("a.png", kind="empty", reason="r", remedy="m")
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.path, copy.kind) == ("a.png: r; m", "a.png", "empty")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.png",
        "a.JPEG",
        "notes.txt",
        "in/c.jpg",
        "in/deep/d.webp",
        ".hidden.png",
        "in/._c.jpg",
        ".cache/e.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "photo[1].png").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "recursive", "expected"),
    [
        (["."], True, "a.JPEG b.png in/c.jpg in/deep/d.webp photo[1].png"),
        (["."], False, "a.JPEG b.png photo[1].png"),
        (["in", "b.png", "in/c.jpg"], True, "b.png in/c.jpg in/deep/d.webp"),
        (["*.png"], True, "b.png photo[1].png"),
        (["**/*.jpg", "./in/c.jpg"], True, "in/c.jpg"),
        (["i*"], True, "in/c.jpg in/deep/d.webp"),
        (["**"], True, "a.JPEG b.png in/c.jpg in/deep/d.webp photo[1].png"),
        (["**/c.jpg"], False, "in/c.jpg"),
        (["photo[1].png"], True, "photo[1].png"),
        (["notes.txt"], True, "notes.txt"),
    ],
)
def test_find_images(tree, monkeypatch, inputs, recursive, expected):
    monkeypatch.chdir(tree)
    found = find_images(inputs, recursive=recursive)
    assert [path.as_posix() for path in found] == expected.split()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nothing.png", "nothing.png: there is no such file or folder"),
        ("*.bmp", r"\*.bmp: the pattern matches no images"),
        ("*.txt", r"\*.txt: the pattern matches no images"),
        ("bare", "bare: the folder has no images in it or its subfolders"),
    ],
)
def test_find_images_names_what_matches_nothing(tree, monkeypatch, given, words):
    monkeypatch.chdir(tree)
    (tree / "bare").mkdir()
    with pytest.raises(ValueError, match=words):
        find_images(["b.png", given])


def test_one_file_named_in_two_ways_comes_once(tree, monkeypatch):
    monkeypatch.chdir(tree)
    assert find_images(["b.png", tree / "b.png", "in/../b.png"]) == [Path("b.png")]


def test_find_images_without_inputs():
    with pytest.raises(ValueError, match="no input"):
        find_images([])


def test_suffixes_are_lower_case_and_readable():
    Image.init()
    assert all(suffix == suffix.lower() for suffix in IMAGE_SUFFIXES)
    assert set(Image.registered_extensions()) | {".avif"} >= IMAGE_SUFFIXES


def numbered(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(count):
        (folder / f"{i}.png").touch()


def test_each_real_folder_is_searched_once(tmp_path):
    numbered(tmp_path / "red", 3)
    numbered(tmp_path / "blue" / "deep", 2)
    for name, target in (("up", ".."), ("here", "."), ("other", "../blue")):
        (tmp_path / "red" / name).symlink_to(target)
    (tmp_path / "aaa").symlink_to("red")
    report = WalkReport()
    assert list(walk_images(tmp_path, report)) == [
        "blue/deep/0.png",
        "blue/deep/1.png",
        *(f"red/{i}.png" for i in range(3)),
    ]
    assert sorted(Path(path).name for path in report.repeated_links) == ["aaa", "here", "other", "up"]
    (remark,) = report.remarks()
    assert remark.kind == "repeated-link"
    assert "not followed" in remark.message


def test_a_link_to_another_place_is_followed_in_its_order(tmp_path):
    numbered(tmp_path / "elsewhere", 2)
    numbered(tmp_path / "data" / "a", 1)
    numbered(tmp_path / "data" / "c", 1)
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "again").symlink_to(tmp_path / "elsewhere")
    assert list(walk_images(tmp_path / "data")) == ["a/0.png", "b/0.png", "b/1.png", "c/0.png"]


def test_links_in_circles_end_in_patterns_too(tmp_path, monkeypatch):
    numbered(tmp_path / "d", 2)
    for name in ("one", "two", "three"):
        (tmp_path / "d" / name).symlink_to(".")
    monkeypatch.chdir(tmp_path)
    assert find_images(["**/*.png"]) == [Path("d/0.png"), Path("d/1.png")]
    assert find_images(["d"]) == [Path("d/0.png"), Path("d/1.png")]


def test_links_that_lead_to_themselves_are_no_folders(tmp_path):
    numbered(tmp_path / "d" / "deep", 2)
    for name in ("me", "deep/me", "me.png", "zz"):
        (tmp_path / "d" / name).symlink_to(Path(name).name if name != "zz" else "zz/further")
    (tmp_path / "d" / "other.png").symlink_to("back.png")
    (tmp_path / "d" / "back.png").symlink_to("other.png")
    found = ["back.png", "me.png", "other.png", "deep/0.png", "deep/1.png"]  # the first three cannot be read
    assert list(walk_images(tmp_path / "d")) == found
    assert len(find_images([tmp_path / "d" / "**" / "*.png"])) == len(found)


def test_what_is_left_out_is_counted_and_told(tmp_path):
    (tmp_path / "a.png").touch()
    for i in range(4):
        (tmp_path / f"IMG_{i}.HEIF2").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    (tmp_path / "scan").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "gone.png").symlink_to("nothing.png")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    report = WalkReport()
    assert list(walk_images(tmp_path, report)) == ["a.png", "gone.png"]
    assert report.left_out == {".heif2": 4, "": 2, ".txt": 1}
    assert report.listed() == "4 .heif2, 2 without ending, 1 .txt"
    remarks = {remark.kind: remark.message for remark in report.remarks()}
    assert "pipe.png" in remarks["special-file"]
    told = [remark.message for remark in report.remarks() if remark.kind == "left-out"]
    assert "4 files ending in .heif2 are left out, though they look like images; convert them" in told[0]
    assert "2 files without ending" in told[1]
    assert len(told) == 2


def test_a_folder_that_may_not_be_read_is_told(tmp_path):
    numbered(tmp_path / "a", 1)
    numbered(tmp_path / "b", 1)
    report = WalkReport()
    real = os.scandir

    def scandir(path):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    with pytest.MonkeyPatch.context() as patch:  # the superuser may read anything
        patch.setattr(os, "scandir", scandir)
        assert list(walk_images(tmp_path, report)) == ["a/0.png"]
    assert [remark.kind for remark in report.remarks()] == ["closed-folder"]
