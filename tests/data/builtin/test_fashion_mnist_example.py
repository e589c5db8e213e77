"""The Fashion-MNIST script reads IDX files as the format says and explains every fault."""

import gzip
import importlib.util
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from PIL import Image

from scalablevit.recipes import recipe_text

SCRIPT = Path(__file__).parents[3] / "examples" / "fashion_mnist_folder.py"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, for a Fashion-MNIST of 50 + 20 images."""
    spec = importlib.util.spec_from_file_location("fashion_mnist_folder", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TRAINING", ("train", 50))
    monkeypatch.setattr(module, "TEST", ("t10k", 20))
    monkeypatch.setattr(module, "HELD_OUT", 2)
    return module


def write_idx(path: Path, values: np.ndarray) -> Path:
    head = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))
    return path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "idx"
    folder.mkdir()
    for prefix, count in (("train", 50), ("t10k", 20)):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28))
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return folder


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["fashion_mnist_folder.py", *map(str, arguments)])
    script.main()


def test_writes_a_folder_per_class(script, source, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "fashion"
    run(script, monkeypatch, out, "--source", source)
    assert sorted(path.name for path in (out / "train").iterdir()) == sorted(script.CLASSES)
    assert len(set(script.CLASSES)) == 10
    assert {part.name: len(list(part.rglob("*.png"))) for part in out.iterdir()} == {"train": 30, "val": 20, "test": 20}
    images, _ = script.read_part(source, "t10k", 20)
    with Image.open(out / "test" / "Sneaker" / "00017.png") as image:
        np.testing.assert_array_equal(np.asarray(image), images[17])
    assert [path.name for path in out.parent.iterdir()] == ["fashion"]
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1] == f"Try: scalablevit fit --config fashion_mnist --data.root {out}"


def files_of(folder: Path) -> set[tuple[str, str]]:
    return {(path.parent.name, path.name) for path in folder.rglob("*.png")}


def test_images_that_validate_are_of_every_class_and_do_not_train(script, source, tmp_path):
    script.write_folder(source, tmp_path / "out", few_labels=[1, 2])
    train, val = files_of(tmp_path / "out" / "train"), files_of(tmp_path / "out" / "val")
    assert not train & val
    assert len(train | val) == 50
    assert {name: sum(folder == name for folder, _ in val) for name in script.CLASSES} == dict.fromkeys(
        script.CLASSES, 2
    )
    draws = [files_of(tmp_path / "out" / f"labels-2-{draw}") for draw in range(3)]
    assert all(len(draw) == 20 and draw < train for draw in draws)
    assert draws[0] != draws[1] != draws[2]
    script.write_folder(source, tmp_path / "again")
    assert files_of(tmp_path / "again" / "val") == val


def test_the_former_layout_validates_on_the_test_images(script, source, tmp_path, monkeypatch, capsys):
    run(script, monkeypatch, tmp_path / "out", "--source", source, "--test-as-val")
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'out'}: train 50, val 20 images\n")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["train", "val"]
    images, _ = script.read_part(source, "t10k", 20)
    with Image.open(tmp_path / "out" / "val" / "Sneaker" / "00017.png") as image:
        np.testing.assert_array_equal(np.asarray(image), images[17])


def test_more_labels_than_there_are_images(script, source, tmp_path, monkeypatch, capsys):
    with pytest.raises(ValueError, match="T-shirt has 3 images to draw from; ask for no more"):
        script.write_folder(source, tmp_path / "out", few_labels=[4])
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit):
        run(script, monkeypatch, tmp_path / "out", "--source", source, "--few-labels", "0")
    assert "at least 1" in capsys.readouterr().err


def test_the_folder_of_the_recipe_need_not_be_named(script, source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(recipe_text("fashion_mnist"))
    run(script, monkeypatch, recipe["data"]["init_args"]["root"], "--source", source)
    assert capsys.readouterr().out.splitlines()[-1] == "Try: scalablevit fit --config fashion_mnist"
    assert f"fashion_mnist_folder.py {recipe['data']['init_args']['root']}\n" in script.__doc__


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "no such file; install Debian's package dataset-fashion-mnist"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "truncated or damaged"),
        (lambda path: path.write_bytes(b"plain"), "truncated or damaged"),
        (
            lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\1\7")),
            "starts with 00 00 08 01 where",
        ),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x03\0\0")), "promises"),
        (lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-5])), "promises"),
        (lambda path: write_idx(path, np.zeros((49, 28, 28))), r"where Fashion-MNIST has \(50, 28, 28\)"),
    ],
    ids=["missing", "cut gzip", "no gzip", "labels", "cut head", "cut values", "count"],
)
def test_faulty_files(script, source, tmp_path, monkeypatch, capsys, damage, words):
    damage(source / "train-images-idx3-ubyte.gz")
    with pytest.raises(ValueError, match=words):
        script.write_folder(source, tmp_path / "out")
    with pytest.raises(SystemExit) as stopped:
        run(script, monkeypatch, tmp_path / "out", "--source", source)
    assert stopped.value.code == 1
    assert f"error: {source}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_refuses_a_folder_with_something_in_it(script, source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(ValueError, match="no empty folder"):
        script.write_folder(source, tmp_path / "out")
