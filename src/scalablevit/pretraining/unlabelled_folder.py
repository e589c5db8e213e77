"""Find the images of a folder without labels, at any depth, and set a share of them aside."""

from dataclasses import dataclass, field
from pathlib import Path

from scalablevit.data.find_images import IMAGE_SUFFIXES, WalkReport, walk_images
from scalablevit.data.layout import Layout, recognise_layout
from scalablevit.data.split import split_by_hash, why_no_folder
from scalablevit.data.stream.index import refuse_shards


@dataclass(frozen=True)
class UnlabelledScan:
    """Images of a folder, relative to it.

    Args:
        root: the folder.
        train: images to train on.
        held_out: images that the loss is validated on.
        layout: what the folder looks like to a task with labels; None: nothing known.
        walk: what the search left out.
    """

    root: Path
    train: list[str]
    held_out: list[str]
    layout: Layout | None = None
    walk: WalkReport = field(default_factory=WalkReport)


def scan_unlabelled(root: str | Path, *, val_fraction: float) -> UnlabelledScan:
    """Find all images below a folder, and hold a share of them out.

    Args:
        root: the folder.
        val_fraction: share that is held out, chosen by a hash of the file names, in (0, 1]; 1 holds all out.

    Raises:
        ValueError: no such folder, or shards in it, or it has too few images; names it and the remedy.
    """
    if not 0 < val_fraction <= 1:
        raise ValueError(f"val_fraction must be between 0 and 1, got {val_fraction}; 0.1 is usual")
    refuse_shards(root, "pretraining without labels")
    root = Path(root).expanduser()
    if (missing := why_no_folder(root)) is not None:
        raise ValueError(missing)
    walk = WalkReport()
    images = list(walk_images(root, walk))
    if not images:
        remarks = "".join(f". {remark.message}" for remark in walk.remarks())
        raise ValueError(
            f"{root}: the folder has no images in it or its subfolders; looked for names ending in "
            f"{' '.join(sorted(IMAGE_SUFFIXES))}{remarks}"
        )
    train, held_out = split_by_hash(images, val_fraction, name=str)
    if not held_out:
        raise ValueError(
            f"{root}: the folder has one image, and one of two is held out to validate the loss: add images"
        )
    return UnlabelledScan(root, train, held_out, recognise_layout(root), walk)
