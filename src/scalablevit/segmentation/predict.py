"""Run a trained segmenter on image files."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from scalablevit.data.bands import Pixels, in_colour, reads_bands, resized
from scalablevit.data.georeference import georeference_of
from scalablevit.data.image_batches import ImageSource, read_batches
from scalablevit.data.not_a_number import ADVICE, watched
from scalablevit.deploy.exported import ExportedNetwork, is_exported, on_cpu, open_exported
from scalablevit.deploy.prediction import prepare_for_prediction
from scalablevit.device import choose_device
from scalablevit.moved import former_name
from scalablevit.segmentation.bands import MOST_SCORES, most_likely_classes, needs_bands, shown_pixels
from scalablevit.segmentation.inference import InferenceSettings
from scalablevit.segmentation.label_map import LabelMap, unpack_colour
from scalablevit.segmentation.labels import class_pixels
from scalablevit.segmentation.models import build_segmenter
from scalablevit.segmentation.tiles import DEFAULT_TILE, TiledInference, Tiling, segment_large
from scalablevit.segmentation.transforms import Preprocessing
from scalablevit.weights import TrainedWeights, WeightsError, load_network, open_trained

_MOST_PIXELS = 2**21
"""Pixels that the network sees at once; UperNet needs some 1.2 kB for each."""
_SMALLEST_TILE = 32


@dataclass(frozen=True)
class Prediction:
    """What a segmenter predicts for one file.

    Attributes:
        path: the file.
        labels: (H, W) class index of each pixel of the upright image, uint8 or, above 255 classes, uint16; None
            where the file could not be read.
        class_names: by class index.
        palette: RGB in 0..255, by class index.
        error: why the file could not be read, or None.
        image: the image, where it was asked for.
        label_map: which label of the training masks is which class; None: class indices are labels.
    """

    path: Path
    labels: np.ndarray | None
    class_names: Sequence[str]
    palette: Sequence[tuple[int, int, int]]
    error: str | None = None
    image: Image.Image | None = None
    label_map: LabelMap | None = None

    def areas(self) -> list[tuple[str, int, float]]:
        """(class, pixels, share of the image in 0..1) of each class that is there, the largest first."""
        return [(self.class_names[k], count, share) for k, count, share in self._areas()]

    def mask_labels(self) -> np.ndarray | None:
        """(H, W) labels as the training masks have them, or (H, W, 3) RGB where those have colours."""
        if self.labels is None or self.label_map is None:
            return self.labels
        return self.label_map.decode(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it: path, width, height and the area of each class, the largest first.

        A class has the `label` or, as [red, green, blue], the `colour` that stands for it in masks, if that is known.
        """
        if self.labels is None:
            return {"path": str(self.path), "error": self.error}
        height, width = self.labels.shape
        classes = [
            {"class": self.class_names[k], **self._label(k), "pixels": count, "share": round(share, 6)}
            for k, count, share in self._areas()
        ]
        return {"path": str(self.path), "width": width, "height": height, "classes": classes}

    def table_rows(self) -> list[tuple[str, str]]:
        """(class, share of the image), the largest first."""
        return [(name, f"{share:.1%}") for name, _, share in self.areas()]

    def output_images(self) -> dict[str, Image.Image]:
        """Draw what `predict --save` writes.

        Returns:
            "": the image under the colours of its classes, with a legend.
            "-mask": the prediction as a mask, in the labels or colours of the training masks.
            Empty where the image was not kept. Keys are added to the names of the files.
        """
        from scalablevit.segmentation.draw import draw_overlay  # fonts take a while to import

        if self.labels is None or self.image is None:
            return {}
        return {
            "": draw_overlay(self.image, self.labels, class_names=self.class_names, palette=self.palette),
            "-mask": self._mask(),
        }

    def output_documents(self) -> dict[str, bytes]:
        """Files that `predict --save` writes beside the images; keys are added to the name.

        Returns:
            "-mask.tif": the mask with the place on the earth of the file, where it is a TIFF that has one and the image
            was kept.
        """
        if self.labels is None or self.image is None:
            return {}
        tags = georeference_of(self.path, self.image.size)
        if tags is None:
            return {}
        content = io.BytesIO()
        self._mask().save(content, format="TIFF", compression="tiff_adobe_deflate", tiffinfo=tags)
        return {"-mask.tif": content.getvalue()}

    def _mask(self) -> Image.Image:
        from scalablevit.segmentation.draw import draw_labels

        assert self.labels is not None
        return draw_labels(
            self.labels, num_classes=len(self.class_names), palette=self.palette, label_map=self.label_map
        )

    pictures = former_name("pictures", output_images)

    def _areas(self) -> list[tuple[int, int, float]]:
        """(class index, pixels, share) of each class that is there, the largest first."""
        if self.labels is None:
            return []
        pixels = class_pixels(self.labels, len(self.class_names))
        order = sorted((k for k, count in enumerate(pixels) if count), key=lambda k: -pixels[k])
        return [(k, pixels[k], pixels[k] / self.labels.size) for k in order]

    def _label(self, index: int) -> dict[str, Any]:
        """What stands for a class in masks, as JSON takes it."""
        if self.label_map is None:
            return {}
        label = self.label_map.class_labels[index]
        return {"colour": list(unpack_colour(label))} if self.label_map.in_colours else {"label": label}


