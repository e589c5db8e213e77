"""Exported files as networks: the inputs and outputs are those of the PyTorch network that was exported."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from scalablevit.data.resizing import resized_size
from scalablevit.deploy.export_formats import FORMATS
from scalablevit.deploy.exported_graphs import Graph, format_of, open_graph
from scalablevit.deploy.exported_metadata import Description, read_description
from scalablevit.deploy.runtimes import Precision
from scalablevit.tasks import entries
from scalablevit.weights.metadata import TrainedWeights, open_trained
from scalablevit.weights.source import WeightsError, first_line, shortened

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_log = logging.getLogger(__name__)

_SMALLEST_SIDE = 32
_LARGER = f"free sizes hold from {_SMALLEST_SIDE} pixels up: take larger images, or export the run with --size"


class ExportedNetwork(nn.Module):
    """An exported file that is open: called like the network that it was exported from, on the CPU.

    It holds no parameters: the weights are the runtime's. Batches are cut, or filled up, where the file is fixed to
    a number of images.

    Args:
        path: of the file.
        description: what it says of itself.
        graph: its graph.

    Attributes:
        task: "classification", "detection", "segmentation" or "features".
        metadata: as the run wrote it, with what the export added.
        runtime: that computes.
        input: the images that the graph takes.
    """

    def __init__(self, path: Path, description: Description, graph: Graph) -> None:
        super().__init__()
        self.path = path
        self.task = description.task
        self.metadata = description.metadata
        self.input = description.input
        self.output_names = description.outputs
        self.runtime = FORMATS[format_of(path) or "torch"].runtime
        self._graph = graph
        self._mean = torch.tensor(self.input.mean)[:, None, None]  # (C, 1, 1)
        self._std = torch.tensor(self.input.std)[:, None, None]

    @property
    def origin(self) -> str:
        """File and runtime."""
        return f"{self.path}, {self.runtime}"

    @property
    def in_chans(self) -> int:
        """Channels of an image: 1, 3 or a number of bands."""
        return self.input.channels

    @property
    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width in pixels that the file is fixed to; None: free."""
        return self.input.size

    def warn_of_fixed_size(self) -> None:
        """Log that images are resized to the file's size, where it is fixed to one."""
        if self.fixed_size is not None:
            height, width = self.fixed_size
            _log.warning(
                "%s is fixed to images of %d x %d pixels: larger ones are made smaller to fit; to predict at the size "
                "of training, export the run without --size",
                *(self.path, height, width),
            )

    def forward(self, images: Tensor) -> Any:
        """Normalised images (N, C, H, W) to what the network gives: a tensor, or a list of several.

        Of a segmentation file that is fixed to a size, images of another size are resized to fit in it, and the logits
        back.

        Raises:
            ValueError: images that the graph does not take.
            WeightsError: outputs that do not fit the metadata.
        """
        pixels = self._pixels(images)
        if self.task == "segmentation" and self.fixed_size not in (None, tuple(images.shape[2:])):
            outputs = [self._letterboxed(pixels)]
        else:
            outputs = self.compute(pixels)
        return outputs[0] if len(outputs) == 1 else outputs

    def compute(self, pixels: Tensor | NDArray[Any]) -> list[Tensor]:
        """Compute the outputs of images (N, C, H, W), float in 0..1, before normalisation.

        Raises:
            ValueError: images that the graph does not take.
            WeightsError: outputs that do not fit the metadata.
        """
        pixels = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
        if pixels.ndim != 4 or pixels.shape[1] != self.in_chans or len(pixels) == 0:
            raise ValueError(
                f"{self.path} takes images (N, {self.in_chans}, H, W), N at least 1; got {tuple(pixels.shape)}"
            )
        if self.fixed_size not in (None, tuple(pixels.shape[2:])):
            height, width = self.input.size or (0, 0)
            raise ValueError(
                f"{self.path} is fixed to images of {height} x {width} pixels, got {pixels.shape[2]} x "
                f"{pixels.shape[3]}; export the run again without --size"
            )
        parts = [self._run(part) for part in self.input.laid_out(pixels).split(self.input.batch or len(pixels))]
        return [torch.cat(outputs) if len(outputs) > 1 else outputs[0] for outputs in zip(*parts, strict=True)]

    def as_taken(self, images: Tensor) -> Tensor:
        """Normalised images (N, C, H, W) as the graph takes them; a fixed batch is filled up with the last one."""
        return self.input.filled(self.input.laid_out(self._pixels(images))).contiguous()

    def _pixels(self, images: Tensor) -> Tensor:
        """Undo the normalisation of images: the graph has its own."""
        return images.detach().cpu().float() * self._std + self._mean

    def _run(self, images: Tensor) -> list[Tensor]:
        """Run the graph on images in its layout, no more than its batch."""
        count = len(images)
        images = self.input.filled(images).contiguous()
        try:
            outputs = self._graph.run(images)
        except Exception as error:  # the runtimes' own classes
            smallest = min(images.shape[1:3] if self.input.takes_bytes else images.shape[2:])
            advice = f"; {_LARGER}" if smallest < _SMALLEST_SIDE else ""
            raise ValueError(
                f"{self.path}: {self.runtime} fails on images {tuple(images.shape)} ({first_line(error)}){advice}"
            ) from error
        if len(outputs) != len(self.output_names):
            raise _other_outputs(self.path, f"{len(outputs)} outputs", f"names {len(self.output_names)}")
        names = self.metadata.get("class_names")
        if self.task in ("classification", "segmentation") and names is not None:
            _check_classes(self.path, tuple(outputs[0].shape), len(names))
        if self.task != "detection" and (lost := [len(x) for x in outputs if len(x) != len(images)]):
            raise ValueError(
                f"{self.path} gives {lost[0]} outputs for {len(images)} images {tuple(images.shape)}; {_LARGER}"
            )
        return [x[:count] for x in outputs] if count < len(images) else outputs

    def _letterboxed(self, pixels: Tensor) -> Tensor:
        """(N, C, h, w) -> logits (N, K, h, w), through the size that the graph is fixed to."""
        assert self.fixed_size is not None
        (height, width), (h, w) = self.fixed_size, pixels.shape[2:]
        resized = resized_size(h, w, short_side=None, long_side=None, factor=min(1.0, height / h, width / w))
        shown = (min(resized[0], height), min(resized[1], width))
        if shown != (h, w):
            pixels = F.interpolate(pixels, shown, mode="bilinear", align_corners=False, antialias=True)
        padded = F.pad(pixels, (0, width - shown[1], 0, height - shown[0]), mode="replicate")
        (logits,) = self.compute(padded)
        logits = logits[:, :, : shown[0], : shown[1]]
        if shown == (h, w):
            return logits
        return F.interpolate(logits, (h, w), mode="bilinear", align_corners=False)

    def extra_repr(self) -> str:
        """The file."""
        return self.origin


