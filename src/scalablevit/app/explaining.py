"""What a model sees in an image, for the page: `scalablevit explain` on one image, in bounded time."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from scalablevit.app.models import Model
from scalablevit.data.bands import Pixels, in_colour, resized
from scalablevit.deploy.exported import ExportedNetwork
from scalablevit.explain.methods import METHODS
from scalablevit.explain.occlusion import num_passes
from scalablevit.explain.subject import MOST_TARGETS, Explanation, Subject, Target, read_images
from scalablevit.tasks import load

ON_PAGE = ("cam", "occlusion", "attention")
"""Methods that the page offers."""
PER = ("stage", "block", "head")

_MOST_PIXELS = 10**6
"""Larger images are scaled down before they are explained: about 20 seconds for the variant S on two cores."""
_MOST_SEEN = 4 * 10**6
"""Pixels of a network's input beyond which nothing is explained: a recipe may enlarge narrow images."""
_OCCLUSION_SECONDS = 60.0
_MUCH_LONGER = 3.0
_OCCLUSION_WINDOWS = (8, 6, 4, 3, 2)


@dataclass(frozen=True)
class Wish:
    """What is to be explained.

    Args:
        method: one of `ON_PAGE`.
        class_name: of `cam` and `occlusion`; None: what the network finds.
        at: of `attention`: (x, y) in pixels of the image; None: the middle.
        per: of `attention`: what a panel shows, one of `PER`.
        threshold: lowest score of the objects, or of the labels where images have several, that are explained.

    Raises:
        ValueError: a value is out of range.
    """

    method: str = "cam"
    class_name: str | None = None
    at: tuple[float, float] | None = None
    per: str = "stage"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in ON_PAGE:
            raise ValueError(f"method must be one of {', '.join(ON_PAGE)}, got {self.method!r}")
        if self.per not in PER:
            raise ValueError(f"per must be one of {', '.join(PER)}, got {self.per!r}")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {self.threshold:g}")


@dataclass(frozen=True)
class Explained:
    """What was found.

    Attributes:
        row: as `scalablevit explain --json` prints it, with the file's name as its path. Positions are in pixels of the
            image that was explained; `explained_size` is its [width, height] where it was scaled down.
        explanation: draws the picture; None: there is nothing to explain.
        remark: what was done to bound the time; empty where nothing was.
        seconds: that it took.
    """

    row: Mapping[str, Any]
    explanation: Explanation | None
    remark: str = ""
    seconds: float = 0.0


def refusal(model: Model, method: str) -> str:
    """Why a method cannot explain a model; empty where it can."""
    if isinstance(model.weights, ExportedNetwork) and METHODS[method].needs_network:
        what = {"cam": "gradients and maps", "attention": "attention maps"}[method]
        return (
            f"{model.label} is an exported file, which has no {what} inside: choose the run that it was exported "
            "from, or occlusion as the method"
        )
    return "" if model.entry.explained else f"networks of the task {model.entry.name} are not explained"


def possible(model: Model, methods: Sequence[str] = ON_PAGE) -> list[str]:
    """Those methods that can explain a model, in their order."""
    return [method for method in methods if not refusal(model, method)]


def explain(model: Model, predictor: Any, path: Path, wish: Wish) -> Explained:
    """Explain an image file.

    Args:
        model: on the page.
        predictor: of the model, loaded.
        path: image file.
        wish: what is to be explained.

    Raises:
        ValueError: the file is no image that can be read, there is no such class, the point lies outside of the
            image, or the model has not what the method needs.
    """
    if said := refusal(model, wish.method):
        raise ValueError(said)
    image = upright(path, predictor)
    begin = time.perf_counter()
    width, height = size_of(image)
    small, remark = scaled_down(image)
    subject: Subject = load(model.entry.explained)(predictor, Path(path.name), small, wish.threshold)
    seen = subject.pixels.shape[-2] * subject.pixels.shape[-1]
    if seen > _MOST_SEEN:
        raise ValueError(
            f"{path.name}: the network would see {subject.pixels.shape[-1]} x {subject.pixels.shape[-2]} pixels, more "
            f"than {_MOST_SEEN / 1e6:g} million, which takes too long on a page: cut out a part of the image"
        )
    options: dict[str, Any] = {}
    left_out = []

    def first_targets(name: str | None) -> Sequence[Target]:
        targets = subject.find_targets(name)
        if len(targets) > MOST_TARGETS:
            left_out.append(f"{MOST_TARGETS} of {len(targets)} objects are explained, the most important first.")
        return targets[:MOST_TARGETS]

    shown = replace(subject, find_targets=first_targets)
    if wish.method == "attention":
        options["per"] = wish.per
        if wish.at is not None:
            options["at"] = [_on(wish.at, (width, height), size_of(small))]
    else:
        options["class_name"] = wish.class_name
    if wish.method == "occlusion":
        faster = "choose Layer-CAM, or " if possible(model, ["cam"]) else ""
        options["windows"], said = _windows_in_time(subject, _OCCLUSION_SECONDS, f"{faster}cut out a part of the image")
        remark = f"{remark} {said}".strip()
    found = load(METHODS[wish.method].function)(shown, **options)
    remark = " ".join(filter(None, (remark, *left_out)))
    row: dict[str, Any] = {"path": path.name, "method": wish.method}
    row.update(found[0].numbers if found else {"targets": []})
    if small is not image:
        row["explained_size"] = list(size_of(small))
    return Explained(row, found[0] if found else None, remark, time.perf_counter() - begin)


