"""Measure over a data set what a network sees: objects, context, interaction between windows, faithful maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

from scalablevit.explain.annotated import AnnotatedImage, AnnotatedObject
from scalablevit.explain.attention import attention_maps
from scalablevit.explain.attention_method import distances, entropies
from scalablevit.explain.bootstrap import Interval, bootstrap, bootstrap_of
from scalablevit.explain.cam import merged_maps
from scalablevit.explain.energy import energy_inside, points_at, points_inside
from scalablevit.explain.explainable import explainable
from scalablevit.explain.faithfulness import curves
from scalablevit.explain.geometry import grid_points
from scalablevit.explain.receptive_field import SHARES, effective_receptive_field, radius_holding
from scalablevit.explain.receptive_field_method import squared_pixels
from scalablevit.explain.regions import box_around, pixels_in
from scalablevit.explain.subject import Subject, Target
from scalablevit.explain.window_interaction import window_interaction

_NO_OBJECTS = ("background", "_background_", "unlabeled", "unlabelled")
_SAME_OBJECT = 0.5
"""IoU from which on a found box is that of an annotated object."""
_MOST_OBJECTS = 5
"""Objects of an image that are explained: each costs a pass back through the network."""
_GRID = 6
"""Query points along each side of an image whose attention is measured."""
_BLOB = 16
"""Pixels between the values of a map by chance."""
_FIELD_STEP = 64
"""Sides of the images of the receptive field are multiples of it: the last map then has a middle token."""


@dataclass(frozen=True)
class Measure:
    """A number of the study.

    Args:
        key: of the number.
        title: as tables print it.
        group: that it belongs to.
        better: "higher" or "lower"; empty: neither.
    """

    key: str
    title: str
    group: str
    better: str = ""


_OBJECTS, _CONTEXT, _WINDOWS, _FAITHFUL = "object sensitivity", "context", "windows", "faithfulness"


def measures(num_stages: int) -> list[Measure]:
    """List the numbers of a study, in the order of its table."""
    found = [
        Measure("energy_inside", "Layer-CAM's energy inside the object", _OBJECTS, "higher"),
        Measure("energy_by_chance", "the same by chance (the object's area)", _OBJECTS),
        Measure("energy_over_chance", "energy inside, over chance", _OBJECTS, "higher"),
        Measure("pointing_game", "pointing game: maximum inside the object", _OBJECTS, "higher"),
        Measure("energy_inside_box", "Layer-CAM's energy inside the object's box", _OBJECTS, "higher"),
        Measure("box_by_chance", "the same by chance (the box's area)", _OBJECTS),
        Measure("pointing_game_box", "pointing game: maximum inside the object's box", _OBJECTS, "higher"),
        Measure("found", "annotated objects that are found", _OBJECTS, "higher"),
    ]
    for share in SHARES:
        title = f"receptive field: side that holds {share:.0%}, over the input's"
        found.append(Measure(f"field_side_{share:.0%}", title, _CONTEXT))
    for i in range(num_stages):
        found.append(Measure(f"entropy_{i + 1}", f"stage {i + 1} SSA: entropy over its maximum", _CONTEXT))
        found.append(Measure(f"distance_{i + 1}", f"stage {i + 1} SSA: mean distance over the diagonal", _CONTEXT))
        found.append(
            Measure(f"even_distance_{i + 1}", f"stage {i + 1} SSA: the same if all keys weighed alike", _CONTEXT)
        )
    for i in range(num_stages):
        for key, title in _WINDOW_TITLES.items():
            found.append(Measure(f"{key}_{i + 1}", f"stage {i + 1}: {title}", _WINDOWS))
    for name, better in (("deletion", "lower"), ("insertion", "higher")):
        found.append(Measure(name, f"area under the {name} curve", _FAITHFUL, better))
        found.append(Measure(f"{name}_by_chance", "the same for a smooth map by chance", _FAITHFUL))
    return found


_WINDOW_TITLES = {
    "attention": "change of IWSA's output when its neighbours change",
    "attention_without_lim": "the same with LIM switched off",
    "stage_end": "change at the stage's end when neighbours change",
    "stage_end_without_lim": "the same with LIM switched off in the stage",
}


@dataclass
class RunStudy:
    """The numbers of one run, image by image.

    Args:
        label: of the run.
        task: of the run.

    Attributes:
        rows: for each image its path and numbers; None: the image has no such number.
        blocks: name of each SSA block -> for each image (entropy, distance).
        size: side of the images of the receptive field, in pixels.
    """

    label: str
    task: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    blocks: dict[str, list[tuple[float | None, float]]] = field(default_factory=dict)
    size: int = 0
    num_stages: int = 0
    _fields: list[NDArray[Any]] = field(default_factory=list)
    _curves: list[tuple[NDArray[Any], NDArray[Any]]] = field(default_factory=list)

    def add(self, subject: Subject, annotated: AnnotatedImage) -> None:
        """Measure one image."""
        row: dict[str, Any] = {"path": str(annotated.path)}
        pairs, found = _explained(subject, annotated.objects)
        row.update(_context(self, subject))
        row.update(_windows(subject))
        targets = [target for target, _ in pairs]
        maps = _maps(subject, targets) if targets else []
        row.update(_objects(subject, pairs, maps))
        row["found"] = found
        row.update(_faithfulness(self, subject, targets, maps))
        self.rows.append(row)

    def summary(self) -> dict[str, Interval]:
        """Give the figures over all images with their intervals, by key; those that no image has are left out."""
        found = {}
        for measure in measures(self.num_stages):
            if measure.key.startswith("field_side_") and self._fields:
                share = float(measure.key.removeprefix("field_side_").removesuffix("%")) / 100
                rows = np.stack(self._fields)
                found[measure.key] = bootstrap_of(rows, partial(_side, share=share, size=self.size))
            elif (interval := bootstrap([row.get(measure.key) for row in self.rows])) is not None:
                found[measure.key] = interval
        return found

    def mean_curves(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Average the deletion and insertion curves of the images; None where there is none."""
        if not self._curves:
            return None
        return np.mean([pair[0] for pair in self._curves], axis=0), np.mean([pair[1] for pair in self._curves], axis=0)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        pair = self.mean_curves()
        return {
            "run": self.label,
            "task": self.task,
            "images": len(self.rows),
            "receptive_field_size": self.size,
            "figures": {key: interval.to_dict() for key, interval in self.summary().items()},
            "attention_by_block": {
                name: {
                    key: None if (interval := bootstrap([v[i] for v in values])) is None else interval.to_dict()
                    for i, key in enumerate(("entropy", "distance"))
                }
                for name, values in self.blocks.items()
            },
            "curves": None
            if pair is None
            else {"deletion": pair[0].round(6).tolist(), "insertion": pair[1].round(6).tolist()},
            "by_image": self.rows,
        }


