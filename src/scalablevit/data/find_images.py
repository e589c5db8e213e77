"""Find image files in files, folders and globs, and tell what is left out."""

import fnmatch
import glob
import importlib.util
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from scalablevit.abridged import abridged
from scalablevit.data.image_file import PLUGINS

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"}
    | {suffix for name, suffixes, _ in PLUGINS if importlib.util.find_spec(name) is not None for suffix in suffixes}
)
"""Lower-case file name endings that count as images; compare with `path.suffix.lower()`."""

_EXAMPLES = 3
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"8BPS", b"\xff\x0a", b"\0\0\0\x0cJXL ")
_BRANDS = (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"crx ")
_EXTRAS = {".heic": "heif", ".heif": "heif", ".jxl": "jxl"}


class Remark(NamedTuple):
    """Something to tell about a search for images.

    Fields:
        kind: one word that programs can sort by.
        path: file or folder.
        message: what was found, what is done about it, and what to do.
    """

    kind: str
    path: str
    message: str


@dataclass
class WalkReport:
    """What a search for images left out.

    Args:
        left_out: lower-case file name ending -> number of files whose names do not end like an image's.
        special: pipes, sockets and devices that are called like images.
        repeated_links: links to folders that were searched already, or hold the folder that is searched.
        closed: folders that may not be read.
        visited: numbers of the real folders that were searched.
    """

    left_out: Counter[str] = field(default_factory=Counter)
    special: list[str] = field(default_factory=list)
    repeated_links: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    visited: set[tuple[int, int]] = field(default_factory=set)
    _examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def leave_out(self, path: str) -> None:
        """Count a file whose name does not end like an image's."""
        suffix = os.path.splitext(path)[1].lower()
        self.left_out[suffix] += 1
        if len(self._examples[suffix]) < _EXAMPLES:
            self._examples[suffix].append(path)

    def listed(self) -> str:
        """The endings with their numbers, the most frequent first, such as `40 .heic, 3 .txt`."""
        return ", ".join(f"{count:,} {suffix or 'without ending'}" for suffix, count in self.left_out.most_common())

    def remarks(self) -> list[Remark]:
        """What a user should know; files that do not look like images are not worth a remark."""
        found = []
        for suffix, count in self.left_out.most_common():
            example = next(filter(_looks_like_image, self._examples[suffix]), None)
            if example is None:
                continue
            extra = _EXTRAS.get(suffix)
            remedy = "convert them to JPEG or PNG" if suffix else "give them the ending of their format"
            if extra is not None:
                remedy = f"pip install 'scalablevit[{extra}]' to read them, or {remedy}"
            what = f"files ending in {suffix}" if suffix else "files without ending"
            message = f"{example}: {count:,} {what} are left out, though they look like images; {remedy}"
            found.append(Remark("left-out", example, message))
        for kind, paths, what, remedy in (
            ("special-file", self.special, "pipes, sockets or devices, which are left out", "remove them"),
            (
                "repeated-link",
                self.repeated_links,
                "links to folders that are searched already, which are not followed",
                "remove them, so that nobody counts on them",
            ),
            (
                "closed-folder",
                self.closed,
                "folders that may not be read, which are left out",
                "change their permissions",
            ),
        ):
            if paths:
                message = f"{abridged(paths, 3)}: {what}; {remedy}"
                found.append(Remark(kind, paths[0], message))
        return found


