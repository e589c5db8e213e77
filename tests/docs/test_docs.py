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

from scalablevit.classification import Augmentation, ClassificationTask, ImageFolderData, MixupSettings
from scalablevit.cli import main
from scalablevit.recipes import recipe_names, recipe_text
from scalablevit.training.module import OptimizerSettings, ScheduleSettings

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
        rest = ["--config", "digits", *(word for word in rest[1:] if word != "--json")]
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
    if not words or words[0] not in ("fit", "validate", "predict", "check-data", "info", "recipes"):
        assert words in (["--help"], ["--version"], ["COMMAND", "--help"]), f"{where}: no such command"
        return
    if words[0] in ("fit", "validate"):
        if "--model.help" in words or len(words) == 1:
            words = ["fit", "--help"] if len(words) == 1 else words
        else:
            words = as_dry_run(words)
        code = exit_code(words)
    else:
        from scalablevit import cli

        if words[0] == "recipes" and words[1:]:
            assert PLACEHOLDERS.get(words[1], words[1]) in recipe_names()
        takes_arguments = words[0] in ("predict", "check-data")
        if takes_arguments and len(words) == 1:  # the command is mentioned, not shown
            return
        with contextlib.suppress(SystemExit):
            cli._parser().parse_args(words)
            return
        code = 2
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
    assert len(paths) > 25
    assert [path for path in paths if not (ROOT / path).exists()] == []
    package = ROOT / "src" / "scalablevit"
    ours = {f"src/scalablevit/{p.name}" for p in package.iterdir() if not p.name.startswith(("_", "py.typed"))}
    assert ours - {path.rstrip("/") for path in paths} == set(), "rooms that the README leaves out"
    pages = {name(page) for page in PAGES if page.parent.name == "docs"}
    assert pages <= set(paths)


CODE = [(page, text, skip) for page in PAGES for text, skip in blocks(page, "python")]


@pytest.mark.parametrize(
    ("page", "text"),
    [pytest.param(page, text, id=f"{name(page)}-{i}") for i, (page, text, _) in enumerate(CODE)],
)
def test_python_compiles(page: Path, text: str) -> None:
    compile(text, name(page), "exec")


@pytest.mark.parametrize(
    "text",
    [pytest.param(text, id=f"{name(page)}-{i}") for i, (page, text, skip) in enumerate(CODE) if not skip],
)
def test_python_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with torch.no_grad():
        exec(compile(text, "block", "exec"), {"__name__": "__main__"})


def defaults(kind: type, prefix: str, *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """Key -> default of a constructor's arguments; `inspect.Parameter.empty` where there is none."""
    parameters = inspect.signature(kind).parameters
    return {f"{prefix}.{key}": p.default for key, p in parameters.items() if key not in without}


def test_every_key_of_a_recipe_is_explained_with_its_default() -> None:
    expected = {
        **defaults(
            ClassificationTask,
            "model",
            without=("class_names", "preprocessing", "seed", "optimizer", "schedule"),
        ),
        **defaults(OptimizerSettings, "model.optimizer"),
        **defaults(ScheduleSettings, "model.schedule"),
        **defaults(MixupSettings, "model.mixup"),
        **defaults(ImageFolderData, "data", without=("seed",)),
        **defaults(Augmentation, "data.augmentation"),
    }
    rows = re.findall(
        r"^\| `(?!model\.safetensors)((?:model|data)\.[\w.]+)` \| (.+?) \|",
        (ROOT / "docs/recipes.md").read_text(),
        re.MULTILINE,
    )
    found = dict(rows)
    assert len(found) == len(rows)
    assert found.keys() == expected.keys()
    for key, default in expected.items():
        if dataclasses.is_dataclass(default):
            assert found[key] == "see below", key
        elif default is inspect.Parameter.empty:
            assert found[key] == "required", key
        else:
            plain = list(default) if isinstance(default, tuple) else default
            assert yaml.safe_load(found[key].strip("`")) == pytest.approx(plain), key


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


def test_architecture_picture_is_small() -> None:
    assert (ROOT / "docs" / "pictures" / "architecture.png").stat().st_size < 200_000
