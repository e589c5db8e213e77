"""Which classes a data folder's masks have, and which label is which: from its files, or from the labels found.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from scalablevit.abridged import abridged
from scalablevit.segmentation.class_names import find_class_file, read_class_names
from scalablevit.segmentation.label_map import LabelMap
from scalablevit.segmentation.label_map_file import LabelMapFile, find_label_map, read_label_map
from scalablevit.segmentation.labels import IGNORED, names_of_labels, why_shades
from scalablevit.segmentation.mask_settings import MaskSettings


@dataclass(frozen=True)
class MaskClasses:
    """Classes of a data folder.

    Args:
        names: by class index.
        label_map: which label of a mask is which class.
        named_by: file that says so; None: classes are numbered after the labels found.
    """

    names: list[str]
    label_map: LabelMap
    named_by: Path | None

    def why_shades(self, found: Collection[int]) -> str | None:
        """Tell that the labels found look like shades of gray; None where they do not, or a file names the classes."""
        if self.named_by is not None:
            return None
        labels = sorted(label for label in found if self.label_map.class_of(label) not in (None, IGNORED))
        return why_shades(labels, len(self.names))


class ClassSource:
    """Where the classes of a data folder come from; says how to read its masks before any is read.

    Args:
        root: the data folder.
        settings: files and labels named by the user.

    Raises:
        ValueError: a file is missing or has an unknown form, or settings contradict each other.
    """

    def __init__(self, root: Path, settings: MaskSettings) -> None:
        self.root, self.settings = root, settings
        named = settings.class_names_file
        self.class_file = Path(named).expanduser() if named is not None else find_class_file(root)
        self.map_path = find_label_map(root) if settings.label_map == "auto" else _path(settings.label_map)
        self.map_file: LabelMapFile | None = None
        if self.map_path is not None:
            self.map_file = read_label_map(self.map_path)
            self._refuse_contradictions(self.map_path, self.map_file)

    @property
    def in_colours(self) -> bool:
        """Whether labels are colours."""
        if self.map_file is not None:
            return self.map_file.in_colours
        trained = self.settings.label_map_of_network
        return self.path is None and trained is not None and trained.in_colours

    @property
    def path(self) -> Path | None:
        """The file that says which classes there are; None: the labels of all masks say so."""
        return self.map_path or self.class_file

    def classes(self, found: Collection[int] = ()) -> MaskClasses:
        """Name and number the classes.

        Args:
            found: every label of the masks; needed where there is no file.

        Raises:
            ValueError: the files or the labels found leave no classes.
        """
        settings = self.settings
        if self.map_file is not None:
            assert self.map_path is not None
            return self._by_label_map(self.map_path, self.map_file)
        if self.class_file is not None:
            names = read_class_names(
                self.class_file, reduce_zero_label=settings.reduce_zero_label, ignore_labels=settings.ignored
            )
        else:
            names = names_of_labels(found, reduce_zero_label=settings.reduce_zero_label, ignore_labels=settings.ignored)
        label_map = LabelMap(len(names), settings.reduce_zero_label, settings.ignored)
        return MaskClasses(names, label_map, self.class_file)

    def classes_of_network(self, trained: Sequence[str], found: Collection[int]) -> MaskClasses:
        """Map the labels of data on which a network is evaluated to the network's classes, by their names.

        Args:
            trained: classes of the network, by index.
            found: labels that occur in the masks that were read; a class of another one that the network has not is no
                label of the map, so that it is not ignored in silence.

        Raises:
            ValueError: the data have classes, with pixels, that the network has not.
        """
        settings = self.settings
        if self.path is None:  # labels are numbered as those that the network was trained on
            label_map = settings.label_map_of_network
            if label_map is None:
                label_map = LabelMap(len(trained), settings.reduce_zero_label, settings.ignored)
            return MaskClasses(list(trained), label_map, None)
        own = self.classes()
        index_of = {unicodedata.normalize("NFC", name): index for index, name in enumerate(trained)}
        entries = []
        unknown: dict[str, None] = {}
        for label, index in sorted(own.label_map.by_label.items()):
            target = IGNORED if index == IGNORED else index_of.get(unicodedata.normalize("NFC", own.names[index]))
            if target is not None:
                entries.append((label, target))
            elif label in found:
                unknown[own.names[index]] = None
        if not entries:  # not one class in common
            unknown = dict.fromkeys(own.names)
        if unknown:
            raise ValueError(
                f"{self.path}: {len(unknown)} classes are not among the {len(trained)} of the network "
                f"({abridged(map(repr, trained), 8)}): {abridged(map(repr, unknown), 8)}; name them as the network "
                "does, or ignore them by a label_map or ignore_labels"
            )
        label_map = LabelMap(
            len(trained), ignore_labels=(), entries=tuple(entries), in_colours=own.label_map.in_colours
        )
        return MaskClasses(list(trained), label_map, self.path)

    def _by_label_map(self, path: Path, file: LabelMapFile) -> MaskClasses:
        """Classes in the order of a class file that was named, or that names the same ones; else of the label map."""
        ignored = () if file.in_colours else self.settings.ignored
        names = file.class_names or [f"class {index}" for index in range(file.num_classes)]
        if self.class_file is not None:
            listed = read_class_names(self.class_file)
            if self.settings.class_names_file is not None or set(listed) == set(names) or file.class_names is None:
                try:
                    return MaskClasses(listed, file.ordered_as(listed, ignored), path)
                except ValueError as error:
                    raise ValueError(f"{self.class_file} and {path}: {error}") from None
        return MaskClasses(names, file.label_map(ignored), path)

    def _refuse_contradictions(self, path: Path, file: LabelMapFile) -> None:
        settings = self.settings
        otherwise = "leave it out, or set label_map to null"
        if settings.reduce_zero_label:
            raise ValueError(
                f"{path}: reduce_zero_label contradicts the label map, which names every label; {otherwise}"
            )
        if file.in_colours and settings.ignore_labels:
            raise ValueError(
                f"{path}: the label map has colours, and ignore_labels {settings.ignore_labels} are numbers; leave "
                "ignore_labels out, and name the colours to ignore 'ignored' in the label map"
            )


def _path(named: str | Path | None) -> Path | None:
    return None if named is None else Path(named).expanduser()
