"""Numbers of heatmaps: how much of a map lies on the object, against chance; and their figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scalablevit.explain.regions import box_around, pixels_in
from scalablevit.explain.subject import Explanation, Subject, Target


def energy_inside(heat: NDArray[Any], region: NDArray[Any]) -> tuple[float, float]:
    """Share of a map's energy inside a region, and the share by chance, which is the region's of the image.

    Args:
        heat: (H, W) of at least 0.
        region: (H, W) bool.

    Returns:
        both in 0..1; 0 for an empty map.
    """
    total = float(heat.sum())
    return (float(heat[region].sum()) / total if total > 0 else 0.0), float(region.mean())


def points_inside(heat: NDArray[Any], region: NDArray[Any]) -> bool:
    """The pointing game: whether the map's maximum lies in the box around a region.

    Of several maxima, the first counts, row by row. Source: Zhang et al., arXiv:1608.00507; without its tolerance of 15
    pixels.
    """
    box = box_around(region)
    if not heat.max() > 0 or box is None:
        return False
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    left, top, right, bottom = box
    return left <= column < right and top <= row < bottom


def points_at(heat: NDArray[Any], region: NDArray[Any]) -> bool:
    """Whether a map's maximum lies on a pixel of a region itself, not only in the box around it."""
    return bool(heat.max() > 0 and region.flat[int(heat.argmax())])


def region_of(target: Target, size: tuple[int, int]) -> NDArray[Any] | None:
    """(H, W) bool pixels of a target's object: its mask, else its box; None where the score has no place."""
    if target.region is not None:
        return np.asarray(target.region, dtype=bool)
    return None if target.box_xyxy is None else pixels_in(target.box_xyxy, size)


def heatmap_numbers(target: Target, heat: NDArray[Any]) -> dict[str, Any]:
    """What is written of a map (H, W): its maximum, and where the score has a place, what lies there."""
    row, column = divmod(int(heat.argmax()), heat.shape[1])
    numbers: dict[str, Any] = {"class": target.name, "score": round(target.value, 6), "is_empty": not heat.max() > 0}
    if target.box_xyxy is not None:
        numbers["box"] = [round(x, 3) for x in target.box_xyxy]
    numbers["maximum_at"] = [column, row]
    region = region_of(target, heat.shape)
    if region is not None:
        share, chance = energy_inside(heat, region)
        numbers["energy_inside"] = round(share, 6)
        numbers["chance"] = round(chance, 6)
        numbers["points_inside"] = points_inside(heat, region)
    return numbers


def heatmaps(
    method: str, subject: Subject, targets: Sequence[Target], maps: Sequence[NDArray[Any]], *, scale: str
) -> Explanation:
    """Make the explanation of a map (H, W) for each target.

    Args:
        method: its name.
        subject: the image.
        targets: what was explained.
        maps: (H, W) of the image's size, at least 0.
        scale: what the colours stand for.
    """
    numbers = [heatmap_numbers(target, heat) for target, heat in zip(targets, maps, strict=True)]

    def draw() -> Any:
        from scalablevit.explain.draw import Panel, draw_heatmaps  # matplotlib takes a while to import

        panels = [Panel(f"{t.name}  {t.words}", heat, t.box_xyxy) for t, heat in zip(targets, maps, strict=True)]
        return draw_heatmaps(subject.image, panels, scale=scale)

    rows = []
    for target, values in zip(targets, numbers, strict=True):
        column, row = values["maximum_at"]
        found = f"{target.words}, highest at {column},{row}"
        if "energy_inside" in values:
            found += f", {values['energy_inside']:.0%} inside"
        rows.append((target.name, "nothing raises the score" if values["is_empty"] else found))
    return Explanation(method, subject.path, {"targets": numbers}, draw, rows)