class Segmenter:
    """A trained network with its class names and preprocessing.

    Args:
        network: from images (B, C, H, W) to logits (B, K, H, W).
        class_names: by class index.
        preprocessing: how an image becomes the network's input.
        inference: how the network is applied where `predict` is not told otherwise; its scales and flip are not used.
        label_map: which label of the training masks is which class; None: class indices are labels.
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
        inference: InferenceSettings | None = None,
        label_map: LabelMap | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        self.device = choose_device(device)
        self.network = network.eval().to(self.device)
        self.class_names = list(class_names)
        self.preprocessing = preprocessing
        self.transform = preprocessing.eval_transform()
        self.inference = inference or InferenceSettings()
        self.label_map = label_map

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | TrainedWeights | ExportedNetwork,
        *,
        device: str | torch.device | None = None,
    ) -> "Segmenter":
        """Load the segmenter of a run, or of an exported file.

        Args:
            source: run folder, or the `model.safetensors` in it, or a file of `scalablevit export` (.onnx, .xml or
                .pt2), or either of them if it is open already.
            device: where to compute; None: a GPU if there is one; exported files are computed on the CPU.

        Raises:
            WeightsError: not weights of a segmenter that was trained here.
            FileNotFoundError: no such file.
            ValueError: this machine has no such device.
        """
        weights: TrainedWeights | ExportedNetwork
        if is_exported(source):
            weights = open_exported(source, "segmentation")
            device = on_cpu(weights, device)
        else:
            weights = open_trained(source, "segmentation")
        metadata = weights.metadata
        try:
            class_names = list(metadata["class_names"])
            preprocessing = Preprocessing.from_dict(metadata["preprocessing"])
            inference = InferenceSettings.from_dict(metadata["inference"])
            label_map = _read_label_map(metadata)
            in_chans = getattr(weights, "in_chans", metadata["model_args"].get("in_chans", 3))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:  # also int(infinity)
            raise WeightsError(
                f"{weights.path} lacks class_names, preprocessing or inference ({error}); train it with fit"
            ) from error
        if in_chans != preprocessing.in_chans:
            raise WeightsError(
                f"{weights.path} does not fit what it describes: its network takes {in_chans} channel(s), its "
                f"preprocessing has mean and std of {preprocessing.in_chans}"
            )
        if isinstance(weights, ExportedNetwork):
            weights.warn_of_fixed_size()
            network: nn.Module = weights
        else:
            network, _ = load_network(weights, build_network)
        return cls(
            network,
            class_names=class_names,
            preprocessing=preprocessing,
            inference=inference,
            label_map=label_map,
            device=device,
        )

    def prepare(self) -> None:
        """Prepare the network for many images: on a CPU its layers are folded and packed; elsewhere nothing changes.

        Results are the same but for rounding in float32: a pixel between two classes may change.
        """
        self.network = prepare_for_prediction(self.network)

    def predict(
        self,
        paths: ImageSource | Iterable[ImageSource],
        *,
        batch_size: int = 1,
        keep_images: bool = False,
        tile: int | None = None,
        short_side: int | None = None,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
    ) -> Iterator[Prediction]:
        """Label the pixels of files, in order; of a list, the next are read meanwhile.

        An image is shown to the network at the size of `short_side`: as a whole, or in overlapping tiles where that
        would take too much memory. Labels are those of the image's own pixels either way.

        Args:
            paths: image files, or images in memory (of Pillow, or uint8 arrays; for a network of C bands
                (H, W, C) arrays), or a single one.
            batch_size: tiles at a time; images differ in size and go through one by one.
            keep_images: hand the images out as well.
            tile: side of the tiles in pixels, at least 32; every image larger than one is tiled then. None: only
                images that are too large, in tiles of 512 pixels or of the crop of sliding-window inference.
            short_side: the image's short side as the network sees it, in pixels; 0: its own; None: as in training,
                or its own where `tile` is given.
            scales: factors on that size; the probabilities of several are averaged.
            flip: average with those of the mirrored image.

        Yields:
            one `Prediction` per file; files that cannot be read carry the reason.

        Raises:
            ValueError: an argument is out of range.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if tile is not None and tile < _SMALLEST_TILE:
            raise ValueError(f"tile must be at least {_SMALLEST_TILE} pixels, got {tile}")
        if short_side is not None and short_side < 0:
            raise ValueError(f"short_side must be at least 1 pixel, or 0 for the image's own size, got {short_side}")
        settings = replace(self.inference, scales=scales, flip=flip)
        if short_side is None and tile is not None:
            short_side = 0  # whoever asks for tiles wants what is small to be seen
        if short_side is not None:
            settings = replace(settings, short_side=short_side or None, long_side=None)
        return self._predict(paths, settings, batch_size=batch_size, keep_images=keep_images, tile=tile)

    def _predict(
        self,
        paths: ImageSource | Iterable[ImageSource],
        settings: InferenceSettings,
        *,
        batch_size: int,
        keep_images: bool,
        tile: int | None,
    ) -> Iterator[Prediction]:
        named: dict[str, Any] = {"class_names": self.class_names, "palette": self.palette, "label_map": self.label_map}
        in_chans = self.preprocessing.in_chans
        read: dict[str, Any] = {"value_range": self.preprocessing.value_range}
        for (file,) in read_batches(paths, 1, num_bands=in_chans if reads_bands(in_chans) else None, **read):
            if file.image is None:
                yield Prediction(file.path, None, error=file.error, **named)
                continue
            with watched(self.network) as is_nan:
                labels = self.label(file.image, settings, batch_size=batch_size, tile=tile)
            if any(is_nan):  # they would pass for the first class
                error = f"{file.path}: the network returned values that are not numbers (NaN); {ADVICE}"
                yield Prediction(file.path, None, error=error, **named)
                continue
            image = file.image if keep_images else None
            image = in_colour(image) if isinstance(image, np.ndarray) else image
            yield Prediction(file.path, labels, image=image, **named)
            del file, labels, image  # or they would be kept while the next are made

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        """RGB in 0..255, by class index."""
        return self.preprocessing.colours(len(self.class_names))

    @torch.inference_mode()
    def label(
        self, image: Image.Image | Pixels, settings: InferenceSettings, *, batch_size: int = 1, tile: int | None = None
    ) -> np.ndarray:
        """Class index of each pixel of an image.

        Args:
            image: RGB image, or (H, W, C) uint8 for a network of C bands.
            settings: how the network is applied.
            batch_size, tile: as for `predict`.

        Returns:
            (H, W) uint8, or uint16 above 255 classes.
        """
        K = len(self.class_names)
        size = (image.shape[0], image.shape[1]) if isinstance(image, np.ndarray) else (image.height, image.width)
        height, width = settings.resized(size[0], size[1])
        largest = height * width * max(1.0, *settings.scales) ** 2
        if tile is not None:
            whole = max(height, width) <= tile
        else:
            fits = largest <= _MOST_PIXELS or settings.mode == "slide"
            kept = min(size[0] * size[1], shown_pixels(settings, *size))
            whole = fits and K * max(largest, kept) <= MOST_SCORES
        if whole:
            if needs_bands(settings, *size, num_classes=K):
                # A large image would take four times its memory again as numbers for the network.
                seen = settings.resized(size[0], size[1], max(1.0, *settings.scales))
                if seen[0] < size[0] and seen[1] < size[1]:
                    image = _resized(image, *seen)
            pixels = self.transform(image).to(self.device)
            labels = most_likely_classes(self.network, pixels, settings, num_classes=K, size=size).cpu().numpy()
            return labels if K <= 255 else labels.astype(np.uint16)
        shown = image.convert("L") if isinstance(image, Image.Image) and self.preprocessing.in_chans == 1 else image
        if (height, width) != size:
            shown = _resized(shown, height, width)
        tiled_inference = TiledInference(
            num_classes=K,
            mean=self.preprocessing.mean,
            std=self.preprocessing.std,
            tiling=Tiling(tile or (settings.crop if settings.mode == "slide" else DEFAULT_TILE), batch_size=batch_size),
            scales=settings.scales,
            flip=settings.flip,
            device=self.device,
        )
        tiled = segment_large(self.network, shown, tiled_inference)
        return tiled if (height, width) == size else _nearest(tiled, size[0], size[1])