def find_images(
    inputs: Sequence[str | Path], *, recursive: bool = True, report: WalkReport | None = None
) -> list[Path]:
    """List the images that files, folders and glob patterns stand for, sorted and without repeats.

    A file is taken whatever its name ends in; folders and patterns give the files whose ending is in
    `IMAGE_SUFFIXES`, hidden ones (name starts with a dot) left out. `~` is expanded.

    Args:
        inputs: paths of files or folders, or patterns with `*`, `?`, `[...]` and `**`.
        recursive: search subfolders too, and let `**` in a pattern cross folders.
        report: gets what is left out.

    Raises:
        ValueError: `inputs` is empty, or one of them matches no image.
    """
    if isinstance(inputs, str | Path):
        inputs = [inputs]
    if len(inputs) == 0:
        raise ValueError("no input was given: name image files, folders or glob patterns")
    found: dict[str, Path] = {}
    for given in inputs:
        part = WalkReport()
        matches = list(_matches(Path(given).expanduser(), recursive=recursive, report=part))
        if not matches:
            raise ValueError(_nothing_found(given, recursive=recursive, report=part))
        if report is not None:
            _add(report, part)
        for path in matches:
            found.setdefault(os.path.abspath(path), path)
    return sorted(found.values())


def as_paths(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    """One path, or several, as an iterator; a string is one path, never its characters."""
    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    return map(Path, paths)


def walk_images(folder: str | Path, report: WalkReport | None = None) -> Iterator[str]:
    """List relative paths of all images below a folder, in a stable order.

    Links to folders are followed, but each real folder is searched once: by its own path where it has one below
    `folder`, else by the first link to it. Links to a folder that holds `folder` are not followed. Hidden files and
    folders are left out: macOS leaves `._name.jpg` files that are no images. So are pipes, sockets and devices.

    Paths are strings, since data sets have millions of files and a `Path` for each is slow.

    Args:
        folder: to search.
        report: gets what is left out.
    """
    report = WalkReport() if report is None else report
    if not os.path.isdir(folder):
        return
    root = _Folder(os.fspath(folder))
    here = os.path.realpath(folder)
    visited = report.visited = {_identity(here)}
    above = {_identity(parent) for parent in Path(here).parents}
    links: list[tuple[_Folder, str]] = []
    _search(root, visited, links, report)
    # Links come last, so that none takes the place of the folder that it leads to.
    while links:
        parent, name = links.pop(0)
        path = os.path.join(parent.path, name)
        identity = _identity(path)
        if identity in visited or identity in above:
            report.repeated_links.append(path)
            continue
        visited.add(identity)
        parent.subfolders[name] = _Folder(path)
        _search(parent.subfolders[name], visited, links, report)
    yield from _flattened(root)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder, or a link to one; a link that leads in a circle is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def is_file(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a regular file, or a link to one; a link that leads in a circle is none."""
    return os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()


def has_image_suffix(name: str) -> bool:
    """Tell whether a file name ends like an image's."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


class _Folder:
    """A folder that was searched: names of its images, and its subfolders by name."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.images: list[str] = []
        self.subfolders: dict[str, _Folder] = {}


def _search(top: _Folder, visited: set[tuple[int, int]], links: list[tuple[_Folder, str]], report: WalkReport) -> None:
    """Search a folder and the real folders below it; links to folders are noted."""
    todo = [top]
    while todo:
        folder = todo.pop()
        try:
            with os.scandir(folder.path) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            report.closed.append(folder.path)
            continue
        for entry in listed:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                identity = _identity(entry.path)
                if identity in visited:  # mounted twice
                    report.repeated_links.append(entry.path)
                    continue
                visited.add(identity)
                folder.subfolders[entry.name] = _Folder(entry.path)
                todo.append(folder.subfolders[entry.name])
            elif is_folder(entry):
                links.append((folder, entry.name))
            elif not has_image_suffix(entry.name):
                report.leave_out(entry.path)
            # A link to nothing is an image that cannot be read, and reported as such.
            elif is_file(entry) or (entry.is_symlink() and not os.path.exists(entry.path)):
                folder.images.append(entry.name)
            else:
                report.special.append(entry.path)


def _flattened(root: _Folder) -> Iterator[str]:
    """List images of a folder, then those of its subfolders, by relative paths."""
    todo = [("", root)]
    while todo:
        prefix, folder = todo.pop()
        for name in folder.images:
            yield os.path.join(prefix, name)
        deeper = [(os.path.join(prefix, name), folder.subfolders[name]) for name in sorted(folder.subfolders)]
        todo.extend(reversed(deeper))


def _identity(path: str | Path) -> tuple[int, int]:
    """Numbers that are equal for paths to the same folder."""
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _add(report: WalkReport, part: WalkReport) -> None:
    report.left_out.update(part.left_out)
    report.special += part.special
    report.repeated_links += part.repeated_links
    report.closed += part.closed
    for suffix, examples in part._examples.items():
        report._examples[suffix] += examples


def _looks_like_image(path: str) -> bool:
    """Tell by the first bytes whether a regular file is an image, of a format that is read or not."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            head = file.read(16)
    except OSError:
        return False
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith(_MAGIC) or is_webp or (head[4:8] == b"ftyp" and head[8:12] in _BRANDS)


def _matches(given: Path, *, recursive: bool, report: WalkReport) -> Iterable[Path]:
    if given.is_file():
        return [given]
    if given.is_dir():
        return _in_folder(given, recursive=recursive, report=report)
    # A name that exists was handled above, so that "photo[1].jpg" is a file before it is a pattern.
    if recursive and "**" in given.parts:
        return _across_folders(given, report)
    paths = [Path(name) for name in glob.glob(str(given), recursive=recursive)]
    images = [path for path in paths if has_image_suffix(path.name) and path.is_file()]
    if recursive:
        for folder in paths:
            if folder.is_dir():
                images.extend(_in_folder(folder, recursive=True, report=report))
    return images


def _across_folders(pattern: Path, report: WalkReport) -> list[Path]:
    """List the images that a pattern with `**` matches, or whose folder it matches.

    Python's own glob follows links in circles.
    """
    first = next(i for i, part in enumerate(pattern.parts) if glob.has_magic(part))
    base, steps = Path(*pattern.parts[:first]), pattern.parts[first:]
    own = WalkReport()
    names = [name for name in walk_images(base, own) if _matches_or_is_below(Path(name).parts, steps)]
    report.repeated_links += own.repeated_links
    return [base / name for name in names]


def _matches_or_is_below(parts: Sequence[str], steps: Sequence[str]) -> bool:
    """Tell whether a path, or a folder that holds it, is matched by a pattern, both cut into their parts."""
    if not steps:
        return True
    if steps[0] == "**":
        return any(_matches_or_is_below(parts[skipped:], steps[1:]) for skipped in range(len(parts) + 1))
    if not parts or not fnmatch.fnmatchcase(parts[0], steps[0]):
        return False
    return _matches_or_is_below(parts[1:], steps[1:])


def _in_folder(folder: Path, *, recursive: bool, report: WalkReport) -> list[Path]:
    if recursive:
        return [folder / name for name in walk_images(folder, report)]
    images = []
    for path in folder.iterdir():
        if path.name.startswith(".") or path.is_dir():
            continue
        if not has_image_suffix(path.name):
            report.leave_out(str(path))
        elif path.is_file() or not path.exists():
            images.append(path)
        else:
            report.special.append(str(path))
    return images


def _nothing_found(given: str | Path, *, recursive: bool, report: WalkReport) -> str:
    path = Path(given).expanduser()
    endings = " ".join(sorted(IMAGE_SUFFIXES))
    remarks = "".join(f". {remark.message}" for remark in report.remarks())
    if path.is_dir():
        where = "in it or its subfolders" if recursive else "directly in it (subfolders were not searched)"
        return f"{given}: the folder has no images {where}; looked for names ending in {endings}{remarks}"
    if glob.has_magic(str(given)):
        return f"{given}: the pattern matches no images; check it, and quote it so that the shell keeps it{remarks}"
    if path.exists():
        return f"{given}: this is neither a file nor a folder; name a file"
    return f"{given}: there is no such file or folder; check the path"
