"""Draw predictions of trained weights on small images: the images above, and below them the predictions.

python docs/images/draw_predictions.py --weights RUN|FILE --out FILE IMAGE ...

Objects get the boxes, names, scores and masks that `scalablevit predict --save` draws; of a segmentation model every
pixel gets the colour of its class.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from scalablevit.data.images import read_image
from scalablevit.detection import Detector
from scalablevit.detection.annotate import annotate
from scalablevit.segmentation import Segmenter
from scalablevit.segmentation.draw import draw_labels
from scalablevit.visualization.fonts import load_font
from scalablevit.weights import trained_task

SCALE, GAP, TEXT = 2, 12, 15
DARK = (31, 31, 31)


def enlarged(image: Image.Image) -> Image.Image:
    """`SCALE` times as large, each pixel a block."""
    return image.resize((SCALE * image.width, SCALE * image.height), Image.Resampling.NEAREST)


def found_objects(weights: Path, images: Sequence[Image.Image], threshold: float) -> list[Image.Image]:
    """Each image with the objects in it."""
    detector = Detector.load(weights)
    # one by one, as `predict` does: images of several sizes would be padded
    found = [detector.detect([image], threshold=threshold)[0] for image in images]
    return [
        annotate(image, objects, side=SCALE * max(image.size)) for image, objects in zip(images, found, strict=True)
    ]


def found_labels(
    weights: Path, paths: Sequence[Path], dark: str | None, width: int
) -> tuple[list[Image.Image], Image.Image]:
    """The label map of each image; and a legend of the classes in them, `width` pixels wide."""
    segmenter = Segmenter.load(weights)
    names, seen, images = segmenter.class_names, set(), []
    palette = [DARK if name == dark else colour for name, colour in zip(names, segmenter.palette, strict=True)]
    for prediction in segmenter.predict(paths):
        labels = draw_labels(prediction.labels, num_classes=len(names), palette=palette)
        images.append(enlarged(labels.convert("RGB")))
        seen |= {name for name, _, _ in prediction.areas()}
    entries = [(name, colour) for name, colour in zip(names, palette, strict=True) if name in seen]
    return images, legend(entries, width)


def legend(entries: Sequence[tuple[str, tuple[int, int, int]]], width: int) -> Image.Image:
    """A patch of colour and a name for each entry, in lines."""
    font = load_font(TEXT)
    band = Image.new("RGB", (width, 2 * TEXT * len(entries)), "white")
    draw = ImageDraw.Draw(band)
    x = y = 0
    for name, colour in entries:
        space = 2 * TEXT + round(font.getlength(name)) + GAP
        if x + space > width:
            x, y = 0, y + 2 * TEXT
        draw.rectangle((x, y, x + TEXT, y + TEXT), fill=colour, outline="gray")
        draw.text((x + round(1.5 * TEXT), y - 2), name, font=font, fill="black")
        x += space
    return band.crop((0, 0, width, y + 2 * TEXT))


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description="Draw images, and below them the predictions of trained weights.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="files that the weights never saw")
    parser.add_argument("--weights", required=True, type=Path, metavar="RUN|FILE", help="of detection or segmentation")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="PNG file to write")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="X", help="score that an object needs")
    parser.add_argument("--dark", metavar="CLASS", help="of segmentation, to be drawn dark, such as background")
    args = parser.parse_args()
    images = [read_image(path) for path in args.images]
    above, below = [enlarged(image) for image in images], None
    width = sum(image.width + GAP for image in above) + GAP
    if trained_task(args.weights) == "segmentation":
        found, below = found_labels(args.weights, args.images, args.dark, width - 2 * GAP)
    else:
        found = found_objects(args.weights, images, args.threshold)
    height = max(image.height for image in above)
    total = 2 * height + 3 * GAP + (below.height if below is not None else 0)
    sheet, x = Image.new("RGB", (width, total), "white"), GAP
    for image, what in zip(above, found, strict=True):
        sheet.paste(image, (x, GAP))
        sheet.paste(what, (x, height + 2 * GAP))
        x += image.width + GAP
    if below is not None:
        sheet.paste(below, (GAP, 2 * height + 3 * GAP))
    # few colours make a small file; this method keeps those of rare classes
    sheet.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(args.out, optimize=True)


if __name__ == "__main__":
    main()
