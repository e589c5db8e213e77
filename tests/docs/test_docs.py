"""The written part is true: commands parse, links lead somewhere, code runs, figures are those computed."""

import contextlib
import dataclasses
import inspect
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonargparse._parameter_resolvers import get_signature_parameters

import scalablevit.classification as classification
import scalablevit.detection as detection
import scalablevit.pretraining as pretraining
import scalablevit.segmentation as segmentation
from scalablevit.cli import main
from scalablevit.cli.entry import COMMANDS, module_of
from scalablevit.data.stream.settings import StreamSettings
from scalablevit.detection.models.settings import MaskRCNNSettings, RetinaNetSettings
from scalablevit.recipes import recipe_names, recipe_text
from scalablevit.training.mesa import MesaSettings
from scalablevit.training.settings import FreezeSettings, OptimizerSettings, ScheduleSettings
from scalablevit.training.teacher import TeacherSettings

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(
    r"(?P<mark><!-- skip: .+? -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
INLINE = re.compile(r"`(scalablevit [^`]+)`")
PLACEHOLDERS = {"NAME": "train_folder", "NAME|FILE": "train_folder"}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[tuple[str, bool]]:
    """Text of the page's fenced blocks of that language, and whether each is marked to be left out."""
    found = FENCE.finditer(page.read_text())
    return [(match["text"], match["mark"] is not None) for match in found if match["language"] == language]


def commands() -> Iterator[tuple[str, str]]:
    """(where, command line) of every `scalablevit ...` in the pages and in the recipes' headers."""
    for page in PAGES:
        for text, _ in blocks(page, "sh"):
            lines = [line.strip() for line in text.splitlines()]
            yield from ((name(page), line) for line in lines if line.startswith("scalablevit "))
        prose = FENCE.sub("", page.read_text())
        yield from ((name(page), line) for line in INLINE.findall(prose))
    for recipe in recipe_names():
        header = re.findall(r"^#.*?(scalablevit fit .+)$", recipe_text(recipe), re.MULTILINE)
        yield from ((f"{recipe}.yaml", line) for line in header)


def exit_code(words: list[str]) -> int:
    """What the command ends with; argparse and --print_config leave by SystemExit."""
    try:
        return main(words)
    except SystemExit as stop:
        return int(stop.code or 0)


def as_dry_run(words: list[str]) -> list[str]:
    """A command line that has its flags checked and then stops: no data, weights or run folder is needed."""
    command, rest = words[0], words[1:]
    if command == "validate" and rest:
        assert not rest[0].startswith("-"), "the run's folder comes first"
        run = Path(rest[0]).name
        recipe = run if run in recipe_names() else "digits"
        rest = ["--config", recipe, *(word for word in rest[1:] if word != "--json")]
        if "--checkpoint" in rest:
            del rest[(i := rest.index("--checkpoint")) : i + 2]
    if "--resume" in rest:
        del rest[(i := rest.index("--resume")) : i + 2]
        rest = ["--config", "digits", *rest]
    for i, word in enumerate(rest):
        if rest[i - 1] == "--config" and i > 0:
            a_file = word.endswith(".yaml") and not (ROOT / word).is_file()
            rest[i] = "train_folder" if a_file else PLACEHOLDERS.get(word, word)
            assert rest[i] in recipe_names(), f"there is no recipe {word}"
    return ["fit", *rest, "--print_config"]


@pytest.mark.parametrize(("where", "line"), sorted(set(commands())), ids=lambda x: x)
def test_command_parses(where: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = re.split(r"\s[>|]\s", line)[0]  # a shell's redirection is none of ours
    words = shlex.split(words, comments=True)[1:]
    if not words or words[0] not in COMMANDS:
        assert words in (["--help"], ["--version"], ["COMMAND", "--help"]), f"{where}: no such command"
        return
    if words[0] in ("compare", "ablate"):
        code = exit_code([*words, "--dry-run"] if {"--vary", "--only"} & set(words) else [words[0], "--help"])
    elif words[0] in ("fit", "validate"):
        if "--model.help" in words or len(words) == 1:
            words = ["fit", "--help"] if len(words) == 1 else words
        else:
            words = as_dry_run(words)
        code = exit_code(words)
    else:
        if words[0] == "recipes" and words[1:]:
            assert PLACEHOLDERS.get(words[1], words[1]) in recipe_names()
        takes_arguments = words[0] in ("predict", "check-data")
        if takes_arguments and len(words) == 1:  # the command is mentioned, not shown
            return
        module_of(words[0]).parser().parse_args(words[1:])
        return
    printed = capsys.readouterr()
    assert code == 0, f"{where}: {line}\n{printed.err}"


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", page.read_text())):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


def tree() -> list[str]:
    """Paths of the README's file tree."""
    (text,) = (text for text, _ in blocks(ROOT / "README.md", "text") if "src/scalablevit/" in text)
    paths: list[str] = []
    parents: list[str] = []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        parents = [*parents[:depth], line.split()[0]]
        paths.append("".join(parents))
    return paths


def test_file_tree_names_what_is_there() -> None:
    paths = tree()
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []
    package = ROOT / "src" / "scalablevit"
    ours = {f"src/scalablevit/{p.name}" for p in package.iterdir() if not p.name.startswith(("_", "py.typed"))}
    assert ours - {path.rstrip("/") for path in paths} == set(), "rooms that the README leaves out"


def test_every_page_is_linked_from_the_readme() -> None:
    pages = {name(page) for page in PAGES if page.parent.name == "docs"}
    linked = re.findall(r"\]\(([^)#\s]+)", (ROOT / "README.md").read_text())
    assert pages <= set(linked)


CODE = [(page, text, skip) for page in PAGES for text, skip in blocks(page, "python")]


@pytest.mark.parametrize(
    ("page", "text"),
    [pytest.param(page, text, id=f"{name(page)}-{i}") for i, (page, text, _) in enumerate(CODE)],
)
def test_python_compiles(page: Path, text: str) -> None:
    compile(text, name(page), "exec")


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [pytest.param(text, id=f"{name(page)}-{i}") for i, (page, text, skip) in enumerate(CODE) if not skip],
)
def test_python_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.no_grad():
        exec(compile(text, "block", "exec"), {"__name__": "__main__"})


# the command line sets them
NOT_IN_RECIPES = ("class_names", "preprocessing", "seed", "trained_class_names", "trained_label_map")
TASKS = [
    *(classification.ClassificationTask, classification.MultiLabelTask),
    *(detection.DetectionTask, segmentation.SegmentationTask),
    *(pretraining.MaskedPretraining, pretraining.DistilledPretraining),
]
DATA = [
    *(classification.ImageFolderData, classification.ImageTableData),
    *(detection.CocoData, segmentation.MaskFolderData, pretraining.UnlabelledImageData),
]
# heading -> the one whose keys it shares, where they are the same
ALSO = {
    "model: `scalablevit.classification.MultiLabelTask`": "model: `scalablevit.classification.ClassificationTask`",
    "data: `scalablevit.classification.ImageTableData`": "data: `scalablevit.classification.ImageFolderData`",
}
# heading in docs/recipes.md -> whose arguments its table explains, and how their keys begin
EXPLAINED: dict[str, tuple[Any, str]] = {
    "model.optimizer": (OptimizerSettings, "model.optimizer"),
    "model.schedule": (ScheduleSettings, "model.schedule"),
    "model.freeze": (FreezeSettings, "model.freeze"),
    "model.mixup": (classification.MixupSettings, "model.mixup"),
    "model.teacher": (TeacherSettings, "model.teacher"),
    "model.mesa": (MesaSettings, "model.mesa"),
    "model.inference": (segmentation.InferenceSettings, "model.inference"),
    "data.stream": (StreamSettings, "data.stream"),
    **{f"model: `{task.__module__.rpartition('.')[0]}.{task.__name__}`": (task, "model") for task in TASKS},
    **{f"data: `{data.__module__.rpartition('.')[0]}.{data.__name__}`": (data, "data") for data in DATA},
    **{
        f"data.augmentation: `{room.__name__}.Augmentation`": (room.Augmentation, "data.augmentation")
        for room in (classification, detection, segmentation)
    },
}
SHARED = {"model": ("model: shared by the tasks", TASKS), "data": ("data: shared by the tasks", DATA)}
# options of a task -> models by the names in the table's column "of", and arguments that the task or the data gives
OPTIONS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "model.detector_options": (
        {"RetinaNet": RetinaNetSettings, "Mask R-CNN": MaskRCNNSettings},
        ("min_size", "max_size", "mean", "std"),
    ),
    "model.segmenter_options": ({"Semantic FPN": segmentation.semantic_fpn, "UperNet": segmentation.upernet}, ()),
}
GIVEN = (
    *("name", "num_classes", "in_chans", "scale_value", "drop_path_rate", "window_size", "network_options"),
    "grad_checkpointing",
)


