"""YOLO's format: a text file for each image, with a line for each object in fractions of the image.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import itertools
import math
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from scalablevit.data.find_images import has_image_suffix, walk_images
from scalablevit.data.image_size import sizes_in_headers
from scalablevit.data.path_names import with_slashes
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES
from scalablevit.detection.coco import AnnotationFrame, AnnotationSource, CocoError, CocoPart
from scalablevit.detection.coco.json_file import Lists, Note
from scalablevit.detection.formats.yolo_images import folder_called, images_of_part
from scalablevit.detection.formats.yolo_numbers import hold_keypoints, look_like_corners

_LARGEST_FILE = 16 << 20  # bytes of a label file or a data.yaml
_NAMES_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_DARKNET_FILE = "obj.data"  # of Darknet, which CVAT writes
_MOST_LOOKED_AT, _MOST_TEXTS = 1000, 20


def recognizes(root: Path) -> bool:
    """Whether a folder is laid out as YOLO's: a YAML with names, `labels` beside `images`, or labels among images."""
    if _yaml_of(root) is not None or (root / _DARKNET_FILE).is_file():
        return True
    places = [root, *(place for name in (*TRAIN_NAMES, *VAL_NAMES) if (place := folder_called(root, name)) is not None)]
    if any(_labels_among_images(place) for place in places):
        return True
    return any(
        folder_called(place, "images") is not None and _has_labels(folder_called(place, "labels")) for place in places
    )


def find_parts(root: Path, source: AnnotationSource) -> tuple[CocoPart | None, CocoPart | None]:
    """Find the images of training and validation.

    Args:
        root: the data folder, or its YAML.
        source: `train_annotations` may name the YAML; `train_images` and `val_images` replace what it says.

    Raises:
        CocoError: the YAML cannot be used.
    """
    named = source.train_annotations if isinstance(source.train_annotations, str | Path) else None
    file = root if root.is_file() else (root / named if named is not None else _yaml_of(root))
    folder = root.parent if root.is_file() else root
    settings = _read_darknet(folder / _DARKNET_FILE) if file is None else _read_yaml(file)
    base = folder if file is None else _base(file, settings)
    # Trainers of YOLO read images upright, and so do the tools that label for them.
    frame: AnnotationFrame = "upright" if source.annotation_frame == "auto" else source.annotation_frame
    names, has_keypoints = _names(settings, folder, file), "kpt_shape" in settings
    read = partial(_read, folder, names=names, has_keypoints=has_keypoints, upright=frame == "upright")
    parts = []
    for given, key, words in (
        (source.train_images, "train", TRAIN_NAMES),
        (source.val_images, "val", VAL_NAMES),
    ):
        listed = settings.get(key)
        if key == "train" and source.only_evaluates and (source.val_images or settings.get("val")):
            listed = given = None  # the training data may be elsewhere
        files = images_of_part(folder, base, given, listed, words, has_labels=_labels_among_images)
        parts.append(CocoPart(file or folder, [folder], partial(read, files), frame) if files else None)
    train, val = parts
    if train is None and val is None:  # one folder of images, to be split
        place = folder_called(folder, "images") or folder
        files = [place / name for name in walk_images(place)]
        train = CocoPart(file or folder, [folder], partial(read, files), frame) if files else None
    return train, val


def _yaml_of(root: Path) -> Path | None:
    """The YAML of a folder that names classes; of several the one with a training part, `data.yaml` first."""
    found: list[tuple[bool, bool, Path]] = []
    for file in sorted([*root.glob("*.yaml"), *root.glob("*.yml")]):
        if file.is_file() and file.stat().st_size < _LARGEST_FILE:
            text = file.read_text(encoding="utf-8", errors="replace")
            keys = {line.partition(":")[0] for line in text.splitlines() if ":" in line}
            if "names" in keys:
                found.append(("train" not in keys, file.stem != "data", file))
    return min(found)[2] if found else None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > _LARGEST_FILE:
            raise _refused(file, f"has {file.stat().st_size:,} bytes")
        text = file.read_text(encoding="utf-8-sig")
        if "&" in text and "*" in text:
            # Aliases of aliases grow without bound, and no data.yaml needs one.
            tokens = yaml.scan(text, Loader=yaml.SafeLoader)
            if any(isinstance(token, yaml.AliasToken) for token in tokens):
                raise _refused(file, "uses YAML aliases")
        settings = yaml.safe_load(text)
        if isinstance(settings, dict):  # a class may be called "no" or "007", which YAML takes for false and 7
            settings["names"] = yaml.load(text, Loader=yaml.BaseLoader).get("names")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise _refused(file, f"cannot be read ({type(error).__name__})") from None
    if not isinstance(settings, dict):
        raise _refused(file, "holds no keys")
    return settings


