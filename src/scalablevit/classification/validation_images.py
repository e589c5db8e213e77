"""List the validation images of a recipe's data, without the training engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalablevit.classification.image_folder import scan_folder
from scalablevit.classification.label_table import TableColumns
from scalablevit.classification.sharded import scan_stream
from scalablevit.classification.table_scan import scan_table
from scalablevit.data.stream.opened import open_stream
from scalablevit.tasks import accepted_by


def validation_images(root: Path, settings: Mapping[str, Any]) -> list[Path]:
    """List the validation images: class by class, or in the order of their table.

    Args:
        root: the data folder.
        settings: keys of `ImageFolderData`, or of `ImageTableData`, which has `labels`, as a recipe has them; those
            that say nothing of files are ignored.

    Raises:
        ValueError: the folder is not laid out as `scan_folder`, or `scan_table`, knows it.
    """
    if "labels" in settings:
        known = accepted_by(TableColumns, settings)
        columns = TableColumns(**{**known, "ignore_columns": tuple(known.get("ignore_columns") or ())})
        table = scan_table(root, columns=columns, **accepted_by(scan_table, settings))
        table.raise_for_errors()
        return [table.root / image.file for image in table.val]
    stream = open_stream(root, settings.get("stream"), task="classification")
    options = accepted_by(scan_folder, settings)
    scan = scan_folder(root, **options) if stream is None else scan_stream(stream, **options)
    scan.raise_for_errors()
    return [scan.val_folder / file for files in scan.val.values() for file in files]
