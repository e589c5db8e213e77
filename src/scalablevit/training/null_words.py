"""`--KEY null` on the command line, for keys at any depth."""

import json
from collections.abc import Mapping
from typing import Any

from scalablevit.training.recipe_errors import RecipeError

_NULL = ("null", "Null", "NULL", "~")
_ALSO_NULL = ("none", "None", "")
_PARTS = ("model", "data")
_NEVER_NULL = ("seed_everything", "trainer")


def says_null(words: list[str]) -> bool:
    """Whether a command line may hold a null."""
    return any(word.rpartition("=")[2] in (*_NULL, *_ALSO_NULL) for word in words)


def with_nulls(words: list[str], class_paths: Mapping[str, str], nullable: Mapping[str, bool]) -> list[str]:
    """Replace `--model.KEY null` and `--data.KEY null` by a piece of a recipe, which keeps their place.

    jsonargparse hands a null to a nested key as the text "None".

    Args:
        words: `--KEY VALUE` or `--KEY=VALUE`, in order.
        class_paths: part of the recipe -> class that it names.
        nullable: key, without `init_args` -> whether it may be null; then `none`, `None` and nothing mean null too.

    Raises:
        RecipeError: a key that may not be null.
    """
    result: list[str] = []
    todo = iter(words)
    for word in todo:
        key, equals, value = word.partition("=")
        name = key.removeprefix("--")
        part, _, rest = name.partition(".")
        if not key.startswith("--") or not (equals or name):
            result.append(word)
            continue
        if not equals:
            following = next(todo, None)
            if following is None:
                result.append(word)
                break
            value = following
        is_null = value in _NULL or (value in _ALSO_NULL and nullable.get(name, False))
        if is_null and not nullable.get(name, name not in _NEVER_NULL):
            raise RecipeError(f"{key} cannot be null; leave it out for its default")
        if is_null and part in _PARTS and rest and part in class_paths and not rest.startswith("help"):
            result += ["--config", json.dumps({part: _piece(class_paths[part], rest.split("."))})]
        elif is_null and nullable.get(name, False):
            result.append(f"{key}=null")
        elif equals:
            result.append(word)
        elif value.startswith("--"):  # a flag without a value
            result += [word, *with_nulls([value, *todo], class_paths, nullable)]
            break
        else:
            result += [word, value]
    return result


def _piece(class_path: str, keys: list[str]) -> dict[str, Any]:
    """The part of a recipe in which one key is null."""
    value: Any = None
    for key in reversed([key for key in keys if key != "init_args"]):
        value = {key: value}
    return {"class_path": class_path, "init_args": value}
