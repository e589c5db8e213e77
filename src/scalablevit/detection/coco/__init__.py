"""COCO annotation files: found, read and kept as arrays.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from scalablevit.detection.coco.annotations import CocoAnnotations
from scalablevit.detection.coco.folder import CocoPart, find_parts
from scalablevit.detection.coco.json_file import CocoError
from scalablevit.detection.coco.orientation import AnnotationFrame, applied_orientation, orient_boxes, orient_mask
from scalablevit.detection.coco.read import read_annotations
from scalablevit.detection.coco.source import AnnotationSource

__all__ = [
    "AnnotationFrame",
    "AnnotationSource",
    "CocoAnnotations",
    "CocoError",
    "CocoPart",
    "applied_orientation",
    "find_parts",
    "orient_boxes",
    "orient_mask",
    "read_annotations",
]
