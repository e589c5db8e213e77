"""Open an exported graph of each format by its own runtime, after a look at what the file would have it do."""

from __future__ import annotations

import hashlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.parsers import expat

import torch
from torch import Tensor

from scalablevit.deploy.export_formats import FORMATS, METADATA_KEY, on_tensors
from scalablevit.deploy.runtimes import Precision, onnx_compute, onnx_session, openvino_compute, openvino_core
from scalablevit.deploy.torch_archive import check_archive
from scalablevit.model_files import EXPORTED, EXPORTED_FILE
from scalablevit.weights.formats import refuse_irregular
from scalablevit.weights.source import WeightsError, first_line, shortened

_PACKAGES: dict[str, tuple[str, ...]] = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",), "torch": ()}
_DEEPEST_XML = 32
_REMEDY = "copy it again, or export the run again"

Shape = tuple[int | None, ...]
"""Sizes of a tensor; None: free."""


class MissingRuntimeError(WeightsError):
    """The runtime of an exported file is not installed."""


@dataclass(frozen=True)
class Graph:
    """An exported graph that is ready to run.

    Attributes:
        text: the metadata, JSON; None: there is none.
        input_shape: of the images.
        takes_bytes: the images are uint8; else float32.
        output_shapes: of each output; None: its rank is not known.
        run: images to outputs, on the CPU.
        weights_sha256: of the weights in a file of their own; None: there is none.
    """

    text: str | None
    input_shape: Shape
    takes_bytes: bool
    output_shapes: tuple[Shape | None, ...]
    run: Callable[[Tensor], list[Tensor]]
    weights_sha256: str | None = None


def format_of(path: Path) -> str | None:
    """Name of the export format that a file's name ends in; None: of none."""
    return next((name for name, suffix in EXPORTED.items() if path.suffix.lower() == suffix), None)


def open_graph(path: Path, precision: Precision = "f32") -> Graph:
    """Open an exported graph.

    Args:
        path: of its main file.
        precision: in which it computes what is not int8; OpenVINO alone has bf16.

    Raises:
        ValueError: bf16 in another runtime.
        WeightsError: truncated, not of the format that its name says, or a file that would read others or run code.
        MissingRuntimeError: the format's runtime is not installed; names the extra.
        FileNotFoundError: no such file.
    """
    name = format_of(path)
    if name is None:
        raise WeightsError(f"{path} is no {EXPORTED_FILE}")
    refuse_irregular(path, "give an exported file")
    content = path.read_bytes()
    if not content:
        raise WeightsError(f"{path} is empty; {_REMEDY}")
    missing = [package for package in _PACKAGES[name] if find_spec(package) is None]
    if missing:
        raise MissingRuntimeError(
            f"{path} runs in {FORMATS[name].runtime}, and {', '.join(missing)} is not installed: "
            f"python -m pip install 'scalablevit[{name}]'"
        )
    if name == "openvino":
        return _open_openvino(content, path, precision)
    if precision != "f32":
        raise ValueError(f"{FORMATS[name].runtime} has no {precision} on a CPU: {path}")
    return _open_onnx(content, path) if name == "onnx" else _open_torch(content, path)


def _open_onnx(content: bytes, path: Path) -> Graph:
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's own classes
        raise _damaged(path, "ONNX", error) from error
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            place = next((entry.value for entry in tensor.external_data if entry.key == "location"), "?")
            raise WeightsError(
                f"{path} keeps weights in another file, {shortened(place, 120)!r}, which is not read; export the run "
                "again: its file holds all of them"
            )
    text = next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), None)
    del model
    try:
        session = onnx_session(content)
    except Exception as error:  # ONNX Runtime's own classes
        raise _damaged(path, "ONNX", error) from error
    images = _single(session.get_inputs(), path)
    return Graph(
        text=text,
        input_shape=_onnx_shape(images.shape),
        takes_bytes=images.type == "tensor(uint8)",
        output_shapes=tuple(_onnx_shape(output.shape) for output in session.get_outputs()),
        run=on_tensors(onnx_compute(session)),
    )


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors in a protobuf message of ONNX, in whatever attribute or subgraph."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for part in (value,) if hasattr(value, "DESCRIPTOR") else value:
                yield from _tensors(part)


