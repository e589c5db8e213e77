"""What varies between the runs of a comparison: keys of the recipe with their values, and what to call each."""

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

SEED = "seed_everything"
"""The key whose values are replicates of one combination."""
_LONGEST_NAME = 100  # of a folder: most disks take 255 bytes


@dataclass(frozen=True)
class Axis:
    """A key of the recipe and the values that it takes.

    Args:
        key: with dots, such as "model.network_options.lim".
        values: at least one, all different.
    """

    key: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Combination:
    """One set of values, trained once with every seed.

    Args:
        label: as tables name it.
        settings: key -> value, of what varies.
        group: the switch that a packaged list files it under; empty: none.
    """

    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""

    def words(self) -> list[str]:
        """The settings as words of a command line."""
        return [f"--{key}={text_of(value)}" for key, value in self.settings.items()]


def read_axis(text: str) -> Axis:
    """Read `KEY=VALUE,VALUE`: the values are what stands between the brackets of a YAML list.

    So `a,b` are two values, `{lim: false},{peg: false}` two mappings, `[1,2],[3]` two lists and `[1,2]` is one.

    Raises:
        ValueError: there is no key or no value, or the values are not YAML; names the remedy.
    """
    key, equals, values = text.partition("=")
    key = key.strip().removeprefix("--")
    if not equals or not key:
        raise ValueError(f"--vary {text}: give a key and its values, such as --vary model.variant=NAME,NAME")
    try:
        found = _values_in(f"[{values}\n]")
    except yaml.YAMLError as error:
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ValueError(
            f"--vary {text}: the values are not YAML ({problem}); put commas between values, and quotes around one "
            "with commas, brackets or braces of its own"
        ) from None
    if not found:
        raise ValueError(f"--vary {text}: there is no value behind the =; give at least one")
    return Axis(key, tuple(found))


class SettingsLoader(yaml.SafeLoader):
    """YAML of what recipes hold: dates are text, and what is neither text, number, list nor mapping is an error."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


for _tag in ("timestamp", "binary", "set", "omap", "pairs"):
    SettingsLoader.add_constructor(f"tag:yaml.org,2002:{_tag}", SettingsLoader.construct_undefined)


def _values_in(text: str) -> list[Any]:
    """The values of a YAML list."""
    loader = SettingsLoader(text)
    try:
        node = loader.get_single_node()
        found = loader.construct_document(node)
    finally:
        loader.dispose()
    if node.value and (lost := text[node.value[-1].end_mark.index : -1].strip(" ,\n")):
        raise yaml.MarkedYAMLError(problem=f"{lost} would be a comment, and be lost")
    return [_as_given(child, value) for child, value in zip(node.value, found, strict=True)]


def _as_given(node: yaml.Node, value: Any) -> Any:
    """A value, or its text where YAML reads more into it than the recipe's key may: 12:00:00 as a number, yes as true.

    Such a text goes on to the recipe as `scalablevit fit --KEY TEXT` has it, and is read by the kind of the key.
    """
    if not isinstance(node, yaml.ScalarNode) or node.style is not None:
        return value
    text: str = node.value
    is_word = isinstance(value, bool) and text.lower() not in ("true", "false")
    is_other_int = isinstance(value, int) and not isinstance(value, bool) and text != str(value)
    return text if is_word or is_other_int or (isinstance(value, float) and ":" in text) else value


def read_axes(texts: Iterable[str]) -> list[Axis]:
    """Read several axes; those of one key are joined.

    Raises:
        ValueError: as `read_axis`; or a value is given twice.
    """
    by_key: dict[str, list[Any]] = {}
    for text in texts:
        axis = read_axis(text)
        by_key.setdefault(axis.key, []).extend(axis.values)
    for key, values in by_key.items():
        texts_of = [text_of(value) for value in values]
        twice = next((text for i, text in enumerate(texts_of) if text in texts_of[:i]), None)
        if twice is not None:
            raise ValueError(f"--vary {key}: {twice} is given twice; give each value once")
    keys = list(by_key)
    for key in keys:
        inside = next((other for other in keys if other.startswith(f"{key}.")), None)
        if inside is not None:
            raise ValueError(f"--vary {key} and --vary {inside}: one holds the other; give both values by {key}")
    return [Axis(key, tuple(values)) for key, values in by_key.items()]


def combinations_of(axes: Sequence[Axis], *, otherwise: str) -> tuple[list[Combination], tuple[int, ...]]:
    """Combine every value with every other.

    Args:
        axes: as of `read_axes`.
        otherwise: label of the one combination where nothing but the seed varies.

    Returns:
        the combinations, the last axis varying fastest; and the seeds: empty where they do not vary.

    Raises:
        ValueError: a seed is no whole number.
    """
    seeds: tuple[int, ...] = ()
    varied = []
    for axis in axes:
        if axis.key != SEED:
            varied.append(axis)
            continue
        wrong = next((v for v in axis.values if not isinstance(v, int) or isinstance(v, bool)), None)
        if wrong is not None:
            raise ValueError(f"--vary {SEED}: a seed is a whole number, got {text_of(wrong)}")
        seeds = axis.values
    names = short_names([axis.key for axis in varied])
    found = []
    for values in itertools.product(*(axis.values for axis in varied)):
        settings = {axis.key: value for axis, value in zip(varied, values, strict=True)}
        label = ", ".join(f"{names[key]}={text_of(value)}" for key, value in settings.items())
        found.append(Combination(label or otherwise, settings))
    return found, seeds


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Key -> the last of its words, or more of them where two keys would be named alike."""
    found = {}
    for key in keys:
        parts = key.split(".")
        for depth in range(1, len(parts) + 1):
            name = ".".join(parts[-depth:])
            if not any(other != key and other.split(".")[-depth:] == parts[-depth:] for other in keys):
                break
        found[key] = name
    return found


def text_of(value: Any) -> str:
    """A value as a command line and a recipe give it: text as it is, all else as YAML in one line."""
    if isinstance(value, str):
        return value
    return yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False).removesuffix("...\n").strip()


def folder_names(labels: Sequence[str]) -> list[str]:
    """A folder's name for each label: letters, digits and a few signs, no two alike."""
    found: list[str] = []
    for label in labels:
        name = re.sub(r"[^\w.=,+-]+", "-", label.replace(", ", ","), flags=re.ASCII)
        name = re.sub(r"-*([=,])-*", r"\1", name).strip("-.,") or "run"
        if len(name) > _LONGEST_NAME or name.lower() in (other.lower() for other in found):
            digest = hashlib.sha256(label.encode("utf-8", "surrogateescape")).hexdigest()[:6]
            name = f"{name[: _LONGEST_NAME - 7].rstrip('-.,')}-{digest}"
        found.append(name)
    return found
