"""Run exported files by the runtime of their format, as arrays or in the place of the network that they came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from scalablevit.deploy.exportable import INPUT_NAME, InputShape

Precision = Literal["f32", "bf16"]
Compute = Callable[[NDArray[Any]], list[NDArray[Any]]]


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
    if path.suffix == ".onnx":
        import onnxruntime

        if precision != "f32":
            raise ValueError("ONNX Runtime has no bf16 on a CPU")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda images: list(session.run(None, {INPUT_NAME: images}))
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    request, count = compiled.create_infer_request(), len(compiled.outputs)

    def run(images: NDArray[Any]) -> list[NDArray[Any]]:
        request.infer([np.ascontiguousarray(images)])
        # Copies: the request writes its next results into the same memory.
        return [np.array(request.get_output_tensor(i).data) for i in range(count)]

    return run


def precisions_of(path: Path) -> tuple[Precision, ...]:
    """The floating-point precisions in which this machine's processor runs an exported file natively."""
    if path.suffix == ".onnx":
        return ("f32",)
    import openvino

    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
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
