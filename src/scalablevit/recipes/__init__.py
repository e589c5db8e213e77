"""Packaged recipes: a YAML file per published result, and small ones. Listing them imports nothing heavy.

They lie in a folder per task. Where recipes differ only in the variant, one file holds them all: above a line `---` it
names them and what each fills in for `$NAME` below the line.
"""

import difflib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

_LINE = "\n---\n"


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    return sorted(_texts())


def recipe_text(name: str) -> str:
    """The YAML of a packaged recipe.

    Raises:
        ValueError: there is no such recipe.
    """
    texts = _texts()
    if name not in texts:
        close = difflib.get_close_matches(name, recipe_names(), 1)
        hint = f"did you mean {close[0]}?" if close else "`scalablevit recipes` lists those"
        raise ValueError(f"{name}: neither a file nor a packaged recipe; {hint}")
    return texts[name]


def recipe_title(name: str) -> str:
    """First line of a recipe's header comment."""
    return recipe_text(name).splitlines()[0].removeprefix("#").strip()


def find_recipe(name_or_file: str) -> Path:
    """The file of a packaged recipe or of the user's own.

    Raises:
        ValueError: neither is there.
    """
    path = Path(name_or_file)
    if path.is_file():
        return path
    text = recipe_text(name_or_file)
    path = Path(_folder().name, f"{name_or_file}.yaml")
    path.write_text(text, encoding="utf-8")
    return path


@cache
def _texts() -> dict[str, str]:
    """Name -> YAML of every packaged recipe."""
    texts: dict[str, str] = {}
    for file in _yaml_files(files(__package__)):
        text = file.read_text(encoding="utf-8")
        if _LINE in text:
            texts |= _filled(text)
        else:
            texts[file.name.removesuffix(".yaml")] = text
    return texts


def _yaml_files(folder: Traversable) -> list[Traversable]:
    found = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _yaml_files(entry)
        elif entry.name.endswith(".yaml"):
            found.append(entry)
    return found


def _filled(text: str) -> dict[str, str]:
    """Name -> YAML of the recipes in a file for several."""
    import yaml

    head, _, body = text.partition(_LINE)
    return {name: Template(body).substitute(values) for name, values in yaml.safe_load(head).items()}


@cache
def _folder() -> TemporaryDirectory[str]:
    """Where packaged recipes are written for LightningCLI, which reads files; it goes with the process."""
    return TemporaryDirectory(prefix="scalablevit-recipes-")