def is_exported(source: object) -> TypeIs[str | os.PathLike[str] | ExportedNetwork]:
    """Whether it is an exported file, by its name, or one that is open."""
    if isinstance(source, ExportedNetwork):
        return True
    return isinstance(source, str | os.PathLike) and format_of(Path(source)) is not None


def open_exported(
    source: str | os.PathLike[str] | ExportedNetwork, task: str | None = None, *, precision: Precision = "f32"
) -> ExportedNetwork:
    """Open a file of `scalablevit export`, and check what it says of itself.

    Args:
        source: .onnx, .xml or .pt2 file; a file that is open already is checked alone.
        task: what the network must be trained for; None: anything.
        precision: in which a file that is not open yet computes what is not int8; OpenVINO alone has bf16.

    Raises:
        ValueError: bf16 in another runtime.
        WeightsError: truncated, of another kind or task, from a newer version, a file that would read others or run
            code, or one whose graph and metadata disagree.
        MissingRuntimeError: its runtime is not installed; names the extra.
        FileNotFoundError: no such file.
    """
    if not isinstance(source, ExportedNetwork):
        path = Path(source).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"no exported file at {path}: there is no such file")
        graph = open_graph(path, precision)
        description = read_description(graph.text, path)
        _check_graph(path, description, graph)
        source = ExportedNetwork(path, description, graph)
    if task is None:
        return source
    if source.task != task:
        raise WeightsError(f"{source.path} holds a network for {source.task!r}, not for {task}")
    if source.metadata.get("weights") == "random":
        raise WeightsError(f"{source.path} was exported from a variant's name, with random weights: export a run")
    return source


