"""Run a file of `scalablevit export --format onnx` with ONNX Runtime, NumPy and Pillow alone.

    python onnx_predict.py model.onnx photo.jpg [more.jpg ...] [--save FOLDER] [--threshold 0.5]

The file says what it is: task, classes and the size of images are JSON in its metadata. This script handles
classification, detection (RetinaNet and Mask R-CNN) and segmentation, and prints what `scalablevit predict` prints.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps

Array = np.ndarray[Any, Any]
Rows = list[tuple[str, ...]]


def visible(text: str) -> str:
    """Text without what a terminal would obey: a control character becomes its escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def read(path: str) -> Image.Image:
    """An image upright and in RGB: what is transparent is white, and 16-bit gray is scaled to 8 bits."""
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"its {image.mode} pixels have no black and white that are known: convert it to 8 bits")
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


class Model:
    """An exported file, with what it says of itself."""

    def __init__(self, path: str) -> None:
        try:
            self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            self.metadata = json.loads(self.session.get_modelmeta().custom_metadata_map["scalablevit"])
        except KeyError:
            raise SystemExit(f"{path} was not exported by scalablevit: it has no metadata of it") from None
        except Exception as error:  # ONNX Runtime's own classes
            raise SystemExit(f"{path} cannot be opened as an ONNX file ({error})") from None
        if "class_names" not in self.metadata:
            raise SystemExit(f"{path} holds feature maps, which predict nothing: export a run")
        self.input = self.metadata["export"]["input"]
        if self.input["channels"] not in ("gray", "RGB"):
            raise SystemExit(f"{path} takes {self.input['channels']} bands, which Pillow does not read as one image")
        self.names: list[str] = self.metadata["class_names"]
        self.colours = [tuple(colour) for colour in self.metadata["colours"]]

    def pixels(self, image: Image.Image) -> Array:
        """An image as (C, H, W) floats in 0..1, in the file's channels."""
        values = np.asarray(image.convert("L" if self.input["channels"] == "gray" else "RGB"), np.float32) / 255
        return values[None] if values.ndim == 2 else values.transpose(2, 0, 1)

    def __call__(self, pixels: Array) -> list[Array]:
        """(C, H, W) floats in 0..1 -> outputs. The normalisation is a part of the graph."""
        fixed = self.input["size"]
        if fixed != "free" and list(pixels.shape[1:]) != fixed:
            raise SystemExit(f"the file is fixed to images of {fixed[0]} x {fixed[1]} pixels: export without --size")
        batch = 1 if self.input["batch"] == "free" else self.input["batch"]
        images = np.repeat(pixels[None], batch, axis=0)  # a file that is fixed to a batch gets the image several times
        if self.input["dtype"] == "uint8":
            images = (images.transpose(0, 2, 3, 1) * 255).round().astype(np.uint8)
        return self.session.run(None, {self.input["name"]: images})


def resized(pixels: Array, height: int, width: int) -> Array:
    """(C, H, W) resized bilinearly and antialiased; Pillow resizes floats too, channel by channel."""
    if pixels.shape[1:] == (height, width):
        return pixels
    channels = [Image.fromarray(x).resize((width, height), Image.Resampling.BILINEAR) for x in pixels]
    return np.stack([np.asarray(channel) for channel in channels])


def sampled(x: Array, height: int, width: int) -> Array:
    """(K, h, w) at another size: bilinear interpolation between the nearest pixels, not antialiased."""
    for axis, length in ((1, height), (2, width)):
        n = x.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * (n / length) - 0.5, 0, None)
        low = np.minimum(place.astype(int), n - 1)
        weight = np.expand_dims((place - low).astype(np.float32), tuple({0, 1, 2} - {axis}))
        x = np.take(x, low, axis) * (1 - weight) + np.take(x, np.minimum(low + 1, n - 1), axis) * weight
    return x


def fitted(height: int, width: int, short_side: int | None, long_side: int | None) -> tuple[int, int]:
    """Height and width of an image that is resized in proportion to its short side, up to a long side."""
    fit = 1.0 if short_side is None else short_side / min(height, width)
    fit = fit if long_side is None else min(fit, long_side / max(height, width))
    return max(1, int(height * fit + 0.5)), max(1, int(width * fit + 0.5))


def classify(model: Model, image: Image.Image, threshold: float) -> tuple[Rows, Image.Image]:
    """Classes with their probabilities: the five likeliest; of a file of several labels, all above the threshold."""
    rule = model.metadata["preprocessing"]
    height, width = rule["image_size"] if model.input["size"] == "free" else model.input["size"]
    cover = math.floor(height / rule["crop_ratio"]), math.floor(width / rule["crop_ratio"])
    if cover[0] * image.width >= cover[1] * image.height:
        size = (int(cover[0] * image.width / image.height), cover[0])
    else:
        size = (cover[1], int(cover[1] * image.height / image.width))
    shown = image.resize(size, Image.Resampling[rule["interpolation"].upper()])
    left, top = round((shown.width - width) / 2), round((shown.height - height) / 2)
    (logits,) = model(model.pixels(shown.crop((left, top, left + width, top + height))))
    ranked = np.argsort(-logits[0], kind="stable")
    if model.metadata.get("multi_label"):  # each class is a yes or no of its own
        scores = 1 / (1 + np.exp(-logits[0]))
        ranked = ranked[scores[ranked] > threshold]
    else:
        scores = np.exp(logits[0] - logits[0].max())
        scores /= scores.sum()
        ranked = ranked[:5]
    rows: Rows = [(model.names[k], f"{scores[k]:.1%}") for k in ranked]
    drawn = ImageOps.expand(image, (0, 0, 0, 14 * len(rows)), "white")
    for i, row in enumerate(rows):
        ImageDraw.Draw(drawn).text((2, image.height + 14 * i), "  ".join(row), fill="black")
    return rows, drawn


