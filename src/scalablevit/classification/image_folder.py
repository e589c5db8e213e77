"""What a folder of pictures holds: which part is for training, which for validation, which classes.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scalablevit.abridged import abridged
from scalablevit.data.check import Problem, raise_for_errors
from scalablevit.data.find_images import has_image_suffix, walk_images
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES, check_val_fraction, split_by_hash, why_no_folder

_NOT_CLASSES = ("__MACOSX",)

ClassFiles = dict[str, list[str]]
"""Class folder's name -> pictures in it, relative to the folder that holds the class folders."""


@dataclass(frozen=True)
class FolderScan:
    """Pictures of a data folder by class.

    Args:
        root: the data folder.
        train_folder: holds the class folders of the training pictures.
        val_folder: holds those of the validation pictures; equal to `train_folder` where validation
            pictures are cut from them.
        train: training pictures by class, classes sorted by name.
        val: validation pictures by class.
        problems: what is wrong with the layout.
    """

    root: Path
    train_folder: Path
    val_folder: Path
    train: ClassFiles = field(default_factory=dict)
    val: ClassFiles = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_split(self) -> bool:
        """Whether validation pictures were cut from the training folder."""
        return self.train_folder == self.val_folder

    def raise_for_errors(self) -> None:
        """Raise a ValueError that names every layout error."""
        raise_for_errors(self.root, self.problems)


def scan_folder(root: str | Path, *, train: str = "auto", val: str = "auto", val_fraction: float = 0.1) -> FolderScan:
    """Find training and validation pictures by class; never raises for what is wrong with the folder.

    Two layouts are known: `root/train/CLASS/*` beside `root/val/CLASS/*`, and `root/CLASS/*`. Where there
    is no validation folder, a share of each class is set aside, chosen by a hash of the file names: the
    same on every machine and in every run.

    Args:
        root: the data folder.
        train: name of the training folder in `root`; "auto" looks for train or training, in any case of
            letters, and takes `root` itself where there is none.
        val: name of the validation folder; "auto" looks for val, validation, valid or test.
        val_fraction: share of each class that is set aside where there is no validation folder, in (0, 1).

    Raises:
        ValueError: `val_fraction` is out of range.
    """
    check_val_fraction(val_fraction)
    root = Path(root).expanduser()
    if (missing := why_no_folder(root)) is not None:
        return _faulty(root, "missing-root", missing)

    train_folder = _find_part(root, train, TRAIN_NAMES)
    if train_folder is None and train != "auto":
        return _faulty(
            root,
            "missing-folder",
            f"{root}: it has no folder {train!r}; check the name given as train",
        )
    val_folder = None
    if val != "auto" or train_folder is not None:
        val_folder = _find_part(root, val, VAL_NAMES)
    if val_folder is None and val != "auto":
        return _faulty(root, "missing-folder", f"{root}: it has no folder {val!r}; check the name given as val")
    if train_folder is None:
        stray = _find_part(root, "auto", VAL_NAMES) if val == "auto" else None
        if stray is not None and _subfolders(stray):
            return _faulty(
                root,
                "missing-folder",
                f"{root}: it has a validation folder {stray.name!r} but no training folder; add "
                f"{root / 'train'}, or name it with train",
            )
        train_folder = root
    if val_folder is None:
        scan = FolderScan(root, train_folder, train_folder)
        for name, files in _class_files(train_folder).items():
            scan.train[name], scan.val[name] = split_by_hash(files, val_fraction, name=str)
    else:
        scan = FolderScan(root, train_folder, val_folder, _class_files(train_folder), _class_files(val_folder))
        if train_folder == root:
            # An explicit val folder beside the class folders is not a class itself.
            scan.train.pop(val_folder.name, None)
    scan.problems.extend(_layout_problems(scan))
    return scan


def read_class_names(path: str | Path, folders: list[str]) -> list[str]:
    """Human names of class folders, from a file.

    Known forms: JSON `{"n01440764": "tench", ...}`, JSON `{"0": ["n01440764", "tench"], ...}`, and text
    with a folder, a space or tab, and the name on each line, such as ImageNet's `LOC_synset_mapping.txt`.
    A name that several folders share is told apart by the folder: ImageNet has two cranes.

    Args:
        path: the file.
        folders: class folders, in the order of the classes.

    Raises:
        ValueError: the file is missing or has another form, or a folder has no name in it.
    """
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: class_names_file cannot be read as text ({error}); check the path") from error
    names = _names_from_json(path, text) if path.suffix.lower() == ".json" else _names_from_text(text)
    missing = [folder for folder in folders if folder not in names]
    if missing:
        raise ValueError(
            f"{path}: no name for {len(missing)} of {len(folders)} class folders ({abridged(map(repr, missing))}); add "
            "a line 'FOLDER NAME' for each"
        )
    chosen = [names[folder] for folder in folders]
    shared = {name for name in chosen if chosen.count(name) > 1}
    return [f"{name} ({folder})" if name in shared else name for folder, name in zip(folders, chosen, strict=True)]


def _names_from_json(path: Path, text: str) -> Mapping[str, str]:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: class_names_file is not valid JSON ({error}); correct it") from error
    names: dict[str, str] = {}
    for key, value in content.items() if isinstance(content, dict) else [("", None)]:
        if isinstance(value, str):
            names[key] = value
        elif isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value):
            names[value[0]] = value[1]
        else:
            raise ValueError(
                f'{path}: class_names_file must be a JSON object from folder to name, such as {{"n01440764": "tench"}}'
            )
    return names


