"""`scalablevit predict`: what is done is not lost, and names are shown as they are."""

import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from untrained import write_classifier

from command_line import scalablevit
from scalablevit.classification import Classifier
from scalablevit.cli import save_images
from scalablevit.cli.image_inputs import ImageInput, relative_stems
from scalablevit.cli.terminal import print_json
from scalablevit.deploy.prediction import PAYS_FROM

HOSTILE = "gr\x1b[31mün\n"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("weights"), ["[red]", "dog [/small]", ":cat:", HOSTILE])


def write_image(path: Path, colour: str = "red") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 20), colour).save(path, format="PNG")
    return path


@pytest.mark.parametrize("name", ["photo [copy].png", "x :smile: y.png", "a[/red].png", "$x_1$.png"])
def test_names_are_printed_as_they_are(weights: Path, tmp_path: Path, name: str) -> None:
    path = write_image(tmp_path / name)
    outcome = scalablevit("predict", path, "--weights", weights)
    assert (outcome.code, outcome.err) == (0, "")
    assert str(path) in outcome.out
    for shown in ("[red]", "dog [/small]", ":cat:", r"gr\x1b[31mün\n"):
        assert shown in outcome.out
    assert "\x1b" not in outcome.out
    row = json.loads(scalablevit("predict", path, "--weights", weights, "--json").out)
    assert row["path"] == str(path)
    assert HOSTILE in {found["class"] for found in row["predictions"]}


def test_columns_stand_below_each_other(weights: Path, tmp_path: Path) -> None:
    for name in ("a", "画像", "longer name"):
        write_image(tmp_path / f"{name}.png")
    lines = scalablevit("predict", tmp_path, "--weights", weights, "--top", "1").out.splitlines()
    from rich.cells import cell_len

    starts = {cell_len(line[: line.index(word)]) for line, word in zip(lines[1:], itertools.repeat("  "))} - {0}
    assert lines[0].split() == ["image", "class", "probability"]
    assert len({cell_len(line[: line.rindex("  ")]) for line in lines[1:]} | starts) >= 1
    assert len({cell_len(line.rpartition("  ")[0].rstrip() + "") for line in lines}) >= 1
    column = cell_len(lines[0][: lines[0].index("probability")])
    assert all(cell_len(line.rpartition("  ")[0]) + 2 == column for line in lines[1:])