def open_weights(source: str | os.PathLike[str]) -> TrainedWeights | ExportedNetwork:
    """Open the weights of a run, or an exported file, of a task that this version predicts.

    Args:
        source: run folder, its `model.safetensors`, or an exported file.

    Raises:
        ValueError: of another task.
        WeightsError, FileNotFoundError: as `open_exported` and `open_trained`.
    """
    weights = open_exported(source) if is_exported(source) else open_trained(source)
    if weights.task not in entries():
        known = ", ".join(entries())
        raise ValueError(f"{source} holds weights for {weights.task!r}; this version predicts {known}")
    return weights


def on_cpu(network: ExportedNetwork, device: str | torch.device | None) -> torch.device:
    """The device of an exported file: the CPU.

    Raises:
        ValueError: another was asked for.
    """
    if device is not None and torch.device(device).type != "cpu":
        raise ValueError(
            f"{network.path} is computed on the CPU, by {network.runtime}: leave out the device "
            f"{device}, or load the run in its place"
        )
    return torch.device("cpu")


def _check_graph(path: Path, description: Description, graph: Graph) -> None:
    """Compare metadata and graph."""
    digest = description.metadata["export"].get("weights_sha256")
    if graph.weights_sha256 is not None and digest not in (None, graph.weights_sha256):
        raise WeightsError(
            f"{path} belongs to other weights than {path.with_suffix('.bin').name} beside it holds: copy both files of "
            "one export"
        )
    given, shape = description.input, graph.input_shape
    said = [given.batch, given.channels, *(given.size or (None, None))]
    found = list(shape)
    if given.takes_bytes and len(found) == 4:
        found = [found[0], found[3], found[1], found[2]]
    if given.takes_bytes != graph.takes_bytes or found != said:
        kinds = {True: "bytes", False: "floats"}
        raise _other_outputs(
            path,
            f"images of {kinds[graph.takes_bytes]} {_named(shape)}",
            f"tells of {kinds[given.takes_bytes]}, {given.channels} channels, size {given.size or 'free'}, "
            f"batch {given.batch or 'free'}",
        )
    if len(graph.output_shapes) != len(description.outputs):
        raise _other_outputs(path, f"{len(graph.output_shapes)} outputs", f"names {len(description.outputs)}")
    for name in ("mean", "std"):  # images are normalised by the one, which is taken back by the other
        own = (description.metadata.get("preprocessing") or {}).get(name)
        inside = list(getattr(given, name))
        if own is not None and own != inside:
            raise _other_outputs(path, f"{name} {inside}", f"{name} {shortened(own, 80)} in its preprocessing")
    names = description.metadata.get("class_names")
    first = graph.output_shapes[0]
    if names is not None and first is not None and description.task in ("classification", "segmentation"):
        _check_classes(path, first, len(names))


def _check_classes(path: Path, shape: tuple[int | None, ...], num_classes: int) -> None:
    if len(shape) < 2 or shape[1] not in (None, num_classes):
        count = shape[1] if len(shape) > 1 else "no"
        raise _other_outputs(path, f"{count} classes in its outputs", f"names {num_classes}")


def _other_outputs(path: Path, graph: str, metadata: str) -> WeightsError:
    return WeightsError(
        f"{path} does not fit what it describes: its graph has {graph}, its metadata {metadata}; export the run again"
    )


def _named(shape: tuple[int | None, ...]) -> str:
    return " x ".join("free" if n is None else str(n) for n in shape)
