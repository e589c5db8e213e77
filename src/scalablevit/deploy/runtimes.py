"""Run exported files by the runtime of their format, as arrays or in the place of the network that they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scalablevit.deploy.exportable import InputShape

Precision = Literal["f32", "bf16"]
Compute = Callable[[NDArray[Any]], list[NDArray[Any]]]


OPENVINO_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",
    # With its cache, OpenVINO 2026.4 gives wrong numbers (off by 10 %) after a few changes of the images' size.
    "CPU_RUNTIME_CACHE_CAPACITY": 0,
}
"""How OpenVINO runs a graph of free sizes on the CPU in full precision."""


@cache
def openvino_core() -> Any:
    """The process's one `openvino.Core`.

    Each of several would give the main thread a stack for signals, and take it back in any order: the next Ctrl-C
    would end the process by a segmentation fault.
    """
    import openvino

    return openvino.Core()


def onnx_session(source: bytes | Path) -> Any:
    """Open an ONNX graph in ONNX Runtime on the CPU, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised too
    return onnxruntime.InferenceSession(
        source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
    )


def onnx_compute(session: Any) -> Compute:
    """Run a session of ONNX Runtime: images as the graph takes them to its outputs."""
    (images,) = session.get_inputs()
    return lambda x: list(session.run(None, {images.name: x}))


def openvino_compute(model: Any, precision: Precision = "f32") -> Compute:
    """Compile a graph in OpenVINO for the CPU, with as many threads as PyTorch has.

    Args:
        model: the graph, or the path of its file.
        precision: in which it computes what is not int8.

    Returns:
        images as the graph takes them to its outputs.
    """
    threads = {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    settings = {**OPENVINO_SETTINGS, **threads, "INFERENCE_PRECISION_HINT": precision}
    request = openvino_core().compile_model(model, "CPU", settings).create_infer_request()

    def compute(images: NDArray[Any]) -> list[NDArray[Any]]:
        request.infer({0: np.ascontiguousarray(images)}, share_inputs=True)
        # Copies: the request writes its next results into the same memory.
        return [np.array(output.data) for output in request.output_tensors]

    return compute


def open_runtime(path: Path, precision: Precision = "f32") -> Compute:
    """Open an exported .onnx or .xml file on the CPU, with as many threads as PyTorch has.

    Args:
        path: of the file.
        precision: in which OpenVINO computes what is not int8.

    Returns:
        images as the graph takes them to its outputs.

    Raises:
        ValueError: bf16 outside of OpenVINO.
    """
    if path.suffix != ".onnx":
        return openvino_compute(str(path), precision)
    if precision != "f32":
        raise ValueError("ONNX Runtime has no bf16 on a CPU")
    return onnx_compute(onnx_session(path))


def precisions_of(path: Path) -> tuple[Precision, ...]:
    """The floating-point precisions in which this machine's processor runs an exported file natively."""
    if path.suffix == ".onnx":
        return ("f32",)
    able = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", "bf16") if "BF16" in able else ("f32",)


class RuntimeNetwork(nn.Module):
    """An exported file in the place of the network that it came from.

    Args:
        compute: runs the file.
        mean, std: of the normalisation inside of the file, per channel.
        shape: of the images that the file takes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, compute: Compute, *, mean: Sequence[float], std: Sequence[float], shape: InputShape) -> None:
        super().__init__()
        self.compute, self.shape = compute, shape
        self.register_buffer("mean", torch.tensor(list(mean))[:, None, None], persistent=False)  # (C, 1, 1)
        self.register_buffer("std", torch.tensor(list(std))[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor | list[Tensor]:
        """Normalised images (N, C, H, W) to the network's outputs."""
        parts = []
        for batch in images.split(self.shape.batch or len(images)):
            found = self.compute(self.as_taken(batch))
            if len(found[0]) < len(batch):
                raise ValueError(
                    f"the exported graph gives {len(found[0])} outputs for {len(batch)} images of "
                    f"{' x '.join(map(str, batch.shape[2:]))} pixels; free sizes hold from 32 pixels up: train with "
                    "larger images, or fix the size by --size"
                )
            parts.append([torch.from_numpy(output)[: len(batch)] for output in found])
        outputs = [torch.cat(pieces) for pieces in zip(*parts, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs

    def as_taken(self, images: Tensor) -> NDArray[Any]:
        """Normalised images as the file takes them; a batch that is fixed is filled up with its last image.

        Raises:
            ValueError: images of another size than the file is fixed to.
        """
        if self.shape.size is not None and tuple(images.shape[2:]) != self.shape.size:
            found = "x".join(map(str, images.shape[2:]))
            raise ValueError(
                f"--size {' '.join(map(str, self.shape.size))} does not fit the images of the data, which the network "
                f"sees at {found} pixels: leave out --size"
            )
        pixels = images.detach().float().cpu() * self.std + self.mean
        lacking = (self.shape.batch or len(pixels)) - len(pixels)
        if lacking > 0:
            pixels = torch.cat([pixels, pixels[-1:].expand(lacking, *pixels.shape[1:])])
        if self.shape.takes_bytes:
            pixels = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1)  # (N, H, W, C)
        return pixels.contiguous().numpy()
