"""What a detector finds in image files."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import nms
from torchvision.transforms.v2 import functional as F

from scalablevit.data.image_batches import ImageSource, read_batches
from scalablevit.data.not_a_number import ADVICE, watched
from scalablevit.deploy.exported import ExportedNetwork, is_exported, on_cpu, open_exported
from scalablevit.deploy.prediction import prepare_for_prediction
from scalablevit.detection.exported import ExportedDetector
from scalablevit.detection.models import build_detector, find_objects, paste_mask
from scalablevit.detection.sliced import Slicing, detect_sliced
from scalablevit.detection.transforms import Preprocessing, as_input
from scalablevit.device import choose_device
from scalablevit.moved import former_name
from scalablevit.weights import TrainedWeights, WeightsError, load_network, open_trained

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Detection:
    """One object in an image.

    Attributes:
        label: index of its class.
        name: of its class.
        score: how sure the detector is, in 0..1.
        box_xyxy: left, top, right and bottom in pixels of the upright image, from its upper left corner.
        mask: COCO's run-length code of the object's pixels, {"size": [height, width], "counts": text}; None where
            the detector finds boxes only.
    """

    label: int
    name: str
    score: float
    box_xyxy: tuple[float, float, float, float]
    mask: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        entry: dict[str, Any] = {"class": self.name, "score": self.score, "box": list(self.box_xyxy)}
        if self.mask is not None:
            entry["mask"] = self.mask
        return entry


@dataclass(frozen=True)
class Prediction:
    """What a detector finds in one file.

    Attributes:
        path: the file.
        width: of the upright image, in pixels; 0 where the file could not be read.
        height: likewise.
        detections: the highest score first.
        error: why the file could not be read, or None.
        image: the image, where it was asked for.
        threshold: which the detections score above; None: not known.
    """

    path: Path
    width: int
    height: int
    detections: list[Detection]
    error: str | None = None
    image: Image.Image | None = None
    threshold: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        if self.error is not None:
            return {"path": str(self.path), "error": self.error}
        return {
            "path": str(self.path),
            "width": self.width,
            "height": self.height,
            "predictions": [detection.to_dict() for detection in self.detections],
        }

    def table_rows(self) -> list[tuple[str, str]]:
        """A line for each class that was found: (how many of what, how sure)."""
        scores: dict[str, list[float]] = {}
        for detection in self.detections:
            scores.setdefault(detection.name, []).append(detection.score)
        rows = []
        for name, values in scores.items():
            what = name if len(values) == 1 else f"{len(values)} x {name}"
            low, high = f"{min(values):.1%}", f"{max(values):.1%}"
            rows.append((what, high if low == high else f"{low} to {high}"))
        nothing = "nothing" if self.threshold is None else f"nothing above {100 * self.threshold:g} %"
        return rows or [(nothing, "")]

    def output_images(self) -> dict[str, Image.Image]:
        """Draw what `predict --save` writes.

        Returns:
            "": the image with boxes, names, scores and masks. Empty where the image was not kept.
        """
        if self.image is None:
            return {}
        from scalablevit.detection.annotate import annotate

        return {"": annotate(self.image, self.detections)}

    pictures = former_name("pictures", output_images)


def detections_of(
    output: Mapping[str, Tensor], class_names: Sequence[str], *, size: tuple[int, int], first_label: int = 0
) -> list[Detection]:
    """The objects in what a network of `scalablevit.detection.models` returns for one image, the highest score first.

    Args:
        output: "boxes" (R, 4) xyxy in pixels, "scores" (R,), "labels" (R,), and of Mask R-CNN "masks" (R, H, W) or
            "mask_probs" (R, M, M).
        class_names: by class index.
        size: height and width of the image.
        first_label: the network's label of the first class: 1 where 0 is the background.

    Returns:
        boxes to 1/1000 pixel and scores to 6 digits, so that what is written into files is what is measured.
    """
    order = output["scores"].argsort(descending=True, stable=True)
    # float32 first: of bfloat16, which autocast may leave, float64 would show digits that are not there
    boxes = np.round(output["boxes"][order].float().cpu().numpy().astype(np.float64), 3).tolist()
    scores = np.round(output["scores"][order].float().cpu().numpy().astype(np.float64), 6).tolist()
    labels = (output["labels"][order].cpu() - first_label).tolist()
    found = []
    for i, box, score, label in zip(order.tolist(), boxes, scores, labels, strict=True):
        mask = None
        if "mask_probs" in output:  # one at a time: a hundred masks of a large photograph are gigabytes
            mask = encode_mask(paste_mask(output["mask_probs"][i], output["boxes"][i], size).cpu().numpy())
        elif "masks" in output:
            mask = encode_mask(output["masks"][i].cpu().numpy())
        found.append(Detection(label, class_names[label], score, (box[0], box[1], box[2], box[3]), mask))
    return found


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run-length code of a (H, W) boolean mask, as JSON takes it."""
    from faster_coco_eval import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    counts = code["counts"]
    return {"size": [int(side) for side in code["size"]], "counts": counts.decode("ascii")}