def _onnx_shape(shape: Any) -> Shape:
    return tuple(n if isinstance(n, int) else None for n in shape)


def _open_openvino(content: bytes, path: Path, precision: Precision) -> Graph:
    text = _read_xml(content, path)
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise WeightsError(f"{path} has its weights in {weights.name} beside it, and there is no such file; copy both")
    parameters = weights.read_bytes()
    try:
        model = openvino_core().read_model(content, parameters)
        shapes = [_openvino_shape(port) for port in (*model.inputs, *model.outputs)]
        compute = openvino_compute(model, precision)
    except Exception as error:  # OpenVINO's own classes
        raise _damaged(path, f"OpenVINO, or {weights.name} is of another export", error) from error
    images = _single(model.inputs, path)
    return Graph(
        text=text,
        input_shape=shapes[0] or (),
        takes_bytes=images.element_type.get_type_name() == "u8",
        output_shapes=tuple(shapes[1:]),
        run=on_tensors(compute),
        weights_sha256=hashlib.sha256(parameters).hexdigest(),
    )


def _read_xml(content: bytes, path: Path) -> str | None:
    """Check the XML of OpenVINO, whose own reader trusts it, and return the metadata in it."""
    open_tags: list[str] = []
    found: list[str] = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        open_tags.append(tag)
        if open_tags[0] != "net":
            raise WeightsError(f"{path} is an XML file, but not OpenVINO's; take one that `scalablevit export` wrote")
        if len(open_tags) > _DEEPEST_XML:
            raise WeightsError(f"{path} is nested too deeply for a file of OpenVINO; export the run again")
        if open_tags == ["net", "rt_info", METADATA_KEY]:
            found.append(attributes.get("value", ""))

    def refuse(*_: Any) -> None:
        raise WeightsError(f"{path} declares XML entities, which OpenVINO never writes; export the run again")

    reader = expat.ParserCreate()
    reader.StartElementHandler = start
    reader.EndElementHandler = lambda tag: open_tags.pop()
    reader.StartDoctypeDeclHandler = refuse
    try:
        reader.Parse(content, True)
    except expat.ExpatError as error:
        raise _damaged(path, "OpenVINO", error) from error
    return found[0] if found else None


def _openvino_shape(port: Any) -> Shape | None:
    shape = port.partial_shape
    if shape.rank.is_dynamic:
        return None
    return tuple(None if dim.is_dynamic else dim.get_length() for dim in shape)


def _open_torch(content: bytes, path: Path) -> Graph:
    import torchvision  # noqa: F401 - registers the operators of detectors, without which the graph cannot be read

    text = check_archive(content, path)
    log = logging.getLogger("torch.export")
    level = log.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a buffer that PyTorch copies anyway
            log.setLevel(logging.CRITICAL)  # it would log the whole trace of what is raised below
            program = torch.export.load(io.BytesIO(content))
        module = program.module(check_guards=False)  # guards are Python code of the file
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        signature = program.graph_signature
        images = values[str(_single(signature.user_inputs, path))]
        assert images is not None
        outputs = tuple(_torch_shape(values.get(str(name))) for name in signature.user_outputs)
    except WeightsError:
        raise
    except Exception as error:  # whatever a damaged graph makes of PyTorch
        raise _damaged(path, "torch.export", error) from error
    finally:
        log.setLevel(level)

    @torch.no_grad()
    def run(x: Tensor) -> list[Tensor]:
        return list(module(x))

    return Graph(
        text=text,
        input_shape=_torch_shape(images) or (),
        takes_bytes=images.dtype == torch.uint8,
        output_shapes=outputs,
        run=run,
    )


def _torch_shape(value: Any) -> Shape | None:
    shape = getattr(value, "shape", None)
    return None if shape is None else tuple(n if isinstance(n, int) else None for n in shape)


def _single(inputs: Any, path: Path) -> Any:
    if len(inputs) != 1:
        raise WeightsError(f"{path} takes {len(inputs)} inputs, not images alone; take a file of `scalablevit export`")
    return inputs[0]


def _damaged(path: Path, kind: str, error: BaseException) -> WeightsError:
    return WeightsError(f"{path} is truncated or not a file of {kind} ({first_line(error)}); {_REMEDY}")
