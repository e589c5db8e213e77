"""The index of a folder of shards: what they hold, written beside LitData's own indexes.

Imports neither torch nor LitData, so that checking data starts at once.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

INDEX_NAME = "scalablevit-shards.json"
FORMAT = 1
_FILES_NAME = "files.npz"
_PLAIN_NAME = re.compile(r"(?!\.)[^/\\:\0]+")  # of a file or a folder, in any system


class ShardsError(ValueError):
    """A folder or an address of shards cannot be used."""


@contextlib.contextmanager
def refuse_damaged(place: str) -> Iterator[None]:
    """Turn what reading an index meets that this package did not write into a `ShardsError`.

    Args:
        place: address of the folder, for the message.
    """
    try:
        yield
    except ShardsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, zipfile.BadZipFile) as error:
        why = str(error) if type(error) is ValueError else repr(error)
        raise ShardsError(f"{place}: {INDEX_NAME} is damaged ({why}); copy it again, or shard the data again") from None


def _demand(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _is_inside(name: str) -> bool:
    """Whether a name with "/" between folders stays in its folder, also where "\\" and ":" separate."""
    is_plain = os.name == "posix" or not re.search(r"[\\:]", name)
    return is_plain and all(part not in ("", ".", "..") for part in name.split("/"))


@dataclass(frozen=True)
class Shard:
    """One file of shards.

    Args:
        file: its name in the folder of its part.
        samples: how many it holds.
        bytes: size of the file.
        digest: `file_digest` of it.
    """

    file: str
    samples: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class StoredPart:
    """A part of the data, such as the training samples.

    Args:
        samples: how many.
        files_per_sample: 1, or 2 where each image has a mask.
        shards: in the order of LitData's index.
        files_digest: of the table of files.
    """

    samples: int
    files_per_sample: int
    shards: tuple[Shard, ...]
    files_digest: str

    @property
    def bytes(self) -> int:
        """Size of all shards."""
        return sum(shard.bytes for shard in self.shards)


@dataclass(frozen=True)
class StreamIndex:
    """What a folder of shards holds.

    Args:
        task: whose data it is.
        version: of the package that wrote it.
        layout: what the task needs to know beside the files, as JSON takes it.
        parts: by name; each is a folder of that name.
        extra: digests of files that are kept as they are, such as annotations, by their names in the folder.
    """

    task: str
    version: str
    layout: dict[str, Any]
    parts: dict[str, StoredPart]
    extra: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The content of the index file."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, place: str) -> "StreamIndex":
        """Read the content of an index file.

        Args:
            content: of the file.
            place: address of the folder, for messages.

        Raises:
            ShardsError: it is damaged, or written by a later version of the package.
        """
        with refuse_damaged(place):
            found = json.loads(content)
            if found["format"] > FORMAT:
                raise ShardsError(
                    f"{place}: {INDEX_NAME} was written by scalablevit {found.get('version')}, a later version; "
                    "install that version"
                )
            parts = {
                name: StoredPart(
                    part["samples"],
                    part["files_per_sample"],
                    tuple(Shard(**shard) for shard in part["shards"]),
                    part["files_digest"],
                )
                for name, part in found["parts"].items()
            }
            index = cls(found["task"], found["version"], found["layout"], parts, dict(found["extra"]))
            index.check()
        return index

    def check(self) -> None:
        """Refuse what this package does not write: the index may come from a stranger's address.

        Raises:
            ValueError: names what is wrong.
        """
        _demand("train" in self.parts and isinstance(self.layout, dict), "no training part, or no layout")
        _demand(all(_is_inside(name) for name in self.extra), "a file lies outside of the folder")
        for name, part in self.parts.items():
            shards = part.shards
            _demand(_PLAIN_NAME.fullmatch(name) is not None, f"the part {name!r} lies outside of the folder")
            for shard in shards:
                _demand(_PLAIN_NAME.fullmatch(shard.file) is not None, f"{shard.file!r} lies outside of the folder")
                _demand(
                    all(type(n) is int and n > 0 for n in (shard.samples, shard.bytes)), f"{shard.file}: a wrong size"
                )
            _demand(part.samples == sum(shard.samples for shard in shards) > 0, f"{name}: a wrong number of samples")
            _demand(part.files_per_sample in (1, 2), f"{name}: a wrong number of files a sample")


@dataclass(frozen=True)
class FileTable:
    """Files of a part: sample by sample in the data set's order, and the files of a sample in a row.

    Args:
        names: (F,) bytes, relative to the folder of the part, with "/" between folders.
        shard: (F,) int32, which shard holds each.
        place: (F,) int32, which sample of the shard.
        leaf: (F,) int8, which file of the sample.
    """

    names: np.ndarray
    shard: np.ndarray
    place: np.ndarray
    leaf: np.ndarray

    def to_bytes(self) -> bytes:
        """The content of the table's file."""
        file = io.BytesIO()
        np.savez_compressed(file, names=self.names, shard=self.shard, place=self.place, leaf=self.leaf)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, part: StoredPart, place: str) -> "FileTable":
        """Read the content of a table's file.

        Args:
            content: of the file.
            part: whose files it lists.
            place: address of the folder, for messages.

        Raises:
            ShardsError: it does not fit the part.
        """
        with refuse_damaged(place), np.load(io.BytesIO(content), allow_pickle=False) as found:
            table = cls(found["names"], found["shard"], found["place"], found["leaf"])
            sizes = np.array([shard.samples for shard in part.shards])
            _demand(len(table.names) == part.samples * part.files_per_sample, "a wrong number of files")
            _demand(bool((table.shard >= 0).all() and (table.shard < len(sizes)).all()), "files in no shard")
            _demand(
                bool((table.place >= 0).all() and (table.place < sizes[table.shard]).all()),
                "files behind the end of their shards",
            )
            _demand(
                bool((table.leaf >= 0).all() and (table.leaf < part.files_per_sample).all()),
                "files beside their samples",
            )
        return table


