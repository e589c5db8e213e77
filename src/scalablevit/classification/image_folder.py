"""What a folder of images holds: which part is for training, which for validation, which classes.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scalablevit.abridged import abridged
from scalablevit.classification.class_names import read_class_names
from scalablevit.data.check import Problem, raise_for_errors
from scalablevit.data.find_images import WalkReport, has_image_suffix, is_file, is_folder, walk_images
from scalablevit.data.layout import ANNOTATION_FOLDER_NAMES, IMAGE_FOLDER_NAMES, explain_layout, looks_like_part
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES, check_val_fraction, split_by_hash, why_no_folder
from scalablevit.data.text_file import normalised

_NOT_CLASSES = ("__MACOSX",)
_LAYOUT_KINDS = ("no-classes", "single-class", "empty-class", "empty-validation", "flat-validation")

ClassFiles = dict[str, list[str]]
"""Class folder's name -> images in it, relative to the folder that holds the class folders."""


@dataclass(frozen=True)
class FolderScan:
    """Images of a data folder by class.

    Args:
        root: the data folder.
        train_folder: holds the class folders of the training images.
        val_folder: holds those of the validation images; equal to `train_folder` where validation
            images are cut from them.
        train: training images by class, classes sorted by name.
        val: validation images by class.
        problems: what is wrong with the layout.
        train_walk: what the search in the training folder left out.
        val_walk: likewise in the validation folder, where there is one.
    """

    root: Path
    train_folder: Path
    val_folder: Path
    train: ClassFiles = field(default_factory=dict)
    val: ClassFiles = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    train_walk: WalkReport = field(default_factory=WalkReport)
    val_walk: WalkReport = field(default_factory=WalkReport)

    @property
    def is_split(self) -> bool:
        """Whether validation images were cut from the training folder."""
        return self.train_folder == self.val_folder

    def left_out_by_ending(self) -> Counter[str]:
        """Count the files that are no images by their names, by their lower-case endings."""
        counts: Counter[str] = self.train_walk.left_out + self.val_walk.left_out
        return Counter({suffix or "(no ending)": count for suffix, count in counts.items()})

    def left_out(self) -> str:
        """List the same for people, the most frequent ending first."""
        return ", ".join(f"{count:,} {suffix}" for suffix, count in self.left_out_by_ending().most_common())

    def raise_for_errors(self) -> None:
        """Raise a ValueError that names every layout error."""
        raise_for_errors(self.root, self.problems)


def scan_folder(
    root: str | Path,
    *,
    train: str = "auto",
    val: str = "auto",
    val_fraction: float = 0.1,
    trained_class_names: Sequence[str] | None = None,
    class_names_file: str | Path | None = None,
) -> FolderScan:
    """Find training and validation images by class; never raises for what is wrong with the folder.

    Two layouts are known: `root/train/CLASS/*` beside `root/val/CLASS/*`, and `root/CLASS/*`. Where there
    is no validation folder, a share of each class is set aside, chosen by a hash of the file names: the
    same on every machine and in every run.

    Args:
        root: the data folder.
        train: name of the training folder in `root`; "auto" looks for train or training, in any case of
            letters, and takes `root` itself where there is none.
        val: name of the validation folder; "auto" looks for val, validation, valid or test.
        val_fraction: share of each class that is set aside where there is no validation folder, in (0, 1); 1 with
            `trained_class_names`.
        trained_class_names: classes of the network that is evaluated on these images: only validation images matter
            then, and they may be of some of the classes. None: a network is trained.
        class_names_file: with `trained_class_names`, see `read_class_names`.

    Raises:
        ValueError: `val_fraction` is out of range, or `class_names_file` is faulty.
    """
    check_val_fraction(val_fraction, trained_class_names=trained_class_names)
    root = Path(root).expanduser()
    if (missing := why_no_folder(root)) is not None:
        return _faulty(root, "missing-root", missing)
    is_trained = trained_class_names is None
    train_folder = _find_part(root, train, TRAIN_NAMES)
    if train_folder is None and train != "auto" and is_trained:
        return _faulty(root, "missing-folder", f"{root}: it has no folder {train!r}; check the name given as train")
    val_folder = None
    if val != "auto" or train_folder is not None or not is_trained:
        val_folder = _find_part(root, val, VAL_NAMES)
    if val_folder is None and val != "auto":
        return _faulty(root, "missing-folder", f"{root}: it has no folder {val!r}; check the name given as val")
    if train_folder is None and is_trained:
        stray = _find_part(root, "auto", VAL_NAMES) if val == "auto" else None
        if stray is not None and _subfolders(stray):
            return _faulty(
                root,
                "missing-folder",
                f"{root}: it has a validation folder {stray.name!r} but no training folder; add "
                f"{root / 'train'}, or name it with train",
            )
    train_folder = train_folder or root
    scan = FolderScan(root, train_folder, val_folder or train_folder)
    find_files(scan, val_fraction, is_trained=is_trained, class_files=class_files)
    scan.problems.extend(class_problems(scan, trained_class_names, class_names_file))
    scan.problems.extend(_remarks(scan))
    layout = _other_layout(scan)
    return scan if layout is None else _faulty(root, "other-layout", layout)


