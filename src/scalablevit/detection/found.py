"""Hand detections to files of other tools."""

from scalablevit.data.found_objects import FoundObject
from scalablevit.detection.predict import Prediction


def found_in(prediction: Prediction) -> tuple[tuple[int, int], list[FoundObject]]:
    """Height and width of the image, and its objects."""
    found = [FoundObject(item.label, item.box_xyxy, item.score, item.mask) for item in prediction.detections]
    return (prediction.height, prediction.width), found
