"""What is wrong with a recipe or a command line, in one sentence: the key, the file, the value, the remedy."""

import contextlib
import dataclasses
import difflib
import re
import typing
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from jsonargparse._parameter_resolvers import get_signature_parameters
from lightning.pytorch import Trainer

from scalablevit.moved import forward_moved_names

TOP_KEYS = (
    *("model", "data", "trainer", "seed_everything", "threads"),
    *("checkpoint_every", "keep_checkpoints", "logger"),
)


class RecipeError(ValueError):
    """A recipe or a command line that cannot become a run; the message is for the user."""


def origin_of(error: BaseException) -> BaseException | None:
    """What a class of ours or Lightning raised in jsonargparse; None: jsonargparse itself found fault."""
    current: BaseException | None = error
    while current is not None:
        frame = current.__traceback__
        while frame is not None and frame.tb_next is not None:
            frame = frame.tb_next
        module = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
        if not module.startswith(("jsonargparse", "argparse", "yaml")):
            return current
        current = current.__cause__
    return None


# jsonargparse (4.52 and 4.53) tells what is wrong in text alone: neither its `ArgumentError` nor the causes of it hold
# the key, the value or the kind of fault, and `ArgumentParser.error` gets the same text. It is read by these patterns.
_UNKNOWN = re.compile(
    r"Group '(?P<group>[^']+)' does not accept option '(?P<member>[^']+)'"
    r"|Option '(?P<option>[^']+)' is not accepted"
    r"|unrecognized arguments: (?P<words>.+)"
)
_REQUIRED = re.compile(r"arguments are required: (?P<parts>.+)")
_KEY = re.compile(r'Parser key "([^"]+)"')
_EXPECTED = re.compile(r"Expected an? (.+?)(?:\. Got value: .*)?$", re.MULTILINE)
_GOT = re.compile(r"(?:Got value|Given value): (.+?)$", re.MULTILINE)
_NO_CLASS = re.compile(r"(?:module '[^']+' has no|No \S+) attribute '?\w+'?|No module named '[^']+'")
_CLASS = re.compile(r"class_path '([^']+)'")


