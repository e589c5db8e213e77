"""What CONTRIBUTING.md, the Makefile and the workflow promise exists."""

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()


def targets() -> set[str]:
    (line,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)
    return set(line.split())


def test_help_names_every_target() -> None:
    told = set(re.findall(r'@echo "make ([a-z-]+) ', MAKEFILE))
    assert told == targets() - {"help"}
    for target in targets():
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target


def test_every_target_in_the_documents_exists() -> None:
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / ".ci" / "run"):
        lines = [line for line in path.read_text().splitlines() if "`make " in line or line.startswith("make ")]
        named = {target for line in lines for target in re.findall(r"(?:`|^)make ([a-z][a-z-]*)", line)}
        assert named <= targets(), f"{path.name}: {named - targets()}"


def test_paths_in_the_contributors_guide_exist() -> None:
    for name in ("CONTRIBUTING.md", "SECURITY.md"):
        for path in re.findall(r"`((?:tests|docs|benchmarks|src)/[\w/.]+)`", (ROOT / name).read_text()):
            assert (ROOT / path).exists(), f"{name}: {path}"


def test_the_workflow_runs_what_a_contributor_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert [step["run"] for step in workflow["jobs"]["run"]["steps"] if "run" in step] == ["bash .ci/run"]
    script = (ROOT / ".ci" / "run").read_text()
    for command in ("make lint", "make test\n", "make test-lowest", "pip wheel"):
        assert command in script


def test_hooks_run_what_lint_runs() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = MAKEFILE.split("\nlint:")[1].split("\n\n")[0]
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in hooks}
    assert tools == set(re.findall(r"\$\(BIN\)/([a-z-]+)", lint))


def test_issue_forms_are_whole() -> None:
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 2
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert form["name"]
        assert form["description"]
        assert {item["type"] for item in form["body"]} == {"textarea"}
        assert len({item["id"] for item in form["body"]}) == len(form["body"])
