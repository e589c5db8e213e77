"""Prediction resizes in the reading threads and normalises a batch at a time: the same numbers as one by one."""

import numpy as np
import pytest
import torch
from PIL import Image

from scalablevit.data.image_transforms import Preprocessing


@pytest.mark.parametrize("channels", [1, 3])
def test_two_halves_are_the_evaluation_transform_to_the_bit(channels: int) -> None:
    preprocessing = Preprocessing((40, 37), 0.875, "bicubic", (0.485, 0.456, 0.406)[:channels], (0.229,) * channels)
    rng = np.random.default_rng(0)
    sizes = ((50, 64, 3), (3, 400, 3), (300, 200, 3), (37, 40, 3))
    images = [Image.fromarray(rng.integers(0, 256, size, np.uint8)) for size in sizes]
    fit, whole = preprocessing.fit_transform(), preprocessing.eval_transform()
    batch = preprocessing.batch_transform()([fit(image) for image in images])
    assert batch.dtype == torch.float32
    assert torch.equal(batch, torch.stack([whole(image) for image in images]))


@pytest.mark.parametrize(("side", "crop_ratio"), [(16_384, 1.0), (224, 0.01), (32, 1e-9)])
def test_settings_that_would_fill_the_memory_are_refused(side: int, crop_ratio: float) -> None:
    settings = Preprocessing((32, 32), 1.0, "bicubic", (0.5,), (0.5,)).to_dict()
    with pytest.raises(ValueError, match=r"makes images of more than .* pixels; take a smaller size"):
        Preprocessing.from_dict({**settings, "image_size": [side, side], "crop_ratio": crop_ratio})
