"""The pinned versions are those that pyproject.toml allows, all of them, and tell nothing else."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import lock

PROJECT = lock.read_project()


def pinned(kind: str) -> dict[str, str]:
    lines = [line for line in lock.FILES[kind].read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)  # type: ignore[misc]


@pytest.mark.parametrize("kind", lock.FILES)
def test_files_hold_names_and_versions_only(kind: str) -> None:
    head, *lines = lock.FILES[kind].read_text().splitlines()
    assert head.startswith("# ")
    assert "/" not in head
    for line in lines:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line), line
    assert lines == sorted(lines, key=lambda line: line.split("==")[0])
    assert len({line.split("==")[0] for line in lines}) == len(lines)


def test_every_requirement_is_pinned_within_its_range() -> None:
    found = pinned("newest")
    for line in lock.requirements(PROJECT, "newest"):
        requirement = Requirement(line)
        version = found.get(lock.normalised(requirement.name))
        assert version is not None, f"{line} is not in constraints.txt; run make lock"
        assert requirement.specifier.contains(version), f"{line} does not allow {version}; run make lock"


def test_the_lowest_versions_are_the_floors() -> None:
    found = pinned("lowest")
    for name, floor in lock.floors(PROJECT).items():
        assert name in found, f"{name} is not in constraints-lowest.txt; run make lock"
        assert Version(found[name]) == Version(floor), f"{name}: {found[name]} for {floor}; run make lock"


def test_both_files_are_resolved_for_the_oldest_python() -> None:
    oldest = lock.oldest_python(PROJECT)
    for path in lock.FILES.values():
        assert f"Python {oldest}:" in path.read_text().splitlines()[0]


def test_malicious_and_vulnerable_releases_of_lightning_are_out_of_range() -> None:
    (lightning,) = (Requirement(line) for line in PROJECT["project"]["dependencies"] if line.startswith("lightning"))
    for version in ("2.6.2", "2.6.3", "2.6.5"):
        assert not lightning.specifier.contains(version)


def test_a_package_in_two_lists_has_one_range() -> None:
    ranges: dict[str, set[str]] = {}
    for line in [*lock.users_requirements(PROJECT), *lock.tools(PROJECT)]:
        requirement = Requirement(line)
        ranges.setdefault(lock.normalised(requirement.name), set()).add(str(requirement.specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


def test_requirements_are_split() -> None:
    assert lock.split("jsonargparse[signatures]>=4.40,<5") == ("jsonargparse", "jsonargparse[signatures]", "4.40")
    assert lock.split("Import_Linter>=2.3; python_version < '4'") == ("import-linter", "Import_Linter", "2.3")
    assert lock.split("pip") == ("pip", "pip", "")
    with pytest.raises(ValueError, match="is no requirement"):
        lock.split("torch @ somewhere")
    with pytest.raises(ValueError, match="needs a lowest version"):
        lock.floors({"project": {"dependencies": ["torch<3"]}})


def test_the_lowest_set_pins_users_packages_and_leaves_the_linters_out() -> None:
    project: dict[str, Any] = {
        "build-system": {"requires": ["setuptools>=77"]},
        "project": {"dependencies": ["torch>=2.11"], "optional-dependencies": {"onnx": ["onnx>=1.18"]}},
        "dependency-groups": {"dev": ["pytest>=8", "ruff>=0.12", "onnx>=1.18"]},
    }
    assert lock.requirements(project, "lowest") == ["torch==2.11", "onnx==1.18", "setuptools>=77", "pip", "pytest>=8"]


def test_builds_of_a_version_are_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **_: Any) -> None:
        report = command[command.index("--report") + 1]
        items = [("Some_Package", "1.2+cpu"), ("other", "3")]
        text = ", ".join(f'{{"metadata": {{"name": "{name}", "version": "{version}"}}}}' for name, version in items)
        Path(report).write_text(f'{{"install": [{text}]}}')

    monkeypatch.setattr(subprocess, "run", run)
    assert lock.resolve(["other"]) == {"some-package": "1.2", "other": "3"}


def test_another_python_may_not_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 99, 0))
    with pytest.raises(SystemExit, match=r"must run in Python 3\.11.*not in 3\.99.*make lock PYTHON=python3\.11"):
        lock.write("newest")
