"""Classes of one annotation file numbered as those of another, or of a network.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Sequence

import numpy as np

from scalablevit.abridged import abridged
from scalablevit.detection.coco.annotations import CocoAnnotations
from scalablevit.detection.coco.json_file import CocoError, Id, class_name


def number_classes_like(ours: CocoAnnotations, other: CocoAnnotations | Sequence[str]) -> None:
    """Number the classes of `ours` as `other` does; they are matched by name.

    Args:
        ours: annotations whose labels, class names and category ids are set.
        other: annotations, or names of classes.

    Raises:
        CocoError: `ours` has boxes of classes that `other` lacks.
    """
    if isinstance(other, CocoAnnotations):
        names, their_ids, whose = other.class_names, list(other.category_ids), str(other.path)
    else:
        names, their_ids, whose = list(other), list[Id](range(1, len(other) + 1)), "the network"
    theirs = {class_name(name): k for k, name in enumerate(names)}
    used = np.bincount(ours.labels, minlength=len(ours.class_names)) > 0
    unknown = [name for k, name in enumerate(ours.class_names) if used[k] and name not in theirs]
    if unknown:
        raise CocoError(
            f"{ours.path}: it has boxes of {len(unknown)} categories that {whose} lacks: "
            f"{abridged(map(repr, unknown))}; name the categories alike",
            kind="unknown-class",
            path=ours.path,
        )
    # Categories are matched by name: files that were exported one by one often number them differently.
    own_ids = dict(zip(ours.class_names, ours.category_ids, strict=True))
    new_class = np.array([theirs.get(name, -1) for name in ours.class_names], np.int64)
    free = max((i for i in [*ours.category_ids, *their_ids] if isinstance(i, int)), default=0) + 1
    ids: list[Id] = []
    for name, their_id in zip(theirs, their_ids, strict=True):
        category_id = own_ids.get(name, their_id)
        if name not in own_ids and their_id in ours.category_ids:
            category_id, free = free, free + 1
        ids.append(category_id)
    ours.labels = new_class[ours.labels]
    ours.class_names, ours.category_ids = list(names), ids
