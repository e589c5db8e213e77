"""Which models the page offers, their examples, and what it tells of their training; no page is needed for it."""

from pathlib import Path
from typing import Any

import pytest
from untrained_models import NAMES

from command_line import output_of
from scalablevit.app.examples import examples_of
from scalablevit.app.models import Loaded, Model, find_models
from scalablevit.app.results import View, output_images, rows, run_predictor, seen, table_html
from scalablevit.app.training_report import training_report
from scalablevit.cli.save_images import save
from scalablevit.tasks import load
from scalablevit.weights import load_model, save_model


def find(*given: Path | str, runs: Path = Path("nowhere")) -> list[Model]:
    return find_models([str(word) for word in given], runs=runs, on_skipped=pytest.fail)


def model_of(runs: Path, name: str) -> Model:
    return next(model for model in find(runs) if model.label == name)


def test_runs_are_found_in_the_folder_and_below(runs: Path) -> None:
    for models in (find(runs=runs), find(runs)):
        assert {model.label: model.entry.name for model in models} == {
            "boxes": "detection",
            "pets": "classification",
            "pixels": "segmentation",
        }


def test_a_weights_file_is_named_by_its_run_and_same_names_get_more_of_their_path(runs: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere" / "pets"
    other.mkdir(parents=True)
    (other / "model.safetensors").write_bytes((runs / "pets" / "model.safetensors").read_bytes())
    labels = [model.label for model in find(runs / "pets" / "model.safetensors", other, runs / "boxes")]
    assert labels == ["runs/pets", "elsewhere/pets", "boxes"]


def test_an_exported_file_is_told_apart_from_its_run(tmp_path: Path) -> None:
    from scalablevit.app.models import _labels

    for place in ("digits", "cats", "elsewhere"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "model.onnx").touch()
    for place in ("digits", "cats"):
        (tmp_path / place / "model.safetensors").touch()
    digits, cats, elsewhere = (tmp_path / place for place in ("digits", "cats", "elsewhere"))
    files = [digits, digits / "model.onnx", digits / "model-int8.xml"]
    (digits / "model-int8.xml").touch()
    assert _labels(files) == ["digits", "digits/model.onnx", "digits/model-int8.xml"]
    assert _labels([cats / "model.safetensors", cats / "model.onnx"]) == ["cats", "cats/model.onnx"]
    assert _labels([elsewhere / "model.onnx"]) == ["model.onnx"]


def test_what_is_given_and_cannot_be_used_names_all_that_can(tmp_path: Path) -> None:
    accepted = r"run folder, its model\.safetensors, or an exported file \(\.onnx, \.xml, \.pt2\)"
    with pytest.raises(FileNotFoundError, match=rf"no weights at .*missing.*; give a {accepted}"):
        find(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=rf"no weights at .*; give a {accepted}"):
        find(tmp_path)
    (tmp_path / "model.xml").touch()
    (tmp_path / "model.bin").touch()
    with pytest.raises(FileNotFoundError, match=r"the folder holds model\.xml: give .*model\.xml"):
        find(tmp_path)
    with pytest.raises(ValueError, match=rf"or name a {accepted}: scalablevit app RUN"):
        find(runs=tmp_path)


def test_a_run_that_cannot_be_used_is_skipped_unless_it_was_named(runs: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model.safetensors").write_bytes(b"junk")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "recipe.yaml").write_text("data: {}\n")
    (tmp_path / "good").symlink_to(runs / "pets")
    said: list[str] = []
    assert [model.label for model in find_models([], runs=tmp_path, on_skipped=said.append)] == ["good"]
    assert len(said) == 2
    assert str(broken) in said[0]
    with pytest.raises(ValueError, match="broken"):
        find(broken)


def test_without_runs_the_error_says_how_to_train_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no trained model in the folder .*scalablevit fit --config digits"):
        find(runs=tmp_path)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        find(tmp_path / "missing")


def test_examples_are_validation_images(runs: Path) -> None:
    found = examples_of(model_of(runs, "pets"), 4)
    assert len(found.paths) == 4
    assert {path.parent.parent.name for path in found.paths} == {"val"}
    assert {path.parent.name for path in found.paths} == {"cat", "dog"}
    assert examples_of(model_of(runs, "pets"), 0).paths == []
    nothing = examples_of(model_of(runs, "boxes"), 4)
    assert nothing.paths == []
    assert nothing.remark == "No examples: the weights do not lie in a run folder."


@pytest.mark.parametrize(
    ("recipe", "remark"),
    [
        ("data: {init_args: {root: /no/such/folder}}", "data folder /no/such/folder is not there"),
        ("data: 3", "names no data"),
        ("data: [", "names no data"),
        ("[" * 3000, "names no data"),
        ("data: {init_args: {root: .}}", "no validation images were found"),
    ],
)
def test_the_page_says_why_there_are_no_examples(
    recipe: str, remark: str, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes((runs / "pets" / "model.safetensors").read_bytes())
    (run / "recipe.yaml").write_text(recipe)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    found = examples_of(find(run)[0], 4)
    assert found.paths == []
    assert remark in found.remark


def test_training_is_told_by_curves_figures_and_classes(runs: Path, tmp_path: Path) -> None:
    report = training_report(runs / "pets", tmp_path)
    assert [title for _, title in report.figures] == ["Curves", "Confusion matrix"]
    assert all(path.parent == tmp_path and path.stat().st_size for path, _ in report.figures)
    assert "&lt;b&gt;cat&lt;/b&gt;" in report.table
    assert "<b>" not in report.table
    assert "0.250" in report.table
    assert report.remark == ""
    assert "do not lie in a run folder" in training_report(None, tmp_path).remark
    assert "no metrics.csv" in training_report(runs / "boxes", tmp_path).remark


def test_classes_of_all_tasks_results(tmp_path: Path) -> None:
    for text in (
        '{"box": {"per_class": {"zero": {"ap": 0.5, "ap50": null}}}, "mask": {"per_class": {"zero": {"ap": 0.5}}}}',
        '{"miou": 0.1, "classes": [{"class": "zero", "iou": 0.5}]}',
    ):
        (tmp_path / "results.json").write_text(text)
        table = training_report(tmp_path, tmp_path / "out").table
        assert "<td>zero</td><td>0.500</td>" in table
    for damaged in ("", "[]", '{"per_class": 3}', '{"box": 3}', "[" * 3000):
        (tmp_path / "results.json").write_text(damaged)
        assert training_report(tmp_path, tmp_path / "out").table == ""


@pytest.mark.parametrize(
    ("name", "view", "options"),
    [
        ("pets", View(top=2), {"top": 2}),
        ("boxes", View(threshold=0.2), {"threshold": 0.2}),
        ("pixels", View(), {}),
    ],
)
def test_rows_and_images_are_those_of_predict(
    name: str, view: View, options: dict[str, float], runs: Path, photo: Path, tmp_path: Path
) -> None:
    model = model_of(runs, name)
    predictor = Loaded("cpu").predictor(model)
    (expected,) = (
        load(model.entry.predictor).load(model.weights, device="cpu").predict([photo], keep_images=True, **options)
    )
    task = model.entry.name
    shown = seen(run_predictor(predictor, task, photo), task, view)
    assert shown.to_dict() == {**expected.to_dict(), "path": photo.name}
    assert shown.table_rows() == expected.table_rows()
    ours, theirs = output_images(shown, task, view), expected.output_images()
    assert ours.keys() == theirs.keys()
    for ending, image in theirs.items():
        assert ours[ending].tobytes() == image.tobytes(), ending
    (saved, *_) = save(theirs, tmp_path, Path("x"))
    assert saved.is_file()
    lines = rows(shown, task)
    assert lines, "an untrained network that finds nothing would show nothing here"
    html = table_html(lines, "nothing")
    assert "<b>" not in html
    assert any(name.replace("<", "&lt;").replace(">", "&gt;") in html for name in NAMES)


def test_labels_of_an_image_with_several_follow_the_threshold(runs: Path, photo: Path, tmp_path: Path) -> None:
    network, metadata = load_model(runs / "pets")
    told = {key: metadata[key] for key in ("task", "class_names", "preprocessing")}
    options = {"architecture": "scalablevit_atto", "model_args": {"num_classes": len(NAMES)}}
    save_model(network, tmp_path / "tags", metadata={**told, "multi_label": True}, **options)
    (model,) = find(tmp_path / "tags")
    assert (model.shows_top, model.shows_threshold) == (False, True)
    others = find(runs / "pets", runs / "boxes")
    assert [(other.shows_top, other.shows_threshold) for other in others] == [(True, False), (False, True)]
    predictor = Loaded("cpu").predictor(model)
    found = run_predictor(predictor, "classification", photo)
    for threshold in (0.05, 0.5, 1.0):
        (expected,) = predictor.predict([photo], threshold=threshold, keep_images=True)
        shown = seen(found, "classification", View(threshold=threshold))
        assert shown.to_dict() == {**expected.to_dict(), "path": photo.name}
        assert output_images(shown, "classification", View())[""].tobytes() == expected.output_images()[""].tobytes()
    assert rows(shown, "classification") == []


@pytest.mark.slow
@pytest.mark.parametrize(("format", "suffix"), [("onnx", ".onnx"), ("openvino", ".xml"), ("torch", ".pt2")])
def test_an_exported_file_is_a_model_like_any_other(
    format: str, suffix: str, runs: Path, photo: Path, tmp_path: Path
) -> None:
    pytest.importorskip({"onnx": "onnxruntime", "openvino": "openvino", "torch": "torch"}[format])
    file = tmp_path / f"pets{suffix}"
    output_of("export", runs / "pets", "--format", format, "--output", file)
    models = find(file, runs / "pets")
    assert [model.label for model in models] == [f"pets{suffix}", "pets"]
    loaded = Loaded("cpu")
    ours, theirs = (run_predictor(loaded.predictor(model), "classification", photo) for model in models)
    assert ours.classes == theirs.classes
    assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)


def test_an_exported_detector_shows_what_scores_above_its_own_threshold(runs: Path, photo: Path) -> None:
    class Exported:
        """A detector whose graph keeps what scores above 0.3."""

        lowest_threshold = 0.3

        def predict(self, paths: list[Path], *, threshold: float, **options: Any) -> Any:
            assert threshold >= self.lowest_threshold, "such a file refuses lower ones"
            return detector.predict(paths, threshold=threshold, **options)

    model = model_of(runs, "boxes")
    detector = Loaded("cpu").predictor(model)
    assert detector.lowest_threshold == 0
    shown = run_predictor(Exported(), "detection", photo)
    assert shown.error is None
    assert all(found.score > 0.3 for found in shown.detections)


def test_opacity_changes_the_drawing_alone(runs: Path, photo: Path) -> None:
    model = model_of(runs, "pixels")
    prediction = run_predictor(Loaded("cpu").predictor(model), "segmentation", photo)
    half, none = (output_images(prediction, "segmentation", View(opacity=x)) for x in (0.5, 0.0))
    assert half[""].tobytes() != none[""].tobytes()
    assert half["-mask"].tobytes() == none["-mask"].tobytes()


def test_predictors_are_loaded_once_and_the_oldest_is_dropped(runs: Path) -> None:
    loaded = Loaded("cpu")
    model = model_of(runs, "pets")
    first = loaded.predictor(model)
    assert loaded.predictor(model) is first
    others = [Model(f"{i}", model.source, model.weights, model.entry) for i in range(3)]
    for other in others:
        loaded.predictor(other)
    assert loaded.predictor(model) is not first


def test_views_out_of_range() -> None:
    for bad in ({"top": 0}, {"threshold": 0.0}, {"threshold": float("nan")}, {"opacity": 2.0}):
        with pytest.raises(ValueError, match="must"):
            View(**bad)
    assert "nothing above 50 %" in table_html([], "nothing above 50 %")
