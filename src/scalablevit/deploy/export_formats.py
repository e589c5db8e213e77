"""The formats that a recorded graph is written to, each with the runtime that checks it."""

from __future__ import annotations

import contextlib
import hashlib
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
from scalablevit.deploy.onnx_operators import translations
from scalablevit.deploy.runtimes import Compute, onnx_compute, onnx_session, openvino_compute, openvino_core
from scalablevit.model_files import EXPORTED

METADATA_KEY = "scalablevit"
"""Key of the metadata, JSON, in exported files; of PyTorch's files the extra file of that name."""

Run = Callable[[Tensor], list[Tensor]]
Constants = Mapping[str, Tensor]
"""Names of a network's buffers, with the values that a graph shall compute with in their place."""


@dataclass(frozen=True)
class Encoded:
    """An exported graph as it is to be written.

    Attributes:
        parts: suffix -> content of the file; the main file is the last.
        run: runs what was encoded, by the format's own runtime on the CPU.
        with_constants: the same, but for the values of some buffers.
    """

    parts: dict[str, bytes]
    run: Run
    with_constants: Callable[[Constants], Run]


@dataclass(frozen=True)
class ExportFormat:
    """A format of exported files.

    Attributes:
        suffix: of its main file.
        runtime: for messages.
        packages: that it needs beside torch.
        detector_packages: that detectors need beside those.
        encode: from graph, metadata, names of outputs, and free dimensions of the input.
    """

    suffix: str
    runtime: str
    packages: tuple[str, ...]
    encode: Callable[[ExportedProgram, Mapping[str, Any], Sequence[str], Mapping[int, str]], Encoded]
    detector_packages: tuple[str, ...] = ()

    def check_installed(self, name: str, *, is_detector: bool = False) -> None:
        """Refuse to begin where the format's packages are not installed.

        Raises:
            ModuleNotFoundError: one of them is missing; the message names the extra.
        """
        missing = [package for package in self.packages if find_spec(package) is None]
        if missing:
            raise ModuleNotFoundError(
                f"export to {name} needs {', '.join(missing)}: python -m pip install 'scalablevit[{name}]'"
            )
        missing = [package for package in self.detector_packages if is_detector and find_spec(package) is None]
        if missing:
            raise ModuleNotFoundError(
                f"export of a detector to {name} goes by way of ONNX and needs {', '.join(missing)}: "
                f"python -m pip install 'scalablevit[onnx,{name}]'"
            )


def _to_onnx(
    program: ExportedProgram, metadata: Mapping[str, Any], outputs: Sequence[str], free_dims: Mapping[int, str]
) -> Encoded:
    import onnx

    model = _onnx_model(program, outputs, free_dims)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(metadata)})
    content = model.SerializeToString()

    def with_constants(constants: Constants) -> Run:
        return _onnx_runner(_changed(model, constants).SerializeToString())

    return Encoded({".onnx": content}, _onnx_runner(content), with_constants)


def _onnx_model(program: ExportedProgram, outputs: Sequence[str], free_dims: Mapping[int, str]) -> Any:
    # torch 2.11 asks how large a convolution's input is before it takes oneDNN, also where sizes are unknown.
    with _quiet(), torch.backends.mkldnn.flags(enabled=False):
        exported = torch.onnx.export(
            program,
            dynamo=True,
            input_names=[INPUT_NAME],
            output_names=list(outputs),
            custom_translation_table=translations() if _is_detector(program) else None,
            verbose=False,
        )
    assert exported is not None
    model = exported.model_proto
    for i, name in free_dims.items():
        model.graph.input[0].type.tensor_type.shape.dim[i].dim_param = name
    return model


def _changed(model: Any, constants: Constants) -> Any:
    """A copy of an ONNX model with other values of initializers.

    Raises:
        KeyError: the model has no initializer of that name.
    """
    import onnx

    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    initializers = {initializer.name: initializer for initializer in changed.graph.initializer}
    for name, value in constants.items():
        initializers[name].CopyFrom(onnx.numpy_helper.from_array(value.numpy(), name))
    return changed


def _onnx_runner(content: bytes) -> Run:
    return on_tensors(onnx_compute(onnx_session(content)))


def on_tensors(compute: Compute) -> Run:
    """The same on tensors, on the CPU."""
    return lambda images: [torch.from_numpy(output) for output in compute(images.numpy())]


def _to_openvino(
    program: ExportedProgram, metadata: Mapping[str, Any], outputs: Sequence[str], free_dims: Mapping[int, str]
) -> Encoded:
    import openvino

    # OpenVINO knows torchvision's operators from ONNX only.
    onnx_model = _onnx_model(program, outputs, free_dims) if _is_detector(program) else None
    (images,) = (node.meta["val"] for node in program.graph.nodes if node.name == INPUT_NAME)

    def convert(source: Any, folder: str) -> Any:
        if onnx_model is not None:
            path = Path(folder) / "model.onnx"
            path.write_bytes(source.SerializeToString())
            source = str(path)
        with _quiet():
            model = openvino.convert_model(source)
        model.reshape([-1 if i in free_dims else int(n) for i, n in enumerate(images.shape)])
        model.inputs[0].get_tensor().set_names({INPUT_NAME})
        for output, name in zip(model.outputs, outputs, strict=True):
            output.get_tensor().set_names({name})
        return model

    def with_constants(constants: Constants) -> Run:
        assert onnx_model is not None
        with tempfile.TemporaryDirectory() as folder:
            return on_tensors(openvino_compute(convert(_changed(onnx_model, constants), folder)))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        save_openvino(convert(program if onnx_model is None else onnx_model, folder), metadata, path)
        parts = {suffix: path.with_suffix(suffix).read_bytes() for suffix in (".bin", ".xml")}
        # The file as it was written, not the model that wrote it.
        return Encoded(parts, on_tensors(openvino_compute(openvino_core().read_model(str(path)))), with_constants)


def save_openvino(model: Any, metadata: Mapping[str, Any], path: Path) -> None:
    """Write a model of OpenVINO as .xml and .bin, with metadata that tell which .bin is its own."""
    import openvino

    openvino.save_model(model, str(path), compress_to_fp16=False)
    with path.with_suffix(".bin").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    export = {**metadata["export"], "weights_sha256": digest}
    model.set_rt_info(json.dumps({**metadata, "export": export}), [METADATA_KEY])
    openvino.save_model(model, str(path), compress_to_fp16=False)


def _to_torch(
    program: ExportedProgram, metadata: Mapping[str, Any], outputs: Sequence[str], free_dims: Mapping[int, str]
) -> Encoded:
    _free_small_sizes(program)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={f"{METADATA_KEY}.json": json.dumps(metadata)})

    def runner(constants: Constants) -> Run:
        file.seek(0)
        module = torch.export.load(file).module()
        for name, value in constants.items():
            module.get_buffer(name).copy_(value)
        return lambda images: list(module(images))

    return Encoded({".pt2": file.getvalue()}, runner({}), runner)


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


def _is_detector(program: ExportedProgram) -> bool:
    return any(str(node.target).startswith("torchvision.") for node in program.graph.nodes)


@contextlib.contextmanager
def _quiet() -> Any:
    """Keep what converters print about their progress and their own deprecations from the user."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(EXPORTED["onnx"], "ONNX Runtime", ("onnx", "onnxscript", "onnxruntime"), _to_onnx),
    "openvino": ExportFormat(EXPORTED["openvino"], "OpenVINO", ("openvino",), _to_openvino, ("onnx", "onnxscript")),
    "torch": ExportFormat(EXPORTED["torch"], "PyTorch", (), _to_torch),
}
