"""Checking a data folder: what can be wrong with it, the report on it, and the reading of every image.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from scalablevit.abridged import abridged
from scalablevit.data.cores import available_cores
from scalablevit.data.image_file import ImageError
from scalablevit.data.images import read_upright
from scalablevit.data.pixel_values import Loss, ValueRange

_MOST_WORKERS = 16
_IMAGES_PER_TASK = 64
# Below this, starting processes takes longer than decoding.
_FEW_IMAGES = 2000
_MOST_LISTED = 20

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a data folder.

    Args:
        severity: "error": training is impossible or loses data; "warning": training runs, but the data may be wrong.
        kind: one word that programs can sort by, such as "empty-class" or "truncated".
        path: file or folder.
        message: what is wrong, what is done about it, and what to do.
    """

    severity: Literal["error", "warning"]
    kind: str
    path: str
    message: str


def raise_for_errors(root: Path, problems: Iterable[Problem]) -> None:
    """Raise a ValueError that names every error among the problems of a data folder."""
    errors = [problem.message for problem in problems if problem.severity == "error"]
    if len(errors) == 1:
        raise ValueError(errors[0])
    if errors:
        listed = "\n".join(f"  - {message}" for message in errors)
        raise ValueError(f"{root}: the data folder has {len(errors)} faults:\n{listed}")


@dataclass(frozen=True)
class DataReport(ABC):
    """What a check of a data folder found; each task adds to it what its data have beside.

    Args:
        root: the data folder.
        num_train: training images whose files are there, readable or not.
        num_val: validation images, likewise.
        classes: class -> how much of it there is in (training, validation), in what the task counts.
        smallest: (width, height) of the image with the shortest side, in pixels; None without readable images.
        largest: (width, height) of the image with the most pixels; None without readable images.
        problems: everything that is wrong; errors come first.
    """

    root: str
    num_train: int = 0
    num_val: int = 0
    classes: dict[str, tuple[int, int]] = field(default_factory=dict)
    smallest: tuple[int, int] | None = None
    largest: tuple[int, int] | None = None
    problems: list[Problem] = field(default_factory=list)

    def __post_init__(self) -> None:
        errors_first = sorted(self.problems, key=lambda problem: problem.severity != "error")
        object.__setattr__(self, "problems", errors_first)

    @property
    def errors(self) -> list[Problem]:
        """What makes training impossible or loses data."""
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
        content = asdict(self)
        problems = content.pop("problems")  # the longest goes last
        return {**content, "problems": problems, "ok": self.ok}

    def to_json(self) -> str:
        """Everything, as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)

    def to_text(self) -> str:
        """For people; of each kind of problem the first 20."""
        lines = [f"data        {self.root}", *self._facts()]
        by_kind: dict[tuple[str, str], list[Problem]] = defaultdict(list)
        for problem in self.problems:
            by_kind[problem.severity, problem.kind].append(problem)
        totals: Counter[str] = Counter()
        for (severity, kind), problems in by_kind.items():
            count = self._count(kind, len(problems))
            totals[severity] += count
            lines += ["", f"{severity}: {kind} ({count:,})"]
            lines += [f"  {problem.message}" for problem in problems[:_MOST_LISTED]]
            if count > _MOST_LISTED:
                rest = "all" if count == len(problems) else "more"
                lines.append(f"  ... and {count - _MOST_LISTED:,} more; the JSON report lists {rest}")
        errors = totals["error"]
        verdict = f"{errors:,} error{'s' if errors != 1 else ''}" if errors else "no errors"
        return "\n".join([*lines, "", f"{verdict}, {totals['warning']:,} warnings"])

    @abstractmethod
    def _facts(self) -> list[str]:
        """Lines of the text that tell what was found."""

    def _sizes(self) -> list[str]:
        if self.smallest is None or self.largest is None:
            return []
        return ["sizes       {} x {} to {} x {} pixels".format(*self.smallest, *self.largest)]

    def _count(self, kind: str, listed: int) -> int:
        """How many problems of a kind there are, of which so many are listed."""
        return listed


class Look(NamedTuple):
    """What reading an image tells.

    Fields:
        size: (width, height) of the upright image, in pixels.
        orientation: EXIF's, 1 to 8.
        stored_size: (width, height) of the file's own pixel grid.
        digest: equal where size and RGB pixels are.
        losses: path, and what the file holds and the image that is read does not.
    """

    size: tuple[int, int]
    orientation: int
    stored_size: tuple[int, int]
    digest: bytes
    losses: tuple[tuple[str, Loss], ...] = ()


def look_at_image(path: str | Path, *, value_range: ValueRange | None = None) -> Look | ImageError:
    """Decode an image as `read_image` does; an error is handed back."""
    try:
        upright = read_upright(path, value_range=value_range)
    except ImageError as error:
        return error
    return Look(
        upright.image.size,
        upright.orientation,
        upright.stored_size,
        pixel_digest(upright.image),
        tuple((os.fspath(path), loss) for loss in upright.losses),
    )


def losses_of(looks: Iterable[Look | ImageError]) -> list[Problem]:
    """Warn once of each kind of loss that images have, with the number of them and an example.

    A range of values that does not apply to some images is no loss, unless it applies to none.
    """
    found: dict[str, list[tuple[str, Loss]]] = defaultdict(list)
    count = 0
    for look in looks:
        if isinstance(look, ImageError):
            continue
        count += 1
        for path, loss in look.losses:
            found[loss.kind].append((path, loss))
    if len(found["unused-range"]) < count or not count:
        del found["unused-range"]
    problems = []
    for kind, losses in found.items():
        path, loss = losses[0]
        number = "" if len(losses) == 1 else f" (as {len(losses):,} of {count:,} images that were read)"
        if losses:
            problems.append(Problem("warning", kind, path, f"{path}{number}: {loss.found}; {loss.remedy}"))
    return problems


def evenly_spread(count: int, most: int) -> list[int]:
    """Choose up to `most` of the numbers below `count`, evenly spread."""
    return list(range(count)) if count <= most else [i * count // most for i in range(most)]


def pixel_digest(image: Image.Image | np.ndarray) -> bytes:
    """Equal for images of the same size and pixels."""
    size = image.size if isinstance(image, Image.Image) else image.shape
    digest = hashlib.blake2b(f"{size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()


def look_at_all(
    look_at: Callable[[T], R],
    items: Sequence[T],
    *,
    num_workers: int | Literal["auto"] = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    images_each: int = 1,
) -> Iterator[R]:
    """Read images in several processes.

    Args:
        look_at: what to do with each item; goes to the processes, so a function of a module.
        items: what it takes, such as paths.
        num_workers: processes; 0 takes this one; "auto" takes all cores, 16 at most, where that is faster.
        on_progress: called with (items done, all items) now and then.
        images_each: how many images an item stands for.

    Returns:
        What `look_at` returns, in the order of `items`.
    """
    few = len(items) * images_each < _FEW_IMAGES
    auto = 0 if few else min(available_cores(), _MOST_WORKERS)
    processes = auto if num_workers == "auto" else num_workers
    at_once = max(1, _IMAGES_PER_TASK // images_each)
    pool = ProcessPoolExecutor(processes) if processes > 0 else None
    try:
        looks = map(look_at, items) if pool is None else pool.map(look_at, items, chunksize=at_once)
        for done, look in enumerate(looks, start=1):
            yield look
            if on_progress is not None and (done % at_once == 0 or done == len(items)):
                on_progress(done, len(items))
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)


def check_num_workers(num_workers: int | Literal["auto"]) -> None:
    """Raise a ValueError unless it is "auto" or a number of processes."""
    if num_workers != "auto" and num_workers < 0:
        raise ValueError(f"num_workers must be at least 0 or 'auto', got {num_workers}")


def size_range(sizes: Iterable[tuple[int, int]]) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Of images' (width, height) the one with the shortest side and the one with the most pixels."""
    different = sorted(set(sizes))
    return min(different, key=min, default=None), max(different, key=lambda size: size[0] * size[1], default=None)


