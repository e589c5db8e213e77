"""The files that a table names, wherever they lie below the data folder."""

import os
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from scalablevit.classification.label_table import TableError
from scalablevit.data.find_images import WalkReport, walk_images
from scalablevit.data.split import TRAIN_NAMES, VAL_NAMES
from scalablevit.data.text_file import normalised


class ImageFinder:
    """Finds the files that tables name below a data folder.

    Args:
        root: the data folder.
        images: folder in it that names start from; "auto": any folder.

    Raises:
        TableError: there is no such folder.
    """

    def __init__(self, root: Path, images: str) -> None:
        self.root = root
        self.base = root if images == "auto" else root / images
        if not self.base.is_dir():
            raise TableError(
                f"{self.base}: data.images names no folder; check the name, which starts from {root}",
                kind="missing-folder",
                path=self.base,
            )
        self._is_free = images == "auto"
        self.walk = WalkReport()
        below = "" if self._is_free else os.path.relpath(self.base, root)
        walked = (os.path.normpath(os.path.join(below, name)) for name in walk_images(self.base, self.walk))
        self._start = "" if below in ("", os.curdir) else f"{normalised(below.replace(os.sep, '/'))}/"
        # accents and separators of the table's writer may be those of another system
        self.files = {normalised(name.replace(os.sep, "/")): name for name in walked}
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for file in self.files:
            name = file.rpartition("/")[2]
            self._by_name[name].append(file)
            self._by_name[os.path.splitext(name)[0]].append(file)

    def find(self, name: str) -> list[str]:
        """Files that a name with or without its ending may mean: exactly, or in some folder; as the disk spells it."""
        own = [file for file in self._by_name[name.rpartition("/")[2]] if self._fits(file, f"/{self._start}{name}")]
        exact = [file for file in own if self._start + name in (file, os.path.splitext(file)[0])]
        return [self.files[file] for file in (exact if len(exact) == 1 or not self._is_free else own)]

    def _fits(self, file: str, end: str) -> bool:
        return any(f"/{spelled}".endswith(end) for spelled in (file, os.path.splitext(file)[0]))


def relative_name(name: str, root: Path) -> str:
    """A name of the table as a path below the data folder with forward slashes."""
    name = name.replace("\\", "/").removeprefix("./")
    if os.path.isabs(name):
        return os.path.relpath(name, root.absolute()).replace(os.sep, "/")
    return os.path.normpath(name).replace(os.sep, "/")


def of_part(files: Sequence[str], part: str) -> list[str]:
    """Files in a folder of the name of a part, where that is one."""
    names = {"train": TRAIN_NAMES, "val": VAL_NAMES[:3], "test": ("test",)}.get(part, ())
    own = [file for file in files if {folder.lower() for folder in Path(file).parent.parts} & set(names)]
    return own if len(own) == 1 else []
