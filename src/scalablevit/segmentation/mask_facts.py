"""What masks hold beside their labels, and what is wrong with a set of them: for `check-data` and for training alike.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from scalablevit.abridged import abridged
from scalablevit.data.check import Problem
from scalablevit.data.masks import UprightMask
from scalablevit.data.pixel_values import Loss
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.labels import IGNORED, count_labels

Colour = tuple[int, int, int]


class MaskFacts(NamedTuple):
    """What one mask holds.

    Fields:
        path: of the file.
        labels: label -> number of its pixels.
        colours: label -> its colour, of the labels that occur, where the file has a palette.
        lossy: name of a lossy format, else empty.
        losses: what the file holds beside the labels.
    """

    path: str
    labels: dict[int, int]
    colours: dict[int, Colour]
    lossy: str
    losses: tuple[Loss, ...]


def facts_of(path: str, mask: UprightMask) -> MaskFacts:
    """Sum up a mask that was read."""
    labels = count_labels(mask.labels)
    palette = mask.palette or ()
    colours = {label: palette[label] for label in labels if 0 <= label < len(palette)}
    return MaskFacts(path, labels, colours, mask.lossy, mask.losses)


def file_problems(masks: Iterable[MaskFacts]) -> Iterator[Problem]:
    """Warn of masks whose format distorts labels, and of those that hold more than labels."""
    for mask in masks:
        if mask.lossy:
            message = (
                f"{mask.path}: a mask saved as {mask.lossy}, which is lossy, has wrong labels along its edges; "
                "export it as PNG"
            )
            yield Problem("warning", "lossy-mask", mask.path, message)
        for loss in mask.losses:
            yield Problem("warning", loss.kind, mask.path, f"{mask.path}: {loss.found}; {loss.remedy}")


def refuse_lossy(masks: Sequence[MaskFacts]) -> None:
    """Refuse to count classes in masks whose format makes labels up.

    Raises:
        ValueError: masks are saved in a lossy format.
    """
    lossy = [mask for mask in masks if mask.lossy]
    if lossy:
        raise ValueError(
            f"{lossy[0].path}: {len(lossy)} of {len(masks)} masks are saved in a lossy format "
            f"({lossy[0].lossy}), which changes labels along edges, so classes cannot be counted: export masks as "
            "PNG, or, to train on them as they are, name the classes in class_names_file"
        )


def palette_problems(root: str, masks: Iterable[MaskFacts]) -> Iterator[Problem]:
    """Warn of labels that stand for several colours: tools that index colours give each file a palette of its own."""
    first: dict[int, dict[Colour, str]] = defaultdict(dict)
    for mask in masks:
        for label, colour in mask.colours.items():
            first[label].setdefault(colour, mask.path)
    differing = {label: colours for label, colours in first.items() if len(colours) > 1}
    if not differing:
        return
    label, colours = next(iter(sorted(differing.items())))
    (one, path), (other, other_path), *_ = colours.items()
    more = f", and {len(differing) - 1} more labels have several colours" if len(differing) > 1 else ""
    message = (
        f"{root}: the palettes of the masks differ: label {label} is the colour {_hex(one)} in {path} and "
        f"{_hex(other)} in {other_path}{more}; labels are read, not colours, so classes are mixed up unless the "
        "palettes are meaningless: say by label_map which colour is which class, or export all masks with one palette"
    )
    yield Problem("warning", "palettes-differ", root, message)


def class_problems(
    root: str, counts: Mapping[str, tuple[int, int]], *, named: bool, read: str = ""
) -> Iterator[Problem]:
    """Warn of classes without pixels.

    Args:
        root: the data folder.
        counts: class -> (training, validation) pixels.
        named: a file says which classes there are.
        read: which masks were read, if not all, such as " in the 400 of 9,000 masks that were read".
    """
    never = [name for name, (train, val) in counts.items() if train == 0 and val == 0]
    if never:
        why = "" if named else "; labels are numbered with gaps: are they shades of gray rather than class indices?"
        message = f"{root}: {len(never)} of {len(counts)} classes never occur{read}: {abridged(map(repr, never))}{why}"
        yield Problem("warning", "class-never-occurs", root, message)
    for kind, place, wanting in (
        ("class-without-training", "training", [name for name, (train, val) in counts.items() if train == 0 < val]),
        ("class-without-validation", "validation", [name for name, (train, val) in counts.items() if val == 0 < train]),
    ):
        if wanting:
            result = "they cannot be learned" if place == "training" else "their IoU will not be measured"
            result += ", unless others have some" if read else ""
            which = (
                f"{len(wanting)} of {len(counts)} classes have no {place} pixels{read}: {abridged(map(repr, wanting))}"
            )
            yield Problem("warning", kind, root, f"{root}: {which}; {result}")


def one_class_problem(
    root: str, found: Collection[int], label_map: LabelMap, names: Sequence[str]
) -> Iterator[Problem]:
    """Warn of masks of a single class: a network that always predicts it is perfect by every figure."""
    classes = {label_map.class_of(label) for label in found} - {IGNORED}
    if len(classes) != 1 or None in classes:  # labels that are no class are a fault of their own
        return
    (only,) = classes
    assert only is not None
    message = f"{root}: all pixels of the masks are {names[only]!r} or ignored, so there is nothing to tell apart"
    if set(found) == {0, IGNORED} and not label_map.in_colours:
        message += (
            "; labels 0 and 255 look like black-and-white masks, and 255 is ignored: rewrite 255 as 1, or give a "
            f"label_map with the lines `0 {names[0]}` and `255 {names[min(1, len(names) - 1)]}`"
        )
    yield Problem("warning", "one-class", root, message)


def summed_up(problems: Iterable[Problem], of: str) -> Iterator[str]:
    """One sentence for all problems of a kind: the first of them, and how many files have it.

    Args:
        of: how many masks were read, such as "32 masks".
    """
    by_kind: dict[str, list[Problem]] = defaultdict(list)
    for problem in problems:
        by_kind[problem.kind].append(problem)
    for found in by_kind.values():
        more = f" (so are {len(found)} of the {of} that were read)" if len(found) > 1 else ""
        yield f"{found[0].message}{more}"


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
