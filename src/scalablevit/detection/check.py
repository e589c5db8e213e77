"""Find everything that is wrong with COCO data before training does."""

import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from scalablevit.data.check import (
    DataReport,
    ImageFile,
    Look,
    Problem,
    check_num_workers,
    look_at_all,
    look_at_image,
    losses_of,
    repeated_images,
    size_range,
)
from scalablevit.data.find_images import has_image_suffix
from scalablevit.data.image_file import ImageError
from scalablevit.data.pixel_values import ValueRange, checked_value_range
from scalablevit.data.stored_path import StoredPath
from scalablevit.data.stream.opened import open_stream
from scalablevit.detection.coco import (
    AnnotationFrame,
    AnnotationSource,
    CocoAnnotations,
    CocoError,
    applied_orientation,
)
from scalablevit.detection.split import CocoSplit, read_split


@dataclass(frozen=True)
class CheckReport(DataReport):
    """What `check_coco` found: `DataReport`, with `classes` in objects that can be used.

    Args:
        num_readable: images of both parts that can be trained on.
        num_crowd: crowd regions of both, which are for evaluation only.
        num_empty: images of both without an object.
        has_masks: whether there are masks; None: they were not looked for.
        unlisted: images in the image folders that no annotation file lists.
        counts: kind of problem -> how many there are; of each kind in an annotation file, `problems` lists 1,000.
    """

    num_readable: int = 0
    num_crowd: int = 0
    num_empty: int = 0
    has_masks: bool | None = None
    unlisted: int = 0
    counts: dict[str, int] = field(default_factory=dict)

    def _facts(self) -> list[str]:
        train, val = (sum(counts[part] for counts in self.classes.values()) for part in (0, 1))
        masks = {None: "not looked for", True: "yes", False: "no, for boxes only"}[self.has_masks]
        lines = [
            f"training    {self.num_train:,} images, {train:,} objects",
            f"validation  {self.num_val:,} images, {val:,} objects",
            f"classes     {len(self.classes):,}",
            f"masks       {masks}",
            f"empty       {self.num_empty:,} images have no object",
            f"crowd       {self.num_crowd:,} regions, for evaluation only",
            *self._sizes(),
        ]
        if self.unlisted:
            lines.append(f"unlisted    {self.unlisted:,} images in the folders are in no annotation file")
        return lines

    def _count(self, kind: str, listed: int) -> int:
        return self.counts[kind]


def check_coco(
    root: str | Path,
    *,
    masks: bool = True,
    value_range: tuple[float, float] | None = None,
    min_size: int = 8,
    num_workers: int | Literal["auto"] = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    **source: Any,
) -> CheckReport:
    """Read the annotations, decode every image, and report all that is wrong, without stopping at the first.

    Finds what training would meet: files that are missing, cut off or no COCO annotations; annotations of unknown
    images and categories; boxes without area, outside their image or not finite; masks that are damaged or of
    another size; missing, truncated and damaged images, and such of another size than the annotations say. And
    what it would not notice: the same image in training and validation (the figures would be too good), or twice
    in one, compared by decoded pixels; images whose EXIF orientation leaves open what the boxes count in.

    Args:
        root: the data folder, or one annotation file, as for `CocoData`; or shards, whose hashes are compared, too.
        masks: check the masks, too. Annotations without any are no error: they do for boxes.
        value_range: as for `CocoData`.
        min_size: images whose shorter side has fewer pixels are reported.
        num_workers: processes that decode; 0 decodes in this one; "auto" takes all cores, 16 at most.
        on_progress: called with (images done, all images) now and then.
        source: fields of `AnnotationSource`, which say where annotations and images are, as for `CocoData`.

    Raises:
        ValueError: an argument is out of range.
    """
    check_num_workers(num_workers)
    value_range = checked_value_range(value_range)
    try:
        where = AnnotationSource(masks=masks, **source)
        split = read_split(root, where)
    except CocoError as error:
        problem = Problem("error", error.kind, error.path, str(error))
        return CheckReport(str(root), counts={error.kind: 1}, problems=[problem])

    stream = open_stream(root, where.stream, task="detection")
    has_masks = _note_masks(split) if masks else None
    images = [_Image("training", split.train, int(i)) for i in split.train_indices]
    images += [_Image("validation", split.val, int(i)) for i in split.val_indices]
    found = _examine(images, where.annotation_frame, min_size, num_workers, on_progress, value_range)
    if stream is not None:
        found.problems = stream.problems(found.problems)
    return _report(split, found, has_masks)


