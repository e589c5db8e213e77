"""Find everything that is wrong with a folder of images and masks before training does."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scalablevit.images import ImageError
from scalablevit.segmentation.labels import (
    IGNORED,
    OUTSIDE_REMEDY,
    LabelMap,
    OutsideLabelsError,
    count_labels,
    find_class_file,
    names_of_labels,
    read_class_names,
)
from scalablevit.segmentation.pairs import MaskFrame, Pair, PairError, PairScan, Problem, read_pair, scan_pairs

_MOST_WORKERS = 16
_PAIRS_PER_TASK = 32
# Below this, starting processes takes longer than decoding.
_FEW_PAIRS = 1000
_MOST_LISTED = 20

Part = Literal["training", "validation"]


@dataclass(frozen=True)
class MaskReport:
    """What `check_masks` found.

    Args:
        root: the data folder.
        num_train: training pairs found, readable or not.
        num_val: validation pairs found.
        classes: class name -> its (training, validation) pixels.
        ignored_pixels: (training, validation) pixels that are left out of losses and metrics.
        smallest: (width, height) of the image with the shortest side, in pixels; None without readable images.
        largest: (width, height) of the image with the most pixels; None without readable images.
        problems: everything that is wrong, errors first.
    """

    root: str
    num_train: int = 0
    num_val: int = 0
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)
    ignored_pixels: tuple[int, int] = (0, 0)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        """What makes training impossible or loses pictures."""
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """What is worth a look."""
        return [problem for problem in self.problems if problem.severity == "warning"]

    @property
    def ok(self) -> bool:
        """Whether there are no errors."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        return {**asdict(self), "ok": self.ok}

    def to_json(self) -> str:
        """Everything, as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_text(self) -> str:
        """For people; of each kind of problem the first 20."""
        lines = [
            f"data        {self.root}",
            f"training    {self.num_train:,} images with masks",
            f"validation  {self.num_val:,} images with masks",
            f"classes     {len(self.classes):,}",
        ]
        if self.smallest is not None and self.largest is not None:
            lines.append("sizes       {} x {} to {} x {} pixels".format(*self.smallest, *self.largest))
        if self.classes:
            lines += ["", *self._class_table()]
        by_kind: dict[tuple[str, str], list[Problem]] = defaultdict(list)
        for problem in self.problems:
            by_kind[problem.severity, problem.kind].append(problem)
        for (severity, kind), problems in by_kind.items():
            lines += ["", f"{severity}: {kind} ({len(problems):,})"]
            lines += [f"  {problem.message}" for problem in problems[:_MOST_LISTED]]
            if len(problems) > _MOST_LISTED:
                lines.append(f"  ... and {len(problems) - _MOST_LISTED:,} more; the JSON report lists all")
        verdict = "no errors" if self.ok else f"{len(self.errors):,} error{'s' if len(self.errors) != 1 else ''}"
        lines += ["", f"{verdict}, {len(self.warnings):,} warnings"]
        return "\n".join(lines)

    def _class_table(self) -> list[str]:
        """Share of each class in the pixels that count, and of the ignored in all."""
        totals = [sum(pixels[part] for pixels in self.classes.values()) for part in (0, 1)]
        width = max(len("ignored"), *map(len, self.classes))
        rows = [f"{'pixels':<{width}}  {'training':>10}  {'validation':>10}"]
        counted = [(name, pixels, totals) for name, pixels in self.classes.items()]
        every = [total + ignored for total, ignored in zip(totals, self.ignored_pixels, strict=True)]
        for name, pixels, of in (*counted, ("ignored", self.ignored_pixels, every)):
            shares = (f"{n / max(total, 1):10.2%}" for n, total in zip(pixels, of, strict=True))
            rows.append(f"{name:<{width}}  {'  '.join(shares)}")
        return rows


def check_masks(
    root: str | Path,
    *,
    train: str = "auto",
    val: str = "auto",
    images: str = "auto",
    masks: str = "auto",
    val_fraction: float = 0.1,
    reduce_zero_label: bool = False,
    ignore_labels: Sequence[int] = (IGNORED,),
    class_names_file: str | Path | None = None,
    mask_frame: MaskFrame = "auto",
    num_workers: int | Literal["auto"] = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> MaskReport:
    """Decode every image and mask of a data folder and report all that is wrong, without stopping at the first.

    Finds what training would meet: a faulty layout; images without masks and masks without images; empty,
    truncated, damaged and huge files and such that are no pictures; masks with colours instead of labels, of another
    size than their image, or with labels that are no class. And what it would not notice: masks that are ignored
    altogether; classes that never occur; masks saved as JPEG; an EXIF orientation that a mask may or may not follow;
    the same image in training and validation (the figures would be too good) or twice in one, compared by pixels.

    Args:
        root: the data folder, laid out as for `MaskFolderData`.
        train: as for `MaskFolderData`, as are all up to `mask_frame`.
        val: see `train`.
        images: see `train`.
        masks: see `train`.
        val_fraction: see `train`.
        reduce_zero_label: see `train`.
        ignore_labels: see `train`.
        class_names_file: see `train`.
        mask_frame: see `train`.
        num_workers: processes that decode; 0 decodes in this one; "auto" takes all cores, 16 at most.
        on_progress: called with (pairs done, all pairs) now and then.

    Raises:
        ValueError: an argument is out of range.
    """
    if num_workers != "auto" and num_workers < 0:
        raise ValueError(f"num_workers must be at least 0 or 'auto', got {num_workers}")
    scan = scan_pairs(root, train=train, val=val, images=images, masks=masks, val_fraction=val_fraction)
    problems = [*scan.problems, *scan.unpaired]
    pairs: list[tuple[Part, Pair]] = [("training", pair) for pair in scan.train]
    pairs += [("validation", pair) for pair in scan.val]
    paths = [(str(scan.root / pair.image), str(scan.root / pair.mask)) for _, pair in pairs]
    looks: list[tuple[Part, str, str, _Look]] = []
    for (part, _), (image, mask), look in zip(
        pairs, paths, _look_at_all(paths, mask_frame, num_workers, on_progress), strict=True
    ):
        if isinstance(look, Problem):
            problems.append(look)
        else:
            looks.append((part, image, mask, look))

    found = {label for _, _, _, look in looks for label in look.labels}
    names: list[str] = []
    if looks or class_names_file is not None:
        try:
            names = _class_names(scan, found, class_names_file, reduce_zero_label, ignore_labels)
        except ValueError as error:
            path = str(class_names_file or find_class_file(scan.root) or scan.root)
            message = str(error) if str(error).startswith(path) else f"{scan.root}: {error}"
            problems.append(Problem("error", "classes", path, message))
    report = MaskReport(str(scan.root), len(scan.train), len(scan.val), problems=problems)
    if names:
        label_map = LabelMap(len(names), reduce_zero_label, tuple(ignore_labels))
        numbered = class_names_file is not None or find_class_file(scan.root) is not None
        report = _with_classes(report, names, looks, label_map, named=numbered)
    problems += _file_warnings(looks)
    problems += _repeated_images(looks)
    problems.sort(key=lambda problem: problem.severity != "error")  # stable: errors first
    if not looks:
        return report
    sizes = {look.size for _, _, _, look in looks}
    return replace(report, smallest=min(sizes, key=min), largest=max(sizes, key=lambda size: size[0] * size[1]))


class _Look(NamedTuple):
    size: tuple[int, int]  # width, height
    digest: bytes  # of the image's size and RGB pixels
    labels: dict[int, int]  # label -> pixels
    lossy: bool
    unclear: bool


def _look_at_all(
    paths: list[tuple[str, str]],
    mask_frame: MaskFrame,
    num_workers: int | Literal["auto"],
    on_progress: Callable[[int, int], None] | None,
) -> Iterator[_Look | Problem]:
    """Looks at pairs, in the order of `paths`."""
    enough = 0 if len(paths) < _FEW_PAIRS else min(os.cpu_count() or 1, _MOST_WORKERS)
    processes = enough if num_workers == "auto" else num_workers
    tasks = [paths[i : i + _PAIRS_PER_TASK] for i in range(0, len(paths), _PAIRS_PER_TASK)]
    look_at = partial(_look_at, mask_frame)
    done = 0
    pool = ProcessPoolExecutor(processes) if processes > 0 else None
    try:
        for looks in pool.map(look_at, tasks) if pool is not None else map(look_at, tasks):
            yield from looks
            done += len(looks)
            if on_progress is not None:
                on_progress(done, len(paths))
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _look_at(mask_frame: MaskFrame, paths: list[tuple[str, str]]) -> list[_Look | Problem]:
    looks: list[_Look | Problem] = []
    for image, mask in paths:
        try:
            pair = read_pair(image, mask, mask_frame=mask_frame)
        except (ImageError, PairError) as error:
            looks.append(Problem("error", error.kind, error.path, str(error)))
            continue
        digest = hashlib.blake2b(f"{pair.image.size}".encode(), digest_size=16)
        digest.update(pair.image.tobytes())
        looks.append(_Look(pair.image.size, digest.digest(), count_labels(pair.labels), pair.lossy, pair.unclear))
    return looks


def _class_names(
    scan: PairScan,
    found: set[int],
    class_names_file: str | Path | None,
    reduce_zero_label: bool,
    ignore_labels: Sequence[int],
) -> list[str]:
    path = class_names_file or find_class_file(scan.root)
    if path is None:
        return names_of_labels(found, reduce_zero_label=reduce_zero_label, ignore_labels=ignore_labels)
    return read_class_names(path, reduce_zero_label=reduce_zero_label, ignore_labels=ignore_labels)


def _with_classes(
    report: MaskReport, names: list[str], looks: list[tuple[Part, str, str, _Look]], label_map: LabelMap, *, named: bool
) -> MaskReport:
    """The report with the pixels of each class and what is wrong with labels."""
    pixels: dict[Part, Counter[int]] = {"training": Counter(), "validation": Counter()}
    ignored: Counter[Part] = Counter()
    for part, _, mask, look in looks:
        outside = sorted(label for label in look.labels if label_map.is_outside(label))
        if outside:
            message = f"{mask}: {OutsideLabelsError(outside, label_map)}; {OUTSIDE_REMEDY}"
            report.problems.append(Problem("error", "outside-classes", mask, message))
            continue
        classes = {label: n for label, n in look.labels.items() if not label_map.is_ignored(label)}
        pixels[part].update({label - label_map.first_label: n for label, n in classes.items()})
        ignored[part] += sum(look.labels.values()) - sum(classes.values())
        if not classes:
            message = f"{mask}: all its pixels are ignored; nothing is learned from it: label it, or remove the pair"
            report.problems.append(Problem("warning", "all-ignored", mask, message))
    counts = {name: (pixels["training"][i], pixels["validation"][i]) for i, name in enumerate(names)}
    report.problems.extend(_missing_classes(report.root, counts, named=named))
    return replace(report, classes=counts, ignored_pixels=(ignored["training"], ignored["validation"]))


def _missing_classes(root: str, counts: dict[str, tuple[int, int]], *, named: bool) -> Iterator[Problem]:
    never = [name for name, (train, val) in counts.items() if train == 0 and val == 0]
    if never:
        why = "" if named else "; labels are numbered with gaps: are they shades of gray rather than class indices?"
        message = f"{root}: {len(never)} of {len(counts)} classes never occur: {_some(never)}{why}"
        yield Problem("warning", "class-never-occurs", root, message)
    for kind, place, wanting in (
        ("class-without-training", "training", [name for name, (train, val) in counts.items() if train == 0 < val]),
        ("class-without-validation", "validation", [name for name, (train, val) in counts.items() if val == 0 < train]),
    ):
        if wanting:
            result = "they cannot be learned" if place == "training" else "their IoU will not be measured"
            message = (
                f"{root}: {len(wanting)} of {len(counts)} classes have no {place} pixels: {_some(wanting)}; {result}"
            )
            yield Problem("warning", kind, root, message)


def _file_warnings(looks: list[tuple[Part, str, str, _Look]]) -> Iterator[Problem]:
    for _, image, mask, look in looks:
        if look.lossy:
            message = f"{mask}: a mask saved as JPEG has wrong labels along its edges; export it as PNG"
            yield Problem("warning", "lossy-mask", mask, message)
        if look.unclear:
            message = (
                f"{mask}: its image {image} is turned by an EXIF orientation, and the size does not tell whether the "
                "mask is too; it is taken to lie as the stored pixels do: look at the pair, and set mask_frame if it "
                "does not"
            )
            yield Problem("warning", "orientation-unclear", mask, message)


def _repeated_images(looks: list[tuple[Part, str, str, _Look]]) -> Iterator[Problem]:
    seen: dict[bytes, list[tuple[Part, str]]] = defaultdict(list)
    for part, image, _, look in looks:
        seen[look.digest].append((part, image))
    for files in seen.values():
        if len(files) == 1:
            continue
        first, others = files[0][1], ", ".join(path for _, path in files[1:4])
        more = f" and {len(files) - 4} more" if len(files) > 4 else ""
        same = f"{first}: the same image as {others}{more}"
        if len({part for part, _ in files}) > 1:
            message = f"{same}, in training and validation; the figures will be too good: remove one"
            yield Problem("warning", "leak", first, message)
        else:
            yield Problem("warning", "duplicate", first, f"{same}; remove it if that is not meant")


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more
