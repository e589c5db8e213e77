"""Draws `digit_scenes.png`: scenes of the built-in data, with their boxes and masks, and with their labels.

python docs/images/draw_digit_scenes.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

from scalablevit.data.builtin.digit_scenes import DIGIT_NAMES, Scene, digit_scene
from scalablevit.detection.annotate import annotate
from scalablevit.detection.predict import Detection, encode_mask
from scalablevit.visualization.palette import class_colours

INDICES = (4, 9, 2, 16)  # the first has a crowd
SIDE, GAP = 300, 12


def boxes_and_masks(scene: Scene) -> Image.Image:
    """The scene as detection sees it; a crowd is no object."""
    detections = []
    for item in scene.digits:
        left, top, width, height = item.box_xywh
        box = (float(left), float(top), float(left + width), float(top + height))
        detections.append(Detection(item.label, DIGIT_NAMES[item.label], 1.0, box, encode_mask(item.mask)))
    return annotate(Image.fromarray(scene.image), detections, side=SIDE, with_scores=False)


def labels(scene: Scene) -> Image.Image:
    """The scene as segmentation sees it: a colour for each digit, dark ground, crowds gray."""
    colours = class_colours(len(DIGIT_NAMES))
    pixels = np.full(scene.image.shape, 31, np.uint8)
    for item in scene.digits:
        pixels[item.mask] = colours[item.label]
    if scene.crowd is not None:
        pixels[scene.crowd.mask] = 128
    image = Image.fromarray(pixels)
    scale = SIDE / max(image.size)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.NEAREST)


def main() -> None:
    """Write the figure beside this file."""
    sheet = Image.new("RGB", (len(INDICES) * (SIDE + GAP) + GAP, 2 * (SIDE + GAP) + GAP), "white")
    for column, index in enumerate(INDICES):
        scene = digit_scene("train", index)
        for row, draw in enumerate((boxes_and_masks, labels)):
            sheet.paste(draw(scene), (GAP + column * (SIDE + GAP), GAP + row * (SIDE + GAP)))
    sheet.quantize(256).save(Path(__file__).with_name("digit_scenes.png"), optimize=True)


if __name__ == "__main__":
    main()
