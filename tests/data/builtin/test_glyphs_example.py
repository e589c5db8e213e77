"""The glyph script draws the characters of font files and keeps typefaces that look alike in one part."""

import csv
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import matplotlib
import numpy as np
import pytest
import yaml
from PIL import Image

from scalablevit.recipes import recipe_text

SCRIPT = Path(__file__).parents[3] / "examples" / "glyphs_folder.py"
FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("glyphs_folder", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def face(script: ModuleType, family: str, shapes: np.ndarray, style: str = "Regular"):
    return script.Face(Path(f"{family} {style}.ttf"), family, style, np.zeros((45, 64, 64), np.uint8), shapes)


def random_shapes(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random((45, 256), dtype=np.float32)


def test_writes_characters_by_class_and_names_the_faces(script, tmp_path, monkeypatch, capsys):
    source = tmp_path / "fonts"
    source.mkdir()
    for name in ("DejaVuSans.ttf", "DejaVuSansMono.ttf", "STIXGeneral.ttf", "cmr10.ttf", "cmtt10.ttf", "cmss10.ttf"):
        (source / name).symlink_to(FONTS / name)
    (source / "broken.ttf").write_bytes(b"no font")
    out = tmp_path / "new" / "glyphs"
    monkeypatch.setattr(script, "SHARES", {"val": 0.2, "test": 0.2})
    monkeypatch.setattr(script, "_LARGEST_GROUP", 1.0)
    monkeypatch.setattr(sys, "argv", ["glyphs_folder.py", str(out), "--source", str(source)])
    script.main()
    printed = capsys.readouterr().out
    assert "left out: 1 files: cannot be read" in printed
    assert printed.splitlines()[-1] == f"Try: scalablevit fit --config glyphs --data.root {out}"
    rows = list(csv.DictReader((out / "faces.csv").open(encoding="utf-8")))
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    assert {row["part"] for row in rows} == {"train", "val", "test"}
    assert len({row["part"] for row in rows if row["group"] == "dejavu"}) == 1
    for part, count in Counter(row["part"] for row in rows).items():
        assert len(list((out / part).iterdir())) == 45
        assert all(len(list(folder.iterdir())) == count for folder in (out / part).iterdir())
    sans = next(row for row in rows if row["family"] == "DejaVu Sans")
    with Image.open(out / sans["part"] / "capital-H" / f"{sans['face']}.png") as image:
        ink = Image.eval(image, lambda value: 255 - value).getbbox()
        assert image.size == (64, 64)
        assert image.mode == "L"
    assert abs(ink[3] - ink[1] - 36) <= 2
    assert abs(ink[0] + ink[2] - 64) <= 2
    assert [path.name for path in out.parent.iterdir()] == ["glyphs"]


def test_recipe_and_script_name_the_same_folder(script):
    recipe = yaml.safe_load(recipe_text("glyphs"))
    assert Path(recipe["data"]["init_args"]["root"]) == script.RECIPE_ROOT
    assert f"glyphs_folder.py {script.RECIPE_ROOT}\n" in script.__doc__


def test_packages_are_printed(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["glyphs_folder.py", "--packages"])
    script.main()
    names = capsys.readouterr().out.split()
    assert "fonts-dejavu-core" in names
    assert len(set(names)) == len(names) > 100


def test_faces_of_one_name_or_one_look_are_one_group(script):
    alike = random_shapes(1)
    faces = [
        face(script, "Nimbus Sans", random_shapes(0)),
        face(script, "Nimbus-Roman", alike),
        face(script, "Times", alike + 0.01),
        face(script, "Other", random_shapes(2)),
    ]
    assert script.group_faces(faces) == ["nimbus", "nimbus", "nimbus", "other"]


def test_no_group_is_in_two_parts_and_large_ones_train(script):
    groups = [f"family-{i}" for i in range(200)] + ["large"] * 100
    part_of = script.split_groups(groups)
    assert part_of["large"] == "train"
    sizes = Counter(part_of[group] for group in groups)
    assert sizes == {"val": 30, "test": 60, "train": 210}
    assert script.split_groups(groups[::-1]) == part_of


def test_capitals_in_place_of_small_letters_are_told(script):
    shapes = random_shapes(0)
    assert not script.has_capitals_only(face(script, "Text", shapes))
    for i, character in enumerate(script.CHARACTERS):
        if character.islower():
            shapes[i] = shapes[script.CHARACTERS.index(character.upper())]
    assert script.has_capitals_only(face(script, "Capitals", shapes))


def test_symbols_are_told_from_letters(script):
    letters = random_shapes(0)
    noise = [letters + 0.2 * random_shapes(seed) for seed in range(1, 6)]
    faces = [face(script, f"Text {i}", shapes) for i, shapes in enumerate(noise)]
    faces.append(face(script, "Symbols", random_shapes(9)))
    assert script.are_letters(faces).tolist() == [True] * 5 + [False]


def test_a_folder_without_fonts(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "fonts").mkdir()
    monkeypatch.setattr(sys, "argv", ["glyphs_folder.py", str(tmp_path / "out"), "--source", str(tmp_path / "fonts")])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 1
    assert "holds no .ttf, .otf or .ttc file; install fonts" in capsys.readouterr().err
    (tmp_path / "fonts" / "broken.ttf").touch()
    with pytest.raises(ValueError, match="none of 1 font files has all of ABC"):
        script.find_faces(tmp_path / "fonts")
    assert not (tmp_path / "out").exists()


def test_refuses_a_folder_with_something_in_it(script, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(ValueError, match="no empty folder"):
        script.write_folder(tmp_path, tmp_path)
