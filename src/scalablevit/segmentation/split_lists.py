"""Split pairs into training and validation by lists of names, such as VOC's train.txt and val.txt.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scalablevit.abridged import abridged
from scalablevit.data.check import Problem
from scalablevit.data.text_file import read_text

_VOC_LISTS = Path("ImageSets") / "Segmentation"


class ListedPairs(NamedTuple):
    """Pairs that lists name.

    Fields:
        parts: indices of the pairs that each list names, in its order.
        problems: names without a pair, and names that lie in both lists.
    """

    parts: list[list[int]]
    problems: list[Problem]


def find_voc_lists(root: Path) -> tuple[Path, Path] | None:
    """Find VOC's lists of training and validation images in a data folder."""
    lists = root / _VOC_LISTS / "train.txt", root / _VOC_LISTS / "val.txt"
    return lists if all(path.is_file() for path in lists) else None


def select_listed(images: Sequence[str], lists: Sequence[Path]) -> ListedPairs:
    """Find the images that lists name.

    A line names an image by its file name with or without ending, with as many of its folders as are needed to tell it
    from others; what follows behind a space or comma, such as the mask, is not read.

    Args:
        images: relative paths of the images that have a mask.
        lists: text files of one name a line.

    Raises:
        ValueError: a list cannot be read, or names no image at all.
    """
    by_base: dict[str, list[int]] = defaultdict(list)
    for index, image in enumerate(images):
        by_base[_parts(os.path.splitext(image)[0])[-1]].append(index)
    parts, problems = [], []
    for path in lists:
        lines = [line.strip() for line in read_text(path, what="the list of images").split("\n") if line.strip()]
        found = {line: _best(line, images, by_base) for line in lines}
        chosen = dict.fromkeys(index for index in found.values() if index is not None)
        missing = [line for line, index in found.items() if index is None]
        if not chosen:
            raise ValueError(
                f"{path}: the list names no image that has a mask (such as {lines[0][:80] if lines else 'nothing'!r}, "
                f"while there is {images[0] if images else 'none'}); write one image name on each line"
            )
        if missing:
            message = (
                f"{path}: {len(missing)} of {len(found)} names have no image with a mask, or more than one, and are "
                f"left out: {abridged(missing, 3)}; add the files, or write the folders before the names"
            )
            problems.append(Problem("error", "list-without-pair", str(path), message))
        parts.append(list(chosen))
    both = sorted(set(parts[0]) & set(parts[1])) if len(parts) == 2 else []
    if both:
        message = (
            f"{lists[1]}: {len(both)} images lie in {lists[0]} too, such as {images[both[0]]}; the figures will be too "
            "good: take them out of one list"
        )
        problems.append(Problem("warning", "leak", str(lists[1]), message))
    return ListedPairs(parts, problems)


def _best(line: str, images: Sequence[str], by_base: dict[str, list[int]]) -> int | None:
    """Index of the one image that a line fits best; None without one, or where several fit as well."""
    for name in _names(line):
        parts = _parts(name)
        fits = [(_shared(parts, _parts(os.path.splitext(images[index])[0])), index) for index in by_base[parts[-1]]]
        best = max(fits, default=(0, 0))
        if fits and [score for score, _ in fits].count(best[0]) == 1:
            return best[1]
    return None


def _names(line: str) -> Iterator[str]:
    """What a line may name: all of it, what stands before a comma or space; each as it is and without its ending."""
    for text in dict.fromkeys((line, line.split(",")[0].strip(), line.split()[0])):
        if text.strip("/\\."):
            yield text
            yield os.path.splitext(text)[0]


def _parts(path: str) -> list[str]:
    text = unicodedata.normalize("NFC", path).replace("\\", "/")
    return [part for part in text.split("/") if part not in ("", ".")] or [""]


def _shared(one: list[str], other: list[str]) -> int:
    """How many parts two paths share at their ends."""
    count = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        count += 1
    return count
