"""The formats that a recorded graph is written to, each with the runtime that checks it."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils._sympy.value_ranges import ValueRanges

from scalablevit.deploy.exportable import INPUT_NAME

METADATA_KEY = "scalablevit"
"""Key of the metadata, JSON, in exported files; of PyTorch's files the extra file of that name."""

OPENVINO_SETTINGS = {
    "INFERENCE_PRECISION_HINT": "f32",
    # With its cache, OpenVINO 2026.4 gives wrong numbers (off by 10 %) after a few changes of the images' size.
    "CPU_RUNTIME_CACHE_CAPACITY": 0,
}
"""How OpenVINO runs a graph of free sizes on the CPU in full precision."""

Run = Callable[[Tensor], list[Tensor]]


@dataclass(frozen=True)
class Encoded:
    """An exported graph as it is to be written.

    Attributes:
        parts: suffix -> content of the file; the main file is the last.
        run: runs what was encoded, by the format's own runtime on the CPU.
    """

    parts: dict[str, bytes]
    run: Run


@dataclass(frozen=True)
class ExportFormat:
    """A format of exported files.

    Attributes:
        suffix: of its main file.
        runtime: for messages.
        packages: that it needs beside torch.
        encode: from graph, metadata, names of outputs, and free dimensions of the input.
    """

    suffix: str
    runtime: str
    packages: tuple[str, ...]
    encode: Callable[[ExportedProgram, Mapping[str, Any], Sequence[str], Mapping[int, str]], Encoded]

    def check_installed(self, name: str) -> None:
        """Refuse to begin where the format's packages are not installed.

        Raises:
            ModuleNotFoundError: one of them is missing; the message names the extra.
        """
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            raise ModuleNotFoundError(
                f"export to {name} needs {', '.join(missing)}: python -m pip install 'scalablevit[{name}]'"
            )


def _to_onnx(
    program: ExportedProgram, metadata: Mapping[str, Any], outputs: Sequence[str], free_dims: Mapping[int, str]
) -> Encoded:
    import onnx

    with _quiet():
        exported = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT_NAME], output_names=list(outputs), verbose=False
        )
    assert exported is not None
    model = exported.model_proto
    for i, name in free_dims.items():
        model.graph.input[0].type.tensor_type.shape.dim[i].dim_param = name
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    content = model.SerializeToString()
    return Encoded({".onnx": content}, _onnx_runner(content))


def _onnx_runner(content: bytes) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(x) for x in session.run(None, {INPUT_NAME: images.numpy()})]


def _to_openvino(
    program: ExportedProgram, metadata: Mapping[str, Any], outputs: Sequence[str], free_dims: Mapping[int, str]
) -> Encoded:
    import openvino

    with _quiet():
        model = openvino.convert_model(program)
    (images,) = (node.meta["val"] for node in program.graph.nodes if node.name == INPUT_NAME)
    model.reshape([-1 if i in free_dims else int(n) for i, n in enumerate(images.shape)])
    model.inputs[0].get_tensor().set_names({INPUT_NAME})
    for output, name in zip(model.outputs, outputs, strict=True):
        output.get_tensor().set_names({name})
    model.set_rt_info(json.dumps(metadata), [METADATA_KEY])
    core = openvino.Core()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        openvino.save_model(model, str(path), compress_to_fp16=False)
        parts = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".bin", ".xml")}
        # The file as it was written, not the model that wrote it.
        settings = {**OPENVINO_SETTINGS, "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = core.compile_model(core.read_model(str(path)), "CPU", settings)

    def run(images: Tensor) -> list[Tensor]:
        found = compiled([images.numpy()])
        return [torch.tensor(found[i]) for i in range(len(outputs))]

    return Encoded(parts, run)


def _to_torch(
    program: ExportedProgram, metadata: Mapping[str, Any], outputs: Sequence[str], free_dims: Mapping[int, str]
) -> Encoded:
    _free_small_sizes(program)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={f"{METADATA_KEY}.json": json.dumps(metadata)})
    file.seek(0)
    module = torch.export.load(file).module()
    return Encoded({".pt2": file.getvalue()}, lambda images: list(module(images)))


def _free_small_sizes(program: ExportedProgram) -> None:
    """Remove the assertions that keep small images out, such as that there is more than one key.

    PyTorch recorded them where it chose between ways to compute the same.
    """
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten._assert_scalar.default:
            graph.erase_node(node)
    graph.eliminate_dead_code()
    program.graph_module.recompile()
    for symbol, limits in program.range_constraints.items():
        program.range_constraints[symbol] = ValueRanges(min(1, limits.lower), limits.upper)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep what converters print about their progress and their own deprecations from the user."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(".onnx", "ONNX Runtime", ("onnx", "onnxscript", "onnxruntime"), _to_onnx),
    "openvino": ExportFormat(".xml", "OpenVINO", ("openvino",), _to_openvino),
    "torch": ExportFormat(".pt2", "PyTorch", (), _to_torch),
}