def _report(split: CocoSplit, found: "_Findings", has_masks: bool | None) -> CheckReport:
    """Put together what annotations and images were found to be."""
    counts: Counter[str] = Counter()
    problems: list[Problem] = []
    for annotations in dict.fromkeys([split.train, split.val]):
        counts.update(annotations.problem_counts)
        problems += annotations.problems
    problems += found.problems
    counts.update(problem.kind for problem in found.problems)
    smallest, largest = size_range(found.sizes)

    train_counts = split.train.class_counts(split.train_indices)
    val_counts = split.val.class_counts(split.val_indices)
    parts = ((split.train, split.train_indices), (split.val, split.val_indices))
    return CheckReport(
        str(split.root),
        num_train=len(split.train_indices),
        num_val=len(split.val_indices),
        num_readable=len(found.sizes),
        num_crowd=sum(len(part.rows(int(i), crowd=True)) for part, indices in parts for i in indices),
        num_empty=sum(int((part.count_objects(indices) == 0).sum()) for part, indices in parts),
        has_masks=has_masks,
        classes={name: (int(train_counts[k]), int(val_counts[k])) for k, name in enumerate(split.train.class_names)},
        smallest=smallest,
        largest=largest,
        unlisted=_count_unlisted(split),
        counts=dict(counts),
        problems=problems,
    )


def _note_masks(split: CocoSplit) -> bool:
    """Whether there are masks. Annotations that were never meant to have any are not reported one by one."""
    parts = list(dict.fromkeys([split.train, split.val]))
    if any(part.has_mask(np.arange(len(part.labels))).any() for part in parts):
        return True
    for part in parts:
        part.log.drop("no-mask")
    return False


class _Image(NamedTuple):
    part: Literal["training", "validation"]
    annotations: CocoAnnotations
    position: int

    @property
    def path(self) -> str:
        return str(self.annotations.file(self.position))


@dataclass
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (width, height) of those that can be trained on


def _examine(
    images: list[_Image],
    given_frame: AnnotationFrame,
    min_size: int,
    num_workers: int | Literal["auto"],
    on_progress: Callable[[int, int], None] | None,
    value_range: ValueRange | None,
) -> _Findings:
    """Decode all images and compare them with what their annotations say."""
    found = _Findings()
    seen: list[tuple[bytes, ImageFile]] = []
    paths = [image.path for image in images]
    look_at = partial(look_at_image, value_range=value_range)
    files = [image.annotations.file(image.position) for image in images]
    places = [file if isinstance(file, StoredPath) else str(file) for file in files]
    looks = list(look_at_all(look_at, places, num_workers=num_workers, on_progress=on_progress))
    for image, path, look in zip(images, paths, looks, strict=True):
        if isinstance(look, ImageError):
            found.problems.append(Problem("error", look.kind, look.path, str(look)))
            continue
        annotations, position = image.annotations, image.position
        frame = annotations.frame if given_frame == "auto" else given_frame
        width, height = (int(side) for side in annotations.sizes[position])
        orientation = applied_orientation((width, height), look.stored_size, look.orientation, frame=frame)
        if orientation is None:
            message = annotations.size_conflict(position, look.stored_size, look.orientation, frame=frame)
            found.problems.append(Problem("error", "size-mismatch", path, message))
            continue
        if look.orientation != 1:
            annotated_size = None if annotations.size_from_file[position] else (width, height)
            found.problems.append(_orientation_note(path, annotated_size, look, orientation, frame))
        found.sizes.append((width, height))
        seen.append((look.digest, ImageFile(image.part, path)))
        if min(width, height) < min_size:
            message = f"{path}: only {width} x {height} pixels; check it, as it may be a thumbnail or a spacer"
            found.problems.append(Problem("warning", "tiny", path, message))
    found.problems.extend(losses_of(looks))
    found.problems.extend(repeated_images(seen))
    return found


def _orientation_note(
    path: str, annotated_size: tuple[int, int] | None, look: Look, orientation: int, frame: AnnotationFrame
) -> Problem:
    """What is done about an image that EXIF turns; `annotated_size` is None where the annotations tell none."""
    width, height = look.stored_size
    upright_size = (height, width) if look.orientation >= 5 else (width, height)
    turned = f"{path}: EXIF orientation {look.orientation} turns the image"
    if frame == "auto" and (annotated_size is None or upright_size == look.stored_size):
        why = "its size leaves" if annotated_size is not None else "annotations without its size leave"
        message = (
            f"{turned}, and {why} open what the boxes count in; stored pixels are taken, so they are turned "
            "along. Check the image, and set annotation_frame to 'upright' if they fit the turned image"
        )
        return Problem("warning", "orientation-unclear", path, message)
    how = "boxes and masks are turned along" if orientation != 1 else "boxes and masks fit the turned image"
    why = f"as annotation_frame is {frame!r}"
    if annotated_size is not None:
        why = "as annotated at {} x {} pixels".format(*annotated_size)
    return Problem("warning", "orientation", path, f"{turned}; {why}, {how}")


def _count_unlisted(split: CocoSplit) -> int:
    """Images in the image folders that no annotation file lists."""
    listed: dict[str, set[str]] = defaultdict(set)
    for annotations in dict.fromkeys([split.train, split.val]):
        for i in range(len(annotations)):
            folder, name = os.path.split(annotations.file(i))
            listed[folder].add(name)
    by_place: dict[str, set[str]] = defaultdict(set)
    for folder, names in listed.items():
        by_place[os.path.realpath(folder)] |= names
    unlisted = 0
    for folder, names in by_place.items():
        if os.path.isdir(folder):
            with os.scandir(folder) as entries:
                there = {entry.name for entry in entries if has_image_suffix(entry.name)}
            unlisted += sum(name not in names and not name.startswith(".") for name in there)
    return unlisted
