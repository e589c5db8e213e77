"""Names that were replaced still work, and say what to call instead."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalablevit import classification, detection, segmentation

IMAGE = Image.new("RGB", (32, 24))
PREDICTIONS = [
    classification.Prediction(Path("a.png"), ["cat"], [1.0], image=IMAGE),
    detection.Prediction(Path("a.png"), 32, 24, [], image=IMAGE),
    segmentation.Prediction(Path("a.png"), np.zeros((24, 32), np.uint8), ["sky"], [(0, 0, 0)], image=IMAGE),
]


@pytest.mark.parametrize("prediction", PREDICTIONS, ids=["classification", "detection", "segmentation"])
def test_output_images_were_called_pictures(prediction: Any) -> None:
    with pytest.warns(DeprecationWarning, match=r"pictures\(\) is deprecated: call output_images\(\)") as warned:
        former = prediction.pictures()
    assert [warning.filename for warning in warned] == [__file__]
    assert {name: image.tobytes() for name, image in former.items()} == {
        name: image.tobytes() for name, image in prediction.output_images().items()
    }
    assert former
