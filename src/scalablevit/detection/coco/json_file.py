"""The JSON of a COCO file and the values in it, before anything is made of them.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import codecs
import gc
import json
import math
import os
import stat
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from scalablevit.data.foreign_annotations import foreign_format

Id = int | str
"""Id of an image, category or annotation: COCO's are numbers; other tools write texts."""
BoxForm = Literal["sizes", "corners", "centres"]
_Value = TypeVar("_Value")
_BYTES_OF_OBJECTS = 8  # memory that parsed JSON takes, for each byte of the file; about
# Keys whose second occurrence in one object would silently replace the first.
_KEYS = ("images", "annotations", "categories", "image_id", "category_id", "bbox", "segmentation", "file_name")


class Source(NamedTuple):
    """One of several files whose lists were put together.

    Fields:
        file: the annotation file.
        start: position of its first annotation among all.
        hint: what its ids of categories look like, to stand behind a message; may be empty.
    """

    file: Path
    start: int
    hint: str = ""


class Note(NamedTuple):
    """Something wrong that the reader of a format has found.

    Fields:
        kind: one of `problems.KINDS`.
        path: of the file or folder.
        message: path, reason and remedy.
    """

    kind: str
    path: Path
    message: str


class Lists(NamedTuple):
    """Images, annotations and categories, as COCO has them.

    Fields:
        images: entries as a COCO file has them, each unchecked.
        annotations: likewise.
        categories: likewise.
        sources: of the annotations, in their order, where several COCO files were put together.
        notes: what was found wrong before.
        boxes: what boxes are in the format of the file: "sizes" (left, top, width, height), "corners" or "centres".
    """

    images: list[Any]
    annotations: list[Any]
    categories: list[Any]
    sources: tuple[Source, ...] = ()
    notes: tuple[Note, ...] = ()
    boxes: BoxForm = "sizes"


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


def read_lists(path: Path) -> Lists:
    """Images, annotations and categories of a COCO file, as they stand.

    Raises:
        CocoError: the file is missing, cut off, no JSON or no COCO annotations, or it lists no images or categories.
    """
    return _parts(path, _load(path))