def differences(first: RunStudy, other: RunStudy) -> dict[str, Interval]:
    """Compute the mean differences of two runs over the images that both have, `other` minus `first`, by key."""
    theirs = {row["path"]: row for row in other.rows}
    both = [(row, theirs[row["path"]]) for row in first.rows if row["path"] in theirs]
    found = {}
    for measure in measures(max(first.num_stages, other.num_stages)):
        values = [
            None if a.get(measure.key) is None or b.get(measure.key) is None else b[measure.key] - a[measure.key]
            for a, b in both
        ]
        if (interval := bootstrap(values)) is not None:
            found[measure.key] = interval
    return found


def _explained(
    subject: Subject, objects: Sequence[AnnotatedObject] | None
) -> tuple[list[tuple[Target, NDArray[Any] | None]], float | None]:
    """Pair scores with the annotated pixels that they are of, and give the share of the objects that is found.

    A detection goes with the object of its class that it overlaps most, a region or a class with all objects of its
    class; the background is no object. Without annotations there is the most important score alone.
    """
    if objects is None:
        return [(target, None) for target in subject.find_targets(None)[:1]], None
    objects = [one for one in objects if one.name.lower() not in _NO_OBJECTS]
    names = list(dict.fromkeys(one.name for one in objects))
    found = [target for target in subject.find_targets(None) if target.name.lower() not in _NO_OBJECTS]
    if not found:
        return [], 0.0 if objects else None
    if not any(target.box_xyxy is not None or target.region is not None for target in found):
        # a class has no place: each that is annotated is explained
        known = [name for name in names if name in subject.class_names]
        found = [subject.find_targets(name)[0] for name in known] if known else list(found[:1])
        return [(t, _union(objects, t.name) if t.name in known else None) for t in found[:_MOST_OBJECTS]], None
    pairs: list[tuple[Target, NDArray[Any] | None]] = []
    seen: set[int] = set()
    boxes = torch.tensor([one.box_xyxy for one in objects], dtype=torch.float64).reshape(-1, 4)
    for target in found:
        if target.box_xyxy is None:
            region = _union(objects, target.name)
            if region is not None:
                seen.update(i for i, one in enumerate(objects) if one.name == target.name)
                pairs.append((target, region))
            continue
        ious = box_iou(torch.tensor([target.box_xyxy], dtype=torch.float64), boxes)[0].nan_to_num().tolist()
        overlaps = [
            iou if one.name == target.name and i not in seen else 0.0
            for i, (one, iou) in enumerate(zip(objects, ious, strict=True))
        ]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best >= 0 and overlaps[best] >= _SAME_OBJECT:
            seen.add(best)
            pairs.append((target, objects[best].region))
    return pairs[:_MOST_OBJECTS], len(seen) / len(objects) if objects else None


