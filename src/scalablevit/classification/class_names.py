"""Human names of class folders, from a file."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from scalablevit.abridged import abridged
from scalablevit.data.text_file import normalised, read_text


def read_class_names(path: str | Path, folders: list[str]) -> list[str]:
    """Read human names of class folders from a file.

    Known forms: JSON `{"n01440764": "tench", ...}`, JSON `{"0": ["n01440764", "tench"], ...}`, and text
    with a folder, a space or tab, and the name on each line, such as ImageNet's `LOC_synset_mapping.txt`. A byte order
    mark, UTF-16 and accents that are written in two ways make no difference.
    A name that several folders share is told apart by the folder: ImageNet has two cranes.

    Args:
        path: the file.
        folders: class folders, in the order of the classes.

    Raises:
        ValueError: the file is missing or has another form, or a folder has no name in it, or two.
    """
    path = Path(path).expanduser()
    text = read_text(path, what="class_names_file")
    is_json = path.suffix.lower() == ".json"
    found = _names_from_json(path, text) if is_json else _names_from_text(text)
    names: dict[str, str] = {}
    for folder, name in ((normalised(folder), normalised(name)) for folder, name in found):
        if names.setdefault(folder, name) != name:
            raise ValueError(f"{path}: {folder!r} has two names, {names[folder]!r} and {name!r}; remove one of them")
    folders = [normalised(folder) for folder in folders]
    missing = [folder for folder in folders if not names.get(folder)]
    if missing:
        entry = 'an entry "FOLDER": "NAME"' if is_json else "a line 'FOLDER NAME'"
        raise ValueError(
            f"{path}: no name for {len(missing)} of {len(folders)} class folders ({abridged(map(repr, missing))}); add "
            f"{entry} for each"
        )
    chosen = [names[folder] for folder in folders]
    shared = {name for name, count in Counter(chosen).items() if count > 1}
    return [f"{name} ({folder})" if name in shared else name for folder, name in zip(folders, chosen, strict=True)]


def _names_from_json(path: Path, text: str) -> list[tuple[str, str]]:
    """(folder, name) of each entry, also of those that stand there twice."""
    try:
        # of objects the pairs, as a dictionary would keep the last of two entries without a word
        content = json.loads(text, object_pairs_hook=_Pairs)
    except (ValueError, RecursionError) as error:  # also integers of thousands of digits
        raise ValueError(f"{path}: class_names_file is not valid JSON ({error}); correct it") from error
    names: list[tuple[str, str]] = []
    for key, value in content if isinstance(content, _Pairs) else [("", None)]:
        if isinstance(value, str):
            names.append((key, value))
        elif type(value) is list and len(value) == 2 and all(isinstance(part, str) for part in value):
            names.append((value[0], value[1]))
        else:
            raise ValueError(
                f'{path}: class_names_file must be a JSON object from folder to name, such as {{"n01440764": "tench"}}'
            )
    return names


def _names_from_text(text: str) -> list[tuple[str, str]]:
    names = []
    for line in text.split("\n"):
        folder, _, name = line.strip().partition("\t" if "\t" in line.strip() else " ")
        if name.strip():
            names.append((folder.strip(), name.strip()))
    return names


class _Pairs(list[tuple[str, Any]]):
    """Entries of a JSON object."""
