"""Read a recipe file: plain values only, within bounds that no recipe reaches and every YAML bomb exceeds."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from scalablevit.training.recipe_errors import TOP_KEYS, RecipeError
from scalablevit.weights.source import first_line

_MOST_BYTES = 500_000
_MOST_VALUES = 20_000  # aliases counted as often as they are used
_MOST_DEPTH = 40
_LARGEST_INTEGER = 2**63


def read_recipe(path: Path) -> dict[str, Any]:
    """Read the settings in a YAML file.

    Raises:
        RecipeError: not YAML, not a mapping, or larger than a recipe can be; names file and line.
    """
    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise RecipeError(f"{path}: {size:,} bytes are too many for a recipe; name a YAML file with its keys alone")
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _count_values(root, {}, 0)
        settings = yaml.safe_load(text)
    except RecipeError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = "" if mark is None else f" line {mark.line + 1}"
        raise RecipeError(f"{path}{line}: not valid YAML ({error.problem}); correct it") from error
    except RecursionError:
        raise RecipeError(f"{path}: it is nested deeper than a recipe; correct it") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: a date or a number that is none
        raise RecipeError(f"{path}: not valid YAML ({first_line(error)}); correct it") from error
    if not isinstance(settings, dict):
        raise RecipeError(
            f"{path}: a recipe is a mapping with the keys model, data and trainer, this is "
            f"{'empty' if settings is None else type(settings).__name__}; see `scalablevit recipes NAME`"
        )
    for key in settings:
        if key not in TOP_KEYS:
            close = difflib.get_close_matches(str(key), TOP_KEYS, 1)
            hint = f"did you mean {close[0]}?" if close else f"a recipe has the keys {', '.join(TOP_KEYS)}"
            raise RecipeError(f"there is no key {key} in {path}; {hint}")
    for name, value in leaves(settings):
        if isinstance(value, int) and abs(value) >= _LARGEST_INTEGER:
            raise RecipeError(f"{path}: {name} is too large a number; correct it")
    return settings


def check_numbers(words: list[str]) -> None:
    """Refuse integers on the command line that no setting can hold.

    Raises:
        RecipeError: names the word before it.
    """
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if re.fullmatch(r"[+-]?\d{19,}", value if equals else word):
            raise RecipeError(f"{name if equals else words[i - 1]}: the number is too large; correct it")


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Each value that is neither mapping nor list, with its key; `init_args` are left out of it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            below = name if key == "init_args" else f"{name}.{key}" if name else str(key)
            yield from leaves(inner, below)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{name}[{i}]")
    else:
        yield name, value


def _count_values(node: yaml.Node, counts: dict[int, int], depth: int) -> int:
    """How many values a node stands for, its aliases written out.

    Raises:
        RecipeError: too many, too deep, or it holds itself.
    """
    if depth > _MOST_DEPTH:
        raise RecursionError
    known = counts.get(id(node))
    if known is not None:
        if known == 0:
            raise yaml.MarkedYAMLError(problem="an alias holds itself", problem_mark=node.start_mark)
        return known
    counts[id(node)] = 0  # being counted
    children: list[Any] = []
    if isinstance(node, yaml.SequenceNode):
        children = node.value
    elif isinstance(node, yaml.MappingNode):
        children = [part for pair in node.value for part in pair]
    total = 1 + sum(_count_values(child, counts, depth + 1) for child in children)
    if total > _MOST_VALUES:
        raise yaml.MarkedYAMLError(
            problem=f"more than {_MOST_VALUES:,} values, aliases written out", problem_mark=node.start_mark
        )
    counts[id(node)] = total
    return total