def upright(path: Path, predictor: Any) -> Image.Image | Pixels:
    """Read an image as the network takes it, upright, as RGB or (H, W, C) with all its bands.

    Raises:
        ValueError: it cannot be read; the message has the file's name alone.
    """
    (file,) = read_images([path], predictor)
    if file.image is None:
        raise ValueError(str(file.error).replace(str(path), path.name))
    image: Image.Image | Pixels = file.image
    return image


def size_of(image: Image.Image | Pixels) -> tuple[int, int]:
    """Width and height in pixels."""
    return image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])


def scaled_down(image: Image.Image | Pixels) -> tuple[Image.Image | Pixels, str]:
    """Scale a large image down to what is explained in time, and say so; others are handed back."""
    width, height = size_of(image)
    if width * height <= _MOST_PIXELS:
        return image, ""
    factor = (_MOST_PIXELS / (width * height)) ** 0.5
    size = (max(1, int(width * factor)), max(1, int(height * factor)))
    remark = (
        f"The image was scaled down from {width} × {height} to {size[0]} × {size[1]} px to bound the time; "
        "scalablevit explain takes it as it is."
    )
    if isinstance(image, Image.Image):
        return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3), remark
    return resized(image, size[1], size[0]), remark


def to_look_at(image: Image.Image | Pixels) -> Image.Image:
    """The image in RGB, at most as large as it is explained."""
    small = scaled_down(image)[0]
    return small if isinstance(small, Image.Image) else in_colour(small)


def _on(at: tuple[float, float], size: tuple[int, int], small: tuple[int, int]) -> tuple[float, float]:
    """A pixel of an image of a size (width, height) as one of the image that it was scaled down to.

    Raises:
        ValueError: it lies outside.
    """
    if not all(0 <= value < side for value, side in zip(at, size, strict=True)):
        raise ValueError(
            f"point {at[0]:g},{at[1]:g} lies outside the image of {size[0]} x {size[1]} pixels: x must lie in "
            f"0..{size[0] - 1}, y in 0..{size[1] - 1}"
        )
    if small == size:
        return at
    x, y = (float(int(value * less / side)) for value, less, side in zip(at, small, size, strict=True))
    return x, y


def _windows_in_time(subject: Subject, seconds: float, remedy: str) -> tuple[int, str]:
    """As many windows of occlusion as are hidden in time, by the time of one pass; and what was chosen, in words.

    Raises:
        ValueError: even the fewest would take much longer.
    """
    import torch

    begin = time.perf_counter()
    with torch.inference_mode():
        subject.compute(subject.network, subject.inputs)
    each = time.perf_counter() - begin
    height, width = subject.inputs.shape[-2:]
    passes = [num_passes(height, width, windows) for windows in _OCCLUSION_WINDOWS]
    chosen = next((i for i, count in enumerate(passes) if count * each <= seconds), len(passes) - 1)
    windows = _OCCLUSION_WINDOWS[chosen]
    if passes[chosen] * each > _MUCH_LONGER * seconds:
        raise ValueError(
            f"occlusion would take about {passes[chosen] * each / 60:,.0f} minutes for an image of {width} x {height} "
            f"pixels: {remedy}"
        )
    said = f"{windows} windows along the shorter side were hidden in turn"
    return windows, f"{said}, {_OCCLUSION_WINDOWS[0]} would take too long." if chosen else f"{said}."