def find_files(
    scan: FolderScan,
    val_fraction: float,
    *,
    is_trained: bool,
    class_files: Callable[[Path, WalkReport], ClassFiles],
) -> None:
    """Fill in the images of a scan, by class.

    Args:
        scan: of the folder.
        val_fraction: as for `scan_folder`.
        is_trained: whether a network is trained on the images.
        class_files: lists the images of a folder by class, and notes what it leaves out.
    """
    own: dict[str, str] = {}
    if scan.is_split:
        for folder, files in class_files(scan.train_folder, scan.train_walk).items():
            # Of training, folders whose names look the same are refused.
            name = folder if is_trained else own.setdefault(normalised(folder), folder)
            train, val = split_by_hash(files, val_fraction, name=str)
            scan.train.setdefault(name, []).extend(train)
            scan.val.setdefault(name, []).extend(val)
        return
    if is_trained:
        scan.train.update(class_files(scan.train_folder, scan.train_walk))
    if scan.train_folder == scan.root:
        # An explicit val folder beside the class folders is not a class itself.
        scan.train.pop(scan.val_folder.name, None)
    # The same name may be written in two ways: one by macOS, the other by the rest.
    own.update({normalised(name): name for name in scan.train})
    for name, files in class_files(scan.val_folder, scan.val_walk).items():
        scan.val.setdefault(own.setdefault(normalised(name), name), []).extend(files)


def class_name(folder: str) -> str:
    """Name of a class by its folder: accents in one form, and always text that can be written."""
    return normalised(folder)


def folders_by_class(
    scan: FolderScan, trained_class_names: Sequence[str], class_names_file: str | Path | None = None
) -> dict[str, int]:
    """Match class folders with the classes of a network by name.

    Args:
        scan: of the folder.
        trained_class_names: of the network, by index.
        class_names_file: see `read_class_names`.

    Returns:
        class folder -> class index, of those that the network has.
    """
    index = {normalised(name): i for i, name in enumerate(trained_class_names)}
    folders = list(scan.val)
    names = folders if class_names_file is None else read_class_names(class_names_file, folders)
    found = {}
    for folder, name in zip(folders, names, strict=True):
        # A name that several classes share was told apart by its folder.
        for candidate in (name, f"{name} ({folder})", folder):
            if normalised(candidate) in index:
                found[folder] = index[normalised(candidate)]
                break
    return found


def _faulty(root: Path, kind: str, message: str) -> FolderScan:
    return FolderScan(root, root, root, problems=[Problem("error", kind, str(root), message)])


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if is_folder(entry)]
    return sorted(name for name in names if not name.startswith(".") and name not in _NOT_CLASSES)


def _images_directly_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if has_image_suffix(entry.name) and is_file(entry)]
    return sorted(name for name in names if not name.startswith("."))


