"""List the validation images of a recipe's data, without the training engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalablevit.segmentation.mask_settings import MaskSettings
from scalablevit.segmentation.sharded import find_pairs
from scalablevit.tasks import accepted_by


def validation_images(root: Path, settings: Mapping[str, Any]) -> list[Path]:
    """List the validation images, sorted.

    Args:
        root: the data folder.
        settings: keys of `MaskFolderData`, as a recipe has them; those that say nothing of files are ignored.

    Raises:
        ValueError: the folder is not laid out as `scan_pairs` knows it.
    """
    scan, _ = find_pairs(root, MaskSettings(**accepted_by(MaskSettings, settings)))
    scan.raise_for_errors()
    return [scan.root / pair.image for pair in scan.val]