def files_name(part: str) -> str:
    """Name of the table of files of a part, in the folder of shards."""
    return f"{part}/{_FILES_NAME}"


def encoded_names(names: list[str]) -> np.ndarray:
    """File names as `FileTable` has them, (F,) bytes."""
    return np.array([os.fsencode(name.replace(os.sep, "/")) for name in names], dtype=np.bytes_)


def digest(content: bytes) -> str:
    """Hash by which contents are compared."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def file_digest(path: str | Path) -> str:
    """`digest` of the content of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def is_remote(root: str | os.PathLike[str]) -> bool:
    """Whether a data folder is an address that something has to be downloaded from."""
    text = os.fspath(root)
    return "://" in text or text.startswith("local:")


def is_stream(root: str | os.PathLike[str]) -> bool:
    """Whether a data folder is one of shards, or an address."""
    return is_remote(root) or (Path(root).expanduser() / INDEX_NAME).is_file()


def refuse_shards(root: str | os.PathLike[str], what: str) -> None:
    """Refuse shards, and remote addresses, where files of a folder are needed.

    Args:
        root: the data folder.
        what: needs them, such as "a table of labels".

    Raises:
        ShardsError: `root` is a folder of shards or an address.
    """
    if is_stream(root):
        raise ShardsError(f"{root}: {what} is read from a plain folder, not from shards; name the folder")


def refuse_changed_layout(place: str, given: Mapping[str, Any]) -> None:
    """Refuse settings that say where files lie in a folder.

    Args:
        place: address of the shards, for messages.
        given: such settings that the user gave.

    Raises:
        ShardsError: there are any.
    """
    for key, value in given.items():
        raise ShardsError(
            f"{place}: data.{key} {str(value)!r} says where files lie in a folder, and shards have the files and parts "
            f"that they were written with; give --{key.replace('_', '-')} to `scalablevit shard`, and leave it out here"
        )


def check_task(index: StreamIndex, place: str, task: str) -> None:
    """Refuse shards of another task.

    Args:
        index: of the shards.
        place: their address, for messages.
        task: that wants to read them.

    Raises:
        ShardsError: they are of another task.
    """
    if index.task != task:
        raise ShardsError(
            f"{place}: these are shards for {index.task}, and {task} was asked for; take a recipe of {index.task}, or "
            f"shard data for {task}"
        )
