"""Find everything that is wrong with a folder of images and masks before training does."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from scalablevit.data.check import (
    DataReport,
    ImageFile,
    Problem,
    check_num_workers,
    look_at_all,
    pixel_digest,
    repeated_images,
    size_range,
)
from scalablevit.data.image_file import ImageError
from scalablevit.data.pixel_values import Loss
from scalablevit.data.stream.opened import open_stream
from scalablevit.segmentation.label_map import LabelMap, OutsideLabelsError
from scalablevit.segmentation.labels import IGNORED
from scalablevit.segmentation.mask_classes import ClassSource
from scalablevit.segmentation.mask_facts import (
    MaskFacts,
    class_problems,
    facts_of,
    file_problems,
    one_class_problem,
    palette_problems,
    refuse_lossy,
)
from scalablevit.segmentation.mask_settings import MaskSettings
from scalablevit.segmentation.pairs import Pair
from scalablevit.segmentation.read_pair import PairError, copied_image, is_copy, read_pair, unclear_orientation
from scalablevit.segmentation.sharded import find_pairs

Part = Literal["training", "validation"]


@dataclass(frozen=True)
class MaskReport(DataReport):
    """What `check_masks` found: `DataReport`, with `classes` in pixels.

    Args:
        ignored_pixels: (training, validation) pixels that are left out of losses and metrics.
        bands: "mean" and "std" of each band of the training images, for values in 0..1; empty where they are RGB.
    """

    ignored_pixels: tuple[int, int] = (0, 0)
    bands: dict[str, list[float]] = field(default_factory=dict)

    def _facts(self) -> list[str]:
        lines = [
            f"training    {self.num_train:,} images with masks",
            f"validation  {self.num_val:,} images with masks",
            f"classes     {len(self.classes):,}",
            *self._sizes(),
            *(f"{name:<10}  {values}" for name, values in self.bands.items()),
        ]
        return [*lines, "", *self._class_table()] if self.classes else lines

    def _class_table(self) -> list[str]:
        """Share of each class in the pixels that count, and of the ignored in all."""
        totals = [sum(pixels[part] for pixels in self.classes.values()) for part in (0, 1)]
        width = max(len("ignored"), *map(len, self.classes))
        rows = [f"{'pixels':<{width}}  {'training':>10}  {'validation':>10}"]
        counted = [(name, pixels, totals) for name, pixels in self.classes.items()]
        every = [total + ignored for total, ignored in zip(totals, self.ignored_pixels, strict=True)]
        for name, pixels, of in (*counted, ("ignored", self.ignored_pixels, every)):
            shares = (f"{n / max(total, 1):10.2%}" for n, total in zip(pixels, of, strict=True))
            rows.append(f"{name:<{width}}  {'  '.join(shares)}")
        return rows


def check_masks(
    root: str | Path,
    *,
    num_workers: int | Literal["auto"] = "auto",
    on_progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> MaskReport:
    """Decode every image and mask of a data folder and report all that is wrong, without stopping at the first.

    Finds what training would meet: a faulty layout; images without masks and masks without images; empty,
    truncated, damaged and huge files and such that are no images; masks with colours instead of labels, of another
    size than their image, or with labels that are no class. And what it would not notice: masks that are ignored
    altogether; classes that never occur; palettes that differ; masks in lossy formats; an EXIF orientation that a mask
    may or may not follow; the same image in training and validation (the figures would be too good) or twice in one,
    compared by pixels.

    Args:
        root: the data folder, laid out as for `MaskFolderData`, or shards of one, whose hashes are compared, too.
        num_workers: processes that decode; 0 decodes in this one; "auto" takes all cores, 16 at most.
        on_progress: called with (pairs done, all pairs) now and then.
        settings: fields of `MaskSettings`.

    Raises:
        ValueError: an argument is out of range.
    """
    check_num_workers(num_workers)
    options = MaskSettings(**settings)
    stream = open_stream(root, options.stream, task="segmentation")
    scan, class_folder = find_pairs(root, options)
    problems = [*scan.problems, *scan.unpaired]
    source = None
    try:
        source = ClassSource(class_folder, options)
    except ValueError as error:
        problems.append(_class_problem(scan.root, Path(options.label_map or scan.root), error))
    found: list[_Found] = []
    pairs: list[tuple[Part, Pair]] = [("training", pair) for pair in scan.train]
    pairs += [("validation", pair) for pair in scan.val]
    paths = [(str(scan.root / pair.image), str(scan.root / pair.mask)) for _, pair in pairs]
    in_colours = source is not None and source.in_colours
    looks = look_at_all(
        partial(_look_at, options, in_colours),
        paths if stream is None else [(scan.root / pair.image, scan.root / pair.mask) for _, pair in pairs],
        num_workers=num_workers,
        on_progress=on_progress,
        images_each=2,
    )
    for (part, _), (image, mask), look in zip(pairs, paths, looks, strict=True):
        if isinstance(look, Problem):
            problems.append(look)
        else:
            found.append(_Found(part, image, mask, look))

    if stream is not None:
        problems = stream.problems(problems)
    counted = _count_classes(scan.root, source, options, found, masks_in_colour=_has_colours(problems))
    problems += counted.problems
    masks = [one.look.mask for one in found]
    problems += file_problems(masks)
    problems += [] if in_colours else palette_problems(str(scan.root), masks)
    problems += _image_warnings(found)
    problems += repeated_images((one.look.digest, ImageFile(one.part, one.image)) for one in found)
    smallest, largest = size_range(one.look.size for one in found)
    return MaskReport(
        str(scan.root),
        num_train=len(scan.train),
        num_val=len(scan.val),
        classes=counted.classes,
        smallest=smallest,
        largest=largest,
        problems=problems,
        ignored_pixels=counted.ignored,
        bands=_band_statistics(found),
    )


def _has_colours(problems: list[Problem]) -> bool:
    return any(problem.kind == "not-a-mask" for problem in problems)


class _Look(NamedTuple):
    size: tuple[int, int]  # width, height
    digest: bytes  # of the image's size and RGB pixels
    mask: MaskFacts
    unclear: bool
    is_copy: bool  # the mask has the pixels of its image
    losses: tuple[Loss, ...]  # of the image
    bands: "BandSums | None"  # of an image of several bands


class BandSums(NamedTuple):
    """Sums over the pixels of images, by band, for their mean and deviation.

    Fields:
        pixels: how many there are.
        total: (C,) of values in 0..1.
        squares: (C,) of their squares.
    """

    pixels: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]


def _band_statistics(found: "list[_Found]") -> dict[str, list[float]]:
    """Mean and deviation of each band over the training images; empty where images are RGB."""
    sums = [one.look.bands for one in found if one.look.bands is not None and one.part == "training"]
    if not sums:
        return {}
    count = sum(one.pixels for one in sums)
    mean = sum(one.total for one in sums) / count
    std = np.sqrt(np.maximum(sum(one.squares for one in sums) / count - mean**2, 1e-8))
    return {"mean": np.round(mean, 4).tolist(), "std": np.round(std, 4).tolist()}


class _Found(NamedTuple):
    part: Part
    image: str
    mask: str
    look: _Look


class _Counted(NamedTuple):
    classes: dict[str, tuple[int, int]]  # class name -> (training, validation) pixels
    ignored: tuple[int, int]
    problems: list[Problem]


def _look_at(options: MaskSettings, in_colours: bool, paths: tuple[str | Path, str | Path]) -> _Look | Problem:
    """Decode an image and its mask."""
    try:
        pair = read_pair(
            *paths,
            mask_frame=options.mask_frame,
            in_colours=in_colours,
            value_range=options.black_and_white,
            num_bands=options.num_bands,
        )
    except (ImageError, PairError) as error:
        return Problem("error", error.kind, error.path, str(error))
    facts, copied = facts_of(str(paths[1]), pair.mask), is_copy(pair, in_colours=in_colours)
    bands = None
    if isinstance(pair.image, np.ndarray):
        values = pair.image.reshape(-1, pair.image.shape[2]).astype(np.float32) / 255
        bands = BandSums(len(values), values.sum(0, dtype=np.float64), (values**2).sum(0, dtype=np.float64))
    height, width = pair.labels.shape
    digest = pixel_digest(pair.image)
    return _Look((width, height), digest, facts, pair.unclear, copied, pair.image_losses, bands)


def _count_classes(
    root: Path, source: ClassSource | None, options: MaskSettings, found: list[_Found], *, masks_in_colour: bool
) -> _Counted:
    """Pixels of each class, and what is wrong with classes and labels."""
    nothing = _Counted({}, (0, 0), [])
    if source is None or not (found or options.class_names_file is not None):
        return nothing
    labels = {label for one in found for label in one.look.mask.labels}
    try:
        if source.path is None:
            refuse_lossy([one.look.mask for one in found])
        classes = source.classes(labels)
    except ValueError as error:
        # Among masks with colours, those of one gray (empty ones, say) do not tell the classes.
        unknown = source.path is None and len(labels) < 2 and masks_in_colour
        return nothing if unknown else nothing._replace(problems=[_class_problem(root, source.path, error)])
    counted = _count_pixels(classes.names, found, classes.label_map)
    problems = list(counted.problems)
    if (shades := classes.why_shades(labels)) is not None:
        problems.append(Problem("error", "shades-of-gray", str(root), f"{root}: {shades}"))
    problems += class_problems(str(root), counted.classes, named=classes.named_by is not None)
    problems += one_class_problem(str(root), labels, classes.label_map, classes.names)
    return counted._replace(problems=problems)


def _class_problem(root: Path, path: Path | None, error: ValueError) -> Problem:
    where = str(path or root)
    is_told = str(error).startswith(str(root)) or (path is not None and where in str(error))
    message = str(error) if is_told else f"{root}: {error}"
    return Problem("error", "classes", where, message)


def _count_pixels(names: list[str], found: list[_Found], label_map: LabelMap) -> _Counted:
    """Pixels of each class, and what is wrong with labels."""
    pixels: dict[Part, Counter[int]] = {"training": Counter(), "validation": Counter()}
    ignored: Counter[Part] = Counter()
    problems = []
    for part, _, mask, look in found:
        outside = sorted(label for label in look.mask.labels if label_map.is_outside(label))
        if outside:
            error = OutsideLabelsError(outside, label_map)
            message = f"{mask}: {error}; {error.remedy}"
            problems.append(Problem("error", "outside-classes", mask, message))
            continue
        classes: Counter[int] = Counter()
        for label, count in look.mask.labels.items():
            classes[label_map.class_of(label) or 0] += count
        ignored[part] += classes.pop(IGNORED, 0)
        pixels[part].update(classes)
        if not classes:
            message = f"{mask}: all its pixels are ignored; nothing is learned from it: label it, or remove the pair"
            problems.append(Problem("warning", "all-ignored", mask, message))
    counts = {name: (pixels["training"][i], pixels["validation"][i]) for i, name in enumerate(names)}
    return _Counted(counts, (ignored["training"], ignored["validation"]), problems)


def _image_warnings(found: list[_Found]) -> Iterator[Problem]:
    for _, image, mask, look in found:
        for loss in look.losses:
            yield Problem("warning", loss.kind, image, f"{image}: {loss.found}; {loss.remedy}")
        if look.unclear:
            yield Problem("warning", "orientation-unclear", mask, unclear_orientation(image, mask))
        if look.is_copy:
            yield Problem("warning", "own-mask", mask, copied_image(image, mask))
