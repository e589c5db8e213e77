"""What an exported file says of itself, checked before anything is built on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalablevit.data.bands import MOST_BANDS
from scalablevit.deploy.export_formats import METADATA_KEY
from scalablevit.deploy.exportable import FORMAT_VERSION, LARGEST_BATCH, LARGEST_SIDE, InputShape
from scalablevit.weights.metadata import parse_metadata
from scalablevit.weights.source import WeightsError, shortened

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_EXPORT_AGAIN = "export the run again"
_MOST_NAMES = 64


@dataclass(frozen=True, kw_only=True)
class GraphInput(InputShape):
    """The images that an exported graph takes, and how it normalises them.

    Attributes:
        mean, std: of each channel, of pixels in 0..1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Description:
    """What an exported file says of itself.

    Attributes:
        metadata: all of it.
        task: "classification", "detection", "segmentation" or "features".
        input: the images that it takes.
        outputs: names, in order.
    """

    metadata: dict[str, Any]
    task: str
    input: GraphInput
    outputs: tuple[str, ...]


def read_description(text: str | None, path: Path) -> Description:
    """Check the metadata of an exported file.

    Args:
        text: JSON, as it stands in the file; None: there is none.
        path: for messages.

    Raises:
        WeightsError: none of ours, damaged, or written by a newer version.
    """
    if text is None:
        raise WeightsError(f"{path} has no metadata of scalablevit: take a file that `scalablevit export` wrote")
    metadata = parse_metadata({METADATA_KEY: text}, path, remedy=_EXPORT_AGAIN)
    export = metadata.get("export")
    if not isinstance(export, dict):
        raise _damaged(path, "export is missing" if export is None else "export is no object")
    version = export.get("format_version")
    if not (_is_whole(version) and version >= 1):
        raise _damaged(path, f"export.format_version is {shortened(repr(version), 80)}")
    if version > FORMAT_VERSION:
        raise WeightsError(
            f"{path} was written by a newer version: its export has format {shortened(version, 40)}, and this version "
            f"reads up to {FORMAT_VERSION}; upgrade: python -m pip install -U scalablevit"
        )
    task = metadata.get("task")
    if not isinstance(task, str):
        raise _damaged(path, "task is missing")
    try:
        return Description(metadata, task, _input(export), _outputs(export))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else shortened(error, 120)
        raise _damaged(path, f"export: {reason}") from error


def _input(export: Mapping[str, Any]) -> GraphInput:
    given, normalisation = export["input"], export["normalisation"]
    layout, dtype = given["layout"], given["dtype"]
    if (layout, dtype) not in (("NHWC", "uint8"), ("NCHW", "float32")):
        raise ValueError(f"layout {shortened(layout, 20)} of {shortened(dtype, 20)} is unknown")
    mean, std = (_numbers(name, normalisation[name]) for name in ("mean", "std"))
    if len(mean) != len(std) or min(std) <= 0:
        raise ValueError("mean and std are not of the same channels, std above 0")
    size, batch = given["size"], given["batch"]
    if size != "free":
        if (
            not isinstance(size, list)
            or len(size) != 2
            or not all(_is_whole(n) and 0 < n <= LARGEST_SIDE for n in size)
        ):
            raise ValueError(f"size is {shortened(repr(size), 40)}")
        size = (size[0], size[1])
    if batch != "free" and not (_is_whole(batch) and 0 < batch <= LARGEST_BATCH):
        raise ValueError(f"batch is {shortened(repr(batch), 40)}")
    return GraphInput(
        channels=len(mean),
        takes_bytes=dtype == "uint8",
        mean=mean,
        std=std,
        size=None if size == "free" else size,
        batch=None if batch == "free" else batch,
    )


def _outputs(export: Mapping[str, Any]) -> tuple[str, ...]:
    names = export["outputs"]
    if not isinstance(names, list) or not 0 < len(names) <= _MOST_NAMES:
        raise ValueError("outputs is no list of names")
    if not all(isinstance(name, str) and len(name) <= 80 for name in names):
        raise ValueError("outputs holds more than names")
    return tuple(names)


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list) or not 0 < len(values) <= MOST_BANDS:
        raise ValueError(f"{name} is no list of numbers")
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in values):
        raise ValueError(f"{name} holds more than numbers")
    return tuple(float(x) for x in values)


def _is_whole(value: Any) -> TypeIs[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _damaged(path: Path, problem: str) -> WeightsError:
    return WeightsError(f"{path}: its metadata is damaged: {problem}; {_EXPORT_AGAIN}")