def class_files(folder: Path, walk: WalkReport) -> ClassFiles:
    """List the images of class folders, and note what is left out."""
    files: ClassFiles = {name: [] for name in _subfolders(folder)}
    for path in walk_images(folder, walk):
        top, _, below = path.partition(os.sep)
        if below and top in files:
            files[top].append(path)
    for link in walk.repeated_links:
        path = os.path.relpath(link, folder)
        if path in files and not files[path]:
            del files[path]  # a link in the place of a class, to what is no class of its own
    return files


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


def class_problems(
    scan: FolderScan, trained_class_names: Sequence[str] | None, class_names_file: str | Path | None
) -> list[Problem]:
    """What keeps a network from being trained, or evaluated, on the classes that were found."""
    if trained_class_names is None:
        return _layout_problems(scan)
    return _evaluation_problems(scan, trained_class_names, class_names_file)


def _layout_problems(scan: FolderScan) -> list[Problem]:
    problems = _training_problems(scan)
    if problems:
        return problems
    empty = [name for name, files in scan.train.items() if not files and not scan.val.get(name)]
    problems += [_empty_class(scan.train_folder / name) for name in empty]
    problems += _look_alikes(scan)
    if unlearned := [name for name, files in scan.train.items() if not files and scan.val.get(name)]:
        message = (
            f"{scan.train_folder}: {len(unlearned)} classes have validation images and no training images: "
            f"{abridged(map(repr, unlearned))}; the network cannot learn them: add images, or remove the classes"
        )
        problems.append(Problem("warning", "class-without-training", str(scan.train_folder), message))
    if not scan.is_split:
        problems.extend(_validation_folder_problems(scan))
    elif not empty and not any(scan.val.values()):
        message = (
            f"{scan.train_folder}: every class has one image only, too few to set any aside for "
            "validation; add images, or a validation folder"
        )
        problems.append(Problem("error", "empty-validation", str(scan.train_folder), message))
    lacking = [name for name in scan.train if name not in empty and not scan.val.get(name)]
    if lacking and any(scan.val.values()):
        why = "one image is too few to set one aside" if scan.is_split else "no images in it"
        problems.append(
            Problem(
                "warning",
                "class-without-validation",
                str(scan.val_folder),
                f"{scan.val_folder}: {len(lacking)} of {len(scan.train)} classes have no validation images "
                f"({why}): {abridged(map(repr, lacking))}; their accuracy will not be measured",
            )
        )
    return problems


def _evaluation_problems(
    scan: FolderScan, trained_class_names: Sequence[str], class_names_file: str | Path | None
) -> list[Problem]:
    """What keeps a trained network from being evaluated on a folder."""
    folder = scan.val_folder
    filled = [name for name, files in scan.val.items() if files]
    if not filled:
        direct = _images_directly_in(folder)
        held = f"{len(direct)} images lie directly in it" if direct else "it has no images in folders"
        message = f"{folder}: {held}, but each class needs a folder of its own; arrange them as {folder}/CLASS/*.jpg"
        return [Problem("error", "no-classes", str(folder), message)]
    index = folders_by_class(scan, trained_class_names, class_names_file)
    if unknown := [name for name in filled if name not in index]:
        message = (
            f"{folder}: {len(unknown)} classes are not among the {len(trained_class_names)} of the network "
            f"({abridged(map(repr, trained_class_names), 8)}): {abridged(map(repr, unknown))}; rename their folders as "
            "the network's classes, or remove them"
        )
        return [Problem("error", "unknown-class", str(folder), message)]
    present = {index[name] for name in filled}
    if lacking := [name for i, name in enumerate(trained_class_names) if i not in present]:
        message = (
            f"{folder}: {len(lacking)} of {len(trained_class_names)} classes have no images: "
            f"{abridged(map(repr, lacking))}; their accuracy is not measured"
        )
        return [Problem("warning", "class-without-validation", str(folder), message)]
    return []


