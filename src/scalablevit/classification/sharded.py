"""Images of class folders in shards: what is written of a data folder, and found again in its shards.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from scalablevit.classification.image_folder import (
    ClassFiles,
    FolderScan,
    class_files,
    class_problems,
    find_files,
    scan_folder,
)
from scalablevit.data.find_images import WalkReport
from scalablevit.data.split import check_val_fraction
from scalablevit.data.stream.index import ShardsError, refuse_damaged
from scalablevit.data.stream.opened import OpenStream
from scalablevit.data.stream.source import ShardSource, SourcePart, SourceSample


def shard_source(root: str | Path, *, train: str = "auto", val: str = "auto") -> ShardSource:
    """List what goes into the shards of a folder of class folders.

    A validation part is not set aside: that is done when the shards are read, by the same hash of file names.

    Args:
        root: the data folder.
        train: as for `ImageFolderData`, as is `val`.
        val: see `train`.

    Raises:
        ValueError: the folder is not laid out as for `ImageFolderData`.
    """
    scan = scan_folder(root, train=train, val=val)
    scan.raise_for_errors()
    parts, classes, left_out = {}, {}, {}
    for part, folder in (("train", scan.train_folder), ("val", scan.val_folder)):
        if part == "val" and scan.is_split:
            continue
        walk = WalkReport()
        found = class_files(folder, walk)
        if part == "train" and folder == scan.root and not scan.is_split:
            found.pop(scan.val_folder.name, None)
        names = [name for images in found.values() for name in images]
        parts[part] = SourcePart(
            [SourceSample((name.replace(os.sep, "/"),), (os.path.join(folder, name),)) for name in names]
        )
        classes[part], left_out[part] = list(found), dict(walk.left_out)
    warnings = [problem.message for problem in scan.problems]
    return ShardSource("classification", {"classes": classes, "left_out": left_out}, parts, warnings=warnings)


def scan_stream(
    stream: OpenStream,
    *,
    train: str = "auto",
    val: str = "auto",
    val_fraction: float = 0.1,
    trained_class_names: Sequence[str] | None = None,
    class_names_file: str | Path | None = None,
) -> FolderScan:
    """Find training and validation images by class in shards, as `scan_folder` does in a folder.

    Args:
        stream: the shards.
        train: "auto"; parts have their names since the data were sharded. So has `val`.
        val: see `train`.
        val_fraction: as for `scan_folder`.
        trained_class_names: as for `scan_folder`.
        class_names_file: as for `scan_folder`.

    Raises:
        ShardsError: `train` or `val` name a folder.
        ValueError: `val_fraction` is out of range, or `class_names_file` is faulty.
    """
    check_val_fraction(val_fraction, trained_class_names=trained_class_names)
    for argument, value in (("train", train), ("val", val)):
        if value not in ("auto", argument):
            raise ShardsError(
                f"{stream.address}: {argument} {value!r} names a folder, and shards have the parts that they were "
                f"written with; give --{argument} to `scalablevit shard`"
            )
    train_folder: Path = stream.folder("train")
    val_folder: Path = stream.folder("val") if stream.has_part("val") else train_folder
    scan = FolderScan(stream.root, train_folder, val_folder)
    parts = {train_folder: "train", val_folder: "val" if stream.has_part("val") else "train"}

    def stored_files(folder: Path, walk: WalkReport) -> ClassFiles:
        part, layout = parts[folder], stream.index.layout
        names = stream.names(part)
        with refuse_damaged(stream.address):
            walk.left_out.update(Counter(layout["left_out"][part]))
            found: ClassFiles = {name: [] for name in layout["classes"][part]}
            for name in names:
                found[name.partition("/")[0]].append(name)
        return found

    find_files(scan, val_fraction, is_trained=trained_class_names is None, class_files=stored_files)
    scan.problems.extend(class_problems(scan, trained_class_names, class_names_file))
    return scan
