"""Annotations of other formats as COCO's lists: YOLO, Pascal VOC, CSV.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Callable
from pathlib import Path

from scalablevit.data.split import why_no_folder
from scalablevit.detection.coco import AnnotationSource, CocoError, CocoPart
from scalablevit.detection.coco import find_parts as find_coco_parts
from scalablevit.detection.coco.folder import has_annotation_file
from scalablevit.detection.coco.source import DataFormat
from scalablevit.detection.formats import csv_table, voc, yolo

Parts = tuple[CocoPart, CocoPart | None]
_MOST_LOOKED_AT = 50
_LOOKED_FOR = {
    "yolo": "images/train, train/images, images, and what data.yaml names as 'train'",
    "voc": "XML files in Annotations/ (with ImageSets/Main/train.txt), in train/ and in the folder itself",
    "csv": "*.csv with the columns path, x1, y1, x2, y2, class",
}


def find_parts(root: str | Path, source: AnnotationSource) -> Parts:
    """Find the annotations of a data folder, in whatever format; the second part is None where there is only one.

    Args:
        root: the data folder, or one annotation file.
        source: where the parts are, and their format.

    Raises:
        CocoError: nothing is found, or the parts cannot be told apart.
    """
    root = Path(root).expanduser()
    chosen = detect_format(root, source) if source.format == "auto" else source.format
    finders: dict[str, Callable[[Path, AnnotationSource], tuple[CocoPart | None, CocoPart | None]]] = {
        "yolo": yolo.find_parts,
        "voc": voc.find_parts,
        "csv": csv_table.find_parts,
    }
    if chosen in finders:
        folder = root if root.is_dir() else root.parent
        if (missing := why_no_folder(folder)) is not None:
            raise CocoError(missing, kind="missing-root", path=root)
        train, val = finders[chosen](root, source)
        if train is None and source.only_evaluates:
            train = val
        if train is None:
            raise CocoError(
                f"{root}: no training part was found in the format {chosen}; looked for {_LOOKED_FOR[chosen]}; name it "
                "with train_annotations or train_images",
                kind="no-annotation-file",
                path=root,
            )
        return train, val
    try:
        return find_coco_parts(
            root,
            train_annotations=source.train_annotations,
            val_annotations=source.val_annotations,
            train_images=source.train_images,
            val_images=source.val_images,
            only_evaluates=source.only_evaluates,
        )
    except CocoError as error:
        inner = _inner_data(root, source) if error.kind == "no-annotation-file" else None
        if inner is None:
            raise
        message = f"{root}: it has no annotations, but {inner} seems to have them: give that folder as root"
        raise CocoError(message, kind=error.kind, path=root) from None


def _inner_data(root: Path, source: AnnotationSource) -> Path | None:
    """The only folder in a folder that has annotations; None where there is none, or more."""
    if not root.is_dir() or source.train_annotations or source.val_annotations:
        return None
    inner = [entry for entry in sorted(root.iterdir())[:_MOST_LOOKED_AT] if entry.is_dir()]
    found = [entry for entry in inner if detect_format(entry, source) != "coco" or has_annotation_file(entry)]
    return found[0] if len(found) == 1 else None


def detect_format(root: Path, source: AnnotationSource) -> DataFormat:
    """Tell the format of a data folder, or of one file, by the files that are there; "coco" where nothing tells."""
    named = source.train_annotations or source.val_annotations or (root if root.is_file() else None)
    if named is not None:
        first = named if isinstance(named, str | Path) else next(iter(named), "")
        of_suffix: dict[str, DataFormat] = {".yaml": "yolo", ".yml": "yolo", ".csv": "csv"}
        return of_suffix.get(Path(first).suffix.lower(), "coco")
    if not root.is_dir() or has_annotation_file(root):
        return "coco"
    if yolo.recognizes(root):
        return "yolo"
    if voc.recognizes(root):
        return "voc"
    return "csv" if csv_table.recognizes(root) else "coco"