def _remarks(scan: FolderScan) -> list[Problem]:
    """What was left out in the search, links, and parts that share a folder or are not used."""
    problems: dict[str, Problem] = {}
    for walk in (scan.train_walk, scan.val_walk):
        for kind, path, message in walk.remarks():
            problems[message] = Problem("warning", kind, path, message)
    found = list(problems.values())
    shared = scan.train_walk.visited & scan.val_walk.visited
    if not scan.is_split and shared and scan.train_folder != scan.root:
        message = (
            f"{scan.val_folder}: links lead to folders of {scan.train_folder}, so the same images are in training and "
            "validation; the figures will be too good: replace the links by other images"
        )
        found.append(Problem("warning", "leak", str(scan.val_folder), message))
    if scan.is_split and scan.train_folder != scan.root and any(scan.val.values()):
        others = [
            name for name in _subfolders(scan.root) if looks_like_part(name) and scan.root / name != scan.train_folder
        ]
        if others:
            message = (
                f"{scan.root}: images of {scan.train_folder.name} are set aside for validation, and the folder "
                f"{others[0]!r} is not used; name it with --data.val {others[0]} if it is for validation"
            )
            found.append(Problem("warning", "unused-part", str(scan.root), message))
    return found


def _other_layout(scan: FolderScan) -> str | None:
    """Say what the folder is, where it is data of another task that passes for class folders or fails as such."""
    structural = {*IMAGE_FOLDER_NAMES, *ANNOTATION_FOLDER_NAMES}
    names = [*scan.train, *scan.val]
    passes = bool(names) and all(name.lower() in structural or looks_like_part(name) for name in names)
    fails = any(problem.severity == "error" and problem.kind in _LAYOUT_KINDS for problem in scan.problems)
    if not passes and not fails:
        return None
    explained = explain_layout(scan.root, expected="classes")
    if explained is not None:
        return f"{scan.root}: {explained}"
    above = scan.root.absolute().parent
    lies_flat = not scan.train and _images_directly_in(scan.root)
    if lies_flat and sum(bool(_images_directly_in(above / name)) for name in _subfolders(above)) > 1:
        return f"{scan.root}: {len(lies_flat)} images lie directly in it, as in a folder of one class; give {above}"
    return None


def _empty_class(folder: Path) -> Problem:
    walk = WalkReport()
    for _ in walk_images(folder, walk):
        break
    held = f", but {walk.listed()}" if walk.left_out else ""
    remarks = [remark.message for remark in walk.remarks()]
    message = f"{folder}: the class folder has no images{held}; "
    message += "; ".join(remarks) if remarks else "put some in, or remove the folder"
    return Problem("error", "empty-class", str(folder), message)


def _look_alikes(scan: FolderScan) -> list[Problem]:
    """Class folders whose names differ in the form of their accents alone."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for name in scan.train:
        by_name[normalised(name)].append(name)
    problems = []
    for names in by_name.values():
        if len(names) > 1:
            spelled = " and ".join(map(ascii, names))
            message = f"{scan.train_folder}: the class folders {spelled} look the same; merge them into one"
            problems.append(Problem("error", "look-alike", str(scan.train_folder / names[0]), message))
    return problems


def _training_problems(scan: FolderScan) -> list[Problem]:
    folder = scan.train_folder
    if not scan.train:
        direct = _images_directly_in(folder)
        held = f"{len(direct)} images lie directly in it, " if direct else "it has no folders in it, "
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
        direct = _images_directly_in(folder)
        if direct:
            message = (
                f"{folder}: {len(direct)} validation images lie directly in it (such as {direct[0]}) "
                f"without class folders; move each to {folder}/CLASS/, with the class folders named as in "
                f"{scan.train_folder} (for ImageNet the usual valprep.sh does this), or rename the folder to "
                "validate on a share of the training images"
            )
            return [Problem("error", "flat-validation", str(folder), message)]
        message = (
            f"{folder}: the validation folder has no images; fill it, or remove it to validate on a share "
            "of the training images"
        )
        return [Problem("error", "empty-validation", str(folder), message)]
    unknown = [name for name, files in scan.val.items() if files and name not in scan.train]
    if unknown:
        message = (
            f"{folder}: {len(unknown)} validation classes are not among the {len(scan.train)} training "
            f"classes of {scan.train_folder}: {abridged(map(repr, unknown))}; rename them as in training, add training "
            "images of them, or remove them"
        )
        return [Problem("error", "unknown-class", str(folder), message)]
    return []
