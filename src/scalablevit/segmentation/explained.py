"""A segmenter and an image, as `scalablevit.explain` takes them."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from scalablevit.data.bands import Pixels, in_colour
from scalablevit.explain.subject import Frame, Subject, Target, class_index
from scalablevit.segmentation.inference import padded_logits
from scalablevit.segmentation.predict import Segmenter


def subject_of(predictor: Segmenter, path: Path, image: Image.Image | Pixels, threshold: float) -> Subject:
    """Prepare an image; its targets are the regions of the classes found in it, the largest first.

    The network is shown the image whole, at the size of its recipe, whatever the recipe says of windows.

    Args:
        predictor: the segmenter.
        path: of the image.
        image: upright, RGB; or (H, W, C) for a network of C bands, of which the first three are shown.
        threshold: has no effect: a region is what the network labels so.
    """
    shown_image = image if isinstance(image, Image.Image) else in_colour(image)
    size = (shown_image.height, shown_image.width)
    seen = predictor.inference.resized(*size)
    pixels = predictor.transform(image)[None]  # (1, C, H, W)
    if seen != size:
        pixels = F.interpolate(pixels, seen, mode="bilinear", align_corners=False, antialias=True)
    pixels = pixels.to(predictor.device)
    padded = F.pad(pixels, (0, -seen[1] % 32, 0, -seen[0] % 32), mode="replicate")  # as `padded_logits` does
    frame = Frame(size, seen, (0.0, 0.0, float(size[1]), float(size[0])))

    def find_targets(class_name: str | None) -> list[Target]:
        wanted = None if class_name is None else class_index(class_name, predictor.class_names)
        with torch.inference_mode():
            probabilities = padded_logits(predictor.network, pixels)[0].softmax(dim=0)  # (K, h, w)
            labels = probabilities.argmax(dim=0)
        classes, counts = labels.unique(return_counts=True)
        order = counts.argsort(descending=True, stable=True)
        targets = []
        for k in classes[order].tolist():
            region = labels == k
            value = float(probabilities[k][region].mean())
            if wanted not in (None, k):
                continue
            shown = F.interpolate(region[None, None].float(), size, mode="nearest-exact")[0, 0] > 0
            words = f"{float(region.float().mean()):.1%} of the image"
            targets.append(
                Target(predictor.class_names[k], value, words, _region_score(k, region), region=shown.cpu().numpy())
            )
        return targets

    return Subject(
        path,
        shown_image,
        predictor.network,
        inputs=pixels,
        frame=frame,
        pixels=padded,
        pixels_frame=frame,
        find_targets=find_targets,
        class_names=predictor.class_names,
        compute=padded_logits,
        mean=[0.0] * predictor.preprocessing.in_chans,
    )


def _region_score(k: int, region: Tensor) -> Callable[[Tensor], Tensor]:
    """The mean logit of a class over a region (h, w), from logits (B, K, h, w) to (B,)."""
    pixels = region.clone()  # a tensor of inference mode cannot index one with gradients
    return lambda logits: logits[:, k, pixels].mean(dim=1)