def decode_mask(code: Mapping[str, Any]) -> np.ndarray:
    """(H, W) boolean mask of COCO's run-length code, compressed or not."""
    from faster_coco_eval import mask as coco_mask

    height, width = code["size"]
    if isinstance(code["counts"], list):
        code = coco_mask.frPyObjects(dict(code), height, width)
    return coco_mask.decode(dict(code)).astype(bool)


class Detector:
    """A trained detector with its class names and preprocessing.

    Args:
        network: a RetinaNet or Mask R-CNN of `scalablevit.detection.models`.
        class_names: by class index.
        preprocessing: how large images are made for the network.
        device: where to compute; None: a GPU if there is one.

    Raises:
        ValueError: this machine has no such device.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        class_names: Sequence[str],
        preprocessing: Preprocessing,
        device: str | torch.device | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.network = network.eval().to(self.device)
        self.class_names = list(class_names)
        self.preprocessing = preprocessing

    @property
    def nms_iou(self) -> float:
        """Highest IoU of two detections of one class, as the network was built."""
        head: Any = getattr(self.network, "roi_heads", self.network)
        return float(head.nms_thresh)

    @property
    def lowest_threshold(self) -> float:
        """Lowest threshold that `predict` takes: 0, but for an exported file, which has one in its graph."""
        return float(getattr(self.network, "lowest_score", 0.0))

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | TrainedWeights | ExportedNetwork,
        *,
        device: str | torch.device | None = None,
    ) -> "Detector":
        """Load the detector of a run, or of an exported file.

        Args:
            source: run folder, or the `model.safetensors` in it, or a file of `scalablevit export` (.onnx, .xml or
                .pt2), or either of them if it is open already.
            device: where to compute; None: a GPU if there is one; exported files are computed on the CPU.

        Raises:
            WeightsError: not weights of a detector that was trained here.
            FileNotFoundError: no such file.
            ValueError: this machine has no such device.
        """
        weights: TrainedWeights | ExportedNetwork
        if is_exported(source):
            weights = open_exported(source, "detection")
            device = on_cpu(weights, device)
        else:
            weights = open_trained(source, "detection")
        try:
            preprocessing = Preprocessing.from_dict(weights.metadata["preprocessing"])
            class_names = list(weights.metadata["class_names"])
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(
                f"{weights.path} lacks class names or preprocessing ({error}); train it with fit"
            ) from error
        if isinstance(weights, ExportedNetwork):
            weights.warn_of_fixed_size()
            exported = ExportedDetector(weights, preprocessing)
            return cls(exported, class_names=class_names, preprocessing=preprocessing, device=device)
        network, _ = load_network(weights, _build)
        for name in ("mean", "std"):  # the network normalises by those that it was built with
            theirs = (weights.metadata["model_args"] or {}).get(name)
            ours = list(getattr(preprocessing, name))
            if theirs is not None and list(theirs) != ours:
                raise WeightsError(
                    f"{weights.path} does not fit what it describes: {name} {theirs} in its network's arguments, "
                    f"{ours} in its preprocessing"
                )
        return cls(network, class_names=class_names, preprocessing=preprocessing, device=device)

    def prepare(self) -> None:
        """Prepare the network for many images: on a CPU its pyramid is folded and packed; elsewhere nothing changes.

        Results are the same but for rounding in float32: the sixth digit of a score may change.
        """
        self.network = prepare_for_prediction(self.network)

    def predict(
        self,
        paths: ImageSource | Iterable[ImageSource],
        *,
        batch_size: int = 1,
        threshold: float = 0.5,
        keep_images: bool = False,
        min_size: int | None = None,
        max_size: int | None = None,
        nms_iou: float | None = None,
        class_agnostic: bool = False,
        tile: int | None = None,
        overlap: float | None = None,
    ) -> Iterator[Prediction]:
        """Find objects in files, in order, a batch at a time; of a list, the next are read meanwhile.

        Args:
            paths: image files, or images in memory (of Pillow, or uint8 arrays), or a single one.
            batch_size: images at a time; with `tile`, tiles at a time.
            threshold, min_size, max_size, nms_iou, class_agnostic: see `detect`.
            keep_images: hand the images out as well.
            tile: side of tiles in pixels, at least 32: images larger than one are searched tile by tile, each resized
                as an image, and as a whole; None: as a whole only.
            overlap: share of a tile that it has in common with the next, in [0.05, 0.9]; None: 0.25.

        Yields:
            one `Prediction` per file; files that cannot be read carry the reason.

        Raises:
            ValueError: an argument is out of range.
        """
        detect = partial(
            self.detect,
            threshold=threshold,
            min_size=min_size,
            max_size=max_size,
            nms_iou=nms_iou,
            class_agnostic=class_agnostic,
        )
        search: Callable[[list[Image.Image]], list[list[Detection]]] = detect
        if tile is not None:
            slicing = Slicing(
                tile,
                overlap=0.25 if overlap is None else overlap,
                iou=self.nms_iou if nms_iou is None else nms_iou,
                class_agnostic=class_agnostic,
                batch_size=batch_size,
            )
            search = lambda images: [detect_sliced(detect, image, slicing) for image in images]  # noqa: E731
        elif overlap is not None:
            raise ValueError(f"overlap {overlap} is for tiles: set tile too")
        for batch in read_batches(paths, batch_size if tile is None else 1, value_range=self.preprocessing.value_range):
            found = iter(search([file.image for file in batch if file.image is not None]))
            for file in batch:
                if file.image is None:
                    yield Prediction(file.path, 0, 0, [], error=file.error, threshold=threshold)
                    continue
                kept = file.image if keep_images else None
                width, height = file.image.size
                yield Prediction(file.path, width, height, next(found), image=kept, threshold=threshold)

    @torch.inference_mode()
    def detect(
        self,
        images: Sequence[Image.Image],
        *,
        threshold: float = 0.5,
        min_size: int | None = None,
        max_size: int | None = None,
        nms_iou: float | None = None,
        class_agnostic: bool = False,
    ) -> list[list[Detection]]:
        """Find objects in images, all at once.

        Args:
            images: upright RGB images of any sizes.
            threshold: objects score above it; in [0, 1].
            min_size: pixels that the shorter side is resized to; None: as in training.
            max_size: pixels that the longer side may then have at most; None: as in training.
            nms_iou: highest IoU of two detections of one class (non-maximum suppression), in (0, 1]; None: as trained.
            class_agnostic: suppress overlapping detections of different classes too.

        Returns:
            for each image its objects, the highest score first.

        Raises:
            ValueError: an argument is out of range.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        shortest = self.preprocessing.min_size if min_size is None else min_size
        longest = self.preprocessing.max_size if max_size is None else max_size
        if not 1 <= shortest <= longest:
            raise ValueError(
                f"min_size must be at least 1 and at most max_size, got min_size {shortest} and max_size {longest}: "
                "give both"
            )
        iou = self.nms_iou if nms_iou is None else nms_iou
        if not 0 < iou <= 1:
            raise ValueError(f"nms_iou must lie in (0, 1], got {iou}")
        if not images:
            return []
        network: Any = self.network
        head, transform = getattr(network, "roi_heads", network), network.transform
        before = head.score_thresh, head.nms_thresh, transform.min_size, transform.max_size
        # The threshold is set in the network: one below that of the evaluation has an effect too, and masks that nobody
        # wants are not made. As NMS goes by score, the result is the same as behind it.
        head.score_thresh, transform.min_size, transform.max_size = threshold, shortest, longest
        head.nms_thresh = iou
        try:
            batch = [as_input(F.pil_to_tensor(image).to(self.device)) for image in images]
            backbone = getattr(network, "backbone", None)
            nothing: contextlib.AbstractContextManager[list[bool]] = contextlib.nullcontext([])
            with watched(backbone) if isinstance(backbone, nn.Module) else nothing as is_nan:
                outputs = find_objects(network, batch)
            if any(is_nan):  # of which no score is above a threshold
                log.warning("the network returned values that are not numbers (NaN), and so no object; %s", ADVICE)
        finally:  # others may measure with it
            head.score_thresh, head.nms_thresh, transform.min_size, transform.max_size = before
        if class_agnostic:
            outputs = [_suppressed(output, iou) for output in outputs]
        return [
            detections_of(output, self.class_names, size=(image.height, image.width), first_label=network.first_label)
            for image, output in zip(images, outputs, strict=True)
        ]


def _suppressed(output: dict[str, Tensor], iou: float) -> dict[str, Tensor]:
    """What is left of an image's detections when those of other classes suppress each other too."""
    keep = nms(output["boxes"].float(), output["scores"].float(), iou)
    return {name: values[keep] for name, values in output.items()}


def _build(metadata: Mapping[str, Any]) -> nn.Module:
    """The network that the metadata of weights describes."""
    return build_detector(
        metadata["detector"], metadata["variant"], len(metadata["class_names"]), **metadata["model_args"]
    )
