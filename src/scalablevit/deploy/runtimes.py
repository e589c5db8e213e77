"""Open graphs in ONNX Runtime and OpenVINO on the CPU, with as many threads as PyTorch has."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

Precision = Literal["f32", "bf16"]
Compute = Callable[[NDArray[Any]], list[NDArray[Any]]]
"""Images as a graph takes them to its outputs."""

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


def precisions_of(path: Path) -> tuple[Precision, ...]:
    """The floating-point precisions in which this machine's processor runs an exported file natively."""
    if path.suffix == ".onnx":
        return ("f32",)
    able = openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("f32", "bf16") if "BF16" in able else ("f32",)
