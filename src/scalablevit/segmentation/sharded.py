"""Images with masks in shards: what is written of a data folder, and found again in its shards.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from scalablevit.data.split import split_by_hash
from scalablevit.data.stream.index import refuse_changed_layout, refuse_damaged
from scalablevit.data.stream.opened import OpenStream, open_stream
from scalablevit.data.stream.source import ShardSource, SourcePart, SourceSample
from scalablevit.segmentation.class_names import find_class_file
from scalablevit.segmentation.label_map_file import find_label_map
from scalablevit.segmentation.mask_settings import MaskSettings
from scalablevit.segmentation.pairs import Pair, PairScan, scan_pairs

_LAYOUT = ("train", "val", "images", "masks", "image_pattern", "mask_pattern", "train_list", "val_list")


def shard_source(
    root: str | Path,
    *,
    train: str = "auto",
    val: str = "auto",
    images: str = "auto",
    masks: str = "auto",
    image_pattern: str | None = None,
    mask_pattern: str | None = None,
    train_list: str | None = None,
    val_list: str | None = None,
) -> ShardSource:
    """List what goes into the shards of images with masks, with the files that name the classes.

    A validation part is not set aside: that is done when the shards are read, by the same hash of file names.

    Args:
        root: the data folder.
        train: as for `MaskFolderData`, as are the others.
        val: see `train`.
        images: see `train`.
        masks: see `train`.
        image_pattern: see `train`.
        mask_pattern: see `train`.
        train_list: see `train`.
        val_list: see `train`.

    Raises:
        ValueError: the folder is not laid out as for `MaskFolderData`.
    """
    settings = MaskSettings(
        train=train,
        val=val,
        images=images,
        masks=masks,
        image_pattern=image_pattern,
        mask_pattern=mask_pattern,
        train_list=train_list,
        val_list=val_list,
    )
    scan = scan_pairs(root, settings)
    scan.raise_for_errors()
    parts = {"train": scan.train, "val": scan.val}
    if scan.is_split:  # all of them, in their order
        whole = scan_pairs(root, replace(settings, val_fraction=1.0, trained_class_names=[]))
        parts = {"train": whole.val}
    extra = {}
    for file in (find_class_file(scan.root), find_label_map(scan.root)):
        if file is not None:
            extra[file.relative_to(scan.root).as_posix()] = file
    sources = {name: SourcePart([_sample(scan.root, pair) for pair in pairs]) for name, pairs in parts.items()}
    return ShardSource("segmentation", {"val_folder": scan.val_folder}, sources, extra, scan.unpaired_summary())


def _sample(root: Path, pair: Pair) -> SourceSample:
    names = tuple(name.replace(os.sep, "/") for name in pair)
    return SourceSample(names, tuple(os.path.join(root, name) for name in pair))


def scan_stream(stream: OpenStream, settings: MaskSettings) -> PairScan:
    """Find training and validation pairs in shards, as `scan_pairs` does in a folder.

    Args:
        stream: the shards.
        settings: what is known of them.

    Raises:
        ShardsError: `settings` name folders or files.
    """
    default = MaskSettings()
    given: dict[str, Any] = {
        key: getattr(settings, key) for key in _LAYOUT if getattr(settings, key) != getattr(default, key)
    }
    refuse_changed_layout(stream.address, given)
    root = stream.folder_of_all()
    pairs = {part: _pairs(stream, part) for part in stream.index.parts}
    if "val" in pairs:
        train = [] if settings.is_evaluation else pairs["train"]
        with refuse_damaged(stream.address):
            return PairScan(root, train, pairs["val"], stream.index.layout["val_folder"])
    kept, aside = split_by_hash(pairs["train"], settings.val_fraction, name=lambda pair: pair.image)
    return PairScan(root, [] if settings.is_evaluation else kept, aside, None)


def find_pairs(root: str | Path, settings: MaskSettings) -> tuple[PairScan, Path]:
    """Find training and validation pairs in a folder or in shards.

    Args:
        root: the data folder, or a folder or address of shards.
        settings: what is known of them.

    Returns:
        scan: the pairs.
        class_folder: folder of the files that name the classes.

    Raises:
        ShardsError: as `scan_stream` and `open_stream`.
    """
    stream = open_stream(root, settings.stream, task="segmentation")
    if stream is None:
        scan = scan_pairs(root, settings)
        return scan, scan.root
    return scan_stream(stream, settings), stream.class_folder


def _pairs(stream: OpenStream, part: str) -> list[Pair]:
    names = stream.names(part)
    return [Pair(*pair) for pair in zip(names[::2], names[1::2], strict=True)]