def readable(error: BaseException, recipes: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """What jsonargparse finds wrong, in one sentence: the key, the value, the remedy.

    Args:
        error: raised by jsonargparse.
        recipes: file -> settings, to name the file in which a key stands.
    """
    text = str(error)
    prefix = ".".join(_KEY.findall(text)).replace(".init_args", "")
    classes = _CLASS.findall(text)
    unknown = _UNKNOWN.search(text)
    if unknown is not None:
        return _unknown_key(unknown, prefix, classes[-1] if classes else None, recipes or {})
    required = _REQUIRED.search(text)
    if required is not None:
        part = required["parts"].split(",")[0]
        return lacking(f"{prefix}.{part}" if prefix else part)
    missing = _NO_CLASS.search(text)
    if missing is not None:
        return f"{prefix}.class_path: there is no {classes[-1]} ({missing[0]}); correct its name"
    got = _GOT.search(text)
    expected = list(dict.fromkeys(_plain_type(kind) for kind in _EXPECTED.findall(text)))
    if expected:
        if len(expected) > 1 and "null" in expected:  # often said of the whole class around the value
            expected.remove("null")
        said = got[1] if got is not None and "Namespace(" not in got[1] else None
        where = "" if said is None else _file_of(prefix, recipes or {}, said)
        return f"{prefix}{where} must be {' or '.join(expected)}" + ("" if said is None else f", got {said!r}")
    last = text.strip().splitlines()[-1].strip()
    return f"{prefix}: {last}" if prefix else last[:1].lower() + last[1:]


def lacking(key: str) -> str:
    """That a recipe does not say what it must: "model", "data", or a key in one of them."""
    what = {"model": "a task", "data": "a data set"}.get(key)
    if what is None:
        return f"the recipe lacks {key}, which has no default: set it there, or by --{key} VALUE"
    return f"the recipe names no {key}.class_path: it needs {what}; see `scalablevit recipes`"


def _unknown_key(
    found: re.Match[str], prefix: str, class_path: str | None, recipes: Mapping[str, Mapping[str, Any]]
) -> str:
    parts = [prefix, found["group"], found["member"] or found["option"]]
    if found["words"]:
        word = found["words"].split()[0]
        if not word.startswith("-"):
            return f"{word!r} is not understood: values are given as --KEY VALUE"
        parts.append(word.lstrip("-").partition("=")[0])
    key = ".".join(part for part in parts if part).replace(".init_args", "")
    known = list(_known_keys(prefix, class_path))
    # the last word of a key is what is misspelt most; a full match of the path comes first
    close = difflib.get_close_matches(key, known, 1, cutoff=0.75)
    dashes = "--" if found["words"] and not prefix else ""
    lists_all = "`scalablevit fit --config NAME --print_config` lists all"
    hint = f"did you mean {dashes}{close[0]}?" if close else lists_all
    others = _other_keys(class_path)
    hint = next((others[part] for part in reversed(key.split(".")) if part in others), hint)
    return f"there is no key {dashes}{key}{_file_of(key, recipes)}; {hint}"


def _other_keys(class_path: str | None) -> dict[str, str]:
    """What a class has in the place of keys that other tasks have; its attribute `other_keys`."""
    module, _, name = (class_path or "").rpartition(".")
    with contextlib.suppress(ImportError, AttributeError, ValueError):
        return dict(getattr(import_module(module), name).other_keys)
    return {}


def _known_keys(prefix: str, class_path: str | None) -> Iterator[str]:
    """Keys that a recipe may hold: below `prefix`, or all where it is empty."""
    if prefix and class_path is not None:
        with contextlib.suppress(ImportError, AttributeError):
            module, _, name = class_path.rpartition(".")
            yield from _keys_of(getattr(import_module(module), name), prefix)
        return
    yield from (*TOP_KEYS, "config", "run", "resume")
    yield from ("devices", "epochs", "precision", "seed", "print_config")
    yield from _keys_of(Trainer, "trainer")


def _keys_of(kind: Any, prefix: str) -> Iterator[str]:
    yield from annotations_of(kind, prefix)


def annotations_of(kind: Any, prefix: str) -> dict[str, Any]:
    """Key -> type of the arguments of a class, with those of the settings in it.

    Args:
        kind: the class.
        prefix: what its keys begin with.
    """
    found: dict[str, Any] = {}
    for parameter in get_signature_parameters(kind):  # with those of settings that `**` takes
        key = f"{prefix}.{parameter.name}"
        found[key] = parameter.annotation
        for inner in (parameter.annotation, *typing.get_args(parameter.annotation)):
            if dataclasses.is_dataclass(inner):
                found.update(annotations_of(inner, key))
    return found


def nullable_keys(class_paths: Mapping[str, str]) -> dict[str, bool]:
    """Key of a recipe -> whether it may be null; keys of free mappings, such as `network_options`, are not among them.

    Args:
        class_paths: "model" and "data" -> class that the recipe names; one that cannot be imported has no keys.
    """
    found = annotations_of(Trainer, "trainer") | {
        "threads": int | None,
        "checkpoint_every": str | None,
        "keep_checkpoints": int,
    }
    for part, class_path in class_paths.items():
        with contextlib.suppress(Exception):  # a class that cannot be imported is reported elsewhere
            module, _, name = class_path.rpartition(".")
            found |= annotations_of(getattr(import_module(module), name), part)
    return {key: type(None) in typing.get_args(annotation) for key, annotation in found.items()}


def _file_of(key: str, recipes: Mapping[str, Mapping[str, Any]], said: str | None = None) -> str:
    """` in FILE` for the last recipe that holds the key, with the value `said` if given; else nothing."""
    for file in reversed(list(recipes)):
        value: Any = recipes[file]
        for part in key.split("."):
            if isinstance(value, Mapping) and part not in value:
                value = value.get("init_args")
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            return f" in {file}" if said is None or str(value) == said else ""
    return ""


def _plain_type(kind: str) -> str:
    """`<class 'int'>` as a person says it."""
    literal = re.fullmatch(r"typing\.Literal\[(.*)\]", kind)
    if literal is not None:
        return literal[1].replace("'", "")
    names = {
        "int": "a whole number",
        "float": "a number",
        "str": "text",
        "bool": "true or false",
        "NoneType": "null",
    }
    match = re.fullmatch(r"<class '(.*)'>", kind)
    return names.get(match[1], match[1]) if match is not None else kind


forward_moved_names(__name__)
