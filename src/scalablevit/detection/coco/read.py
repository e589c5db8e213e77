"""Reading a COCO file: entries that cannot be used are left out, counted and told.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import math
import os
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scalablevit.data.image_size import sizes_in_headers
from scalablevit.data.stored_path import StoredPath
from scalablevit.detection.coco.agreement import off_masks, strange_objects
from scalablevit.detection.coco.annotations import CocoAnnotations
from scalablevit.detection.coco.class_numbers import number_classes_like
from scalablevit.detection.coco.image_files import FoundFiles, example_file, locate_images
from scalablevit.detection.coco.json_file import (
    BoxForm,
    CocoError,
    Id,
    Lists,
    Source,
    append_numbers,
    called,
    class_name,
    file_name,
    id_order,
    identifier,
    integer,
    lookup,
    read_lists,
    shown,
)
from scalablevit.detection.coco.masks import CocoMasks
from scalablevit.detection.coco.orientation import AnnotationFrame
from scalablevit.detection.coco.plausibility import negative_boxes, shifted_ids, strange_boxes
from scalablevit.detection.coco.problems import MOST_LISTED

_SMALLEST_BOX = 0.01  # pixels; float32 still tells the sides of such a box apart in an image of 10,000 pixels
_ROUNDING = 1.0  # pixels by which annotation tools let boxes hang over the edge of the image
_LONGEST_SIDE = 1_000_000
_MOST_COMPARED = 500  # annotations whose outlines are compared with their boxes where no masks are read


def read_annotations(
    path: str | Path,
    image_folder: str | Path | Sequence[Path] | None,
    *,
    lists: Lists | None = None,
    masks: bool = False,
    annotation_frame: AnnotationFrame = "auto",
    like: CocoAnnotations | Sequence[str] | None = None,
) -> CocoAnnotations:
    """Read an annotation file; what is wrong with single entries is counted, and they are left out.

    Args:
        path: the JSON file.
        image_folder: where the images are; of several folders, the one with most of them is taken. None:
            do not look for the images.
        lists: images, annotations and categories in the place of those in the file, as COCO has them.
        masks: read the masks too.
        annotation_frame: see `applied_orientation`. Where the annotations tell no size, it is that of the upright
            image for "upright", otherwise that of the stored one.
        like: class names to use, or annotations of the training images with them; categories are matched by name.

    Raises:
        CocoError: (a ValueError) the file is missing, cut off, no JSON or no COCO annotations; it lists no
            images or no categories; an id stands for two things; none of its images is there; no annotation
            can be used; all boxes are fractions; it has classes that `like` lacks.
    """
    path = Path(path).expanduser()
    read = read_lists(path) if lists is None else lists
    images, annotations, categories, sources = read[:4]
    reader = _Reader(path, sources or (Source(path, 0),), read.boxes)
    into = reader.into
    for note in read.notes:
        into.log.note(*note)
    class_of = reader.read_categories(categories)
    entries = reader.read_images(images)
    reader.find_files(entries, image_folder)
    index = reader.join_repeated(entries)
    reader.fill_sizes(annotation_frame)
    reader.read_annotations(annotations, index, class_of, masks=masks)
    reader.note_unlearnable()
    if lists is not None and not sources:  # other formats have no sizes
        into.log.drop("missing-size")
    if like is not None:
        number_classes_like(into, like)
        return into
    used = np.bincount(into.labels, minlength=len(into.class_names))
    for k in np.flatnonzero(used == 0):
        message = f"{path}: no box is of the category {into.class_names[k]!r} (id {into.category_ids[k]})"
        into.log.note("unused-category", path, message)
    return into


@dataclass
class _Images:
    """Entries of 'images' that can be used, in the order of the file."""

    ids: list[Id] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (0, 0) where the file does not tell


class _Reader:
    """Fills the `CocoAnnotations` of one file, list by list."""

    def __init__(self, path: Path, sources: Sequence[Source], box_form: BoxForm) -> None:
        self.path = path
        self.box_form: BoxForm = box_form
        self.sources = sources
        self.into = CocoAnnotations(path)
        self.log = self.into.log
        self.joined: set[int] = set()  # positions of images that several entries stand for

    def read_categories(self, categories: list[Any]) -> dict[Id, int]:
        """Set the classes; category id -> class."""
        names: dict[Id, str] = {}
        for entry in categories:
            category_id = identifier(entry.get("id")) if isinstance(entry, dict) else None
            if category_id is None:
                raise CocoError(
                    f"{self.path}: the category {shown(entry)} has no whole number or text for an id; give it one",
                    kind="bad-category",
                    path=self.path,
                )
            name = class_name(entry.get("name")) or str(category_id)
            if names.setdefault(category_id, name) != name:
                raise CocoError(
                    f"{self.path}: the category id {category_id} stands for {names[category_id]!r} and for {name!r}; "
                    "give each category an id of its own",
                    kind="duplicate-category",
                    path=self.path,
                )
        ids = self.into.category_ids = sorted(names, key=id_order)
        shared = {name for name, count in Counter(names.values()).items() if count > 1}
        for name in sorted(shared):
            alike = ", ".join(str(category_id) for category_id in ids if names[category_id] == name)
            self.log.note("shared-name", self.path, f"{self.path}: the categories {alike} are all named {name!r}")
        self.into.class_names = [f"{names[i]} ({i})" if names[i] in shared else names[i] for i in ids]
        return {category_id: k for k, category_id in enumerate(ids)}

    def read_images(self, images: list[Any]) -> _Images:
        """Read the entries of 'images'."""
        found, index = _Images(), dict[Id, int]()
        for entry in images:
            image_id = identifier(entry.get("id")) if isinstance(entry, dict) else None
            name = file_name(entry.get("file_name")) if isinstance(entry, dict) else None
            if image_id is None or name is None:
                lacks = "whole number or text for an id" if image_id is None else "usable file_name"
                self.log.note("bad-image", self.path, f"{self.path}: the image {shown(entry)} has no {lacks}")
                continue
            if image_id in index:
                other = found.names[index[image_id]]
                if other != name:
                    raise CocoError(
                        f"{self.path}: the image id {image_id} stands for {other} and for {name}, so that nobody can "
                        "tell whose its annotations are; give each image an id of its own (files that were joined "
                        "have to be numbered anew)",
                        kind="duplicate-image-id",
                        path=self.path,
                    )
                self.log.note("duplicate-image", name, f"{name}: the image id {image_id} is listed twice")
                continue
            index[image_id] = len(found.ids)
            found.ids.append(image_id)
            found.names.append(name)
            width, height = (integer(entry.get(side)) or 0 for side in ("width", "height"))
            known = 0 < width <= _LONGEST_SIDE and 0 < height <= _LONGEST_SIDE
            found.sizes.append((width, height) if known else (0, 0))
        if not found.ids:
            raise CocoError(
                f"{self.path}: none of its {len(images)} images can be used; each needs an 'id' (a whole number or a "
                "text) and a 'file_name'",
                kind="no-images",
                path=self.path,
            )
        return found

    def find_files(self, images: _Images, image_folder: str | Path | Sequence[Path] | None) -> None:
        """Set folder, file names and `present`."""
        into = self.into
        if image_folder is None:
            into.present = np.ones(len(images.ids), bool)
            return
        given = [image_folder] if isinstance(image_folder, str | Path) else image_folder
        folders = list(dict.fromkeys(_as_folder(folder) for folder in given))
        found = locate_images(images.names, folders)
        into.image_folder, into.present = found.folder, found.present
        for i in np.flatnonzero(found.ambiguous):
            path = found.folder / found.names[i]
            message = f"{path}: {self.path} has {images.names[i]} and another image that lead to this one file"
            self.log.note("ambiguous-file", path, f"{message}; restore the folders that their names start with")
        if not into.present.any():
            raise self._no_files(images.names, found, folders)
        for i in np.flatnonzero(~into.present & ~found.ambiguous):
            path = found.folder / images.names[i]
            self.log.note("missing-file", path, f"{path}: there is no such file; {self.path} lists it")
        images.names = found.names

    def _no_files(self, names: list[str], found: FoundFiles, folders: list[Path]) -> CocoError:
        if found.ambiguous.any():
            (line,) = self.log.describe("ambiguous-file")
            return CocoError(f"{line}; no image is left", kind="ambiguous-file", path=found.folder)
        looked = ", ".join(str(folder) for folder in folders)
        there = example_file(folders, names[0])
        example = f" ({there})" if there else ""
        return CocoError(
            f"{self.path}: none of its {len(names):,} image files is there, such as {names[0]}; looked in "
            f"{looked}{example}; name the folder that holds them (train_images, val_images), or correct file_name",
            kind="missing-images",
            path=found.folder,
        )

    def join_repeated(self, images: _Images) -> dict[Id, int]:
        """Set ids, file names and sizes with each file once; id of an entry -> position."""
        into = self.into
        first: dict[str, int] = {}
        index: dict[Id, int] = {}
        kept: list[int] = []
        entries_of: Counter[str] = Counter(images.names)
        for i, (image_id, name) in enumerate(zip(images.ids, images.names, strict=True)):
            if name in first and into.present[i]:
                position = first[name]
                index[image_id] = position
                if images.sizes[kept[position]] == (0, 0):
                    images.sizes[kept[position]] = images.sizes[i]
                continue
            first.setdefault(name, len(kept))
            index[image_id] = len(kept)
            kept.append(i)
        for name, position in first.items():
            if entries_of[name] > 1 and into.present[kept[position]]:
                self.joined.add(position)
                self.log.note("repeated-file", name, f"{name}: it stands under {entries_of[name]} image ids")
        ids = [images.ids[i] for i in kept]
        are_numbers = all(integer(image_id) is not None for image_id in ids)
        into.image_ids = np.array(ids, np.int64 if are_numbers else object)
        into.file_names = np.array([os.fsencode(images.names[i]) for i in kept])
        into.sizes = np.array([images.sizes[i] for i in kept], np.int64).reshape(-1, 2)
        into.present = into.present[kept]
        into.incomplete = np.zeros(len(kept), bool)
        return index

    def fill_sizes(self, frame: AnnotationFrame) -> None:
        """Take sizes from the image files where the annotations do not tell them."""
        into = self.into
        into.size_from_file = np.zeros(len(into), bool)
        unknown = into.sizes[:, 0] == 0
        there = np.flatnonzero(unknown & into.present).tolist()
        paths = [into.file(i) for i in there]
        looked_for = into.image_folder is not None
        sizes = sizes_in_headers(paths, upright=frame == "upright") if looked_for else [None] * len(paths)
        into.present[unknown] = False
        for i, path, size in zip(there, paths, sizes, strict=True):
            if size is None:
                message = f"{path}: {self.path} has no width and height for it, and neither tells the file; left out"
                self.log.note("bad-image", path, message)
                continue
            into.present[i] = True
            into.sizes[i], into.size_from_file[i] = size, True
            self.log.note("missing-size", path, f"{path}: {self.path} has no width and height for it")

    def read_annotations(
        self, annotations: list[Any], index: Mapping[Id, int], class_of: Mapping[Id, int], *, masks: bool
    ) -> None:
        """Set everything that has a row for each annotation."""
        into, store = self.into, CocoMasks()
        # without masks to read, a few outlines tell whether the boxes are where the objects are
        step = 1 if masks else max(1, len(annotations) // _MOST_COMPARED)
        compared = array("q")
        image_of, labels, crowd, areas, boxes = array("q"), array("q"), array("b"), array("d"), array("d")
        numbers, outlined = array("q"), array("b")
        ids: list[Id | None] = []
        sizes = [(width, height) for width, height in into.sizes.tolist()]
        used_categories, used_images = set[Id | None](), set[Id | None]()
        for number, entry in enumerate(annotations):
            if not isinstance(entry, dict):
                message = f"{self.path}: annotation number {number} is {shown(entry)}, not an object"
                self.log.note("bad-annotation", self.path, message)
                continue
            get = entry.get
            used_images.add(identifier(get("image_id")))
            used_categories.add(identifier(get("category_id")))
            image = lookup(index, get("image_id"))
            if image is None:
                message = f"{self.path}: {called(entry, number)} names the image {shown(get('image_id'))}"
                self.log.note("unknown-image", self.path, message)
                continue
            label = lookup(class_of, get("category_id"))
            if label is None:
                what = f"{called(entry, number)} names the category {shown(get('category_id'))}"
                self._leave_out("unknown-category", image, what)
                continue
            if sizes[image][0] == 0:
                continue  # the image is reported and cannot be used
            if not append_numbers(boxes, get("bbox"), 4):
                needed = "a line of numbers" if isinstance(get("bbox"), str) else "a bbox [left, top, width, height]"
                what = f"{called(entry, number)} has {shown(get('bbox'))} for {needed}"
                self._leave_out("bad-box", image, what)
                continue
            crowd.append(get("iscrowd") in (1, "1"))  # also True and 1.0
            if len(labels) % step == 0:
                width, height = sizes[image]
                compared.append(len(labels))
                for kind, what in store.append(entry, number, width=width, height=height):
                    if masks:
                        self.log.note(kind, into.file(image), f"{into.file(image)}: {what}")
            outline = get("segmentation")
            outlined.append(crowd[-1] and isinstance(outline, list) and len(outline) > 0)
            numbers.append(number)
            image_of.append(image)
            labels.append(label)
            ids.append(identifier(get("id")))
            areas.append(_area(get("area")))

        into.image_of, into.labels = np.array(image_of, np.int64), np.array(labels, np.int64)
        into.boxes_xywh = np.array(boxes).reshape(-1, 4)
        into.crowd, into.areas = np.array(crowd, bool), np.array(areas)
        into.has_masks = masks
        store.pack()
        into.masks = store if masks else into.masks
        hints = {source.file: source.hint for source in self.sources if source.hint}
        for file, hint in (hints or {self.path: shifted_ids(used_categories, class_of)}).items():
            if hint:
                self.log.note("shifted-ids", file, f"{file}: categories: {hint}")
        if hint := shifted_ids(used_images, index):
            self.log.note("shifted-ids", self.path, f"{self.path}: images: {hint}")
        positions = np.array(numbers, np.int64)
        self._note_patterns(positions, np.array(outlined, bool))
        finite = self._check_boxes(ids)
        self._note_disagreement(positions, np.array(compared, np.int64), store, ids)
        keep = finite & self._without_copies(ids)
        if not annotations:
            message = f"{self.path}: it has no annotations ('annotations' is empty); take the file that has them"
            raise CocoError(message, kind="no-annotations", path=self.path)
        if not (keep & into.usable).any():
            reasons = "\n".join(f"  - {line}" for line in self.log.describe())
            message = f"{self.path}: none of its {len(annotations):,} annotations can be used:\n{reasons}"
            raise CocoError(message, kind="no-annotations", path=self.path)
        into.keep_rows(np.flatnonzero(keep))

    def note_unlearnable(self) -> None:
        """Note images that have annotations, but none to train on."""
        into = self.into
        has_crowd = np.bincount(into.image_of[into.crowd], minlength=len(into)) > 0
        for i in np.flatnonzero(into.unlearnable() & into.present).tolist():
            kind = "only-crowd" if has_crowd[i] else "nothing-left"
            self.log.note(kind, into.file(i), f"{into.file(i)}: no annotation of it can be learnt")

    def _leave_out(self, kind: str, image: int, what: str) -> None:
        path = self.into.file(image)
        self.into.incomplete[image] = True
        self.log.note(kind, path, f"{path}: {what}")

    def _note_patterns(self, numbers: np.ndarray, outlined: np.ndarray) -> None:
        """Note what the annotations of each file together look like, from their positions and crowds with outlines."""
        into = self.into
        boxes, sizes = into.boxes_xywh, into.sizes[into.image_of]
        real = np.isfinite(boxes).all(axis=1) & ~into.crowd & (boxes[:, 2:] > 0).all(axis=1)
        for source, rows in self._by_source(numbers):
            if outlined[rows].sum() > len(rows) / 2:
                words = f"{outlined[rows].sum():,} of {len(rows):,} annotations are crowds with an outline"
                self.log.note("crowd-outline", source.file, f"{source.file}: {words}, as single objects have")
            negative = rows[np.isfinite(boxes[rows]).all(axis=1)]
            if len(negative) >= 4 and (boxes[negative, 2:] < 0).any(axis=1).mean() > 0.2:
                sentence = negative_boxes(boxes[negative], self.box_form)
                self.log.note("negative-boxes", source.file, f"{source.file}: {sentence}")
            rows = rows[real[rows]]
            for kind, sentence in strange_boxes(boxes[rows], sizes[rows], self.box_form):
                self.log.note(kind, source.file, f"{source.file}: {sentence}")
                if kind == "fraction-boxes":
                    raise CocoError(f"{source.file}: {sentence}", kind=kind, path=source.file)

    def _by_source(self, numbers: np.ndarray) -> Iterator[tuple[Source, np.ndarray]]:
        """Files whose annotations were put together, and the rows of each, from the positions of the annotations."""
        edges = np.searchsorted(numbers, [*(source.start for source in self.sources), np.iinfo(np.int64).max])
        for source, first, end in zip(self.sources, edges, edges[1:], strict=False):
            yield source, np.arange(first, end)

    def _note_disagreement(
        self, numbers: np.ndarray, compared: np.ndarray, masks: CocoMasks, ids: Sequence[Id | None]
    ) -> None:
        """Note where boxes, masks and areas contradict each other; `masks` are those of the rows `compared`."""
        into = self.into
        boxes, sizes = into.boxes_xywh[compared], into.sizes[into.image_of[compared]]
        real = into.usable[compared] & ~into.crowd[compared]
        bounds = masks.bounds(sizes)
        bounds[~real] = np.nan
        is_odd = False
        for source, all_rows in self._by_source(numbers):
            rows = np.flatnonzero(np.isin(compared, all_rows) & real)
            by_rows = partial(lambda rows: masks.bounds(sizes, by_rows=True)[rows], rows)
            areas = into.areas[compared][rows]
            for kind, sentence in strange_objects(boxes[rows], areas, sizes[rows], bounds[rows], by_rows):
                is_odd = True
                # where masks are not read, only faults of boxes count; corners may be told already
                if (into.has_masks or kind != "odd-masks") and not (kind == "corner-boxes" and self.log.counts[kind]):
                    self.log.note(kind, source.file, f"{source.file}: {sentence}")
        if into.has_masks and not is_odd:
            off = np.zeros(len(into.labels), bool)
            off[compared] = off_masks(boxes, bounds)
            self._note_rows("box-off-mask", off, ids)

    def _check_boxes(self, ids: Sequence[Id | None]) -> np.ndarray:
        """Set `usable`, and note what is wrong with boxes; which have finite numbers, (A,) bool."""
        into = self.into
        boxes, sizes = into.boxes_xywh, into.sizes[into.image_of]
        finite = np.asarray(np.isfinite(boxes).all(axis=1))
        boxes[~finite] = 0
        low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        inner_low, inner_high = low.clip(0), np.minimum(high, sizes)
        empty = finite & (boxes[:, 2:] < _SMALLEST_BOX).any(axis=1)
        outside = finite & ~empty & (inner_high - inner_low < _SMALLEST_BOX).any(axis=1)
        over = (np.maximum(inner_low - low, high - inner_high) > _ROUNDING).any(axis=1)
        over &= finite & ~empty & ~outside
        into.usable = np.asarray(finite & ~empty & ~outside)
        into.incomplete[into.image_of[~into.usable]] = True
        for kind, bad in (("bad-box", ~finite), ("empty-box", empty), ("outside-box", outside), ("clipped-box", over)):
            self._note_rows(kind, bad, ids)
        return finite

    def _without_copies(self, ids: Sequence[Id | None]) -> np.ndarray:
        """Note annotations that share an id or, where entries of one file were joined, a box; which to keep."""
        into = self.into
        keep = np.ones(len(ids), bool)
        counts: Counter[Id | None] = Counter(entry_id for entry_id in ids if entry_id is not None)
        first: dict[Any, int] = {}
        for row, entry_id in enumerate(ids):
            if counts[entry_id] < 2 and not self.joined:
                continue
            what = (int(into.image_of[row]), int(into.labels[row]), *into.boxes_xywh[row].tolist())
            is_copy = False
            if entry_id is not None and counts[entry_id] > 1:
                one = first.setdefault(entry_id, row)
                if one == row:
                    continue
                is_copy = what == (int(into.image_of[one]), int(into.labels[one]), *into.boxes_xywh[one].tolist())
                kind = "duplicate-annotation" if is_copy else "repeated-annotation-id"
                message = f"the annotation id {entry_id} is there {counts[entry_id]} times"
                path = into.file(int(into.image_of[row]))
                self.log.note(kind, path, f"{path}: {message}")
            elif what[0] in self.joined and first.setdefault(what, row) != row:
                is_copy, path = True, into.file(what[0])
                message = f"annotation {entry_id} is there under another image id as well"
                self.log.note("duplicate-annotation", path, f"{path}: {message}")
            keep[row] = not is_copy
        return keep

    def _note_rows(self, kind: str, bad: Any, ids: Sequence[Id | None]) -> None:
        rows = np.flatnonzero(bad)
        for row in rows[:MOST_LISTED].tolist():
            left, top, width, height = (round(float(value), 2) for value in self.into.boxes_xywh[row])
            image = int(self.into.image_of[row])
            name = "an annotation" if ids[row] is None else f"annotation {ids[row]}"
            path, size = self.into.file(image), "{} x {}".format(*self.into.sizes[image])
            what = {
                "bad-box": "has a box with a value that is not finite",
                "empty-box": f"has a box of {width} x {height} pixels",
                "outside-box": f"has the box {[left, top, width, height]} outside the image of {size} pixels",
                "box-off-mask": f"has the box {[left, top, width, height]}, and its mask lies elsewhere",
                "clipped-box": f"has the box {[left, top, width, height]} in an image of {size} pixels",
            }[kind]
            self.log.note(kind, path, f"{path}: {name} {what}")
        if len(rows) > MOST_LISTED:
            self.log.counts[kind] += len(rows) - MOST_LISTED


def _area(value: Any) -> float:
    """An area as the file has it; NaN where it is none."""
    try:
        return float(value) if isinstance(value, int | float) and 0 < value < math.inf else math.nan
    except OverflowError:  # a number of hundreds of digits
        return math.nan


def _as_folder(folder: str | Path) -> Path:
    return folder if isinstance(folder, StoredPath) else Path(folder).expanduser()
