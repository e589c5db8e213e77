"""Images with their masks in a data folder: which belong together, which are for training, which for validation.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from scalablevit.abridged import abridged
from scalablevit.data.check import Problem, raise_for_errors
from scalablevit.data.find_images import WalkReport, walk_images
from scalablevit.data.layout import explain_layout
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES, split_by_hash, why_no_folder
from scalablevit.moved import forward_moved_names
from scalablevit.segmentation.mask_settings import MaskSettings
from scalablevit.segmentation.pair_names import MASK_ENDINGS, match_names, match_patterns
from scalablevit.segmentation.split_lists import find_voc_lists, select_listed

IMAGE_NAMES = ("images", "image", "imgs", "img", "jpegimages", "pictures")
_MOST_HINTS = 200  # files that are looked at for a hint

MASK_NAMES = (
    *("masks", "mask", "annotations", "annotation", "labels", "label"),
    *("segmentationclass", "segmentationclasspng", "segmentations", "segmentation", "gt", "ground_truth"),
)

_LAYOUTS = (
    "known layouts are ROOT/images/{training,validation} with ROOT/annotations/{training,validation}, "
    "ROOT/{train,val}/{images,masks}, ROOT/{train,val} with ROOT/{train,val}_masks, ROOT/images with ROOT/masks, and, "
    "with mask_pattern, both in one folder"
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
        val_folder: folder of the validation images, relative to `root`, or the list that names them; None where they
            were set aside from training.
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
        files = [
            f"{self.root}: left out {len(paths):,} {_KINDS[kind]}: {abridged(paths)}"
            for kind, paths in found.items()
            if kind in _KINDS
        ]
        return [*files, *(problem.message for problem in self.unpaired if problem.kind not in _KINDS)]


_KINDS = {
    "no-mask": "images without a mask",
    "no-image": "masks without an image",
    "same-name": "files that share their name with another",
    "own-mask": "images whose mask is the image itself",
}


def scan_pairs(root: str | Path, settings: MaskSettings | None = None, **changes: Any) -> PairScan:
    """Find training and validation images with their masks; never raises for what is wrong with the folder.

    Known layouts are `images/training` and `images/validation` beside `annotations/...` (ADE20K's), `train/images`
    beside `train/masks` and `val/...`, `images` beside `masks`, VOC's with its lists, and, with `mask_pattern`, images
    and masks in one folder. Where there is no validation folder and no list, a share is set aside, chosen by a hash of
    the file names: the same on every machine and in every run. See `match_names` for how masks are named.

    Args:
        root: the data folder.
        settings: names of its folders and files; None: the usual names.
        changes: fields of `MaskSettings` in place of those of `settings`.
    """
    settings = replace(settings or MaskSettings(), **changes)
    root = Path(root).expanduser()
    if (missing := why_no_folder(root)) is not None:
        return _faulty(root, "missing-root", missing)
    try:
        return _scan(root, settings)
    except _LayoutError as error:
        return _faulty(root, error.kind, str(error))


def _scan(root: Path, settings: MaskSettings) -> PairScan:
    folders = _find_folders(root, settings)
    lists = _lists(root, settings, folders)
    if lists is None:
        return _pair_all(root, folders, settings)
    pairs, unpaired = _pair_up(root, *folders.train, settings)
    if folders.val is not None:
        pairs += _pair_up(root, *folders.val, settings)[0]
    problems = _pairing_problems(pairs, unpaired, *folders.train)
    if problems:
        return PairScan(root, problems=problems)
    try:
        listed = select_listed([pair.image for pair in pairs], lists)
    except ValueError as error:
        raise _LayoutError("split-list", str(error)) from None
    parts = [[pairs[index] for index in part] for part in listed.parts]
    if len(parts) == 2 and settings.is_evaluation:
        return PairScan(root, [], parts[1], str(lists[1]), [], listed.problems)
    if len(parts) == 2:
        return PairScan(root, parts[0], parts[1], str(lists[1]), [], listed.problems)
    train, val = split_by_hash(parts[0], settings.val_fraction, name=lambda pair: pair.image)
    return PairScan(root, [] if settings.is_evaluation else train, val, None, [], listed.problems)


def _lists(root: Path, settings: MaskSettings, folders: "_Folders") -> list[Path] | None:
    """Files that name the images of each part; None: folders say it."""
    given = [Path(path).expanduser() for path in (settings.train_list, settings.val_list) if path is not None]
    if given:
        return [path if path.is_absolute() or path.is_file() else root / path for path in given]
    found = find_voc_lists(root) if folders.val is None else None
    return None if found is None else list(found)


class _Folders(NamedTuple):
    """Images and masks, for training and, where there is a folder for it, validation."""

    train: tuple[Path, Path]
    val: tuple[Path, Path] | None


class _LayoutError(ValueError):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def _find_folders(root: Path, settings: MaskSettings) -> _Folders:
    images, masks = settings.images, settings.masks
    image_folder, mask_folder = _find(root, images, IMAGE_NAMES), _find(root, masks, MASK_NAMES, holds_images=True)
    if image_folder is None and mask_folder is None and settings.mask_pattern is not None and images == masks == "auto":
        part = _find(root, settings.train, TRAIN_NAMES) or root
        if _subfolder(part, IMAGE_NAMES) is None:  # images and masks in one folder
            image_folder = mask_folder = root
    if image_folder is not None and mask_folder is not None:
        parts = [_find_both(image_folder, mask_folder, *part) for part in _parts(settings.train, settings.val)]
        if parts[0] is None and parts[1] is not None and not settings.is_evaluation:
            raise _LayoutError(
                "missing-folder",
                f"{image_folder}: it has a validation folder {parts[1][0].name!r} but no training folder; add "
                f"{image_folder / 'train'}, or name it with train",
            )
        return _not_the_same(_Folders(parts[0] or parts[1] or (image_folder, mask_folder), parts[1]), settings)
    val_folder = _find(root, settings.val, VAL_NAMES)
    train_folder = _find(root, settings.train, TRAIN_NAMES)
    if train_folder is None and settings.is_evaluation:
        train_folder = val_folder
    if train_folder is None:
        raise _LayoutError("unknown-layout", _why_unknown(root, settings))
    if val_folder is None and settings.val != "auto":
        raise _LayoutError("missing-folder", f"{root}: it has no folder {settings.val!r}; check the name given as val")
    train_pair = _find_part(train_folder, settings)
    val_pair = None if val_folder is None else _find_part(val_folder, settings)
    return _not_the_same(_Folders(train_pair, val_pair), settings)


def _not_the_same(folders: _Folders, settings: MaskSettings) -> _Folders:
    """Refuse a folder of images that is the folder of masks too, unless a pattern tells them apart."""
    for part in (folders.train, folders.val):
        if part is not None and settings.mask_pattern is None and os.path.samefile(*part):
            hint = _mask_pattern_hint(part[0])
            raise _LayoutError(
                "same-folder",
                f"{part[0]}: images and masks are one folder, so each image would be its own mask; set mask_pattern "
                f"to the file names of masks, such as {hint or '{name}_mask.png'}, or name two folders",
            )
    return folders


def _mask_pattern_hint(folder: Path) -> str | None:
    """The pattern of masks that lie beside their images, as far as it is one of the usual ones."""
    files = list(islice(walk_images(folder), _MOST_HINTS))
    stems = {os.path.splitext(file)[0] for file in files}
    for file in files:
        stem, ending = os.path.splitext(file)
        for suffix in MASK_ENDINGS:
            if stem.endswith(suffix) and stem.removesuffix(suffix) in stems:
                return f"{{name}}{suffix}{ending}"
    return None


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


def _find_part(folder: Path, settings: MaskSettings) -> tuple[Path, Path]:
    """Images and masks of a part: in folders in it, or images in it and masks beside, such as train and trainannot."""
    images, masks = settings.images, settings.masks
    if images == masks == "auto" and settings.mask_pattern is None and _subfolder(folder, IMAGE_NAMES) is None:
        part = folder.name.lower()
        for name in _subfolders(folder.parent):
            if name.lower().startswith(part) and name.lower()[len(part) :].strip("_- ") in (*MASK_NAMES, "annot"):
                return folder, folder.parent / name
    return _find_inside(folder, images, masks)


def _find_inside(folder: Path, images: str, masks: str) -> tuple[Path, Path]:
    found = _find(folder, images, IMAGE_NAMES), _find(folder, masks, MASK_NAMES, holds_images=True)
    if found[0] is None or found[1] is None:
        what = "folder of images" if found[0] is None else "folder with masks"
        argument = "images" if found[0] is None else "masks"
        raise _LayoutError(
            "missing-folder",
            f"{folder}: it has no {what}{_hint(folder)}; {_LAYOUTS}; other names are given as {argument}",
        )
    return found[0], found[1]


def _hint(folder: Path) -> str:
    pattern = _mask_pattern_hint(folder)
    return "" if pattern is None else f" (masks lie beside their images: set mask_pattern to {pattern})"


def _why_unknown(root: Path, settings: MaskSettings) -> str:
    train, images, masks = settings.train, settings.images, settings.masks
    for argument, name, folder in (("train", train, root), ("images", images, root), ("masks", masks, root)):
        if name != "auto" and not (folder / name).is_dir():
            return f"{root}: it has no folder {name!r}; check the name given as {argument}"
    if _find(root, "auto", ("leftimg8bit",)) is not None and _find(root, "auto", ("gtfine",)) is not None:
        return (
            f"{root}: it is laid out as Cityscapes; set images to leftImg8bit, masks to gtFine, image_pattern to "
            "'{name}_leftImg8bit.png', mask_pattern to '{name}_gtFine_labelIds.png', and label_map to a file that says "
            "which of its labels are classes"
        )
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
    hint = _hint(root)
    explained = explain_layout(root, expected="masks") if not hint else None
    if explained is not None:
        return f"{root}: no images with masks were found. {explained}"
    return f"{root}: no images with masks were found{hint}; {_LAYOUTS}; other names are given as images and masks"


def _find(folder: Path, name: str, usual: tuple[str, ...], *, holds_images: bool = False) -> Path | None:
    """The folder called `name`, or with "auto" the first of the usual names that there is; None without."""
    if name != "auto":
        return folder / name if (folder / name).is_dir() else None
    return _subfolder(folder, usual, holds_images=holds_images)


def _subfolder(folder: Path, usual: Sequence[str], *, holds_images: bool = False) -> Path | None:
    by_lower_case = {name.lower(): folder / name for name in _subfolders(folder)}
    for candidate in usual:
        found = by_lower_case.get(candidate)
        # COCO's folder "annotations" holds JSON files, and YOLO's "labels" text.
        if found is not None and not (holds_images and next(walk_images(found), None) is None):
            return found
    return None


def _subfolders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _pair_all(root: Path, folders: _Folders, settings: MaskSettings) -> PairScan:
    if settings.is_evaluation and folders.val is not None:
        val, unpaired = _pair_up(root, *folders.val, settings)
        problems = _pairing_problems(val, unpaired, *folders.val)
        return PairScan(root, [], val, os.path.relpath(folders.val[0], root), problems, unpaired)
    train, unpaired = _pair_up(root, *folders.train, settings)
    problems = _pairing_problems(train, unpaired, *folders.train)
    if folders.val is None:
        train, val = split_by_hash(train, settings.val_fraction, name=lambda pair: pair.image)
        if settings.is_evaluation:
            train = []
        if len(train) == 1 and not val and not problems:
            message = (
                f"{folders.train[0]}: it has one image with a mask only, too few to set one aside for validation; add "
                "pairs, or a validation folder"
            )
            problems.append(Problem("error", "empty-validation", str(folders.train[0]), message))
        return PairScan(root, train, val, None, problems, unpaired)
    val, more = _pair_up(root, *folders.val, settings)
    problems += _pairing_problems(val, more, *folders.val)
    return PairScan(root, train, val, os.path.relpath(folders.val[0], root), problems, unpaired + more)


def _pair_up(
    root: Path, image_folder: Path, mask_folder: Path, settings: MaskSettings
) -> tuple[list[Pair], list[Problem]]:
    """Pairs by name, and a problem for every file that is left over."""
    walks = WalkReport(), WalkReport()
    images = _outside_of(mask_folder, image_folder, walk_images(image_folder, walks[0]))
    masks = _outside_of(image_folder, mask_folder, walk_images(mask_folder, walks[1]))
    patterns = {argument: settings.pattern(argument) for argument in ("image_pattern", "mask_pattern")}
    if any(pattern is not None for pattern in patterns.values()):
        found = match_patterns(images, masks, **patterns)
    else:
        found = match_names(images, masks)
    image_prefix, mask_prefix = os.path.relpath(image_folder, root), os.path.relpath(mask_folder, root)
    pairs, problems = [], []
    for image, mask in found.pairs:
        pair = Pair(os.path.join(image_prefix, image), os.path.join(mask_prefix, mask))
        if _same_file(root / pair.image, root / pair.mask):
            path = str(image_folder / image)
            message = f"{path}: the image is its own mask: {mask_folder / mask} is the same file, maybe by a link"
            problems.append(Problem("error", "own-mask", path, f"{message}; put the mask there"))
        else:
            pairs.append(pair)
    for name, file in found.lone_images.items():
        path = str(image_folder / file)
        wanted = mask_folder / (settings.mask_pattern or "{name}.png").replace("{name}", name)
        message = f"{path}: the image has no mask; add {wanted}, or remove the image"
        problems.append(Problem("error", "no-mask", path, message))
    for file in found.lone_masks.values():
        path = str(mask_folder / file)
        message = f"{path}: the mask has no image; add one of the same name in {image_folder}, or remove the mask"
        problems.append(Problem("error", "no-image", path, message))
    for folder, repeated in ((image_folder, found.repeated_images), (mask_folder, found.repeated_masks)):
        for file, first in repeated:
            path = str(folder / file)
            message = f"{path}: it is for the same pair as {first}, which is used; rename or remove one of them"
            problems.append(Problem("error", "same-name", path, message))
    remarks = dict.fromkeys(remark for walk in walks for remark in walk.remarks())
    problems += [Problem("warning", *remark) for remark in remarks]
    return pairs, problems


def _outside_of(other: Path, folder: Path, files: Iterator[str]) -> Iterator[str]:
    """Files of a folder but for those in another folder that lies in it."""
    inner = os.path.relpath(other, folder)
    if inner == os.curdir or inner.split(os.sep)[0] == os.pardir:
        return files
    return (file for file in files if not file.startswith(inner + os.sep))


def _same_file(one: Path, other: Path) -> bool:
    """Whether two paths are one file, also by hard or symbolic links; False where one cannot be found."""
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _pairing_problems(
    pairs: list[Pair], unpaired: list[Problem], image_folder: Path, mask_folder: Path
) -> list[Problem]:
    if pairs:
        return []
    if own := [problem for problem in unpaired if problem.kind == "own-mask"]:
        return own[:1]
    image, mask = next(walk_images(image_folder), None), next(walk_images(mask_folder), None)
    for folder, first, what in ((image_folder, image, "images"), (mask_folder, mask, "masks")):
        if first is None:
            message = f"{folder}: the folder has no {what}; put some in, or name another folder with {what}"
            return [Problem("error", f"no-{what}", str(folder), message)]
    message = (
        f"{image_folder}: no image has a mask of its name in {mask_folder} (such as {image} and {mask}); name masks as "
        "their images, with the same folders between, or say by image_pattern and mask_pattern how they are called"
    )
    return [Problem("error", "no-pairs", str(image_folder), message)]


def _faulty(root: Path, kind: str, message: str) -> PairScan:
    return PairScan(root, problems=[Problem("error", kind, str(root), message)])


forward_moved_names(__name__)
