"""Find the images that a command line names; an input that is none does not stop the others."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from glob import has_magic
from pathlib import Path

_VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv"}


@dataclass(frozen=True)
class ImageInput:
    """An image, and the folder that names of results are relative to.

    Attributes:
        path: of the image.
        root: the input folder that holds it, or the folder of a file that was named itself.
    """

    path: Path
    root: Path


def expand(
    inputs: Sequence[str], on_error: Callable[[str], None], on_remark: Callable[[str], None] | None = None
) -> list[ImageInput]:
    """List the images that files, folders and patterns stand for, sorted and without repeats.

    Args:
        inputs: as the user gave them.
        on_error: is told of each input that stands for no image.
        on_remark: is told what an input holds that is left out.
    """
    from scalablevit.data.find_images import WalkReport, find_images

    found: dict[str, ImageInput] = {}
    for given in inputs:
        report = WalkReport()
        try:
            refuse_other_media(given)
            paths = find_images([given], report=report)
        except (ValueError, OSError) as error:
            on_error(str(error))
            continue
        if on_remark is not None:
            for remark in report.remarks():
                on_remark(f"warning: {remark.message}")
            if report.left_out:
                on_remark(f"{given}: left out, as no images by their names: {report.listed()}")
        root = _root(given)
        for path in paths:
            found.setdefault(os.path.abspath(path), ImageInput(path, root))
    return sorted(found.values(), key=lambda image: image.path)


def refuse_other_media(given: str) -> None:
    """Say how to predict a URL or a video.

    Raises:
        ValueError: it is one.
    """
    if given.lower().startswith(("http://", "https://", "ftp://", "s3://", "gs://", "rtsp://")):
        raise ValueError(f"{given}: predict reads files; download it first, for example with curl -O")
    if Path(given).suffix.lower() in _VIDEOS:
        frames = f"ffmpeg -i {given} frames/%06d.png"
        raise ValueError(f"{given}: this is a video; extract its frames and predict their folder: {frames}")


def relative_stems(images: Sequence[ImageInput]) -> dict[Path, Path]:
    """Name results after their images: path -> relative path without ending, unique for each.

    Subfolders of an input folder stay; of several inputs, the folders below the one that holds them all. Images that
    differ in their ending only keep it.
    """
    roots = sorted({os.path.abspath(image.root) for image in images})
    try:
        common = os.path.commonpath(roots) if roots else ""
    except ValueError:  # on different drives
        common = ""
    relative = {image.path: _relative(image.path, common) for image in images}
    stems: dict[str, int] = {}
    for path in relative.values():
        key = os.path.normcase(path.with_suffix(""))
        stems[key] = stems.get(key, 0) + 1
    return {
        path: name.with_suffix("") if stems[os.path.normcase(name.with_suffix(""))] == 1 else name
        for path, name in relative.items()
    }


def _relative(path: Path, common: str) -> Path:
    absolute = os.path.abspath(path)
    if common and Path(absolute).is_relative_to(common):
        return Path(os.path.relpath(absolute, common))
    return Path(*Path(absolute).parts[-2:])


def _root(given: str) -> Path:
    """The folder, or that of a file, or of a pattern the folder before its first wildcard."""
    path = Path(given).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        return path.parent
    steps = []
    for part in path.parts[:-1]:
        if has_magic(part):
            break
        steps.append(part)
    return Path(*steps)