def build_network(metadata: Mapping[str, Any]) -> nn.Module:
    """The network that the metadata of a `model.safetensors` describes, with fresh weights.

    Raises:
        KeyError, TypeError, ValueError: the metadata is not that of a segmenter.
    """
    return build_segmenter(
        metadata["segmenter"], metadata["variant"], len(metadata["class_names"]), **metadata["model_args"]
    )


def _read_label_map(metadata: Mapping[str, Any]) -> LabelMap | None:
    """The label map of a run's metadata; None where it was left before there was one."""
    found = metadata.get("label_map")
    if found is None:
        return None
    label_map = LabelMap.from_dict(found)
    if label_map.num_classes != len(metadata["class_names"]):
        raise ValueError(f"label_map has {label_map.num_classes} classes, class_names {len(metadata['class_names'])}")
    lacks = next((k for k, label in enumerate(label_map.class_labels) if label < 0), None)
    if lacks is not None:
        raise ValueError(f"label_map has no label for class {metadata['class_names'][lacks]!r}")
    return label_map


def _resized(image: Image.Image | Pixels, height: int, width: int) -> Image.Image | Pixels:
    if isinstance(image, np.ndarray):
        return resized(image, height, width)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _nearest(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(h, w) labels at another size."""
    rows = (np.arange(height) * 2 + 1) * labels.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * labels.shape[1] // (2 * width)
    return labels[rows[:, None], columns]