class ImageFile(NamedTuple):
    """An image of a data set.

    Fields:
        part: training or validation.
        path: of the file.
        class_folder: that it lies in; "" where images do not lie in classes.
        stored: where it is read from, if that is not the path.
    """

    part: Literal["training", "validation"]
    path: str
    class_folder: str = ""
    stored: Path | None = None


class Looked(NamedTuple):
    """What a look at files tells.

    Fields:
        readable, unreadable: files.
        sizes: (width, height) of the upright images.
        problems: unreadable, tiny and repeated images, and what reading loses of some.
    """

    readable: list[ImageFile]
    unreadable: list[ImageFile]
    sizes: set[tuple[int, int]]
    problems: list[Problem]


def look_at_files(
    files: Sequence[ImageFile],
    *,
    value_range: ValueRange | None,
    min_size: int,
    tiny_advice: str,
    num_workers: int | Literal["auto"],
    on_progress: Callable[[int, int], None] | None,
) -> Looked:
    """Decode images and tell what is wrong with them.

    Args:
        files: of the images, with their part and class.
        value_range: see `read_image`.
        min_size: images whose shorter side has fewer pixels are reported.
        tiny_advice: what to do about those.
        num_workers: as for `look_at_all`.
        on_progress: as for `look_at_all`.
    """
    look_at = partial(look_at_image, value_range=value_range)
    looks = list(
        look_at_all(
            look_at, [file.stored or file.path for file in files], num_workers=num_workers, on_progress=on_progress
        )
    )
    found = Looked([], [], set(), [])
    digests = []
    for file, look in zip(files, looks, strict=True):
        if isinstance(look, ImageError):
            found.problems.append(Problem("error", look.kind, look.path, str(look)))
            found.unreadable.append(file)
            continue
        found.readable.append(file)
        found.sizes.add(look.size)
        digests.append((look.digest, file))
        if min(look.size) < min_size:
            width, height = look.size
            message = f"{file.path}: only {width} x {height} pixels; {tiny_advice}"
            found.problems.append(Problem("warning", "tiny", file.path, message))
    found.problems.extend(losses_of(looks))
    found.problems.extend(repeated_images(digests))
    return found


def repeated_images(seen: Iterable[tuple[bytes, ImageFile]]) -> Iterator[Problem]:
    """Warn of images that are there more than once: in two classes, in training and validation, or just twice.

    Args:
        seen: digest of each image, and its file.
    """
    files_of: dict[bytes, list[ImageFile]] = defaultdict(list)
    for digest, file in seen:
        files_of[digest].append(file)
    for files in files_of.values():
        if len(files) == 1:
            continue
        first = files[0].path
        same = f"{first}: the same image as {abridged((file.path for file in files[1:]), 3)}"
        classes = sorted({file.class_folder for file in files})
        if len(classes) > 1:
            message = f"{same}, in the classes {', '.join(map(repr, classes))}; keep it in the right one"
            yield Problem("warning", "contradiction", first, message)
        if len({file.part for file in files}) > 1:
            message = f"{same}, in training and validation; the figures will be too good: remove one"
            yield Problem("warning", "leak", first, message)
        elif len(classes) == 1:
            yield Problem("warning", "duplicate", first, f"{same}; remove it if that is not meant")
