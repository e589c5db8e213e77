"""Images whose labels stand in a table, as training and validation batches: several labels an image, or none."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from scalablevit.abridged import abridged
from scalablevit.classification.data import ClassifierInput, LabelledImages, collate
from scalablevit.classification.label_table import TableColumns
from scalablevit.classification.table_scan import LabelledImage, TableScan, counts_of, scan_table
from scalablevit.data.image_transforms import Preprocessing
from scalablevit.data.split import check_val_fraction
from scalablevit.data.stream.index import refuse_shards
from scalablevit.training.data_module import TaskData

_log = logging.getLogger(__name__)

_PROBED_IMAGES = 32


@dataclass(frozen=True)
class ImageTableSettings(ClassifierInput):
    """How images of a table become the network's input; further keys of `ImageTableData`, with those of
    `ClassifierInput`.

    Args:
        labels: table of the images, relative to the root; "auto": labels.csv, train.csv or the only table there.
        val_labels: table of the validation images; "auto": val.csv beside train.csv; null: none.
        images: folder in the root that the names of the table start from; "auto": the root, or the folder in it that
            holds a file of the name.
        file_column: column of the names; "auto": a usual name, such as file, path or image.
        label_column: column of the labels; "auto": a usual name, such as labels or tags; where there is none, every
            other column is a class and holds 0 or 1.
        split_column: column that says train, val or test; "auto": split or subset, where there is one; null: none.
        label_delimiter: what stands between the labels of an image, such as "|"; "auto": found in the column.
        ignore_columns: columns that are no classes.
        val_fraction: where there are no validation images, the share that is set aside, chosen by a hash of the file
            names; in (0, 1).

    Raises:
        ValueError: a value is out of range.
    """

    labels: str | Path = "auto"
    val_labels: str | Path | None = "auto"
    images: str = "auto"
    file_column: str = "auto"
    label_column: str = "auto"
    split_column: str | None = "auto"
    label_delimiter: str = "auto"
    ignore_columns: list[str] | None = None
    val_fraction: float = 0.1

    def __post_init__(self) -> None:
        check_val_fraction(self.val_fraction, trained_class_names=self.trained_class_names)
        self.columns()

    def columns(self) -> TableColumns:
        """Which column of the table holds what."""
        return TableColumns(
            self.file_column,
            self.label_column,
            self.split_column,
            self.label_delimiter,
            tuple(self.ignore_columns or ()),
        )

    def scan(self, root: str | Path) -> TableScan:
        """Read the tables of a data folder."""
        return scan_table(
            root,
            labels=self.labels,
            val_labels=self.val_labels,
            images=self.images,
            columns=self.columns(),
            val_fraction=self.val_fraction,
            trained_class_names=self.trained_class_names,
        )


class ImageTableData(TaskData):
    """Training and validation images with any number of labels each, from a table.

    The table is a CSV file with a header: the file of each image, and either its labels in one column (`cat|dog`) or a
    column of 0 and 1 for each class. It is read at once, as a network needs to know the classes before it is made.

    Args:
        root: the data folder, with the table and the images below it.
        batch_size: images a device and batch.
        num_workers: processes that load images for each loader; "auto" leaves one core a device to the
            training, and takes 8 at most.
        max_unreadable: how many distinct files may be unreadable before training stops, for each training
            process by itself; for the task, which hands it to `UnreadableFiles`.
        seed: gives the order of the images and their augmentation.
        settings: fields of `ImageTableSettings`.

    Raises:
        ValueError: there is no table, it names images that are not there, or its rows contradict each other. Names the
            file, the line and the remedy.
    """

    multi_label: ClassVar[bool] = True
    train_dataset: LabelledImages
    val_dataset: LabelledImages

    def __init__(
        self,
        root: str | Path,
        *,
        batch_size: int = 64,
        num_workers: int | Literal["auto"] = "auto",
        max_unreadable: int = 100,
        seed: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            num_workers=num_workers,
            max_unreadable=max_unreadable,
            seed=seed,
            collate_fn=collate,
        )
        self.settings = ImageTableSettings(**settings)
        self._preprocessing = self.settings.preprocessing()
        train_transform = self._preprocessing.train_transform(self.settings.augmentation)
        refuse_shards(root, "a table of labels")
        self._scan = self.settings.scan(root)
        self._scan.raise_for_errors()
        for problem in self._scan.problems:
            _log.warning(problem.message)
        shared = self._preprocessing.reading_options()
        self.train_dataset = self._dataset(
            self._scan.train, transform=train_transform, max_substitutes=max_unreadable, **shared
        )
        # A substitute would count one image twice in the metrics.
        self.val_dataset = self._dataset(
            self._scan.val, transform=self._preprocessing.eval_transform(), max_substitutes=0, **shared
        )
        shown = self.val_dataset if self.settings.trained_class_names is not None else self.train_dataset
        self.warn_of_losses(shown, most=_PROBED_IMAGES)

    def _dataset(self, images: Sequence[LabelledImage], **options: Any) -> LabelledImages:
        return LabelledImages(
            self._scan.root,
            [image.file for image in images],
            targets_of(images, self._scan.class_names),
            **options,
        )

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, by class index."""
        return list(self._scan.class_names)

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes the network's input in evaluation."""
        return self._preprocessing

    def summary(self) -> str:
        """Summarise the data in a few lines."""
        scan = self._scan
        lines = [
            f"data        {scan.root}",
            f"labels      {', '.join(path.name for path in scan.tables)}: {scan.labels_are}",
        ]
        if self.settings.trained_class_names is None:
            lines.append(f"training    {described(scan.train)}")
        lines += [
            f"validation  {described(scan.val)} ({scan.origin})",
            f"classes     {self.num_classes:,}: {abridged(scan.class_names, 8)}",
        ]
        if self.settings.trained_class_names is None:
            counts = counts_of(scan.train, scan.class_names)
            fewest, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
            lines.append(
                f"per class   {counts[fewest]:,} (of {fewest}) to {counts[most]:,} (of {most}) training images"
            )
        lines.append(self._preprocessing.summary())
        return "\n".join(lines)


def targets_of(images: Sequence[LabelledImage], class_names: Sequence[str]) -> np.ndarray:
    """Labels of N images as (N, K) int8 of 0 and 1."""
    index = {name: k for k, name in enumerate(class_names)}
    targets = np.zeros((len(images), len(class_names)), dtype=np.int8)
    for i, image in enumerate(images):
        targets[i, [index[label] for label in image.labels]] = 1
    return targets


def described(images: Sequence[LabelledImage]) -> str:
    """Number of images, labels an image, and of those without any."""
    count = sum(len(image.labels) for image in images)
    empty = sum(not image.labels for image in images)
    without = f", {empty:,} without labels" if empty else ""
    return f"{len(images):,} images, {count / max(len(images), 1):.2f} labels each{without}"
