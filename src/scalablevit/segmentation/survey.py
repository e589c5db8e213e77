"""Read masks before training starts: their labels, and what `check-data` would warn of."""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scalablevit.data.check import Problem
from scalablevit.data.cores import available_cores
from scalablevit.data.image_file import ImageError
from scalablevit.data.masks import read_upright_mask
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.mask_classes import MaskClasses
from scalablevit.segmentation.mask_facts import (
    MaskFacts,
    class_problems,
    facts_of,
    file_problems,
    one_class_problem,
    palette_problems,
    refuse_lossy,
    summed_up,
)
from scalablevit.segmentation.pairs import Pair, PairScan

_log = logging.getLogger(__name__)

CHECK_DATA = "`scalablevit check-data` finds everything that is wrong with the folder"
# Enough to meet every class but the rarest in seconds; check-data reads all.
_MOST_TRAINING, _MOST_VALIDATION = 400, 100
_MOST_READERS = 16


@dataclass(frozen=True)
class MaskSurvey:
    """Masks that were read before training.

    Args:
        root: the data folder.
        training: of training masks that could be read.
        validation: of validation masks, likewise.
        errors: of those that could not.
        read: which masks were read, in words; empty: all.
    """

    root: Path
    training: list[MaskFacts]
    validation: list[MaskFacts]
    errors: list[ImageError]
    read: str

    @property
    def masks(self) -> list[MaskFacts]:
        """All that could be read."""
        return [*self.training, *self.validation]

    @property
    def labels(self) -> set[int]:
        """Every label that was found."""
        return {label for mask in self.masks for label in mask.labels}

    def labels_for_classes(self) -> set[int]:
        """Every label, where classes are numbered after them.

        Raises:
            ImageError: no mask can be read, or those that can have one label and others have colours.
            ValueError: masks are saved in a lossy format, which makes labels up.
        """
        coloured = [error for error in self.errors if error.kind == "not-a-mask"]
        if not self.masks and self.errors:
            raise self.errors[0]
        found = self.labels
        if len(found) < 2 and coloured:  # masks of one gray (empty ones, say) do not tell the classes
            raise coloured[0]
        refuse_lossy(self.masks)
        return found

    def class_pixels(self, label_map: LabelMap) -> tuple[list[int], list[int]]:
        """Pixels of each class in the training and in the validation masks that were read."""
        parts = []
        for masks in (self.training, self.validation):
            counts: Counter[int | None] = Counter()
            for mask in masks:
                for label, count in mask.labels.items():
                    counts[label_map.class_of(label)] += count
            parts.append([counts[index] for index in range(label_map.num_classes)])
        return parts[0], parts[1]

    def warn(self, classes: MaskClasses | None) -> None:
        """Log what `check-data` would warn of, one line for each kind.

        Args:
            classes: of the folder; None: not known yet, and what depends on them is left out.
        """
        if classes is None:
            problems: Iterable[Problem] = self._file_problems()
        else:
            problems = self._class_problems(classes)
        for sentence in summed_up(problems, f"{len(self.masks):,} masks"):
            _log.warning("%s; %s", sentence, CHECK_DATA)

    def _file_problems(self) -> Iterator[Problem]:
        yield from file_problems(self.masks)
        yield from palette_problems(str(self.root), self.masks)

    def _class_problems(self, classes: MaskClasses) -> Iterator[Problem]:
        root = str(self.root)
        training, validation = self.class_pixels(classes.label_map)
        if self.training:
            yield from one_class_problem(root, self.labels, classes.label_map, classes.names)
        else:  # a network is evaluated
            training = validation
        counts = dict(zip(classes.names, zip(training, validation, strict=True), strict=True))
        is_named = classes.named_by is not None
        for problem in class_problems(root, counts, named=is_named, read=self.read):
            # Gaps between numbers are no surprise where labels alone number the classes.
            if is_named or problem.kind != "class-never-occurs":
                yield problem


def survey_masks(scan: PairScan, *, in_colours: bool, everything: bool) -> MaskSurvey:
    """Read masks of a data folder, evenly spread; images are not read.

    Args:
        scan: pairs of the folder.
        in_colours: labels are colours.
        everything: read all masks, as their labels number the classes.
    """
    most = (None, None) if everything else (_MOST_TRAINING, _MOST_VALIDATION)
    parts = [_spread(pairs, limit) for pairs, limit in zip((scan.train, scan.val), most, strict=True)]

    def facts(pair: Pair) -> MaskFacts | ImageError:
        path = scan.root / pair.mask
        try:
            found = facts_of(str(path), read_upright_mask(path, in_colours=in_colours))
        except ImageError as error:
            return error
        return found._replace(colours={}) if in_colours else found

    # Pillow decodes without Python's lock.
    with ThreadPoolExecutor(min(available_cores(), _MOST_READERS)) as pool:
        results = [list(pool.map(facts, part)) for part in parts]
    read = ""
    total, count = len(scan.train) + len(scan.val), sum(map(len, parts))
    if count < total:
        read = f" in the {count:,} of {total:,} masks that were read"
    training, validation = ([found for found in result if isinstance(found, MaskFacts)] for result in results)
    errors = [found for result in results for found in result if isinstance(found, ImageError)]
    return MaskSurvey(scan.root, training, validation, errors, read)


def _spread(pairs: Sequence[Pair], limit: int | None) -> list[Pair]:
    """At most `limit` pairs, evenly spread."""
    count = len(pairs) if limit is None else min(limit, len(pairs))
    return [pairs[i * len(pairs) // count] for i in range(count)]
