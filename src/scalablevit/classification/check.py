"""Find everything that is wrong with a data folder before training does."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from scalablevit.classification.image_folder import FolderScan, Problem, scan_folder
from scalablevit.images import ImageError, has_image_suffix, read_image

_MOST_WORKERS = 16
_FILES_PER_TASK = 64
# Below this, starting processes takes longer than decoding.
_FEW_FILES = 2000
_MOST_LISTED = 20


@dataclass(frozen=True)
class CheckReport:
    """What `check_folder` found.

    Args:
        root: the data folder.
        num_train: training pictures found, readable or not.
        num_val: validation pictures found.
        classes: class folder -> (training, validation) pictures that can be read.
        smallest: (width, height) of the picture with the shortest side, in pixels; None without pictures.
        largest: (width, height) of the picture with the most pixels; None without pictures.
        ignored: file name ending -> number of files that are no pictures by their name.
        problems: everything that is wrong, errors first.
    """

    root: str
    num_train: int = 0
    num_val: int = 0
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    ignored: dict[str, int] = field(default_factory=dict)
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
            f"training    {self.num_train:,} pictures",
            f"validation  {self.num_val:,} pictures",
            f"classes     {len(self.classes):,}",
        ]
        if self.smallest is not None and self.largest is not None:
            lines.append("sizes       {} x {} to {} x {} pixels".format(*self.smallest, *self.largest))
        if self.ignored:
            listed = ", ".join(f"{count:,} {suffix}" for suffix, count in self.ignored.items())
            lines.append(f"ignored     files that are no pictures by their name: {listed}")
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


def check_folder(
    root: str | Path,
    *,
    train: str = "auto",
    val: str = "auto",
    val_fraction: float = 0.1,
    min_size: int = 8,
    num_workers: int | Literal["auto"] = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Decode every picture of a data folder and report all that is wrong, without stopping at the first.

    Finds what training would meet: a faulty layout; empty, single and missing classes; empty, truncated,
    damaged and huge files and such that are no pictures. And what it would not notice: the same picture in
    training and validation (the accuracy would be too good), in two classes, or twice in one, all compared
    by decoded pixels; tiny pictures; class folders whose files are none by their name.

    Args:
        root: the data folder, laid out as for `ImageFolderData`.
        train: as for `ImageFolderData`.
        val: as for `ImageFolderData`.
        val_fraction: as for `ImageFolderData`.
        min_size: pictures whose shorter side has fewer pixels are reported.
        num_workers: processes that decode; 0 decodes in this one; "auto" takes all cores, 16 at most.
        on_progress: called with (pictures done, all pictures) now and then.

    Raises:
        ValueError: an argument is out of range.
    """
    if num_workers != "auto" and num_workers < 0:
        raise ValueError(f"num_workers must be at least 0 or 'auto', got {num_workers}")
    scan = scan_folder(root, train=train, val=val, val_fraction=val_fraction)
    report = CheckReport(
        str(scan.root),
        num_train=sum(map(len, scan.train.values())),
        num_val=sum(map(len, scan.val.values())),
        ignored=_ignored_files(scan),
        problems=list(scan.problems),
    )
    files = [_File("train", name, str(scan.train_folder / f)) for name, fs in scan.train.items() for f in fs]
    files += [_File("val", name, str(scan.val_folder / f)) for name, fs in scan.val.items() for f in fs]

    seen: dict[bytes, list[_File]] = defaultdict(list)
    readable: Counter[tuple[str, str]] = Counter()
    sizes: set[tuple[int, int]] = set()
    looks = _look_at_all([file.path for file in files], num_workers, on_progress)
    for file, look in zip(files, looks, strict=True):
        if isinstance(look, ImageError):
            report.problems.append(Problem("error", look.kind, file.path, str(look)))
            continue
        readable[file.part, file.class_folder] += 1
        sizes.add(look.size)
        seen[look.digest].append(file)
        if min(look.size) < min_size:
            width, height = look.size
            message = (
                f"{file.path}: only {width} x {height} pixels; look at it, a thumbnail or a spacer may be "
                "no picture of its class"
            )
            report.problems.append(Problem("warning", "tiny", file.path, message))

    report.problems.extend(_repeated_pictures(seen))
    for name in dict.fromkeys([*scan.train, *scan.val]):
        report.classes[name] = readable["train", name], readable["val", name]
        if scan.train.get(name) and not readable["train", name]:
            message = f"{scan.train_folder / name}: none of the class's training pictures can be read; replace them"
            folder = str(scan.train_folder / name)
            report.problems.append(Problem("error", "unreadable-class", folder, message))
    report.problems.sort(key=lambda problem: problem.severity != "error")  # stable: errors first
    if not sizes:
        return report
    return CheckReport(
        **{**vars(report), "smallest": min(sizes, key=min), "largest": max(sizes, key=lambda s: s[0] * s[1])}
    )


