"""A folder per class beside the unlabelled images, to measure features by their nearest neighbours."""

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scalablevit.abridged import abridged
from scalablevit.data.check import evenly_spread
from scalablevit.data.find_images import is_folder, walk_images
from scalablevit.data.loaders import eval_loader
from scalablevit.data.not_a_number import ADVICE
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES, why_no_folder
from scalablevit.data.text_file import normalised
from scalablevit.pretraining.neighbours import neighbours_votes
from scalablevit.pretraining.unlabelled_images import UnlabelledImages, collate
from scalablevit.training.teacher import outputs_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledPart:
    """Images of class folders.

    Args:
        files: relative to the data folder.
        labels: class index of each.
    """

    files: list[str]
    labels: list[int]


@dataclass(frozen=True)
class LabelledScan:
    """Images with labels.

    Args:
        root: the data folder.
        class_names: names of the class folders, by class index.
        bank: images whose features vote.
        queries: images that are classified by the votes.
    """

    root: Path
    class_names: list[str]
    bank: LabelledPart
    queries: LabelledPart

    def identity(self) -> str:
        """The same for the same names of files and classes, wherever the folder lies."""
        names = "\0".join([*self.class_names, "", *self.bank.files, "", *self.queries.files])
        return hashlib.sha256(os.fsencode(names.replace(os.sep, "/"))).hexdigest()


def scan_labelled(root: str | Path, *, most: int) -> LabelledScan:
    """Find the images of `root/train/CLASS` and `root/val/CLASS`.

    Args:
        root: the data folder.
        most: images of each part, evenly spread over the classes in their order.

    Raises:
        ValueError: not such a folder; names what is missing.
    """
    root = Path(root).expanduser()
    if (missing := why_no_folder(root)) is not None:
        raise ValueError(missing.replace("given as root", "given as data.labelled_root"))
    if most < 1:
        raise ValueError(f"data.labelled_images must be at least 1, got {most}")
    train, val = (_part(root, names) for names in (TRAIN_NAMES, VAL_NAMES))
    classes = sorted({_class_of(file) for file in train})
    if len(classes) < 2:
        raise ValueError(f"data.labelled_root {root}: its training part has one class, {classes[0]}; it needs two")
    index = {normalised(name): i for i, name in enumerate(classes)}
    if unknown := sorted({_class_of(file) for file in val if normalised(_class_of(file)) not in index}):
        raise ValueError(
            f"data.labelled_root {root}: its validation part has classes that the training part lacks: "
            f"{abridged(unknown, 3)}"
        )
    bank, queries = (
        LabelledPart(chosen, [index[normalised(_class_of(file))] for file in chosen])
        for chosen in ([files[i] for i in evenly_spread(len(files), most)] for files in (train, val))
    )
    return LabelledScan(root, classes, bank, queries)


def _part(root: Path, names: Sequence[str]) -> list[str]:
    """Images below the class folders of a part, relative to the data folder."""
    with os.scandir(root) as entries:
        folders = {entry.name.lower(): entry.name for entry in entries if is_folder(entry)}
    name = next((folders[name] for name in names if name in folders), None)
    files = [] if name is None else [f"{name}/{file}" for file in walk_images(root / name) if os.sep in file]
    if not files:
        raise ValueError(
            f"data.labelled_root {root}: it needs images in {names[0]}/CLASS, and has none; nearest neighbours are "
            f"looked for among {TRAIN_NAMES[0]}/CLASS/*.jpg, for the images of {VAL_NAMES[0]}/CLASS/*.jpg"
        )
    return files


def _class_of(file: str) -> str:
    return Path(file).parts[1]


@dataclass(frozen=True)
class NeighboursAccuracy:
    """What nearest neighbours find out.

    Args:
        top1: share of the readable validation images whose class the votes name; NaN where none is readable.
        num_bank, num_queries: readable images.
        unreadable: paths of files that could not be read.
    """

    top1: float
    num_bank: int
    num_queries: int
    unreadable: list[str]


class NeighboursTest:
    """Images with labels, to measure features by.

    Args:
        scan: of their folder.
        options: of `UnlabelledImages`, beside folder and files.
    """

    def __init__(self, scan: LabelledScan, **options: Any) -> None:
        self.scan = scan
        self._options = options

    @torch.inference_mode()
    def accuracy(
        self, network: nn.Module, *, device: torch.device, batch_size: int, num_workers: int
    ) -> NeighboursAccuracy:
        """Classify the validation images by their nearest neighbours among the training images.

        Args:
            network: with timm's `forward_features` and `forward_head`; it is run as it is.
            device: of the network.
            batch_size: images at a time.
            num_workers: processes that load images.
        """
        unreadable: list[str] = []
        parts = []
        dtype = next(network.parameters()).dtype
        for part in (self.scan.bank, self.scan.queries):
            images = UnlabelledImages(self.scan.root, part.files, **self._options)
            found, kept = [], []
            for batch in eval_loader(images, batch_size=batch_size, num_workers=num_workers, collate_fn=collate):
                unreadable += batch.unreadable
                pooled = outputs_of(network, batch.images.to(device, dtype), pooled=True).pooled
                assert pooled is not None
                found.append(pooled.float().cpu())
                kept.append(batch.readable)
            readable = torch.cat(kept)
            parts.append((torch.cat(found)[readable], torch.tensor(part.labels)[readable]))
        (bank, labels), (queries, true) = parts
        if not len(bank) or not len(queries):
            return NeighboursAccuracy(float("nan"), len(bank), len(queries), unreadable)
        known, is_number = (
            bank.isfinite().all(dim=1),
            queries.isfinite().all(dim=1),
        )  # a NaN would be the nearest of all
        if lost := int((~known).sum() + (~is_number).sum()):
            _log.warning(
                "the features of %d of %d labelled images are not numbers: they have no vote, and count as wrong; %s",
                *(lost, len(bank) + len(queries), ADVICE),
            )
        num_right = 0
        if known.any() and is_number.any():
            bank_of_numbers = bank[known], labels[known]
            votes = neighbours_votes(*bank_of_numbers, queries[is_number], num_classes=len(self.scan.class_names))
            num_right = int((votes.argmax(1) == true[is_number]).sum())
        top1 = num_right / len(queries)
        return NeighboursAccuracy(top1, len(bank), len(queries), unreadable)
