"""The JSON of a COCO file and the values in it, before anything is made of them.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import gc
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class CocoError(ValueError):
    """Annotations that cannot be used at all.

    Attributes:
        kind: one word that programs can sort by.
        path: file or folder.
    """

    def __init__(self, message: str, *, kind: str = "annotations", path: str | Path = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.path = str(path)


def read_lists(path: Path) -> tuple[list[Any], list[Any], list[Any]]:
    """Images, annotations and categories of a COCO file, as they stand.

    Raises:
        CocoError: the file is missing, cut off, no JSON or no COCO annotations, or it lists no images or categories.
    """
    return _parts(path, _load(path))


def integer(value: Any) -> int | None:
    """A whole number that fits 64 bits, also from 3.0; None from anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 62:
        return value
    return None


def lookup(index: Mapping[Any, int], key: Any) -> int | None:
    """What a number stands for in `index`, also for 3.0 in the place of 3; None for anything else."""
    return index.get(key) if isinstance(key, int | float) and not isinstance(key, bool) else None


def append_numbers(numbers: Any, values: Any, count: int | None = None) -> bool:
    """Append to an array of doubles if they are `count` numbers, or an even count of 6 or more finite ones."""
    if not isinstance(values, list) or (len(values) != count if count else len(values) < 6 or len(values) % 2):
        return False
    before = len(numbers)
    try:
        # As fast as C, where a look at each number is not: the sum is finite only if all are.
        if count is None and not math.isfinite(sum(values)):
            return False
        numbers.extend(values)
    except (TypeError, OverflowError):
        del numbers[before:]
        return False
    return True


def file_name(name: Any) -> str | None:
    """A name that a file can have; None from anything else."""
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        return None
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return None
    return name


def called(entry: Mapping[str, Any], number: int) -> str:
    """What to call an annotation in messages: by its id, or else by its place in the file."""
    entry_id = integer(entry.get("id"))
    return f"annotation number {number} (without an id)" if entry_id is None else f"annotation {entry_id}"


def shown(value: Any) -> str:
    """A value for messages, in 80 characters at most."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _load(path: Path) -> Any:
    """The JSON of a file; a CocoError says where it breaks off."""

    def fault(what: str, remedy: str) -> CocoError:
        return CocoError(f"{path}: {what}; {remedy}", kind="bad-json", path=path)

    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise fault("there is no such annotation file", "check the path") from None
    except UnicodeDecodeError as error:
        raise fault(
            f"the annotation file is not UTF-8 text (byte {error.start:,})", "unpack it, or save it as UTF-8"
        ) from None
    except OSError as error:
        raise fault(f"the annotation file cannot be read ({error.strerror})", "check the path and its rights") from None
    if not text.strip():
        raise fault("the annotation file is empty", "copy it again")
    collects = gc.isenabled()
    # Without the collector, which goes through all objects again and again, a large file takes half the time.
    gc.disable()
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        length = len(text.rstrip())
        cut = error.pos >= length or (error.pos > 0 and text[length - 1] not in "]}")
        where = f"line {error.lineno:,}, column {error.colno:,} (character {error.pos:,} of {length:,})"
        if cut:
            what = f"the annotation file is cut off: its JSON breaks off at {where}: {error.msg}"
            raise fault(what, "copy, download or export it again") from None
        raise fault(f"the annotation file is not valid JSON at {where}: {error.msg}", "export it again") from None
    except RecursionError:
        raise fault("the annotation file is nested too deeply for COCO annotations", "export it again") from None
    finally:
        if collects:
            gc.enable()


def _parts(path: Path, content: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Images, annotations and categories of a COCO file."""
    expected = "COCO annotations are an object with the lists 'images', 'annotations' and 'categories'"
    if not isinstance(content, dict):
        what = f"a list of {len(content):,}" if isinstance(content, list) else shown(content)
        hint = ""
        if isinstance(content, list) and content and isinstance(content[0], dict) and "score" in content[0]:
            hint = " (it seems to hold results of a detector)"
        raise CocoError(
            f"{path}: it holds {what}{hint}, but {expected}; name the annotation file", kind="not-coco", path=path
        )
    missing = [name for name in ("images", "annotations", "categories") if not isinstance(content.get(name), list)]
    if missing:
        found = ", ".join(repr(key) for key in list(content)[:8]) or "nothing"
        raise CocoError(
            f"{path}: it has no list {' and no list '.join(map(repr, missing))} (found: {found}); {expected}; export "
            "it as COCO, or name another file",
            kind="not-coco",
            path=path,
        )
    for name in ("images", "categories"):
        if not content[name]:
            message = f"{path}: its list {name!r} is empty; export it again, or name another file"
            raise CocoError(message, kind=f"no-{name}", path=path)
    return content["images"], content["annotations"], content["categories"]
