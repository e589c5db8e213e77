"""Where annotation files and the images they name lie in a data folder.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scalablevit.data.foreign_annotations import foreign_format
from scalablevit.data.layout import explain_layout
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES, why_no_folder
from scalablevit.detection.coco.join import read_joined
from scalablevit.detection.coco.json_file import CocoError, Lists
from scalablevit.detection.coco.orientation import AnnotationFrame

# COCO's other tasks, and lists of class names (Label Studio's is notes.json), which lie beside
_MOST_LOOKED_AT = 20
_OTHER_FILES = r"(captions|person_keypoints|stuff|panoptic|image_info)_|(classes|class_names|notes)\.json$|\."


@dataclass(frozen=True)
class CocoPart:
    """Annotations of a part of the data.

    Args:
        annotations: the file, or what stands for it in messages.
        image_folders: that may hold the images, likeliest first.
        lists: reads the annotations where they are not one COCO file.
        frame: as of `CocoAnnotations`.
    """

    annotations: Path
    image_folders: list[Path]
    lists: Callable[[], Lists] | None = None
    frame: AnnotationFrame = "auto"


def find_parts(
    root: str | Path,
    *,
    train_annotations: str | Path | Sequence[str | Path] | None = None,
    val_annotations: str | Path | Sequence[str | Path] | None = None,
    train_images: str | Path | None = None,
    val_images: str | Path | None = None,
    only_evaluates: bool = False,
) -> tuple[CocoPart, CocoPart | None]:
    """Find the annotation files of a data folder; the second is None where there is only one.

    Looked through are `root`, `root/annotations` and the folders `root/{train,val,...}` for JSON files, which
    are told apart by the words train, val, valid, validation or test in their names or their folder's name.

    Args:
        root: the data folder, or one annotation file.
        train_annotations: file, or several to put together; relative to `root`, or else as it stands.
        val_annotations: likewise.
        train_images: folder, likewise; None: look for it.
        val_images: likewise.
        only_evaluates: the first part may be the validation part, where there is no other.

    Raises:
        CocoError: `root` or a named file or folder is missing, or the files cannot be told apart.
    """
    root = Path(root).expanduser()
    is_one_file = root.is_file() and train_annotations is None
    if is_one_file:
        root, train_annotations = root.parent, root.absolute()
    if only_evaluates and val_annotations is not None:  # the training data may be elsewhere
        train_annotations, root = None, root if root.is_dir() else Path()
    if (missing := why_no_folder(root)) is not None:
        raise CocoError(missing, kind="missing-root", path=root)
    train_files = _named_files(root, train_annotations, "train_annotations")
    val_files = _named_files(root, val_annotations, "val_annotations")
    roles = _annotation_files(root, leave_out=(*train_files, *val_files))
    train_file, val_file = next(iter(train_files), None), next(iter(val_files), None)
    if only_evaluates and val_file is not None:
        train_file = val_file
    if val_file is None and not is_one_file:
        val_file = _choose(root, roles["val"] or roles["test"], "val_annotations")
    if train_file is None:
        train_file = _choose(root, roles["train"] or roles[""], "train_annotations")
        if train_file is None and only_evaluates:
            train_file = val_file
        if train_file is None:
            found = f", only {val_file}, which seems to be for validation" if val_file is not None else ""
            explained = explain_layout(root, expected="coco")
            raise CocoError(
                f"{root}: no annotation file for training was found{found}; looked for *.json in it, in annotations/ "
                "and in train/ (such as annotations/instances_train2017.json or train/_annotations.coco.json); name "
                f"it with train_annotations{'' if explained is None else f'. {explained}'}",
                kind="no-annotation-file",
                path=root,
            )
    if only_evaluates and val_file is not None:
        train_images = None  # of the training part, which is not read
    train_folders = image_folders(root, train_file, train_images, "train_images", TRAIN_NAMES)
    train = CocoPart(train_file, train_folders, _joined(root, train_files, train_images, "train_images", TRAIN_NAMES))
    if val_file is None:
        return train, None
    val_folders = image_folders(root, val_file, val_images, "val_images", VAL_NAMES)
    return train, CocoPart(val_file, val_folders, _joined(root, val_files, val_images, "val_images", VAL_NAMES))


def _named_files(root: Path, given: str | Path | Sequence[str | Path] | None, argument: str) -> list[Path]:
    """Files that the user named; one by a path, several by a list."""
    names = [given] if given is None or isinstance(given, str | Path) else list(given)
    files = (_named(root, name, argument, folder=False) for name in names)
    return [file for file in files if file is not None]


def _joined(
    root: Path, files: list[Path], given: str | Path | None, argument: str, part_names: Sequence[str]
) -> Callable[[], Lists] | None:
    """Read several files as one; each may have its images beside it."""
    if len(files) < 2:
        return None
    folders = [image_folders(root, file, given, argument, part_names) for file in files]
    return partial(read_joined, files, root=root, image_folders=folders)


def _named(root: Path, given: str | Path | None, argument: str, *, folder: bool) -> Path | None:
    """A file or folder that the user named, within `root` or as it stands."""
    if given is None:
        return None
    for path in (root / Path(given).expanduser(), Path(given).expanduser()):
        if path.is_dir() if folder else path.is_file():
            return path
    what = "folder" if folder else "file"
    raise CocoError(
        f"{given}: there is no such {what}, neither in {root} nor from here; check {argument}",
        kind=f"missing-{what}",
        path=str(given),
    )


def has_annotation_file(root: Path) -> bool:
    """Whether a data folder holds JSON files that may be annotations."""
    return any(files for files in _annotation_files(root, leave_out=()).values())


def _annotation_files(root: Path, *, leave_out: Sequence[Path | None]) -> dict[str, list[Path]]:
    """JSON files by role: "train", "val", "test" or ""."""
    known_files = [file.resolve() for file in leave_out if file is not None]
    roles: dict[str, list[Path]] = {"train": [], "val": [], "test": [], "": []}
    known = ("annotations", "labels", *TRAIN_NAMES, *VAL_NAMES)
    folders = [root, *(entry for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name.lower() in known)]
    for folder in folders:
        for file in sorted(folder.glob("*.json")):
            if re.match(_OTHER_FILES, file.name) or file.resolve() in known_files:
                continue
            roles[role_of(file.stem) or (role_of(folder.name) if folder != root else "")].append(file)
    return roles


def role_of(name: str) -> str:
    """Part that a name stands for: "train", "val", "test" or ""."""
    words = re.findall(r"[a-z]+", name.lower())
    if any(word in TRAIN_NAMES for word in words):
        return "train"
    if any(word in ("val", "valid", "validation") for word in words):
        return "val"
    return "test" if "test" in words else ""


def _choose(root: Path, files: list[Path], argument: str) -> Path | None:
    """The only one, or the only one that is named as COCO or Roboflow name it."""
    usual = [file for file in files if file.name.startswith(("instances_", "_annotations.coco"))]
    files = usual or files
    if len(files) > 1:
        forms = [foreign_format(file) for file in files[:_MOST_LOOKED_AT]]
        if None not in forms and forms[0] is not None:
            message = f"{root}: {len(files):,} files look like {forms[0].name}, such as {files[0]}; {forms[0].remedy}"
            raise CocoError(message, kind="not-coco", path=root)
        listed = ", ".join(str(file.relative_to(root)) for file in files[:5])
        raise CocoError(
            f"{root}: several annotation files may be meant: {listed}; name one with {argument}",
            kind="ambiguous-annotations",
            path=root,
        )
    return files[0] if files else None


def image_folders(
    root: Path, annotations: Path, given: str | Path | None, argument: str, part_names: Sequence[str]
) -> list[Path]:
    """Folders that may hold the images of an annotation file, likeliest first."""
    named = _named(root, given, argument, folder=True)
    if named is not None:
        return [named]
    # "instances_train2017" -> "train2017"
    words = [annotations.stem, annotations.stem.partition("_")[2], *part_names]
    places = [root, root / "images"]
    folders = [place / word for place in places for word in words if word]
    folders += [annotations.parent, annotations.parent / "images", root / "images", root, root / "data"]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