@pytest.mark.parametrize("kind", ["table", "--json", "--csv"])
def test_ctrl_c_keeps_rows_while_the_next_images_are_read(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    paths = [write_image(tmp_path / "in" / f"{i:02d}.png") for i in range(12)]
    real, calls = Classifier._outputs, itertools.count()

    def interrupted(self: Classifier, *args: Any) -> Any:
        if next(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return real(self, *args)

    monkeypatch.setattr(Classifier, "_outputs", interrupted)
    file = tmp_path / "found.csv"
    words = {"table": (), "--csv": ("--csv", file)}.get(kind, (kind,))
    outcome = scalablevit(
        "predict", tmp_path / "in", "--weights", weights, "--batch-size", "2", "--top", "1", "--device", "cpu", *words
    )
    assert outcome.code == 130
    assert outcome.err == "scalablevit: error: stopped\n"
    kept = file.read_text() if kind == "--csv" else outcome.out
    assert [path.name for path in paths if str(path) in kept] == ["00.png", "01.png", "02.png", "03.png"]
    for _ in range(500):
        if not any(thread.name.startswith("read ahead") for thread in threading.enumerate()):
            return
        time.sleep(0.01)
    pytest.fail("threads go on reading")


@pytest.mark.parametrize(("count", "prepared"), [(PAYS_FROM, 1), (PAYS_FROM - 1, 0)])
def test_many_images_go_through_a_prepared_network(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, prepared: int
) -> None:
    for i in range(count):
        write_image(tmp_path / f"{i}.png", ("red", "blue", "white")[i % 3])
    made: list[int] = []
    real = Classifier.prepare
    monkeypatch.setattr(Classifier, "prepare", lambda self: made.append(1) or real(self))
    outcome = scalablevit("predict", tmp_path, "--weights", weights, "--device", "cpu", "--json")
    assert (outcome.code, len(made)) == (0, prepared)
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    plain = list(Classifier.load(weights, device="cpu").predict(sorted(tmp_path.glob("*.png"))))
    for row, expected in zip(rows, plain, strict=True):
        found = {entry["class"]: entry["probability"] for entry in row["predictions"]}
        assert found == pytest.approx(dict(zip(expected.classes, expected.probabilities, strict=True)), abs=2e-6)


def test_one_bad_input_is_one_line_and_the_rest_goes_on(weights: Path, tmp_path: Path) -> None:
    good = write_image(tmp_path / "good.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"junk")
    inputs = (tmp_path / "missing.png", good, tmp_path / "empty", tmp_path / "bad.png", "https://a.b/c.png", "film.mp4")
    outcome = scalablevit("predict", *inputs, "--weights", weights, "--top", "1")
    assert outcome.code == 1
    assert [line.split()[0] for line in outcome.out.splitlines()] == ["image", str(good)]
    said = outcome.err.splitlines()
    assert len(said) == 5
    assert all(line.startswith("skipped ") for line in said)
    assert any("download it first" in line for line in said)
    assert any("ffmpeg -i film.mp4" in line for line in said)


def test_nothing_but_missing_inputs_ends_with_one(weights: Path, tmp_path: Path) -> None:
    outcome = scalablevit("predict", tmp_path / "none.png", "--weights", weights)
    assert (outcome.code, outcome.out) == (1, "")


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_ctrl_c_keeps_what_was_printed(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    for i in range(4):
        write_image(tmp_path / f"{i}.png")
    original = Classifier.predict

    def interrupted(self: Classifier, *args: Any, **options: Any) -> Iterator[Any]:
        yield from itertools.islice(original(self, *args, **options), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "predict", interrupted)
    outcome = scalablevit("predict", tmp_path, "--weights", weights, "--top", "1", *flags)
    assert outcome.code == 130
    assert outcome.out.count(".png") == 2


def test_saved_images_keep_the_folders_of_their_inputs(weights: Path, tmp_path: Path) -> None:
    for camera in ("left", "right"):
        write_image(tmp_path / "in" / camera / "000.png")
    write_image(tmp_path / "in" / "a.png")
    write_image(tmp_path / "in" / "a.bmp")
    out = tmp_path / "out"
    outcome = scalablevit("predict", tmp_path / "in", "--weights", weights, "--json", "--save", out)
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    found = {os.path.relpath(row["path"], tmp_path / "in"): row["saved"] for row in rows}
    assert found == {
        "a.bmp": [str(out / "a.bmp.png")],
        "a.png": [str(out / "a.png.png")],
        "left/000.png": [str(out / "left" / "000.png")],
        "right/000.png": [str(out / "right" / "000.png")],
    }
    assert all(Path(path).is_file() for paths in found.values() for path in paths)


def test_results_of_several_inputs_are_named_below_the_folder_that_holds_them(tmp_path: Path) -> None:
    images = [ImageInput(tmp_path / name, (tmp_path / name).parent) for name in ("a/b/1.png", "a/c/1.png", "d/1.png")]
    assert {str(stem) for stem in relative_stems(images).values()} == {"a/b/1", "a/c/1", "d/1"}
    assert relative_stems(images[:1])[images[0].path] == Path("1")


def test_images_saved_at_the_same_time_replace_none(tmp_path: Path) -> None:
    """As two processes do that start together."""
    images = {"": Image.new("RGB", (8, 8)), "-mask": Image.new("L", (8, 8))}
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: save_images.save(images, tmp_path, Path("a")), range(16)))
    assert len({path for pair in paths for path in pair}) == 32
    assert {path.name for path in tmp_path.iterdir()} == {path.name for pair in paths for path in pair}
    assert all(path.stat().st_size for path in tmp_path.iterdir())


def test_a_name_that_no_file_system_takes_is_shortened(weights: Path, tmp_path: Path) -> None:
    long = write_image(tmp_path / "in" / ("n" * 251 + ".png"))
    other = write_image(tmp_path / "in" / ("n" * 250 + "m.png"))
    outcome = scalablevit("predict", long, other, "--weights", weights, "--save", tmp_path / "out")
    assert (outcome.code, outcome.out.count(".png")) == (0, 2), outcome.err
    assert len(list((tmp_path / "out").iterdir())) == 2


def test_one_image_that_cannot_be_written_is_one_line(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name)
    original = save_images.save

    def refuse_a(images: Any, folder: Path, stem: Path, **options: Any) -> list[Path]:
        if stem.name == "a":
            raise OSError(errno.EACCES, "Permission denied")
        return original(images, folder, stem, **options)

    monkeypatch.setattr("scalablevit.cli.predict.save", refuse_a)
    outcome = scalablevit("predict", tmp_path / "in", "--weights", weights, "--save", tmp_path / "out", "--top", "1")
    assert outcome.code == 1
    assert outcome.out.count(".png") == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]
    assert "not saved: Permission denied" in outcome.err


def test_values_that_are_not_numbers_are_null_and_a_failure(tmp_path: Path) -> None:
    broken = write_classifier(tmp_path / "broken", ["a", "b"], broken=True)
    image = write_image(tmp_path / "a.png")

    def no_constant(name: str) -> None:
        raise AssertionError(name)

    outcome = scalablevit("predict", image, "--weights", broken, "--json")
    row = json.loads(outcome.out, parse_constant=no_constant)
    assert [found["probability"] for found in row["predictions"]] == [None, None]
    assert outcome.code == 1
    assert "not numbers (NaN)" in outcome.err
    assert scalablevit("predict", image, "--weights", broken).code == 1


@pytest.mark.parametrize("name", ["out.jpg", "out.PNG"])
def test_a_folder_that_is_named_like_an_image(weights: Path, tmp_path: Path, name: str) -> None:
    outcome = scalablevit("predict", write_image(tmp_path / "a.png"), "--weights", weights, "--save", tmp_path / name)
    assert outcome.code == 1
    assert f"--save {tmp_path / 'out'}\n" in outcome.err
    assert not (tmp_path / name).exists()


def test_weights_are_found_among_the_images(weights: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.png")
    for words in ((image, weights), (weights, image), (image, weights / "model.safetensors")):
        outcome = scalablevit("predict", *words, "--top", "1")
        assert (outcome.code, outcome.out.count("a.png")) == (0, 1), outcome.err
    missing = scalablevit("predict", image)
    assert missing.code == 2
    assert "--weights RUN" in missing.err


def test_json_of_a_stream_that_is_not_utf8() -> None:
    for encoding in ("ascii", "cp1252", "utf-8"):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding=encoding)
        print_json({"path": "caf\udce9 画 ü", "x": float("nan")}, file=stream)
        stream.flush()
        assert json.loads(raw.getvalue().decode("ascii")) == {"path": "caf\udce9 画 ü", "x": None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "cp1252"},
    ],
    ids=str,
)
@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux only")
def test_terminals_and_file_names_that_are_not_utf8(weights: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    for name in ("grün.png".encode(), "画.png".encode(), b"caf\xe9.png"):
        image = write_image(tmp_path / "a.png")
        os.rename(image, os.path.join(os.fsencode(tmp_path), name))
    words = ["predict", str(tmp_path), "--weights", str(weights), "--top", "1"]
    code = (
        "import sys; from scalablevit.cli import main; from scalablevit.cli.terminal import tolerate_any_character\n"
        f"words = {words!r}; tolerate_any_character()\n"
        f"codes = [main([*words, *flags]) for flags in (['--save', {str(tmp_path / 'out')!r}], ['--json'])]\n"
        "sys.exit(max(codes))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, **environment}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    rows = [line.decode() for line in done.stdout.splitlines()[4:]]  # behind the table
    assert {Path(json.loads(row)["path"]).name for row in rows} == {"grün.png", "画.png", "caf\udce9.png"}
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_what_a_folder_holds_beyond_images_is_counted(weights: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    for name in ("notes.txt", "more.txt", "labels.csv"):
        (tmp_path / name).write_text("x")
    outcome = scalablevit("predict", tmp_path, "--weights", weights, "--json")
    assert outcome.code == 0, outcome.err
    assert len(outcome.out.splitlines()) == 2
    assert f"{tmp_path}: left out, as no images by their names: 2 .txt, 1 .csv" in outcome.err
