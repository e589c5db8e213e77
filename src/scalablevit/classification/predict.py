"""Classify image files."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from scalablevit.data.image_batches import ImageSource, read_batches
from scalablevit.data.image_transforms import Preprocessing
from scalablevit.deploy.exported import ExportedNetwork, is_exported, on_cpu, open_exported
from scalablevit.deploy.prediction import prepare_for_prediction
from scalablevit.device import choose_device
from scalablevit.moved import former_name
from scalablevit.weights import TrainedWeights, WeightsError, load_model, open_trained

_THRESHOLD = 0.5


@dataclass(frozen=True)
class Prediction:
    """Prediction of a classifier for one file.

    Attributes:
        path: the file.
        classes: names, the likeliest first; empty where the file could not be read, or, of a network with any number
            of labels an image, where it shows none.
        probabilities: of the same classes, in 0..1.
        error: why the file could not be read, or None.
        image: the image, where it was asked for.
        embedding: (C,) float32, the pooled features before the head, where they were asked for.
        threshold: probability that all labels of the image exceed; None: the network gives one class an image.
    """

    path: Path
    classes: list[str]
    probabilities: list[float]
    error: str | None = None
    image: Image.Image | None = None
    embedding: np.ndarray | None = None
    threshold: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        if self.error is not None:
            return {"path": str(self.path), "error": self.error}
        top = [{"class": c, "probability": round(p, 6)} for c, p in zip(self.classes, self.probabilities, strict=True)]
        said = {} if self.threshold is None else {"threshold": self.threshold}
        return {"path": str(self.path), "predictions": top, **said}

    def table_rows(self) -> list[tuple[str, str]]:
        """(class, probability), for people."""
        return [(c, f"{p:.1%}") for c, p in zip(self.classes, self.probabilities, strict=True)]

    def output_images(self) -> dict[str, Image.Image]:
        """Draw what `predict --save` writes.

        Returns:
            "": the image with the classes and their probabilities below it. Empty where the image was not kept.
        """
        if self.image is None:
            return {}
        from scalablevit.classification.annotate import annotate  # matplotlib takes a while to import

        lines = [f"{c}  {p}" for c, p in self.table_rows()]
        return {"": annotate(self.image, lines or [f"no label above {self.threshold or 0:.0%}"])}

    pictures = former_name("pictures", output_images)


class Classifier:
    """A trained network with its class names and preprocessing.

    Args:
        network: from images (B, C, H, W) to logits (B, K).
        class_names: by class index.
        preprocessing: how an image becomes the network's input.
        device: where to compute; None: a GPU if there is one.
        multi_label: an image has any number of the classes: probabilities are sigmoids, each by itself.

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
        multi_label: bool = False,
    ) -> None:
        self.multi_label = multi_label
        self.device = choose_device(device)
        self.network = network.eval().to(self.device)
        self.class_names = list(class_names)
        self.preprocessing = preprocessing
        self.transform = preprocessing.eval_transform()
        self._to_input_size = preprocessing.fit_transform()
        self._to_batch = preprocessing.batch_transform()

    @classmethod
    def load(
        cls,
        source: str | os.PathLike[str] | TrainedWeights | ExportedNetwork,
        *,
        device: str | torch.device | None = None,
    ) -> "Classifier":
        """Load the classifier of a run, or of an exported file.

        Args:
            source: run folder, or the `model.safetensors` in it, or a file of `scalablevit export` (.onnx, .xml or
                .pt2), or either of them if it is open already.
            device: where to compute; None: a GPU if there is one; exported files are computed on the CPU.

        Raises:
            WeightsError: not weights of a classifier that was trained here.
            FileNotFoundError: no such file.
            ValueError: this machine has no such device.
        """
        if is_exported(source):
            exported = open_exported(source, "classification")
            device = on_cpu(exported, device)
            return cls.from_metadata(exported, exported.metadata, source=exported.path, device=device)
        weights = open_trained(source, "classification")
        network, metadata = load_model(weights)
        return cls.from_metadata(network, metadata, source=weights.path, device=device)

    @classmethod
    def from_metadata(
        cls,
        network: nn.Module,
        metadata: Mapping[str, Any],
        *,
        source: str | os.PathLike[str],
        device: str | torch.device | None = None,
    ) -> "Classifier":
        """The same from a network that is loaded already; `source` is named in errors."""
        if metadata.get("task") != "classification":
            raise WeightsError(f"{source} holds weights for {metadata.get('task')!r}, not for classification")
        try:
            preprocessing = Preprocessing.from_dict(metadata["preprocessing"])
            class_names = list(metadata["class_names"])
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{source} lacks class names or preprocessing ({error}); train it with fit") from error
        # of a network of the caller's own, both numbers may be unknown
        num_classes = getattr(network, "num_classes", len(class_names))
        if num_classes != len(class_names):
            raise WeightsError(
                f"{source} does not fit what it describes: its network has {num_classes} classes, its metadata names "
                f"{len(class_names)}"
            )
        if (size := getattr(network, "fixed_size", None)) is not None:  # of an exported file
            preprocessing = replace(preprocessing, image_size=size)
        in_chans = getattr(network, "in_chans", preprocessing.in_chans)
        if in_chans != preprocessing.in_chans:
            raise WeightsError(
                f"{source} does not fit what it describes: its network takes {in_chans} channel(s), its preprocessing "
                f"has mean and std of {preprocessing.in_chans}"
            )
        return cls(
            network,
            class_names=class_names,
            preprocessing=preprocessing,
            device=device,
            multi_label=metadata.get("multi_label") is True,
        )

    def prepare(self) -> None:
        """Prepare the network for many images: on a CPU its layers are folded and packed; elsewhere nothing changes.

        Results are the same but for rounding in float32: the sixth digit of a probability may change.
        """
        self.network = prepare_for_prediction(self.network)

    def predict(
        self,
        paths: ImageSource | Iterable[ImageSource],
        *,
        top: int | None = None,
        threshold: float | None = None,
        batch_size: int = 16,
        keep_images: bool = False,
        keep_embeddings: bool = False,
    ) -> Iterator[Prediction]:
        """Classify images, in order, a batch at a time; of a list of files, the next are read meanwhile.

        Args:
            paths: image files, or images in memory (of Pillow, or uint8 arrays), or a single one.
            top: how many classes to name; no more than there are. None: 5, or of a network with any number of labels
                an image all above the threshold.
            threshold: of such a network, the probability that a label must exceed, in [0, 1]; None: 0.5.
            batch_size: images at a time.
            keep_images: hand the images out as well.
            keep_embeddings: hand the pooled features before the head out as well.

        Yields:
            one `Prediction` per file; files that cannot be read carry the reason.

        Raises:
            ValueError: `top` or `batch_size` is below 1, `threshold` is out of range or for another network, or the
                network gives no features.
        """
        top, threshold = self._shown(top, threshold)
        if keep_embeddings and not hasattr(_plain(self.network), "forward_features"):
            raise ValueError(
                "embeddings are features before the head, which an exported file does not give: give the run folder"
            )
        files = read_batches(
            paths,
            batch_size,
            value_range=self.preprocessing.value_range,
            convert=self._to_input_size,
            keep_images=keep_images,
        )
        for batch in files:
            images = [file.converted for file in batch if file.error is None]
            probabilities, embeddings = map(iter, self._outputs(images, keep_embeddings))
            for file in batch:
                if file.error is not None:
                    yield Prediction(file.path, [], [], error=file.error)
                    continue
                values, indices = next(probabilities).topk(top)
                if threshold is not None:
                    shown = ~(values <= threshold)  # NaN is shown, for a warning
                    values, indices = values[shown], indices[shown]
                names = [self.class_names[i] for i in indices.tolist()]
                embedding = next(embeddings).numpy() if keep_embeddings else None
                yield Prediction(
                    file.path, names, values.tolist(), image=file.image, embedding=embedding, threshold=threshold
                )

    def _shown(self, top: int | None, threshold: float | None) -> tuple[int, float | None]:
        """How many classes to name, and the probability that they must exceed; None: any.

        Raises:
            ValueError: see `predict`.
        """
        if top is not None and top < 1:
            raise ValueError(f"top must be at least 1, got {top}")
        if threshold is not None and not self.multi_label:
            raise ValueError(
                f"threshold {threshold:g} is for networks with any number of labels an image, and this one gives one "
                "class an image: choose the number of classes by top"
            )
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold must lie in [0, 1], got {threshold}")
        most = len(self.class_names)
        if not self.multi_label:
            return min(5 if top is None else top, most), None
        return most if top is None else min(top, most), _THRESHOLD if threshold is None else threshold

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (B, K) as probabilities in float32: of classes that exclude each other, or of each by itself."""
        logits = logits.float()
        return logits.sigmoid() if self.multi_label else logits.softmax(dim=-1)

    @torch.inference_mode()
    def _outputs(self, images: list[Image.Image], keep_embeddings: bool) -> tuple[Tensor, Tensor]:
        """Images of `fit_transform` to probabilities (B, K), and features (B, C) if asked for, on the CPU."""
        nothing = torch.empty(0, len(self.class_names))
        if not images:
            return nothing, nothing
        batch = self._to_batch(images).to(self.device)
        features = nothing
        if keep_embeddings:
            timms: Any = _plain(self.network)
            maps = timms.forward_features(batch)
            logits, features = timms.forward_head(maps), timms.forward_head(maps, pre_logits=True)
        else:
            logits = self.network(batch)
        return self.probabilities(logits).cpu(), features.float().cpu()


def _plain(network: nn.Module) -> nn.Module:
    """The network itself, where it was prepared for many images."""
    return getattr(network, "network", network)
