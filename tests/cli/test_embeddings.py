"""`scalablevit predict --embeddings`: the file, and what is refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from untrained import write_classifier

from command_line import scalablevit
from scalablevit.classification import Classifier
from scalablevit.cli import predict


@pytest.fixture
def words(tmp_path: Path) -> list[str | Path]:
    """Three images, one of them damaged, and the weights."""
    run = write_classifier(tmp_path / "run", ["a", "b"])
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, colour in (("1 süß.png", "red"), ("3.png", "blue")):
        Image.new("RGB", (32, 32), colour).save(photos / name)
    (photos / "2.png").write_bytes(b"junk")
    return ["predict", photos, "--weights", run, "--json"]


def test_a_file_of_numpy_holds_paths_and_features(words: list[str | Path], tmp_path: Path) -> None:
    done = scalablevit(*words, "--embeddings", tmp_path / "new" / "found.npz")
    assert done.code == 1, "one image cannot be read"
    found = np.load(tmp_path / "new" / "found.npz")
    assert found["paths"].tolist() == [str(tmp_path / "photos" / name) for name in ("1 süß.png", "3.png")]
    assert found["embeddings"].shape == (2, 128)
    (only,) = Classifier.load(tmp_path / "run").predict(tmp_path / "photos" / "3.png", keep_embeddings=True)
    np.testing.assert_allclose(found["embeddings"][1], only.embedding, rtol=1e-4, atol=1e-5)
    assert "probability" in done.out


def test_a_table_has_a_row_for_each_image(words: list[str | Path], tmp_path: Path) -> None:
    scalablevit(*words, "--embeddings", tmp_path / "found.csv")
    with (tmp_path / "found.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0][:2] == ["path", "feature_0"]
    assert [(Path(row[0]).name, len(row)) for row in rows[1:]] == [("1 süß.png", 129), ("3.png", 129)]


@pytest.mark.parametrize(("name", "message"), [("found.txt", "must end in .npz or .csv"), ("a.npz", "is a folder")])
def test_what_is_no_such_file_is_refused(words: list[str | Path], tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.npz").mkdir()
    refused = scalablevit(*words, "--embeddings", tmp_path / name)
    assert refused.code == 2
    assert message in refused.err


def test_a_file_that_the_predictions_go_to_as_well_is_refused(words: list[str | Path], tmp_path: Path) -> None:
    refused = scalablevit(
        *words[:-1], "--csv", tmp_path / "all.csv", "--embeddings", tmp_path / "new" / ".." / "all.csv"
    )
    assert refused.code == 2
    assert "would replace the predictions" in refused.err
    assert not (tmp_path / "all.csv").exists()


def test_a_place_that_cannot_be_written_is_told_before_the_first_image(words: list[str | Path], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused = scalablevit(*words, "--embeddings", tmp_path / "file" / "found.npz")
    assert refused.code == 1
    assert "could not be written" in refused.err
    assert not refused.out


def test_features_are_kept_where_the_predictions_cannot_be(tmp_path: Path) -> None:
    closed = []

    class Fails:
        def close(self) -> None:
            raise OSError("the disk is full")

    class Keeps:
        def close(self) -> None:
            closed.append(self)

    report = predict.Report(None, None, printed=None)  # type: ignore[arg-type]
    report.file, report.embeddings = Fails(), Keeps()  # type: ignore[assignment]
    with pytest.raises(OSError, match="full"):
        report.close()
    assert closed