def _names_from_text(text: str) -> Mapping[str, str]:
    names = {}
    for line in text.splitlines():
        folder, _, name = line.strip().partition("\t" if "\t" in line.strip() else " ")
        if name.strip():
            names[folder.strip()] = name.strip()
    return names


def _faulty(root: Path, kind: str, message: str) -> FolderScan:
    return FolderScan(root, root, root, problems=[Problem("error", kind, str(root), message)])


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_dir()]
    return sorted(name for name in names if not name.startswith(".") and name not in _NOT_CLASSES)


def _pictures_directly_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if has_image_suffix(entry.name) and entry.is_file()]
    return sorted(name for name in names if not name.startswith("."))


def _class_files(folder: Path) -> ClassFiles:
    return {name: [os.path.join(name, file) for file in walk_images(folder / name)] for name in _subfolders(folder)}


def _find_part(root: Path, name: str, usual: tuple[str, ...]) -> Path | None:
    """The folder of a part of the data, None where there is none."""
    if name != "auto":
        return root / name if (root / name).is_dir() else None
    subfolders = _subfolders(root)
    by_lower_case = {folder.lower(): folder for folder in subfolders}
    for candidate in usual:
        if candidate in by_lower_case:
            folder = root / by_lower_case[candidate]
            others = [n for n in subfolders if n.lower() not in (*TRAIN_NAMES, *VAL_NAMES)]
            # "train" is also a vehicle: beside other classes, a folder without subfolders is a class.
            if others and not _subfolders(folder):
                return None
            return folder
    return None


def _layout_problems(scan: FolderScan) -> list[Problem]:
    problems = _training_problems(scan)
    if problems:
        return problems
    empty = [name for name, files in scan.train.items() if not files and not scan.val.get(name)]
    for name in empty:
        folder = scan.train_folder / name
        problems.append(
            Problem(
                "error",
                "empty-class",
                str(folder),
                f"{folder}: the class folder has no pictures; put some in, or remove the folder",
            )
        )
    if not scan.is_split:
        problems.extend(_validation_folder_problems(scan))
    elif not empty and not any(scan.val.values()):
        message = (
            f"{scan.train_folder}: every class has one picture only, too few to set any aside for "
            "validation; add pictures, or a validation folder"
        )
        problems.append(Problem("error", "empty-validation", str(scan.train_folder), message))
    lacking = [name for name in scan.train if name not in empty and not scan.val.get(name)]
    if lacking and any(scan.val.values()):
        why = "one picture is too few to set one aside" if scan.is_split else "no pictures in it"
        problems.append(
            Problem(
                "warning",
                "class-without-validation",
                str(scan.val_folder),
                f"{scan.val_folder}: {len(lacking)} of {len(scan.train)} classes have no validation pictures "
                f"({why}): {abridged(map(repr, lacking))}; their accuracy will not be measured",
            )
        )
    return problems


def _training_problems(scan: FolderScan) -> list[Problem]:
    folder = scan.train_folder
    if not scan.train:
        direct = _pictures_directly_in(folder)
        held = f"{len(direct)} pictures lie directly in it, " if direct else "it has no folders in it, "
        message = (
            f"{folder}: {held}but each class needs a folder of its own; arrange them as {folder}/CLASS/*.jpg (to find "
            "objects, add annotations as COCO JSON; to label pixels, make the folders images/ and masks/)"
        )
        return [Problem("error", "no-classes", str(folder), message)]
    if len(scan.train) == 1:
        (only,) = scan.train
        inner = folder / only
        hint = "add a folder for another class"
        if any(name.lower() in TRAIN_NAMES for name in _subfolders(inner)):
            hint = f"it seems that root should be {inner}"
        elif len(_subfolders(inner)) > 1:
            hint = f"add a folder for another class, or give {inner} as root if its folders are the classes"
        message = f"{folder}: there is only one class, {only!r}, and nothing to tell it from; {hint}"
        return [Problem("error", "single-class", str(folder), message)]
    return []


def _validation_folder_problems(scan: FolderScan) -> list[Problem]:
    folder = scan.val_folder
    if not any(scan.val.values()):
        direct = _pictures_directly_in(folder)
        if direct:
            message = (
                f"{folder}: {len(direct)} validation pictures lie directly in it (such as {direct[0]}) "
                f"without class folders; move each to {folder}/CLASS/, with the class folders named as in "
                f"{scan.train_folder} (for ImageNet the usual valprep.sh does this), or rename the folder to "
                "validate on a share of the training pictures"
            )
            return [Problem("error", "flat-validation", str(folder), message)]
        message = (
            f"{folder}: the validation folder has no pictures; fill it, or remove it to validate on a share "
            "of the training pictures"
        )
        return [Problem("error", "empty-validation", str(folder), message)]
    unknown = [name for name, files in scan.val.items() if files and name not in scan.train]
    if unknown:
        message = (
            f"{folder}: {len(unknown)} validation classes are not among the {len(scan.train)} training "
            f"classes of {scan.train_folder}: {abridged(map(repr, unknown))}; rename them as in training, add training "
            "pictures of them, or remove them"
        )
        return [Problem("error", "unknown-class", str(folder), message)]
    return []
