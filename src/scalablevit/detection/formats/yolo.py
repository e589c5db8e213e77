"""YOLO's format: a text file for each image, with a line for each object in fractions of the image.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import itertools
import math
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from scalablevit.data.find_images import IMAGE_SUFFIXES, has_image_suffix, walk_images
from scalablevit.data.image_size import sizes_in_headers
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES
from scalablevit.detection.coco import AnnotationFrame, AnnotationSource, CocoError, CocoPart
from scalablevit.detection.coco.json_file import Lists

_LARGEST_FILE = 16 << 20  # bytes of a label file or a data.yaml
_NAMES_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_DARKNET_FILE = "obj.data"  # of Darknet, which CVAT writes
_MOST_LOOKED_AT, _MOST_TEXTS = 1000, 20


def recognizes(root: Path) -> bool:
    """Whether a folder is laid out as YOLO's: a YAML with names, `labels` beside `images`, or labels among images."""
    if _yaml_of(root) is not None or (root / _DARKNET_FILE).is_file():
        return True
    places = [root, *(root / name for name in (*TRAIN_NAMES, *VAL_NAMES))]
    if any(_labels_among_images(place) for place in places):
        return True
    return any((place / "images").is_dir() and _has_labels(place / "labels") for place in places)


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
    names, has_keypoints = _names(settings, folder), "kpt_shape" in settings
    read = partial(_read, folder, names=names, has_keypoints=has_keypoints, upright=frame == "upright")
    parts = []
    for given, key, words in (
        (source.train_images, "train", TRAIN_NAMES),
        (source.val_images, "val", VAL_NAMES),
    ):
        listed = settings.get(key)
        if key == "train" and source.only_evaluates and (source.val_images or settings.get("val")):
            listed = given = None  # the training data may be elsewhere
        files = list(_images(folder, base, given, listed, words))
        parts.append(CocoPart(file or folder, [folder], partial(read, files), frame) if files else None)
    train, val = parts
    if train is None and val is None:  # one folder of images, to be split
        place = folder / "images" if (folder / "images").is_dir() else folder
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
    for base in (file.parent / given, Path(given)) if isinstance(given, str) and given else ():
        if base.is_dir():
            return base
    return file.parent


def _names(settings: dict[str, Any], folder: Path) -> list[str] | None:
    names = settings.get("names")
    if isinstance(names, dict) and names and all(key.isdecimal() and len(key) < 6 for key in names):
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


def _images(folder: Path, base: Path, given: str | Path | None, listed: Any, words: Sequence[str]) -> Iterator[Path]:
    """Image files of a part."""
    if given is not None:
        places: list[Path] = [folder / given]
    elif listed:
        # Roboflow writes ../train/images where the folder is beside the YAML.
        names = [name for name in (listed if isinstance(listed, list) else [listed]) if isinstance(name, str)]
        places = [path for name in names for path in _existing(base, name)]
        if len(places) < len(names):
            missing = next(name for name in names if not _existing(base, name))
            raise CocoError(
                f"{base}: the part {words[0]!r} is said to be {missing!r}, which is not there; correct it in the YAML, "
                f"remove it, or name the folder with {words[0]}_images",
                kind="missing-folder",
                path=base,
            )
    else:
        known = [folder / "images" / word for word in words] + [folder / word / "images" for word in words]
        beside = [folder / word for word in words if _labels_among_images(folder / word)]
        places = [*(place for place in known if place.is_dir()), *beside][:1]
    for place in places:
        if place.is_dir():
            yield from (place / name for name in walk_images(place))
        elif place.is_file() and place.suffix.lower() == ".txt" and place.stat().st_size < _LARGEST_FILE:
            lines = place.read_text(encoding="utf-8-sig", errors="replace").splitlines()
            yield from (path for line in lines if line.strip() for path in _existing(place.parent, line.strip()))
        elif place.suffix.lower() in IMAGE_SUFFIXES:
            yield place


def _existing(base: Path, name: str) -> list[Path]:
    inside = name
    while inside.startswith(("../", "./")):
        inside = inside.partition("/")[2]
    # Darknet's paths start from its own folder "data".
    for path in (base / name, base / inside, Path(name), base / inside.removeprefix("data/")):
        if path.exists():
            return [path]
    return []


def _has_labels(folder: Path) -> bool:
    return folder.is_dir() and next(folder.rglob("*.txt"), None) is not None


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
    annotations: list[Any] = []
    highest, above_one = -1, 0
    for file, known_size in zip(files, sizes_in_headers(files, upright=upright), strict=True):
        name = _relative(root, file)
        size = known_size or (0, 0)
        images.append({"id": name, "file_name": name, "width": size[0], "height": size[1]})
        labels = _label_file(file)
        if not labels.is_file():
            continue  # an image without objects
        if labels.stat().st_size > _LARGEST_FILE:
            raise CocoError(f"{labels}: the label file has over 16 MiB; export it again", kind="bad-label", path=labels)
        label_name = _relative(root, labels)
        for number, line in enumerate(labels.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
            if not line.strip():
                continue
            if has_keypoints:
                line = " ".join(line.split()[:5])
            entry = {"id": f"{label_name}:{number}", "image_id": name, **_object(line, *size)}
            above_one += entry.pop("above_one", 0)
            highest = max(highest, entry["category_id"] if isinstance(entry["category_id"], int) else -1)
            annotations.append(entry)
    if not annotations:
        raise CocoError(
            f"{root}: none of {len(files):,} images has an object; label files are looked for as "
            f"{_label_file(files[0])}; put them there, or export them again",
            kind="no-annotations",
            path=root,
        )
    if above_one > len(annotations) / 2:
        raise CocoError(
            f"{root}: {above_one:,} of {len(annotations):,} lines have numbers above 1: YOLO's boxes are fractions of "
            "the image (class, centre x, centre y, width, height); divide pixels by the width and height of the image",
            kind="pixel-boxes",
            path=root,
        )
    listed = names if names is not None else [str(i) for i in range(min(highest, 1 << 16) + 1)]
    return Lists(images, annotations, [{"id": i, "name": name} for i, name in enumerate(listed)])


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