def _read_darknet(file: Path) -> dict[str, Any]:
    """Lists of images that Darknet's file of settings names, as a YAML would."""
    if not file.is_file() or file.stat().st_size > _LARGEST_FILE:
        return {}
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    pairs = {key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)}
    return {key: pairs[name] for key, name in (("train", "train"), ("val", "valid")) if pairs.get(name)}


def _refused(file: Path, why: str) -> CocoError:
    return CocoError(f"{file}: the YAML {why}; write 'train', 'val' and 'names' into it", kind="bad-yaml", path=file)


def _base(file: Path, settings: dict[str, Any]) -> Path:
    """The folder that paths of the YAML start from."""
    given = settings.get("path")
    if isinstance(given, str) and given:
        for base in (file.parent / given, Path(given), file.parent / with_slashes(given)):
            if base.is_dir():
                return base
    return file.parent


def _names(settings: dict[str, Any], folder: Path, file: Path | None) -> list[str] | None:
    """Names of the classes by number; None where there are none.

    Raises:
        CocoError: names that stand by other words than numbers.
    """
    names = settings.get("names")
    if isinstance(names, dict) and names:
        if not all(_is_number(key) for key in names) and all(_is_number(value) for value in names.values()):
            names = {str(number): name for name, number in names.items()}
        if not all(_is_number(key) for key in names):
            odd = next(key for key in names if not _is_number(key))
            message = f"{file}: 'names' has a class under {odd!r}, not under its number; write 0: NAME, 1: NAME, ..."
            raise CocoError(message, kind="bad-yaml", path=file or folder)
        by_index = {int(key): str(name) for key, name in names.items()}
        return [by_index.get(i, str(i)) for i in range(max(by_index) + 1)]
    if isinstance(names, list) and names:
        return [str(name) for name in names]
    for place in (folder, folder / "labels"):
        for name in _NAMES_FILES:
            if (place / name).is_file() and (place / name).stat().st_size < _LARGEST_FILE:
                lines = (place / name).read_text(encoding="utf-8-sig", errors="replace").splitlines()
                return [line.strip() for line in lines if line.strip()]
    return None


def _is_number(word: Any) -> bool:
    return isinstance(word, str) and word.isdecimal() and len(word) < 6


def _has_labels(folder: Path | None) -> bool:
    return folder is not None and next(folder.rglob("*.txt"), None) is not None


