"""Images with their masks in a data folder: which belong together, which are for training, which for validation.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from scalablevit.abridged import abridged
from scalablevit.data.check import Problem, raise_for_errors
from scalablevit.data.find_images import walk_images
from scalablevit.data.layout import explain_layout
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES, split_by_hash, why_no_folder
from scalablevit.segmentation.mask_settings import MaskSettings

IMAGE_NAMES = ("images", "image", "imgs", "img", "jpegimages", "pictures")
MASK_NAMES = (
    *("masks", "mask", "annotations", "annotation", "labels", "label"),
    *("segmentationclass", "segmentations", "segmentation", "gt", "ground_truth"),
)

# Data sets that name masks for their images do it with one of these.
_MASK_ENDINGS = ("_mask", "-mask", "_masks", "_label", "_labels", "_seg", "_segmentation", "_gt", "_L")

_LAYOUTS = (
    "known layouts are ROOT/images/{training,validation} with ROOT/annotations/{training,validation}, "
    "ROOT/{train,val}/{images,masks}, and ROOT/images with ROOT/masks"
)


class Pair(NamedTuple):
    """An image and its mask, as paths relative to the data folder."""

    image: str
    mask: str


@dataclass(frozen=True)
class PairScan:
    """Images with masks of a data folder.

    Args:
        root: the data folder.
        train: training pairs, sorted by image.
        val: validation pairs.
        val_folder: folder of the validation images, relative to `root`; None where they were set aside from training.
        problems: what is wrong with the layout.
        unpaired: files that have no counterpart and are left out.
    """

    root: Path
    train: list[Pair] = field(default_factory=list)
    val: list[Pair] = field(default_factory=list)
    val_folder: str | None = None
    problems: list[Problem] = field(default_factory=list)
    unpaired: list[Problem] = field(default_factory=list)

    @property
    def is_split(self) -> bool:
        """Whether validation pairs were set aside from training."""
        return self.val_folder is None

    def raise_for_errors(self) -> None:
        """Raise a ValueError that names every fault of the layout."""
        raise_for_errors(self.root, self.problems)

    def unpaired_summary(self) -> list[str]:
        """A sentence for each kind of files that are left out, with their number and the first of them."""
        found: dict[str, list[str]] = {}
        for problem in self.unpaired:
            found.setdefault(problem.kind, []).append(problem.path)
        return [
            f"{self.root}: left out {len(paths):,} {_KINDS[kind]}: {abridged(paths)}" for kind, paths in found.items()
        ]


_KINDS = {
    "no-mask": "images without a mask",
    "no-image": "masks without an image",
    "same-name": "files that share their name with another",
}


def scan_pairs(root: str | Path, settings: MaskSettings | None = None) -> PairScan:
    """Find training and validation images with their masks; never raises for what is wrong with the folder.

    Three layouts are known: `images/training` and `images/validation` beside `annotations/...` (ADE20K's),
    `train/images` beside `train/masks` and `val/...`, and `images` beside `masks`. Where there is no validation
    folder, a share is set aside, chosen by a hash of the file names: the same on every machine and in every run.
    A mask is named as its image, but for the file type and a common ending such as `_mask`.

    Args:
        root: the data folder.
        settings: names of its folders; None: the usual names.
    """
    settings = settings or MaskSettings()
    root = Path(root).expanduser()
    if (missing := why_no_folder(root)) is not None:
        return _faulty(root, "missing-root", missing)
    names = {name: getattr(settings, name) for name in ("train", "val", "images", "masks")}
    try:
        folders = _find_folders(root, **names)
    except _LayoutError as error:
        return _faulty(root, error.kind, str(error))
    return _pair_all(root, folders, settings.val_fraction)


class _Folders(NamedTuple):
    """Images and masks, for training and, where there is a folder for it, validation."""

    train: tuple[Path, Path]
    val: tuple[Path, Path] | None


class _LayoutError(ValueError):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _find_folders(root: Path, *, train: str, val: str, images: str, masks: str) -> _Folders:
    image_folder, mask_folder = _find(root, images, IMAGE_NAMES), _find(root, masks, MASK_NAMES, holds_pictures=True)
    if image_folder is not None and mask_folder is not None:
        parts = [_find_both(image_folder, mask_folder, *part) for part in _parts(train, val)]
        if parts[0] is None and parts[1] is not None:
            raise _LayoutError(
                "missing-folder",
                f"{image_folder}: it has a validation folder {parts[1][0].name!r} but no training folder; add "
                f"{image_folder / 'train'}, or name it with train",
            )
        return _Folders(parts[0] or (image_folder, mask_folder), parts[1])
    train_folder = _find(root, train, TRAIN_NAMES)
    if train_folder is None:
        raise _LayoutError("unknown-layout", _why_unknown(root, train=train, images=images, masks=masks))
    val_folder = _find(root, val, VAL_NAMES)
    if val_folder is None and val != "auto":
        raise _LayoutError("missing-folder", f"{root}: it has no folder {val!r}; check the name given as val")
    train_pair = _find_inside(train_folder, images, masks)
    return _Folders(train_pair, None if val_folder is None else _find_inside(val_folder, images, masks))


def _parts(train: str, val: str) -> tuple[tuple[str, str, tuple[str, ...]], tuple[str, str, tuple[str, ...]]]:
    return ("train", train, TRAIN_NAMES), ("val", val, VAL_NAMES)


def _find_both(
    image_folder: Path, mask_folder: Path, argument: str, name: str, usual: tuple[str, ...]
) -> tuple[Path, Path] | None:
    """The folders of a part in the folders of images and of masks; None where neither has one."""
    found = [_find(folder, name, usual) for folder in (image_folder, mask_folder)]
    if found[0] is not None and found[1] is not None:
        return found[0], found[1]
    if found[0] is None and found[1] is None:
        if name == "auto":
            return None
        raise _LayoutError(
            "missing-folder", f"{image_folder}: it has no folder {name!r}; check the name given as {argument}"
        )
    has, lacks = (image_folder, mask_folder) if found[1] is None else (mask_folder, image_folder)
    part = next(folder for folder in found if folder is not None).name
    raise _LayoutError("missing-folder", f"{lacks}: it has no folder for {part!r}, which {has} has; add {lacks / part}")


def _find_inside(folder: Path, images: str, masks: str) -> tuple[Path, Path]:
    found = _find(folder, images, IMAGE_NAMES), _find(folder, masks, MASK_NAMES, holds_pictures=True)
    if found[0] is None or found[1] is None:
        what = "folder of images" if found[0] is None else "folder with masks"
        argument = "images" if found[0] is None else "masks"
        raise _LayoutError(
            "missing-folder", f"{folder}: it has no {what}; {_LAYOUTS}; other names are given as {argument}"
        )
    return found[0], found[1]


def _why_unknown(root: Path, *, train: str, images: str, masks: str) -> str:
    for argument, name, folder in (("train", train, root), ("images", images, root), ("masks", masks, root)):
        if name != "auto" and not (folder / name).is_dir():
            return f"{root}: it has no folder {name!r}; check the name given as {argument}"
    if _find(root, images, IMAGE_NAMES) is not None:
        json_files = [path.name for name in MASK_NAMES for path in sorted((root / name).glob("*.json"))[:1]]
        explained = explain_layout(root, expected="masks")
        if explained is not None:
            return f"{root}: it has images but no folder with masks. {explained}"
        hint = f" (annotations such as {json_files[0]} are for detection)" if json_files else ""
        return f"{root}: it has images but no folder with masks{hint}; {_LAYOUTS}; other names are given as masks"
    inner = [name for name in _subfolders(root) if _subfolder(root / name, (*IMAGE_NAMES, *TRAIN_NAMES)) is not None]
    if len(inner) == 1:
        return f"{root}: it has no images and masks itself; it seems that root should be {root / inner[0]}"
    explained = explain_layout(root, expected="masks")
    if explained is not None:
        return f"{root}: no images with masks were found. {explained}"
    return f"{root}: no images with masks were found; {_LAYOUTS}; other names are given as images and masks"


def _find(folder: Path, name: str, usual: tuple[str, ...], *, holds_pictures: bool = False) -> Path | None:
    """The folder called `name`, or with "auto" the first of the usual names that there is; None without."""
    if name != "auto":
        return folder / name if (folder / name).is_dir() else None
    return _subfolder(folder, usual, holds_pictures=holds_pictures)


def _subfolder(folder: Path, usual: Sequence[str], *, holds_pictures: bool = False) -> Path | None:
    by_lower_case = {name.lower(): folder / name for name in _subfolders(folder)}
    for candidate in usual:
        found = by_lower_case.get(candidate)
        # COCO's folder "annotations" holds JSON files, and YOLO's "labels" text.
        if found is not None and not (holds_pictures and next(walk_images(found), None) is None):
            return found
    return None


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _pair_all(root: Path, folders: _Folders, val_fraction: float) -> PairScan:
    train, unpaired = _pair_up(root, *folders.train)
    problems = _pairing_problems(root, train, *folders.train)
    if folders.val is None:
        train, val = split_by_hash(train, val_fraction, name=lambda pair: pair.image)
        if len(train) == 1 and not val and not problems:
            message = (
                f"{folders.train[0]}: it has one image with a mask only, too few to set one aside for validation; add "
                "pairs, or a validation folder"
            )
            problems.append(Problem("error", "empty-validation", str(folders.train[0]), message))
        return PairScan(root, train, val, None, problems, unpaired)
    val, more = _pair_up(root, *folders.val)
    problems += _pairing_problems(root, val, *folders.val)
    return PairScan(root, train, val, os.path.relpath(folders.val[0], root), problems, unpaired + more)


def _pair_up(root: Path, image_folder: Path, mask_folder: Path) -> tuple[list[Pair], list[Problem]]:
    """Pairs by name, and a problem for every file that is left over."""
    images, repeated_images = _by_name(walk_images(image_folder))
    masks, repeated_masks = _by_name(walk_images(mask_folder))
    image_of: dict[str, str] = {}  # name of a mask -> name of its image
    for name in masks:
        candidates = [name, *(name.removesuffix(ending) for ending in _MASK_ENDINGS if name.endswith(ending))]
        match = next((candidate for candidate in candidates if candidate in images), None)
        if match is not None:
            image_of[name] = match
    chosen: dict[str, str] = {}  # name of an image -> name of its mask; one of just its name goes first
    for name, image in sorted(image_of.items(), key=lambda item: item[0] != item[1]):
        if image in chosen:
            repeated_masks.append((masks[name], masks[chosen[image]]))
        chosen.setdefault(image, name)

    image_prefix, mask_prefix = os.path.relpath(image_folder, root), os.path.relpath(mask_folder, root)
    pairs = [
        Pair(os.path.join(image_prefix, images[name]), os.path.join(mask_prefix, masks[chosen[name]]))
        for name in images
        if name in chosen
    ]
    problems = []
    for name, file in images.items():
        if name not in chosen:
            path = str(image_folder / file)
            message = f"{path}: the image has no mask; add {mask_folder / name}.png, or remove the image"
            problems.append(Problem("error", "no-mask", path, message))
    for name, file in masks.items():
        if name not in image_of:
            path = str(mask_folder / file)
            message = f"{path}: the mask has no image; add one of the same name in {image_folder}, or remove the mask"
            problems.append(Problem("error", "no-image", path, message))
    for folder, repeated in ((image_folder, repeated_images), (mask_folder, repeated_masks)):
        for file, first in repeated:
            path = str(folder / file)
            message = f"{path}: it is for the same pair as {first}, which is used; rename or remove one of them"
            problems.append(Problem("error", "same-name", path, message))
    return pairs, problems


def _by_name(files: Iterable[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Path without ending -> path; and (file, the one before it) where two differ by their ending only."""
    by_name: dict[str, str] = {}
    repeated = []
    for file in files:
        first = by_name.setdefault(os.path.splitext(file)[0], file)
        if first != file:
            repeated.append((file, first))
    return by_name, repeated


def _pairing_problems(root: Path, pairs: list[Pair], image_folder: Path, mask_folder: Path) -> list[Problem]:
    if pairs:
        return []
    image, mask = next(walk_images(image_folder), None), next(walk_images(mask_folder), None)
    for folder, first, what in ((image_folder, image, "images"), (mask_folder, mask, "masks")):
        if first is None:
            message = f"{folder}: the folder has no {what}; put some in, or name another folder with {what}"
            return [Problem("error", f"no-{what}", str(folder), message)]
    message = (
        f"{image_folder}: no image has a mask of its name in {mask_folder} (such as {image} and {mask}); name masks as "
        "their images, with the same folders between"
    )
    return [Problem("error", "no-pairs", str(image_folder), message)]


def _faulty(root: Path, kind: str, message: str) -> PairScan:
    return PairScan(root, problems=[Problem("error", kind, str(root), message)])
