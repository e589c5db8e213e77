"""COCO data in shards: what is written of a data folder, and found again in its shards.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit.data.stream.index import refuse_changed_layout, refuse_damaged
from scalablevit.data.stream.opened import OpenStream
from scalablevit.data.stream.source import ShardSource, SourcePart, SourceSample
from scalablevit.detection.coco import AnnotationSource, CocoError, CocoPart, read_annotations
from scalablevit.detection.formats import find_parts

_LAYOUT = ("train_annotations", "val_annotations", "train_images", "val_images", "format")


def shard_source(
    root: str | Path,
    *,
    train_annotations: str | None = None,
    val_annotations: str | None = None,
    train_images: str | None = None,
    val_images: str | None = None,
) -> ShardSource:
    """List what goes into the shards of COCO data: the images that are there, and the annotation files as they are.

    A validation part is not set aside: that is done when the shards are read, by the same hash of file names.

    Args:
        root: the data folder, or one annotation file.
        train_annotations: as for `CocoData`, as are the others.
        val_annotations: see `train_annotations`.
        train_images: see `train_annotations`.
        val_images: see `train_annotations`.

    Raises:
        CocoError: annotations or images are not found, or are in another format.
    """
    root = Path(root).expanduser()
    source = AnnotationSource(
        train_annotations=train_annotations,
        val_annotations=val_annotations,
        train_images=train_images,
        val_images=val_images,
    )
    parts, extra, files = {}, {}, {}
    warnings: list[str] = []
    for name, part in zip(("train", "val"), find_parts(root, source), strict=True):
        if part is None:
            continue
        if part.lists is not None:
            raise CocoError(
                f"{root}: {part.annotations} is not one COCO file, and shards are written of those; write the "
                "annotations as COCO JSON, one file a part",
                kind="not-coco",
                path=part.annotations,
            )
        found = read_annotations(part.annotations, part.image_folders)
        warnings += found.log.describe()
        assert found.image_folder is not None
        there = [found.file_name(int(i)) for i in np.flatnonzero(found.present)]
        parts[name] = SourcePart(
            [
                SourceSample((file.replace(os.sep, "/"),), (os.path.join(found.image_folder, file),))
                for file in dict.fromkeys(there)
            ]
        )
        files[name] = f"annotations/{name}/{part.annotations.name}"
        extra[files[name]] = part.annotations
    return ShardSource("detection", {"annotations": files}, parts, extra, warnings)


def stream_parts(stream: OpenStream, source: AnnotationSource) -> tuple[CocoPart, CocoPart | None]:
    """Annotations and images of the parts of shards, as `find_parts` gives those of a folder.

    Args:
        stream: the shards.
        source: what is read of them.

    Raises:
        ShardsError: `source` names files, or an annotation file is damaged.
    """
    default = AnnotationSource()
    given: dict[str, Any] = {
        key: getattr(source, key) for key in _LAYOUT if getattr(source, key) != getattr(default, key)
    }
    if given.get("format") == "coco":
        del given["format"]
    refuse_changed_layout(stream.address, given)
    with refuse_damaged(stream.address):
        files = {part: stream.index.layout["annotations"][part] for part in stream.index.parts}
        missing = [file for file in files.values() if file not in stream.index.extra]
        if missing:
            raise KeyError(missing[0])
    found = [CocoPart(stream.extra(file), [stream.folder(part)]) for part, file in files.items()]
    return found[0], found[1] if len(found) > 1 else None
