"""Packaged recipes: a YAML file per published result, and small ones. Listing them imports nothing heavy."""

import difflib
from importlib.resources import files
from pathlib import Path


def recipe_names() -> list[str]:
    """Names of the packaged recipes, sorted."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in files(__package__).iterdir() if entry.name.endswith(".yaml")
    )


def recipe_text(name: str) -> str:
    """The YAML of a packaged recipe.

    Raises:
        ValueError: there is no such recipe.
    """
    if name not in recipe_names():
        close = difflib.get_close_matches(name, recipe_names(), 1)
        hint = f"did you mean {close[0]}?" if close else "`scalablevit recipes` lists those"
        raise ValueError(f"{name}: neither a file nor a packaged recipe; {hint}")
    return files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")


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
    recipe_text(name_or_file)
    return Path(str(files(__package__).joinpath(f"{name_or_file}.yaml")))
