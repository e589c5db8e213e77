"""Hand the regions of a segmentation to files of other tools."""

import numpy as np

from scalablevit.data.found_objects import FoundObject, encode
from scalablevit.segmentation.predict import Prediction


def found_in(prediction: Prediction) -> tuple[tuple[int, int], list[FoundObject]]:
    """Height and width of the image, and for each class that is there the region of its pixels."""
    labels = prediction.labels
    assert labels is not None
    found = []
    for label in np.unique(labels).tolist():
        if label >= len(prediction.class_names):
            continue
        pixels = labels == label
        rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
        found.append(FoundObject(label, box, mask=encode(pixels)))
    return (labels.shape[0], labels.shape[1]), found
