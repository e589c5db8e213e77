"""List the validation images of a recipe's data, without the training engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalablevit.classification.image_folder import scan_folder
from scalablevit.tasks import accepted_by


def validation_images(root: Path, settings: Mapping[str, Any]) -> list[Path]:
    """List the validation images, class by class.

    Args:
        root: the data folder.
        settings: keys of `ImageFolderData`, as a recipe has them; those that say nothing of files are ignored.

    Raises:
        ValueError: the folder is not laid out as `scan_folder` knows it.
    """
    scan = scan_folder(root, **accepted_by(scan_folder, settings))
    scan.raise_for_errors()
    return [scan.val_folder / file for files in scan.val.values() for file in files]