class _File(NamedTuple):
    part: str
    class_folder: str
    path: str


class _Look(NamedTuple):
    size: tuple[int, int]  # width, height
    digest: bytes  # of size and RGB pixels


def _look_at_all(
    paths: list[str], num_workers: int | Literal["auto"], on_progress: Callable[[int, int], None] | None
) -> Iterator[_Look | ImageError]:
    """Looks at pictures, in the order of `paths`."""
    enough = 0 if len(paths) < _FEW_FILES else min(os.cpu_count() or 1, _MOST_WORKERS)
    processes = enough if num_workers == "auto" else num_workers
    tasks = [paths[i : i + _FILES_PER_TASK] for i in range(0, len(paths), _FILES_PER_TASK)]
    done = 0
    pool = ProcessPoolExecutor(processes) if processes > 0 else None
    try:
        for looks in pool.map(_look_at, tasks) if pool is not None else map(_look_at, tasks):
            yield from looks
            done += len(looks)
            if on_progress is not None:
                on_progress(done, len(paths))
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def _look_at(paths: list[str]) -> list[_Look | ImageError]:
    looks: list[_Look | ImageError] = []
    for path in paths:
        try:
            image = read_image(path)
        except ImageError as error:
            looks.append(error)
            continue
        digest = hashlib.blake2b(f"{image.size}".encode(), digest_size=16)
        digest.update(image.tobytes())
        looks.append(_Look(image.size, digest.digest()))
    return looks


def _repeated_pictures(seen: dict[bytes, list[_File]]) -> Iterator[Problem]:
    for files in seen.values():
        if len(files) == 1:
            continue
        first, others = files[0], ", ".join(file.path for file in files[1:4])
        more = f" and {len(files) - 4} more" if len(files) > 4 else ""
        same = f"{first.path}: the same picture as {others}{more}"
        if len({file.class_folder for file in files}) > 1:
            classes = ", ".join(sorted({repr(file.class_folder) for file in files}))
            message = f"{same}, in the classes {classes}; keep it in the right one"
            yield Problem("warning", "contradiction", first.path, message)
        if len({file.part for file in files}) > 1:
            message = f"{same}, in training and validation; the accuracy will be too good: remove one"
            yield Problem("warning", "leak", first.path, message)
        elif len({file.class_folder for file in files}) == 1:
            yield Problem("warning", "duplicate", first.path, f"{same}; remove it if that is not meant")


def _ignored_files(scan: FolderScan) -> dict[str, int]:
    """Name ending -> how many files in the class folders have it, of those that are no picture's."""
    counts: Counter[str] = Counter()
    for folder in dict.fromkeys([scan.train_folder, scan.val_folder]):
        for name in scan.train if folder == scan.train_folder else scan.val:
            for _, _, files in os.walk(folder / name, followlinks=True):
                suffixes = (
                    os.path.splitext(file)[1].lower() or "(no ending)"
                    for file in files
                    if not file.startswith(".") and not has_image_suffix(file)
                )
                counts.update(suffixes)
    return dict(counts.most_common())
