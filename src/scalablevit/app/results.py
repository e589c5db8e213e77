"""What the page shows of a prediction: image, table, and the row that `scalablevit predict --json` prints."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from scalablevit.printable import printable
from scalablevit.visualization.palette import class_colours

LOWEST_THRESHOLD = 0.05
"""Of the detections and labels that are kept while the threshold's slider moves."""
_MOST_CLASSES = 10**6
_MOST_ROWS = 100
_BLUE = (0, 114, 178)


@dataclass(frozen=True)
class View:
    """What is shown of a prediction without predicting again.

    Args:
        top: classes of a classifier with one class an image, the likeliest first; at least 1.
        threshold: detections, and labels of a classifier with several an image, score above it; in
            [LOWEST_THRESHOLD, 1].
        opacity: of the colours that a segmenter lays over the image, in 0..1.

    Raises:
        ValueError: a value is out of range.
    """

    top: int = 5
    threshold: float = 0.5
    opacity: float = 0.5

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"top must be at least 1, got {self.top}")
        if not LOWEST_THRESHOLD <= self.threshold <= 1:
            raise ValueError(f"threshold must lie in [{LOWEST_THRESHOLD}, 1], got {self.threshold}")
        if not 0 <= self.opacity <= 1:
            raise ValueError(f"opacity must lie in [0, 1], got {self.opacity}")


@dataclass(frozen=True)
class Row:
    """A line of the table on the page.

    Attributes:
        name: of the class or object.
        value: score or share as text.
        share: length of the bar, in 0..1.
        colour: RGB in 0..255, as in the image; None: classes have no colours.
        note: further text, such as the place of an object.
    """

    name: str
    value: str
    share: float
    colour: tuple[int, int, int] | None = None
    note: str = ""


def run_predictor(predictor: Any, task: str, path: Path) -> Any:
    """Predict for one image file everything that views may show.

    Args:
        predictor: of the task.
        task: its name.
        path: image file.

    Returns:
        the task's `Prediction`, with the image, called by the file's name alone; `error` says why the file could
        not be read.
    """
    options: dict[str, Any] = {}
    if task == "classification":
        options["top"] = _MOST_CLASSES
        if predictor.multi_label:
            options["threshold"] = LOWEST_THRESHOLD
    elif task == "detection":
        options["threshold"] = max(LOWEST_THRESHOLD, predictor.lowest_threshold)
    (prediction,) = predictor.predict([path], keep_images=True, **options)
    error = prediction.error and prediction.error.replace(str(path), path.name)
    return replace(prediction, path=Path(path.name), error=error)


def seen(prediction: Any, task: str, view: View) -> Any:
    """The part of a prediction that a view shows: what `predict --top` or `--threshold` would have given."""
    if task == "classification" and prediction.threshold is not None:
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        found = [(name, value) for name, value in pairs if not value <= view.threshold]
        return replace(
            prediction,
            classes=[name for name, _ in found],
            probabilities=[value for _, value in found],
            threshold=view.threshold,
        )
    if task == "classification":
        return replace(
            prediction, classes=prediction.classes[: view.top], probabilities=prediction.probabilities[: view.top]
        )
    if task == "detection":
        found = [detection for detection in prediction.detections if detection.score > view.threshold]
        return replace(prediction, detections=found, threshold=view.threshold)
    return prediction


def output_images(prediction: Any, task: str, view: View) -> dict[str, Image.Image]:
    """Images as `scalablevit predict --save` writes them, by what is added to the file's name; "" is the drawing."""
    images: dict[str, Image.Image] = prediction.output_images()
    if task == "segmentation" and view.opacity != View.opacity:
        from scalablevit.segmentation.draw import draw_overlay  # fonts take a while to import

        images[""] = draw_overlay(
            prediction.image,
            prediction.labels,
            class_names=prediction.class_names,
            palette=prediction.palette,
            opacity=view.opacity,
        )
    return images


def rows(prediction: Any, task: str) -> list[Row]:
    """The table of a prediction."""
    if task == "classification":
        pairs = zip(prediction.classes, prediction.probabilities, strict=True)
        return [Row(name, f"{probability:.1%}", probability) for name, probability in pairs]
    if task == "detection":
        return _detection_rows(prediction)
    colours = dict(zip(prediction.class_names, prediction.palette, strict=True))
    return [Row(name, f"{share:.1%}", share, colours[name]) for name, _, share in prediction.areas()]


def _detection_rows(prediction: Any) -> list[Row]:
    colours = class_colours(1 + max((detection.label for detection in prediction.detections), default=0))
    found = []
    for detection in prediction.detections:
        left, top, right, bottom = detection.box_xyxy
        place = f"{right - left:.0f} × {bottom - top:.0f} px at {left:.0f}, {top:.0f}"
        found.append(Row(detection.name, f"{detection.score:.1%}", detection.score, colours[detection.label], place))
    return found


def note_html(text: str) -> str:
    """A remark as HTML; empty for an empty text."""
    return f'<p class="sv-note">{escape(printable(text))}</p>' if text else ""


def error_html(text: str) -> str:
    """What is wrong, as HTML that screen readers announce."""
    return f'<p class="sv-error" role="alert">{escape(printable(text))}</p>'


def status_html(name: str, *others: str) -> str:
    """A line about an image: its name, and what else is to be said."""
    parts = (f"<b>{escape(printable(name))}</b>", *(escape(text) for text in others))
    return f'<p class="sv-status">{" · ".join(parts)}</p>'


def table_html(lines: Sequence[Row], nothing: str) -> str:
    """A table with a bar in each line, as HTML in which names are text.

    Args:
        lines: of the table; up to 100 are shown.
        nothing: text where there are none.
    """
    if not lines:
        return note_html(nothing)
    cells = []
    for row in lines[:_MOST_ROWS]:
        red, green, blue = row.colour or _BLUE
        width = 100 * min(max(row.share, 0.0), 1.0)  # NaN is 0
        swatch = row.colour and f'<span class="sv-swatch" style="background:rgb({red},{green},{blue})"></span>'
        note = f'<span class="sv-place">{escape(row.note)}</span>' if row.note else ""
        cells.append(
            f"<li>{swatch or ''}"
            f'<span class="sv-name">{escape(printable(row.name))}{note}</span>'
            f'<span class="sv-bar"><i style="width:{width:.1f}%;background:rgb({red},{green},{blue})"></i></span>'
            f'<span class="sv-value">{escape(row.value)}</span></li>'
        )
    more = f'<p class="sv-note">and {len(lines) - _MOST_ROWS} more</p>' if len(lines) > _MOST_ROWS else ""
    return f'<ul class="sv-table">{"".join(cells)}</ul>{more}'
