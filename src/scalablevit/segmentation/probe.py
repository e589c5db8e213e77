"""Read some images with their masks before training starts, for what is wrong with all of them."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from scalablevit.data.image_file import ImageError
from scalablevit.data.masks import read_upright_mask
from scalablevit.segmentation.dataset import MaskDataset
from scalablevit.segmentation.label_map import LabelMap, OutsideLabelsError, unpack_colour
from scalablevit.segmentation.labels import IGNORED
from scalablevit.segmentation.read_pair import PairError, copied_image, is_copy, unclear_orientation
from scalablevit.segmentation.survey import CHECK_DATA

_log = logging.getLogger(__name__)

# So many pairs of each part are read before training starts, to find what is wrong with all of them.
_PROBES = 32

Palette = tuple[tuple[int, int, int], ...]


def probe(dataset: MaskDataset, part: Literal["training", "validation"]) -> Palette | None:
    """Read some pairs, evenly spread, for what is wrong with all of them; gives the masks' palette.

    Raises:
        ValueError: labels of one are no classes, none can be read, or all pixels of the part are ignored.
    """
    palette, first_error, readable = None, None, 0
    ignored: list[Path] = []
    unclear: list[str] = []
    losses: dict[str, list[str]] = {}
    count = min(_PROBES, len(dataset))
    for index in (i * len(dataset) // count for i in range(count)):
        try:
            pair = dataset.read(index)
        except (ImageError, PairError) as error:
            # Labels beyond the classes are seldom the fault of one mask.
            if error.kind == "outside-classes":
                raise ValueError(f"a {part} mask cannot be used: {error}; {CHECK_DATA}") from None
            first_error = first_error or error
            continue
        readable += 1
        palette = palette or _class_palette(pair.mask.palette, dataset.label_map)
        if pair.unclear:
            unclear.append(unclear_orientation(str(dataset.path(index)), str(dataset.mask_path(index))))
        if is_copy(pair, in_colours=dataset.label_map.in_colours):
            copied = copied_image(str(dataset.path(index)), str(dataset.mask_path(index)))
            losses.setdefault("own-mask", []).append(copied)
        for loss in pair.image_losses:
            losses.setdefault(loss.kind, []).append(f"{dataset.path(index)}: {loss.found}; {loss.remedy}")
        if (pair.labels == IGNORED).all():
            ignored.append(dataset.mask_path(index))
    if readable == 0 and first_error is not None:
        raise ValueError(
            f"none of {count} {part} images with masks that were tried can be used. The first: {first_error}\n"
            f"{CHECK_DATA}"
        )
    if ignored:
        _tell_of_ignored(dataset, part, ignored, readable)
    for messages in ([unclear] if unclear else []) + list(losses.values()):
        more = f" (so are {len(messages)} of {readable} {part} pairs that were tried)" if len(messages) > 1 else ""
        _log.warning("%s%s; %s", messages[0], more, CHECK_DATA)
    return palette


def _tell_of_ignored(dataset: MaskDataset, part: str, ignored: Sequence[Path], tried: int) -> None:
    """Warn of masks without a pixel of a class, `ignored` of `tried`; raise a ValueError if there is no other mask."""
    result = "nothing can be learned" if part == "training" else "nothing can be measured"
    if len(ignored) == tried and not any(_has_a_class(dataset, index) for index in range(len(dataset))):
        raise ValueError(
            f"{ignored[0]}: all pixels of this and of every other {part} mask are ignored, so {result}. "
            f"{dataset.label_map.describe().capitalize()}: label the masks, or correct reduce_zero_label or "
            f"ignore_labels; {CHECK_DATA}"
        )
    _log.warning(
        "all pixels are ignored in %d of %d %s masks that were tried, so %s from them, such as %s; %s",
        *(len(ignored), tried, part, result, ignored[0], CHECK_DATA),
    )


def _has_a_class(dataset: MaskDataset, index: int) -> bool:
    try:
        mask = read_upright_mask(dataset.mask_path(index), in_colours=dataset.label_map.in_colours)
        labels = dataset.label_map.encode(mask.labels)
    except (ImageError, OutsideLabelsError):
        return False
    return bool((labels != IGNORED).any())


def _class_palette(palette: Iterable[tuple[int, int, int]] | None, label_map: LabelMap) -> Palette | None:
    """Colours of the classes in a mask's palette; None where it has too few or two alike."""
    if label_map.in_colours:
        lacks = min(label_map.class_labels) < 0
        return None if lacks else tuple(unpack_colour(label) for label in label_map.class_labels)
    colours = tuple(palette or ())
    if len(colours) <= max(label_map.class_labels) or min(label_map.class_labels) < 0:
        return None
    colours = tuple(colours[label] for label in label_map.class_labels)
    return colours if len(set(colours)) == label_map.num_classes else None