def key_rows(heading: str) -> list[list[str]]:
    """Cells of the rows that explain a key, in the section of docs/recipes.md with that heading."""
    text = (ROOT / "docs/recipes.md").read_text()
    assert f"\n### {heading}\n" in text, f"there is no section {heading}"
    section = re.split(r"^#+ ", text.partition(f"\n### {heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines()]
    return [row for row in rows if row[0].startswith(("`model.", "`data."))]


def found_defaults(heading: str) -> dict[str, str]:
    rows = key_rows(heading)
    found = {row[0].strip("`").rpartition(".")[2]: row[1] for row in rows}
    assert len(found) == len(rows)
    return found


def expected_defaults(kind: Any, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Argument -> default, with those of settings that `**` takes; `inspect.Parameter.empty` where there is none."""
    parameters = get_signature_parameters(kind)
    return {parameter.name: parameter.default for parameter in parameters if parameter.name not in without}


def assert_default(written: str, default: Any, where: str) -> None:
    if dataclasses.is_dataclass(default):
        assert written == "see below", where
    elif default is inspect.Parameter.empty:
        assert written == "required", where
    else:
        plain = list(default) if isinstance(default, tuple) else default
        assert yaml.safe_load(written.strip("`")) == pytest.approx(plain), where


def test_all_sections_with_keys_are_known() -> None:
    headings = re.findall(r"^### ((?:model|data)[.:].*)$", (ROOT / "docs/recipes.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted([*EXPLAINED, *OPTIONS, *(heading for heading, _ in SHARED.values())])


@pytest.mark.parametrize("heading", EXPLAINED)
def test_every_key_of_a_recipe_is_explained_with_its_default(heading: str) -> None:
    kind, prefix = EXPLAINED[heading]
    assert all(row[0].startswith(f"`{prefix}.") for row in key_rows(heading))
    found = found_defaults(heading)
    expected = expected_defaults(
        kind, without=(*NOT_IN_RECIPES, "optimizer", "schedule") if kind in TASKS + DATA else ()
    )
    if prefix in SHARED:
        shared = found_defaults(SHARED[prefix][0])
        assert not shared.keys() & found.keys(), "explained twice"
        found |= shared
    if heading in ALSO:
        there = found_defaults(ALSO[heading])
        found = {key: value for key, value in there.items() if key in expected} | found
    assert found.keys() == expected.keys()
    for key, default in expected.items():
        assert_default(found[key], default, f"{prefix}.{key}")


@pytest.mark.parametrize("heading", OPTIONS)
def test_every_option_of_a_model_is_explained_with_its_default(heading: str) -> None:
    models, given = OPTIONS[heading]
    found: dict[tuple[str, str], str] = {}
    for key, default, of, *_ in key_rows(heading):
        assert key.startswith(f"`{heading}.")
        for model in models if of == "both" else [of]:
            assert (key, model) not in found
            found[key.strip("`").rpartition(".")[2], model] = default
    expected = {
        (key, model): default
        for model, build in models.items()
        for key, default in expected_defaults(build, without=(*GIVEN, *given)).items()
    }
    assert found.keys() == expected.keys()
    for (key, model), default in expected.items():
        assert_default(found[key, model], default, f"{heading}.{key} of {model}")


def test_every_recipe_is_listed() -> None:
    rows = re.findall(
        r"^\| (`.+?`) \| ", (ROOT / "docs/recipes.md").read_text().partition("## Changing")[0], re.MULTILINE
    )
    listed = [recipe for row in rows for recipe in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(recipe_names())


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_make_targets_exist(page: Path) -> None:
    text = page.read_text()
    mentioned = re.findall(r"`make ([a-z-]+)`", text) + re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(mentioned) <= set(targets)


@pytest.mark.slow
def test_costs_in_the_results_are_those_of_info() -> None:
    rows = re.findall(
        r"^\| `(scalablevit_\w+)`(, scaled-value form)? \| ([\d.]+) M \| ([\d.]+) G \| ([\d.]+) G \|$",
        (ROOT / "docs" / "results.md").read_text(),
        re.MULTILINE,
    )
    assert len(rows) == 7
    costs: dict[str, dict[str, Any]] = {}
    for form, words in (("", []), (", scaled-value form", ["scalablevit_small", "--scale-value"])):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["info", *words, "--json"]) == 0
        costs |= {variant + form: cost for variant, cost in json.loads(out.getvalue()).items()}
    for variant, form, *figures in rows:
        cost = costs[variant + form]
        expected = [cost["parameters"] / 1e6, cost["multiply_adds"] / 1e9, cost["flops"] / 1e9]
        assert figures == [f"{value:.2f}" for value in expected], variant


@pytest.mark.slow
@pytest.mark.parametrize("model", ["RetinaNet", "Mask R-CNN", "Semantic FPN", "UperNet"])
def test_costs_of_dense_models_are_those_of_info(model: str) -> None:
    kind = {"RetinaNet": "retinanet", "Mask R-CNN": "mask_rcnn", "Semantic FPN": "semantic_fpn"}.get(model, "upernet")
    rows = re.findall(
        rf"^\| {model}, ([SBL]) \| ([\d.]+) M \| ([\d.]+) M \| (\d+) G \| (\d+) G \|",
        (ROOT / "docs" / "results.md").read_text(),
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == ["S", "B", "L"]
    variants = {"S": "scalablevit_small", "B": "scalablevit_base", "L": "scalablevit_large"}
    for letter, published_parameters, parameters, published_adds, multiply_adds in rows:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            assert main(["info", "--model", kind, variants[letter], "--json"]) == 0
        cost = json.loads(out.getvalue())[variants[letter]]
        assert parameters == f"{cost['parameters'] / 1e6:.1f}"
        assert multiply_adds == f"{cost['multiply_adds'] / 1e9:.0f}"
        assert float(published_parameters) == pytest.approx(float(parameters), abs=0.1)
        assert float(published_adds) == pytest.approx(float(multiply_adds), rel=0.01)


def test_kinds_of_problems_are_those_of_the_checks() -> None:
    section = (ROOT / "docs/data.md").read_text().partition("\n## Bad files\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (error|warning)\b.*? \| (.+) \|$", section, re.MULTILINE)
    listed = [(severity, kind) for severity, cells in rows for kind in re.findall(r"`([\w-]+)`", cells)]
    known = {kind for _, kind in listed}
    source = "\n".join(path.read_text() for path in (ROOT / "src/scalablevit").rglob("*.py"))
    composed = {"no-categories"}  # f"no-{name}"
    assert {kind for kind in known - composed if f'"{kind}"' not in source} == set()
    raised = re.findall(r'(?:Problem\(\s*"(?:error|warning)",|_LayoutError\()\s*"([\w-]+)",', source)
    raised += re.findall(r'(?:Coco|Image|Pair)Error\((?:(?!Error\().)*?\bkind="([\w-]+)"', source, re.DOTALL)
    assert len(raised) > 30
    assert set(raised) <= known
    from scalablevit.detection.coco.problems import KINDS

    assert {(severity, kind) for kind, (severity, _) in KINDS.items()} <= set(listed)


def test_citation_has_what_is_needed() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version", "license"} <= citation.keys()
    paper = citation["preferred-citation"]
    assert paper["type"] == "conference-paper"
    assert paper["authors"][0] == {"family-names": "Yang", "given-names": "Rui"}
    assert len(paper["authors"]) == 7
    assert paper["year"] == 2022
    assert any("2203.10790" in identifier["value"] for identifier in paper["identifiers"])
    from scalablevit import __version__

    assert citation["version"] == __version__
    assert f"## {__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_licence_is_the_one_named() -> None:
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_figure_is_still_to_be_measured(page: Path) -> None:
    missing = re.findall(r"TODO-MEASURE\([^)]*\)", page.read_text())
    assert not missing, f"{name(page)}: measure and fill in {', '.join(dict.fromkeys(missing))}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_path_of_one_machine(page: Path) -> None:
    assert not re.findall(r"(?<![\w.:])/(?:home|root|tmp|work|Users)/", page.read_text())


def test_architecture_image_is_small() -> None:
    assert (ROOT / "docs" / "images" / "architecture.png").stat().st_size < 200_000