def _maps(subject: Subject, targets: Sequence[Target]) -> list[Tensor]:
    """(1, h, w) Layer-CAM of each target, in pixels of what the stages see."""
    return merged_maps(
        explainable(subject.network),
        subject.inputs,
        lambda output: [target.score(output) for target in targets],
        size=subject.pixels_frame.seen,
        compute=subject.compute,
    )


def _objects(
    subject: Subject, pairs: Sequence[tuple[Target, NDArray[Any] | None]], maps: Sequence[Tensor]
) -> dict[str, float | None]:
    """Mean over an image's objects."""
    rows = []
    for (_, region), heat in zip(pairs, maps, strict=True):
        box = None if region is None else box_around(region)
        if region is None or box is None:
            continue
        laid = subject.pixels_frame.to_image(heat)[0].cpu().numpy()
        share, chance = energy_inside(laid, region)
        boxed = pixels_in(box, region.shape)
        numbers = [share, chance, share / chance, float(points_at(laid, region))]
        rows.append([*numbers, *energy_inside(laid, boxed), float(points_inside(laid, boxed))])
    if not rows:
        return {}
    keys = [measure.key for measure in measures(0) if measure.group == _OBJECTS and measure.key != "found"]
    return dict(zip(keys, np.mean(rows, axis=0).tolist(), strict=True))


def _context(study: RunStudy, subject: Subject) -> dict[str, float | None]:
    height, width = subject.pixels_frame.seen
    study.num_stages = len(explainable(subject.network).strides)
    study.size = study.size or max(_FIELD_STEP, round(math.sqrt(height * width) / _FIELD_STEP) * _FIELD_STEP)
    try:
        ours = effective_receptive_field(subject.network, squared_pixels(subject, study.size))
        study._fields.append(ours.ring_sums().numpy())
    except ValueError:  # an image without anything that the network sees: its gradient is zero
        study._fields.append(np.zeros(study.size // 2 + 1))
    diagonal = math.hypot(height, width)
    by_stage: dict[str, list[float]] = {}
    for block in attention_maps(subject.network, subject.pixels, grid_points((height, width), _GRID), kind="ssa"):
        entropy = None if block.weights.shape[-2:].numel() == 1 else float(entropies(block).mean())
        distance, even = (float(distances(block, uniform=alike).mean()) / diagonal for alike in (False, True))
        study.blocks.setdefault(block.name, []).append((entropy, distance))
        stage = block.stage + 1
        for key, value in (("entropy", entropy), ("distance", distance), ("even_distance", even)):
            if value is not None:
                by_stage.setdefault(f"{key}_{stage}", []).append(value)
    return {key: float(np.mean(values)) for key, values in by_stage.items()}


def _windows(subject: Subject) -> dict[str, float | None]:
    height, width = subject.pixels_frame.seen
    found: dict[str, float | None] = {}
    for stage in window_interaction(subject.network, subject.pixels[..., :height, :width]):
        for key in _WINDOW_TITLES:
            found[f"{key}_{stage.stage + 1}"] = float(getattr(stage, key)[0])
    return found


def _faithfulness(
    study: RunStudy, subject: Subject, targets: Sequence[Target], maps: Sequence[Tensor]
) -> dict[str, float | None]:
    """Of the most important score; the others would cost as much again each."""
    if not targets:
        return {}
    size = (subject.inputs.shape[-2], subject.inputs.shape[-1])
    heat = F.interpolate(maps[0][None], size, mode="bilinear", antialias=True)[0, 0].cpu().numpy()
    found: dict[str, float | None] = {}
    for suffix, order in (("", heat), ("_by_chance", blobs_by_chance(size))):
        measured = curves(subject, targets[0], order)
        if measured is None:
            return {}
        found[f"deletion{suffix}"], found[f"insertion{suffix}"] = measured.areas
        if not suffix:
            study._curves.append((measured.deletion, measured.insertion))
    return found


def blobs_by_chance(size: tuple[int, int]) -> NDArray[Any]:
    """(h, w) smooth noise, the same each time: a map that knows nothing, as coarse as those of deep stages.

    Single pixels by chance would be no fair rival: a tenth of them, spread evenly, shows the whole image.
    """
    cells = [max(2, side // _BLOB + 1) for side in size]
    noise = np.random.default_rng(0).random((1, 1, *cells), dtype=np.float32)
    return F.interpolate(torch.from_numpy(noise), size, mode="bicubic")[0, 0].numpy()


def _side(rings: NDArray[Any], share: float, size: int) -> float:
    """Side of the square that holds a share of the mean contribution, over the side of the input.

    Args:
        rings: (N, R) contribution on the border of the square of each radius, image by image.
        share: in (0, 1].
        size: side of the input.
    """
    return min(2 * radius_holding(rings.mean(axis=0), share) + 1, size) / size


def _union(objects: Sequence[AnnotatedObject], name: str) -> NDArray[Any] | None:
    regions = [one.region for one in objects if one.name == name]
    return np.logical_or.reduce(regions) if regions else None
