"""Recognise annotation files of tools whose formats are not read, to say what to do with them.

Looks at the beginning and the end of a file. Imports neither torch nor lightning.
"""

import re
from pathlib import Path
from typing import NamedTuple

_LOOKED_AT = 1 << 16  # bytes at either end


class ForeignFormat(NamedTuple):
    """Format of another tool.

    Fields:
        name: of the tool or format.
        remedy: what to do with its files.
    """

    name: str
    remedy: str


_COCO_EXPORT = "export the project as COCO, or convert it"
# every pattern of one line must be found
_FORMATS: tuple[tuple[ForeignFormat, tuple[str, ...]], ...] = (
    (
        ForeignFormat("labelme", "convert its polygons to COCO JSON, as its package does by a command"),
        (r'"shapes"\s*:', r'"imagePath"\s*:'),
    ),
    (
        ForeignFormat("Label Studio", "export the project as 'COCO' or 'YOLO', not as 'JSON' or 'JSON-MIN'"),
        (r'"(rectangle|polygon|brush|ellipse|keypoint)labels"', r'"original_width"|"from_name"'),
    ),
    (
        ForeignFormat("VGG Image Annotator (VIA)", "export the annotations as COCO"),
        (r'"shape_attributes"|_via_img_metadata',),
    ),
    (ForeignFormat("CreateML", _COCO_EXPORT), (r'"coordinates"\s*:', r'"image(filename)?"\s*:')),
    (ForeignFormat("BDD100K or Scalabel", _COCO_EXPORT), (r'"box2d"\s*:', r'"category"\s*:')),
    (ForeignFormat("Supervisely", "export the project as COCO"), (r'"classTitle"\s*:', r'"points"\s*:')),
    (
        ForeignFormat("Datumaro", "export the project as COCO"),
        (r'"items"\s*:', r'"categories"\s*:', r'"(label_id|attr)"\s*:'),
    ),
    (ForeignFormat("Labelbox", "export the project as COCO"), (r'"(Labeled Data|data_row)"\s*:',)),
    (
        ForeignFormat("CVAT's own XML", "export the task as 'COCO 1.0', 'YOLO 1.1' or 'PASCAL VOC 1.1'"),
        (r"<annotations", r"<image\s"),
    ),
)


def foreign_format(file: Path) -> ForeignFormat | None:
    """Recognise the format of an annotation file; None where it is none of those that are known but not read."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_LOOKED_AT)
            opened.seek(max(0, file.stat().st_size - _LOOKED_AT))
            text = (head + opened.read(_LOOKED_AT)).decode("utf-8", "replace")
    except OSError:
        return None
    return next((form for form, patterns in _FORMATS if all(re.search(p, text) for p in patterns)), None)
