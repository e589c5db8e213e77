"""The built-in digits on disk are scikit-learn's, complete, and always split the same way."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from scalablevit.data.builtin.digits import write_digits_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built-in") / "deep" / "digits"
    assert write_digits_folder(root) == root
    return root


def test_every_image_is_there_once_in_its_class(folder):
    digits = load_digits()
    files = sorted(folder.rglob("*.png"), key=lambda path: path.name)
    assert [int(path.stem) for path in files] == list(range(1797))
    for i, path in enumerate(files):
        assert path.parent.name == str(digits.target[i])
        assert path.parent.parent.name in ("train", "val")
    for i in (0, 500, 1796):
        with Image.open(files[i]) as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            np.testing.assert_allclose(np.asarray(image) * (16 / 255), digits.images[i], atol=0.04)


def test_a_fifth_of_each_digit_is_for_validation(folder):
    for digit in range(10):
        train, val = (len(list((folder / part / str(digit)).iterdir())) for part in ("train", "val"))
        assert abs(val / (train + val) - 0.2) < 0.005


def test_the_split_never_changes(folder):
    assert len(list((folder / "val").rglob("*.png"))) == 359
    assert sorted(path.stem for path in (folder / "val" / "0").iterdir())[:3] == ["0049", "0055", "0101"]


def test_nothing_but_the_folder_is_left(folder):
    assert [path.name for path in folder.parent.iterdir()] == ["digits"]


def test_refuses_what_it_would_overwrite(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ValueError, match="not an empty folder; name a new folder"):
        write_digits_folder(tmp_path)
    with pytest.raises(ValueError, match=r"mine.txt: .*not an empty folder"):
        write_digits_folder(tmp_path / "mine.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def failing_save(self: Image.Image, path: Path) -> None:
        calls.append(path)
        if len(calls) > 5:
            raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", failing_save)
    with pytest.raises(OSError, match="No space left"):
        write_digits_folder(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_processes_may_race(tmp_path, monkeypatch):
    # The other process finishes between this one's look at the folder and its renaming.
    def slower_replace(self: Path, target: Path) -> Path:
        monkeypatch.undo()
        write_digits_folder(target)
        return os.replace(self, target)

    monkeypatch.setattr(Path, "replace", slower_replace)
    write_digits_folder(tmp_path / "digits")
    assert len(list(tmp_path.rglob("*.png"))) == 1797
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_the_module_itself_asks_for_no_torch():
    source = Path(sys.modules["scalablevit.data.builtin.digits"].__file__)
    code = f"import runpy, sys; runpy.run_path({str(source)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
