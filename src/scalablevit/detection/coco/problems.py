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
    "bad-image": ("error", "entries of 'images' cannot be used and are left out"),
    "duplicate-image": ("warning", "entries of 'images' are there twice; the second is left out"),
    "repeated-file": ("warning", "files stand under more than one image id"),
    "missing-file": ("error", "image files are missing; the images are left out"),
    "missing-size": ("warning", "images have no width and height; they are read from the files"),
    "bad-annotation": ("error", "entries of 'annotations' cannot be used and are left out"),
    "unknown-image": ("error", "annotations name an image that is not listed and are left out"),
    "unknown-category": ("error", "annotations name a category that is not listed and are left out"),
    "bad-box": ("error", "annotations have no box of four finite numbers and are left out"),
    "empty-box": ("warning", "boxes have no area and are left out"),
    "outside-box": ("error", "boxes lie outside their images and are left out"),
    "clipped-box": ("warning", "boxes reach over the edge of their images and are clipped"),
    "duplicate-annotation": ("warning", "annotations are there twice; the second is left out"),
    "repeated-annotation-id": ("warning", "annotations share their id with another; all of them are used"),
    "bad-polygon": ("warning", "polygons cannot be used and are left out"),
    "no-mask": ("warning", "annotations have no mask and are left out where masks are trained"),
    "bad-mask": ("error", "masks are damaged; the annotations are left out where masks are trained"),
    "mask-size": (
        "error",
        "masks have another size than the image; the annotations are left out where masks are trained",
    ),
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

    def note(self, kind: str, path: str | Path, message: str) -> None:
        """Add a problem of one of `KINDS`."""
        self.counts[kind] += 1
        if self.counts[kind] <= MOST_LISTED:
            self.problems.append(Problem(KINDS[kind][0], kind, str(path), message))

    def describe(self) -> list[str]:
        """Describe each kind of problem in one line: how many, what is done about it, and the first of them."""
        first = {problem.kind: problem.message for problem in reversed(self.problems)}
        return [
            f"{self._source}: {count:,} {KINDS[kind][1]}; the first: {first[kind]}"
            for kind, count in self.counts.items()
        ]