def integer(value: Any) -> int | None:
    """A whole number that fits 64 bits, also from 3.0; None from anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63:
        return value
    return None


def identifier(value: Any) -> Id | None:
    """An id: a whole number that fits 128 bits, as a UUID does, or a text; None from anything else."""
    if isinstance(value, str):
        return value if value.strip() and value.isprintable() else None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 128:
        return value
    return integer(value)


def id_order(value: Id) -> tuple[bool, Id]:
    """Sorting key of ids: numbers by size, then texts."""
    return isinstance(value, str), value


def lookup(index: Mapping[Any, _Value], key: Any) -> _Value | None:
    """Find what belongs to an id, also for 3.0 in the place of 3, or "3" in the place of 3; None for anything else."""
    if isinstance(key, bool) or not isinstance(key, int | float | str):
        return None
    found = index.get(key)
    if found is None:  # tools that write one id as text and the other as a number
        number = identifier(key)
        if isinstance(number, str):
            return index.get(int(number)) if number.isascii() and number.isdigit() and len(number) < 20 else None
        return None if number is None else index.get(str(number))
    return found


def append_numbers(numbers: Any, values: Any, count: int | None = None) -> bool:
    """Append to an array of doubles if they are `count` numbers, or an even count of 6 or more finite ones."""
    if not isinstance(values, list) or (len(values) != count if count else len(values) < 6 or len(values) % 2):
        return False
    before = len(numbers)
    try:
        # `sum` runs in C, a test of each number does not: the sum is finite only if all are.
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
    """Name an annotation for messages: by its id, otherwise by its place in the file."""
    entry_id = identifier(entry.get("id"))
    return f"annotation number {number} (without an id)" if entry_id is None else f"annotation {entry_id}"


def class_name(value: Any) -> str:
    """Name of a class in one line and in one form of its accents (NFC), without what no encoding has; may be empty."""
    text = "" if value is None else " ".join(str(value).split()).encode("utf-8", "replace").decode("utf-8")
    return unicodedata.normalize("NFC", text)


def shown(value: Any) -> str:
    """A value for messages, in 80 characters at most."""
    if isinstance(value, list | str) and len(value) > 100:  # the rest would be cut off
        value = value[:100]
    try:
        text = repr(value)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _load(path: Path) -> Any:
    """Parse the JSON of a file.

    Raises:
        CocoError: says where the file breaks off, or why it cannot be read.
    """
    text = _text(path)
    if not text.strip():
        raise _fault(path, "the annotation file is empty", "copy it again")
    content = _parse(path, text)
    _refuse_repeated_keys(path, text, content)
    return content


def _fault(path: Path, what: str, remedy: str) -> CocoError:
    return CocoError(f"{path}: {what}; {remedy}", kind="bad-json", path=path)


def _text(path: Path) -> str:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            what = "the annotation file is no regular file, but a pipe, socket or device"
            raise _fault(path, what, "name a JSON file")
        memory = _memory()
        if memory is not None and status.st_size * _BYTES_OF_OBJECTS > memory:
            what = f"the annotation file has {status.st_size / 2**30:.1f} GiB, too much for this machine's memory"
            raise _fault(path, what, "split it into several files, or remove masks and keys that are not needed")
        data = path.read_bytes()
    except FileNotFoundError:
        raise _fault(path, "there is no such annotation file", "check the path") from None
    except OSError as error:
        what = f"the annotation file cannot be read ({error.strerror})"
        raise _fault(path, what, "check the path and its rights") from None
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        what = f"the annotation file is not UTF-8 text (byte {error.start:,})"
        raise _fault(path, what, "unpack it, or save it as UTF-8") from None


def _memory() -> int | None:
    """Memory of the machine in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _parse(path: Path, text: str) -> Any:
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
            raise _fault(path, what, "copy, download or export it again") from None
        raise _fault(
            path, f"the annotation file is not valid JSON at {where}: {error.msg}", "export it again"
        ) from None
    except ValueError:  # Python's limit on the digits of a number
        what = "the annotation file has a number of thousands of digits"
        raise _fault(path, what, "export it again") from None
    except RecursionError:
        what = "the annotation file is nested too deeply for COCO annotations"
        raise _fault(path, what, "export it again") from None
    except MemoryError:
        raise _fault(path, "the annotation file does not fit into memory", "split it into several files") from None
    finally:
        if collects:
            gc.enable()


def _refuse_repeated_keys(path: Path, text: str, content: Any) -> None:
    """Raise where an object has a key of COCO's twice: the parser keeps the last one and drops the first silently."""
    if not isinstance(content, dict):
        return
    lists = [content.get(name) for name in ("images", "annotations", "categories")]
    objects = [entry for entries in lists if isinstance(entries, list) for entry in entries if isinstance(entry, dict)]
    # A count is fast; only what is suspicious is parsed again, pair by pair.
    if all(
        text.count(f'"{key}"') <= (key in content) + sum(key in entry for entry in objects) for key in _KEYS if lists
    ):
        return
    repeated: list[str] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entry = dict(pairs)
        if len(entry) != len(pairs) and not repeated:
            names = [name for name, _ in pairs]
            repeated.extend(name for name in entry if name in _KEYS and names.count(name) > 1)
        return entry

    json.loads(text, object_pairs_hook=note)
    if repeated:
        what = f"the annotation file has the key {repeated[0]!r} twice in one object, so that one of them would be lost"
        raise _fault(path, what, "export it again, or join the two")


def _parts(path: Path, content: Any) -> Lists:
    """Images, annotations and categories of a COCO file."""
    expected = "COCO annotations are an object with the lists 'images', 'annotations' and 'categories'"
    lists = ("images", "annotations", "categories")
    missing = [name for name in lists if not isinstance(content, dict) or not isinstance(content.get(name), list)]
    if missing and (form := foreign_format(path)) is not None:
        raise CocoError(f"{path}: this looks like {form.name}; {form.remedy}", kind="not-coco", path=path)
    if not isinstance(content, dict):
        what = f"a list of {len(content):,}" if isinstance(content, list) else shown(content)
        hint = ""
        if isinstance(content, list) and content and isinstance(content[0], dict) and "score" in content[0]:
            hint = " (it seems to hold results of a detector)"
        raise CocoError(
            f"{path}: it holds {what}{hint}, but {expected}; name the annotation file", kind="not-coco", path=path
        )
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
    return Lists(content["images"], content["annotations"], content["categories"])
