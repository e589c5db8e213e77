"""Find everything that is wrong with images and their table of labels before training does."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from scalablevit.classification.image_folder import scan_folder
from scalablevit.classification.label_table import TableColumns
from scalablevit.classification.table_scan import LabelledImage, counts_of, holds_table, scan_table
from scalablevit.data.check import (
    DataReport,
    ImageFile,
    check_num_workers,
    look_at_files,
    size_range,
)
from scalablevit.data.pixel_values import checked_value_range


@dataclass(frozen=True)
class TableReport(DataReport):
    """What `check_table` found: `DataReport`, with `classes` in images that show them.

    Args:
        labels_are: where the labels stand and what separates them.
        num_unlabelled: images without a label in (training, validation).
    """

    labels_are: str = ""
    num_unlabelled: tuple[int, int] = (0, 0)

    def _facts(self) -> list[str]:
        train, val = self.num_unlabelled
        lines = [
            f"labels      {self.labels_are}",
            f"training    {self.num_train:,} images, {train:,} of them without labels",
            f"validation  {self.num_val:,} images, {val:,} of them without labels",
            f"classes     {len(self.classes):,}",
        ]
        return [*lines, *self._sizes()]


def recognizes(root: Path, given: dict[str, Any]) -> bool:
    """Whether a folder has a table of labels, and no folder per class."""
    own = ("labels", "val_labels", *(field.name for field in fields(TableColumns)))
    if any(given.get(name) for name in own):
        return True
    return holds_table(root) and any(problem.severity == "error" for problem in scan_folder(root).problems)


def check_table(
    root: str | Path,
    *,
    labels: str | Path = "auto",
    val_labels: str | Path | None = "auto",
    images: str = "auto",
    val_fraction: float = 0.1,
    value_range: tuple[float, float] | None = None,
    min_size: int = 8,
    num_workers: int | Literal["auto"] = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    **columns: Any,
) -> TableReport:
    """Read the table of a data folder, decode every image of it and report all that is wrong.

    Args:
        root: the data folder, as for `ImageTableData`.
        labels: as for `ImageTableData`.
        val_labels: as for `ImageTableData`.
        images: as for `ImageTableData`.
        val_fraction: as for `ImageTableData`.
        value_range: as for `ImageTableData`.
        min_size: images whose shorter side has fewer pixels are reported.
        num_workers: processes that decode; 0 decodes in this one; "auto" takes all cores, 16 at most.
        on_progress: called with (images done, all images) now and then.
        columns: fields of `TableColumns`.

    Raises:
        ValueError: an argument is out of range.
    """
    check_num_workers(num_workers)
    scan = scan_table(
        root,
        labels=labels,
        val_labels=val_labels,
        images=images,
        columns=TableColumns(**columns),
        val_fraction=val_fraction,
    )
    problems = list(scan.problems)
    files = [*_files(scan.root, "training", scan.train), *_files(scan.root, "validation", scan.val)]
    looked = look_at_files(
        files,
        value_range=checked_value_range(value_range),
        min_size=min_size,
        tiny_advice="check it",
        num_workers=num_workers,
        on_progress=on_progress,
    )
    problems.extend(looked.problems)
    shown = counts_of(scan.train, scan.class_names), counts_of(scan.val, scan.class_names)
    smallest, largest = size_range(looked.sizes)
    return TableReport(
        str(scan.root),
        num_train=len(scan.train),
        num_val=len(scan.val),
        classes={name: (shown[0][name], shown[1][name]) for name in scan.class_names},
        smallest=smallest,
        largest=largest,
        problems=problems,
        labels_are=scan.labels_are,
        num_unlabelled=(_unlabelled(scan.train), _unlabelled(scan.val)),
    )


def _files(root: Path, part: Literal["training", "validation"], images: list[LabelledImage]) -> list[ImageFile]:
    """Images with their labels as the class that a copy would contradict."""
    return [ImageFile(part, str(root / image.file), " + ".join(sorted(image.labels))) for image in images]


def _unlabelled(images: list[LabelledImage]) -> int:
    return sum(not image.labels for image in images)
