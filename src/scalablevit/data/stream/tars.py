"""WebDataset tars of labelled images, to be written as shards of class folders."""

import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scalablevit.abridged import abridged
from scalablevit.data.find_images import has_image_suffix
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES
from scalablevit.data.stream.source import ShardSource, SourcePart, SourceSample, TarMember
from scalablevit.data.text_file import read_text

_ENDINGS = (".tar", ".tar.gz", ".tgz")
_LABEL_KEYS = ("label", "class", "cls", "class_name")


def find_tars(root: Path) -> list[Path]:
    """List WebDataset tars: a file, or those in a folder that holds nothing else at its top; empty: there are none."""
    if root.is_file():
        return [root] if root.name.endswith(_ENDINGS) else []
    if not root.is_dir():
        return []
    files = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    tars = [path for path in files if path.name.endswith(_ENDINGS)]
    folders = [path for path in files if path.is_dir() and path.name.lower() in (*TRAIN_NAMES, *VAL_NAMES)]
    inner = [path for folder in folders for path in sorted(folder.iterdir()) if path.name.endswith(_ENDINGS)]
    return [*tars, *inner]


def tar_source(root: Path, *, classes: str | Path | None = None) -> ShardSource:
    """List what goes into the shards of WebDataset tars: `KEY.jpg` (or another image) with `KEY.cls` or `KEY.json`.

    A label is a number, or the name of a class. Tars of validation have val, valid, validation or test in their own or
    their folder's name; without any, a share is set aside when the shards are read.

    Args:
        root: a tar, or a folder of tars.
        classes: text file with the name of a class in each line, or JSON list of names, for labels that are numbers;
            None: classes are called by their numbers.

    Raises:
        ValueError: a tar is compressed or damaged, or an image has no label that can be read.
    """
    names = None if classes is None else _names(Path(classes).expanduser())
    labelled: dict[str, list[tuple[int | str, str, TarMember]]] = {"train": [], "val": []}
    left_out: dict[str, Counter[str]] = {"train": Counter(), "val": Counter()}
    for tar in find_tars(root):
        part = _part(tar)
        for key, files in _samples(tar):
            image = next((ending for ending in files if has_image_suffix(f"x.{ending.rpartition('.')[2]}")), None)
            if image is None:
                left_out[part].update(f".{ending}" for ending in files)
                continue
            where = f"{tar.name.partition('.')[0]}/{key}.{image}"
            labelled[part].append((_label(tar, key, files), where, files[image]))
    if not labelled["train"]:
        labelled, left_out = {"train": labelled["val"], "val": []}, {"train": left_out["val"], "val": Counter()}
    folders = _folders([label for part in labelled.values() for label, *_ in part], names, root)
    parts, held = {}, {}
    for part, samples in labelled.items():
        if samples:
            found = [SourceSample((f"{folders[label]}/{where}",), (file,)) for label, where, file in samples]
            order = {folder: place for place, folder in enumerate(folders.values())}
            parts[part] = SourcePart(sorted(found, key=lambda sample: order[sample.names[0].partition("/")[0]]))
            held[part] = list(folders.values())
    if len(folders) < 2:
        raise ValueError(
            f"{root}: its tars have {len(folders)} classes, and there is nothing to tell apart; check them"
        )
    return ShardSource("classification", {"classes": held, "left_out": {p: dict(left_out[p]) for p in parts}}, parts)


def _part(tar: Path) -> str:
    words = re.findall(r"[a-z]+", f"{tar.parent.name} {tar.name}".lower())
    return "val" if any(word in VAL_NAMES for word in words) and not set(words[-2:]) & set(TRAIN_NAMES) else "train"


def _samples(tar: Path) -> Iterator[tuple[str, dict[str, TarMember]]]:
    """Keys with their files by ending; the files of a key lie in a row."""
    key = ""
    files: dict[str, TarMember] = {}
    try:
        with tarfile.open(tar, "r:") as opened:
            for member in opened:
                if not member.isfile():
                    continue
                folder, slash, base = member.name.removeprefix("./").rpartition("/")
                stem, _, ending = base.partition(".")
                if folder + slash + stem != key:
                    if files:
                        yield key, files
                    key, files = folder + slash + stem, {}
                files[ending.lower()] = TarMember(str(tar), member.offset_data, member.size)
    except tarfile.TarError as error:
        raise ValueError(
            f"{tar}: it is compressed, damaged or no tar ({error}); uncompress it, or copy it again"
        ) from None
    if files:
        yield key, files


def _label(tar: Path, key: str, files: dict[str, TarMember]) -> int | str:
    for ending in ("cls", "cls.txt", "json"):
        if ending not in files:
            continue
        text = files[ending].read().decode(errors="replace").strip()
        value: Any = text
        if ending == "json":
            try:
                content = json.loads(text)
                value = next(content[name] for name in _LABEL_KEYS if name in content)
            except (ValueError, TypeError, StopIteration):
                continue
        if str(value):
            return int(value) if re.fullmatch(r"\d+", str(value)) else str(value)
    raise ValueError(
        f"{tar}: the image {key!r} has no label: KEY.cls with a number or a name, or KEY.json with one of "
        f"{', '.join(_LABEL_KEYS)}; it has {', '.join(files)}"
    )


def _folders(labels: Sequence[int | str], names: Sequence[str] | None, root: Path) -> dict[int | str, str]:
    """Name of the class folder of each label, numbers in their order."""
    numbers = sorted({label for label in labels if isinstance(label, int)})
    if names is not None and numbers and numbers[-1] >= len(names):
        raise ValueError(f"{root}: there is a label {numbers[-1]}, and --classes names {len(names)} classes, from 0 on")
    if names is not None:
        numbers = list(range(len(names))) if numbers else []
    width = len(str(numbers[-1])) if numbers else 1
    found: dict[int | str, str] = {n: names[n] if names is not None else f"{n:0{width}d}" for n in numbers}
    found |= {label: label for label in sorted({label for label in labels if isinstance(label, str)})}
    folders = {label: name.replace("/", "_") for label, name in found.items()}
    if twice := [name for name, count in Counter(folders.values()).items() if count > 1]:
        raise ValueError(
            f"{root}: several classes are called {abridged(map(repr, twice))}; give each a name of its own"
        )
    return folders


def _names(path: Path) -> list[str]:
    text = read_text(path, what="class names")
    if path.suffix.lower() == ".json":
        try:
            names = json.loads(text)
        except ValueError:
            names = None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: it is no JSON list of names; write one, or a name in each line of a text file")
        return names
    return [line.strip() for line in text.splitlines() if line.strip()]