def detect(model: Model, image: Image.Image, threshold: float) -> tuple[Rows, Image.Image]:
    """Objects with their scores and boxes, in pixels of the image."""
    rule = model.metadata["preprocessing"]
    height, width = fitted(image.height, image.width, rule["min_size"], rule["max_size"])
    found = dict(
        zip(model.metadata["export"]["outputs"], model(resized(model.pixels(image), height, width)), strict=True)
    )
    scale = np.array([image.width / width, image.height / height] * 2, np.float32)
    drawn, rows = image.copy(), []
    for i, score in enumerate(found["scores"]):
        if score <= threshold:
            continue
        box, k = found["boxes"][i] * scale, int(found["labels"][i])
        x1, y1, x2, y2 = box = np.minimum(np.maximum(box, 0), [image.width, image.height] * 2)
        if x2 <= x1 or y2 <= y1:
            continue
        rows.append((model.names[k], f"{score:.1%}", " ".join(f"{side:.1f}" for side in box)))
        if "masks" in found:
            mask = Image.fromarray(pasted(found["masks"][i], box, image.height, image.width).astype(np.uint8) * 110)
            drawn.paste(Image.new("RGB", image.size, model.colours[k]), (0, 0), mask)
        pen = ImageDraw.Draw(drawn)
        pen.rectangle((x1, y1, x2, y2), outline=model.colours[k], width=2)
        pen.text((x1 + 3, y1 + 1), " ".join(rows[-1][:2]), fill=model.colours[k])
    return rows, drawn


def pasted(mask: Array, box: Array, height: int, width: int) -> Array:
    """(M, M) probabilities within a box -> (H, W) bool."""
    M = len(mask)
    weights, spans = [], []
    for low, high, length in ((box[1], box[3], height), (box[0], box[2], width)):
        start, stop = max(0, math.ceil(low - 0.5)), min(length, math.floor(high - 0.5) + 1)
        centres = np.arange(start, max(start, stop)) + 0.5
        place = np.clip((centres - low) * (M / max(high - low, 1e-6)) - 0.5, 0, M - 1)
        weights.append(np.clip(1 - np.abs(place[:, None] - np.arange(M)), 0, None))  # (pixels, M)
        spans.append(slice(start, max(start, stop)))
    found = np.zeros((height, width), bool)
    found[spans[0], spans[1]] = weights[0] @ mask @ weights[1].T >= 0.5
    return found


def segment(model: Model, image: Image.Image) -> tuple[Rows, Image.Image]:
    """Classes with their share of the image."""
    rule = model.metadata["inference"]
    height, width = fitted(image.height, image.width, rule["short_side"], rule["long_side"])
    pixels = resized(model.pixels(image), height, width)
    padded = np.pad(pixels, ((0, 0), (0, -height % 32), (0, -width % 32)), mode="edge")
    logits = model(padded)[0][0][:, :height, :width]
    labels = sampled(logits, image.height, image.width).argmax(0)
    counts = np.bincount(labels.ravel(), minlength=len(model.names))
    order = [k for k in np.argsort(-counts, kind="stable") if counts[k]]
    colours = np.array(model.colours, np.uint8)
    drawn = Image.blend(image, Image.fromarray(colours[labels]), 0.5)
    return [(model.names[k], f"{counts[k] / labels.size:.1%}") for k in order], drawn


def main() -> None:
    """Predict the images of the command line."""
    parser = argparse.ArgumentParser(description="predict images with a file of `scalablevit export --format onnx`")
    parser.add_argument("model", help="the .onnx file")
    parser.add_argument("images", nargs="+", help="image files")
    parser.add_argument("--save", metavar="FOLDER", help="write annotated images there")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="lowest score of a detection or label (default: 0.5)"
    )
    args = parser.parse_args()
    model = Model(args.model)
    task = model.metadata["task"]
    rule = model.metadata.get("inference") or {}
    if rule.get("mode") == "slide" or rule.get("flip") or rule.get("scales", [1.0]) != [1.0]:
        print(
            "note: `scalablevit predict` averages windows, scales or flips here; this script does not", file=sys.stderr
        )
    failed = False
    for number, path in enumerate(args.images):
        try:
            image = read(path)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow's, of bad files
            print(visible(f"skipped {path}: {error}"), file=sys.stderr)
            failed = True
            continue
        if task == "classification":
            rows, drawn = classify(model, image, args.threshold)
        elif task == "detection":
            rows, drawn = detect(model, image, args.threshold)
        elif task == "segmentation":
            rows, drawn = segment(model, image)
        else:
            sys.exit(f"{args.model} holds a network for {task}, which this script does not know")
        for row in rows or [("nothing",)]:
            print(*map(visible, (path, *row)), sep="\t")
        if args.save:
            folder = Path(args.save)
            folder.mkdir(parents=True, exist_ok=True)
            same_stem = [Path(earlier).stem for earlier in args.images[:number]].count(Path(path).stem)
            drawn.save(folder / f"{Path(path).stem}{f'-{same_stem + 1}' if same_stem else ''}.png")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