def _labels_among_images(folder: Path) -> bool:
    """Whether images of a folder have text files with boxes beside them."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in itertools.islice(entries, _MOST_LOOKED_AT) if entry.is_file())
    stems = {os.path.splitext(name)[0] for name in names if has_image_suffix(name)}
    texts = [name for name in names if name.lower().endswith(".txt") and os.path.splitext(name)[0] in stems]
    return any(_starts_with_box(folder / name) for name in texts[:_MOST_TEXTS])


def _starts_with_box(file: Path) -> bool:
    with file.open(encoding="utf-8-sig", errors="replace") as lines:
        entry = _object(lines.readline(10_000), 1, 1)
    return isinstance(entry["bbox"], list) and not entry["above_one"]


def _label_file(image: Path) -> Path:
    """`images` in the path becomes `labels`, the last one; otherwise the file lies beside the image."""
    parts = list(image.parts)
    places = [image]
    for i in range(len(parts) - 2, -1, -1):
        if parts[i].lower() == "images":
            places = [Path(*parts[:i], name, *parts[i + 1 :]) for name in ("labels", "Labels")]
            break
    candidates = [place.with_suffix(suffix) for suffix in (".txt", ".TXT") for place in places]
    return next((file for file in candidates if file.is_file()), candidates[0])


def _read(root: Path, files: Sequence[Path], *, names: list[str] | None, has_keypoints: bool, upright: bool) -> Lists:
    """Images, annotations and categories, as COCO has them; ids of annotations are FILE:LINE.

    Where there are keypoints, they stand behind the box; they would be taken for an outline.
    """
    images: list[Any] = []
    lines: list[tuple[str, str, tuple[int, int], str]] = []  # id, image, its size, text
    unlabelled: list[Path] = []
    used: set[Path] = set()
    for file, known_size in zip(files, sizes_in_headers(files, upright=upright), strict=True):
        name = _relative(root, file)
        size = known_size or (0, 0)
        images.append({"id": name, "file_name": name, "width": size[0], "height": size[1]})
        labels = _label_file(file)
        if not labels.is_file():
            unlabelled.append(file)  # an image without objects
            continue
        used.add(labels)
        label_name = _relative(root, labels)
        lines += [(f"{label_name}:{number}", name, size, line) for number, line in _lines(labels)]
    if not lines:
        raise CocoError(
            f"{root}: none of {len(files):,} images has an object; label files are looked for as "
            f"{_label_file(files[0])}; put them there, or export them again",
            kind="no-annotations",
            path=root,
        )
    numbers = [_numbers(line) for _, _, _, line in lines]
    notes = _label_notes(root, files, unlabelled, used)
    if not has_keypoints and (found := hold_keypoints(numbers)):
        has_keypoints = True
        notes.append(Note("keypoints", files[0].parent, f"{files[0].parent}: {found}"))
    if found := look_like_corners(numbers):
        notes.append(Note("corner-boxes", files[0].parent, f"{files[0].parent}: {found}"))
    annotations: list[Any] = []
    highest, above_one = -1, 0
    for line_id, name, size, line in lines:
        text = " ".join(line.split()[:5]) if has_keypoints else line
        entry = {"id": line_id, "image_id": name, **_object(text, *size)}
        above_one += entry.pop("above_one", 0)
        highest = max(highest, entry["category_id"] if isinstance(entry["category_id"], int) else -1)
        annotations.append(entry)
    if above_one > len(annotations) / 2:
        raise CocoError(
            f"{root}: {above_one:,} of {len(annotations):,} lines have numbers above 1: YOLO's boxes are fractions of "
            "the image (class, centre x, centre y, width, height); divide pixels by the width and height of the image",
            kind="pixel-boxes",
            path=root,
        )
    listed = names if names is not None else [str(i) for i in range(min(highest, 1 << 16) + 1)]
    categories = [{"id": i, "name": name} for i, name in enumerate(listed)]
    return Lists(images, annotations, categories, notes=tuple(notes), boxes="centres")


def _lines(labels: Path) -> list[tuple[int, str]]:
    """Lines of a label file that are not empty, with their numbers from 1 on."""
    if labels.stat().st_size > _LARGEST_FILE:
        raise CocoError(f"{labels}: the label file has over 16 MiB; export it again", kind="bad-label", path=labels)
    text = labels.read_text(encoding="utf-8-sig", errors="replace")
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _label_notes(root: Path, files: Sequence[Path], unlabelled: Sequence[Path], used: set[Path]) -> list[Note]:
    """Label files without an image, and images without a label file where these are many."""
    notes = []
    images_of: dict[Path, set[Path]] = {}  # folder of labels -> folders of images
    for file in files:
        images_of.setdefault(_label_file(file).parent, set()).add(file.parent)
    for folder, places in sorted(images_of.items()):
        there = {stem for place in places for stem in _stems(place)}
        for file in sorted(folder.glob("*.txt")):
            if file not in used and file.stem not in there and _starts_with_box(file):
                message = f"{file}: there is no image of this name that can be read"
                notes.append(Note("label-without-image", file, message))
    if len(unlabelled) > len(files) / 2:
        message = f"{root}: {len(unlabelled):,} of {len(files):,} images have no label file, such as {unlabelled[0]}"
        notes.append(Note("no-label-file", root, f"{message}; looked for {_label_file(unlabelled[0])}"))
    return notes


def _stems(folder: Path) -> set[str]:
    """Names of the images in a folder without their endings."""
    try:
        with os.scandir(folder) as entries:
            return {os.path.splitext(entry.name)[0] for entry in entries if has_image_suffix(entry.name)}
    except OSError:
        return set()


def _numbers(line: str) -> list[float]:
    """Numbers of a line behind the class; none where one of its words is no finite number."""
    try:
        values = [float(word) for word in line.split()[1:]]
    except ValueError:
        return []
    return values if all(math.isfinite(value) for value in values) else []


def _object(line: str, width: int, height: int) -> dict[str, Any]:
    """Category, box and outline of a line; a box that cannot be read stays as it is, for the message."""
    words = line.split()
    try:
        values = [float(word) for word in words]
    except ValueError:
        values = []
    numbers = values[1:]
    is_box, is_outline = len(numbers) in (4, 5), len(numbers) >= 6 and len(numbers) % 2 == 0
    if not values or not (is_box or is_outline) or not all(math.isfinite(value) for value in values):
        return {"category_id": 0 if not values else _class(values[0]), "bbox": line[:80]}
    above_one = int(max(numbers[:4]) > 1.5)
    entry: dict[str, Any] = {"category_id": _class(values[0]), "above_one": above_one}
    if is_box:  # a fifth number is the confidence of a prediction
        x, y, w, h = numbers[:4]
        left, top, w, h = (x - w / 2) * width, (y - h / 2) * height, w * width, h * height
        return {**entry, "bbox": [left, top, w, h], "area": w * h}
    xs, ys = [x * width for x in numbers[::2]], [y * height for y in numbers[1::2]]
    outline = [value for point in zip(xs, ys, strict=True) for value in point]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return {**entry, "bbox": box, "segmentation": [outline]}


def _class(value: float) -> Any:
    return int(value) if value.is_integer() and abs(value) < 1 << 31 else value


def _relative(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else file.as_posix()
