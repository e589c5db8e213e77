"""Find everything that is wrong with a data folder before training does."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scalablevit.classification.image_folder import FolderScan, scan_folder
from scalablevit.classification.sharded import scan_stream
from scalablevit.data.check import (
    DataReport,
    ImageFile,
    Problem,
    check_num_workers,
    look_at_files,
    size_range,
)
from scalablevit.data.pixel_values import checked_value_range
from scalablevit.data.stored_path import StoredPath
from scalablevit.data.stream.opened import open_stream


@dataclass(frozen=True)
class CheckReport(DataReport):
    """What `check_folder` found: `DataReport`, with `classes` in images that can be read.

    Args:
        ignored: file name ending -> number of files that are no images by their name.
    """

    ignored: dict[str, int] = field(default_factory=dict)

    def _facts(self) -> list[str]:
        lines = [
            f"training    {self.num_train:,} images",
            f"validation  {self.num_val:,} images",
            f"classes     {len(self.classes):,}",
            *self._sizes(),
        ]
        if self.ignored:
            listed = ", ".join(f"{count:,} {suffix}" for suffix, count in self.ignored.items())
            lines.append(f"ignored     files that are no images by their name: {listed}")
        return lines


def check_folder(
    root: str | Path,
    *,
    train: str = "auto",
    val: str = "auto",
    val_fraction: float = 0.1,
    value_range: tuple[float, float] | None = None,
    min_size: int = 8,
    num_workers: int | Literal["auto"] = "auto",
    on_progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Decode every image of a data folder and report all that is wrong, without stopping at the first.

    Finds what training would meet: a faulty layout; empty, single and missing classes; empty, truncated,
    damaged and huge files and such that are no images. And what it would not notice: the same image in
    training and validation (the accuracy would be too good), in two classes, or twice in one, all compared
    by decoded pixels; tiny images; class folders whose files are none by their name.

    Args:
        root: the data folder, laid out as for `ImageFolderData`, or shards of one, whose hashes are compared, too.
        train: as for `ImageFolderData`.
        val: as for `ImageFolderData`.
        val_fraction: as for `ImageFolderData`.
        value_range: as for `ImageFolderData`.
        min_size: images whose shorter side has fewer pixels are reported.
        num_workers: processes that decode; 0 decodes in this one; "auto" takes all cores, 16 at most.
        on_progress: called with (images done, all images) now and then.

    Raises:
        ValueError: an argument is out of range.
    """
    check_num_workers(num_workers)
    stream = open_stream(root, task="classification")
    if stream is None:
        scan = scan_folder(root, train=train, val=val, val_fraction=val_fraction)
    else:
        scan = scan_stream(stream, train=train, val=val, val_fraction=val_fraction)
    problems = list(scan.problems)
    files = [_file("training", scan.train_folder / f, name) for name, fs in scan.train.items() for f in fs]
    files += [_file("validation", scan.val_folder / f, name) for name, fs in scan.val.items() for f in fs]

    looked = look_at_files(
        files,
        value_range=checked_value_range(value_range),
        min_size=min_size,
        tiny_advice="check it, as a thumbnail or a spacer may not show its class",
        num_workers=num_workers,
        on_progress=on_progress,
    )
    problems.extend(looked.problems if stream is None else stream.problems(looked.problems))
    unreadable: defaultdict[tuple[str, str], list[ImageFile]] = defaultdict(list)
    for file in looked.unreadable:
        unreadable[file.part, file.class_folder].append(file)
    problems.extend(_unreadable_classes(scan, unreadable))
    readable = Counter((file.part, file.class_folder) for file in looked.readable)
    classes = {
        name: (readable["training", name], readable["validation", name])
        for name in dict.fromkeys([*scan.train, *scan.val])
    }
    smallest, largest = size_range(looked.sizes)
    return CheckReport(
        str(scan.root),
        num_train=sum(map(len, scan.train.values())),
        num_val=sum(map(len, scan.val.values())),
        classes=classes,
        smallest=smallest,
        largest=largest,
        problems=problems,
        ignored=dict(scan.left_out_by_ending().most_common()),
    )


def _file(part: Literal["training", "validation"], path: Path, class_folder: str) -> ImageFile:
    return ImageFile(part, str(path), class_folder, path if isinstance(path, StoredPath) else None)


def _unreadable_classes(scan: FolderScan, unreadable: Mapping[tuple[str, str], list[ImageFile]]) -> Iterator[Problem]:
    """Tell of classes whose training images cannot be read: all of them, or most."""
    for name, files in scan.train.items():
        folder = str(scan.train_folder / name)
        lost = unreadable.get(("training", name), [])
        left = len(files) - len(lost)
        if files and not left:
            message = f"{folder}: none of the class's training images can be read; replace them"
            yield Problem("error", "unreadable-class", folder, message)
        elif len(lost) > left:
            endings = Counter(Path(file.path).suffix.lower() for file in lost)
            listed = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(3))
            message = (
                f"{folder}: {left:,} of the class's {len(files):,} training images can be read, and training would "
                f"leave out {listed}; replace them"
            )
            yield Problem("warning", "mostly-unreadable-class", folder, message)
