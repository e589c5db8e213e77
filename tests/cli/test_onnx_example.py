"""The example without this package reads images as it does."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalablevit.data.images import read_image

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "LA", "RGBA", "P", "transparent P", "CMYK", "16", "turned"])
def test_the_example_reads_images_as_predict_does(mode: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    example = runpy.run_path(str(EXAMPLE))
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 4), dtype=np.uint8)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "turned") else "a.png")
    options: dict[str, Any] = {}
    image = Image.fromarray(pixels)
    if mode == "16":
        image = Image.fromarray((pixels[..., 0].astype(np.uint16) << 8) + pixels[..., 1])
    elif mode == "turned":
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
        image = image.convert("RGB")
    else:
        image = image.convert("RGB").convert("P") if mode == "transparent P" else image.convert(mode)
        options = {"transparency": 3} if mode == "transparent P" else {}
    image.save(path, **options)
    ours, theirs = (np.asarray(read(path)).astype(int) for read in (example["read"], read_image))
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= 1
