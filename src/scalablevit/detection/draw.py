"""A sheet of what a detector finds, with the truth beside it."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from torch.utils.data import Dataset, Subset
from torchvision.transforms.v2 import functional as F

from scalablevit.data.loaders import eval_loader
from scalablevit.detection.annotate import annotate
from scalablevit.detection.coco.annotations import CocoAnnotations
from scalablevit.detection.coco.json_file import Id
from scalablevit.detection.coco.orientation import orient_boxes, orient_mask
from scalablevit.detection.dataset import collate
from scalablevit.detection.predict import Detection, Detector, encode_mask
from scalablevit.safe_write import write_atomically
from scalablevit.visualization.fonts import load_font

_SHEET_SIDE = 480
_PAPER = (255, 255, 255)


def draw_sheet(
    detector: Detector, dataset: Dataset[Any], annotations: CocoAnnotations, path: Path, *, count: int = 8
) -> None:
    """Draw a sheet of validation images: what is annotated, and beside it what the detector finds.

    Args:
        detector: what is shown, at the threshold that `Detector.detect` has.
        dataset: of `CocoData`, without targets.
        annotations: of the same images.
        path: PNG file to write.
        count: images on the sheet, at most: spread over the set.
    """
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()  # type: ignore[arg-type]
    pairs = []
    for batch in eval_loader(Subset(dataset, chosen), batch_size=1, num_workers=0, collate_fn=collate):
        if not batch.readable[0]:
            continue
        image = F.to_pil_image(batch.images[0])
        truth = _annotated(annotations, batch.image_ids[0], batch.orientations[0])
        (found,) = detector.detect([image])
        pairs.append(
            (annotate(image, truth, side=_SHEET_SIDE, with_scores=False), annotate(image, found, side=_SHEET_SIDE))
        )
    sheet = _arrange(pairs)
    write_atomically(path, functools.partial(sheet.save, format="PNG"))


def _annotated(annotations: CocoAnnotations, image_id: Id, orientation: int) -> list[Detection]:
    """What the annotation file says of an image, in the pixels of the upright one."""
    index = annotations.position(image_id)
    width, height = annotations.sizes[index].tolist()
    objects = []
    for crowd, remark in ((False, ""), (True, " (crowd)")):
        rows = annotations.rows(index, crowd=crowd)
        boxes = orient_boxes(annotations.boxes_xyxy(rows), (width, height), orientation).tolist()
        for row, (left, top, right, bottom) in zip(rows.tolist(), boxes, strict=True):
            label = int(annotations.labels[row])
            mask = None
            if annotations.has_mask(np.array([row]))[0]:
                mask = encode_mask(orient_mask(annotations.mask(row), orientation))
            name = annotations.class_names[label] + remark
            objects.append(Detection(label, name, 1.0, (left, top, right, bottom), mask))
    return objects


def _arrange(pairs: Sequence[tuple[Image.Image, Image.Image]]) -> Image.Image:
    """Pairs of images in two columns, each under a heading."""
    gap, font = 12, load_font(20)
    columns = 2 if len(pairs) > 1 else 1
    rows = [pairs[i : i + columns] for i in range(0, len(pairs), columns)]
    heights = [max(left.height for left, _ in row) for row in rows]
    cell = 2 * _SHEET_SIDE + gap
    head = 2 * gap + font.size
    sheet = Image.new(
        "RGB", (columns * (cell + 2 * gap) + gap, round(head) + sum(heights) + gap * (len(rows) + 1)), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    for column in range(columns):
        x = gap + column * (cell + 2 * gap)
        draw.text((x, gap), "annotated", font=font, fill="black")
        draw.text((x + _SHEET_SIDE + gap, gap), "found", font=font, fill="black")
    y = round(head)
    for row, height in zip(rows, heights, strict=True):
        for column, (left, right) in enumerate(row):
            x = gap + column * (cell + 2 * gap)
            sheet.paste(left, (x, y))
            sheet.paste(right, (x + _SHEET_SIDE + gap, y))
        y += height + gap
    return sheet
