"""What can be wrong with an annotation file, and the account of it.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections import Counter
from pathlib import Path
from typing import Literal

from scalablevit.data.check import Problem

MOST_LISTED = 1000

# kind -> severity, and what all problems of that kind have in common
KINDS: dict[str, tuple[Literal["error", "warning"], str]] = {
    "fraction-boxes": ("error", "file seems to have boxes as fractions of the image"),
    "corner-boxes": ("error", "file seems to have boxes as corners"),
    "percent-boxes": ("warning", "file seems to have boxes in percent of the image"),
    "same-boxes": ("warning", "file has one and the same box everywhere"),
    "tiny-boxes": ("warning", "file has boxes that are too small to be found"),
    "whole-boxes": ("warning", "file has boxes of whole images only"),
    "bad-image": ("error", "entries of 'images' cannot be used and are left out"),
    "duplicate-image": ("warning", "entries of 'images' are there twice; the second is left out"),
    "repeated-file": ("warning", "files stand under more than one image id; their annotations are put together"),
    "ambiguous-file": (
        "error",
        "images differ in their folders only, which are not on disk, so that several of them share one file; they are "
        "left out",
    ),
    "missing-file": ("error", "image files are missing; the images are left out"),
    "missing-size": ("warning", "images have no width and height; they are read from the files"),
    "bad-annotation": ("error", "entries of 'annotations' cannot be used and are left out"),
    "unknown-image": ("error", "annotations name an image that is not listed and are left out"),
    "unknown-category": ("error", "annotations name a category that is not listed and are left out"),
    "bad-box": ("error", "annotations have no box of four finite numbers and are left out"),
    "empty-box": ("warning", "boxes have no area; training leaves them out, evaluation counts them as never found"),
    "outside-box": (
        "error",
        "boxes lie outside their images; training leaves them out, evaluation counts them as never found",
    ),
    "clipped-box": ("warning", "boxes reach over the edge of their images; training clips them, evaluation does not"),
    "duplicate-annotation": ("warning", "annotations are there twice; the second is left out"),
    "repeated-annotation-id": ("warning", "annotations share their id with another; all of them are used"),
    "bad-polygon": ("warning", "polygons cannot be used and are left out"),
    "no-mask": (
        "warning",
        "annotations have no mask: their boxes are used, masks are neither learnt nor measured there",
    ),
    "bad-mask": ("error", "masks are damaged: the boxes are used, masks are neither learnt nor measured there"),
    "mask-size": (
        "error",
        "masks have another size than the image: the boxes are used, masks are neither learnt nor measured there",
    ),
    "empty-mask": (
        "warning",
        "masks have no pixel in the image: training uses the box alone, evaluation counts the mask as never found",
    ),
    "box-off-mask": ("warning", "boxes are not where the masks of their objects are"),
    "odd-masks": ("error", "file has masks that are not where the boxes are"),
    "centre-boxes": ("error", "file seems to have boxes by their centres"),
    "swapped-boxes": ("error", "file seems to have boxes with x and y swapped"),
    "negative-boxes": ("error", "file has boxes of negative width or height"),
    "shifted-ids": ("error", "list has ids that seem to be one off"),
    "only-crowd": ("warning", "images have crowd regions only and are not trained on"),
    "nothing-left": ("warning", "images have annotations, but none that can be learnt; they are not trained on"),
    "crowd-outline": (
        "warning",
        "file has iscrowd=1 on most annotations, which are not trained on; if they are single objects, set it to 0",
    ),
    "keypoints": ("warning", "data set has keypoints, which are left out"),
    "bad-label-file": ("error", "annotation files cannot be read; their images are left out"),
    "label-without-image": ("warning", "label files have no image and are left out"),
    "no-label-file": ("warning", "data set has images without a label file, which count as images without objects"),
    "shared-file": ("warning", "validation images are training images, too; the figures will be too good"),
    "shared-name": ("warning", "categories share a name; the id is added to it"),
    "unused-category": ("warning", "categories have no box"),
}


class ProblemLog:
    """The account of what is wrong with one annotation file.

    Attributes:
        problems: up to 1,000 of each kind.
        counts: how many problems of each kind there are.
    """

    def __init__(self, source: Path) -> None:
        self.problems: list[Problem] = []
        self.counts: Counter[str] = Counter()
        self._source = source
        self._words: dict[str, str] = {}

    def note(self, kind: str, path: str | Path, message: str) -> None:
        """Add a problem of one of `KINDS`."""
        self.counts[kind] += 1
        if self.counts[kind] <= MOST_LISTED:
            self.problems.append(Problem(KINDS[kind][0], kind, str(path), message))

    def explain(self, kind: str, words: str) -> None:
        """Add words to what is said of the problems of a kind."""
        self._words[kind] = words

    def drop(self, kind: str) -> None:
        """Forget the problems of a kind."""
        del self.counts[kind]
        self.problems = [problem for problem in self.problems if problem.kind != kind]

    def describe(self, *kinds: str) -> list[str]:
        """Describe each kind of problem in one line: how many, what is done about it, and the first of them.

        Args:
            kinds: to describe; none: all.
        """
        first = {problem.kind: problem.message for problem in reversed(self.problems)}
        return [
            f"{self._source}: {count:,} {KINDS[kind][1]}{self._words.get(kind, '')}; the first: {first[kind]}"
            for kind, count in self.counts.items()
            if not kinds or kind in kinds
        ]
