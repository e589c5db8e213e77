"""Name the parts of a network that the operators of an exported graph belong to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from scalablevit.deploy.runtimes import openvino_core

_STAGE = re.compile(r"(?:^|\.)(stages\.\d+)(?:\.|$)")
_PIXELS = re.compile(r"(?:^|\.)stages\.0\.patch_embed(?:\.|$)")
_SCOPES = "pkg.torch.onnx.name_scopes"

PIXELS = "patch_embed"
"""The part that sees the pixels: the patch embedding of the first stage."""


def part_of(parameter: str) -> str:
    """Name the part of a network that a parameter, or a module, belongs to.

    Returns:
        "patch_embed" (of the first stage), "stages.0" to "stages.3", or what is outside of them: "head", "decoder" ...
    """
    parameter = parameter.removeprefix("network.")
    if _PIXELS.search(parameter):
        return PIXELS
    stage = _STAGE.search(parameter)
    return stage[1] if stage else parameter.removeprefix("backbone.").partition(".")[0]


def parts_of_onnx(path: Path) -> dict[str, list[str]]:
    """Names of the operators in an ONNX file, by the part of the network; in the order of the graph."""
    import ast

    import onnx

    found: dict[str, list[str]] = {}
    part = ""
    for node in onnx.load(str(path)).graph.node:
        scopes = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
        # what no module computes has another scope, such as "_empty_nn_module_stack_from_metadata_hook"
        modules = [scope for scope in ast.literal_eval(scopes)[:-1] if scope.startswith("network.")]
        part = part_of(modules[-1]) if modules else part
        found.setdefault(part, []).append(node.name)
    return found


def parts_of_openvino(path: Path, weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of the operators in an OpenVINO file, by the part of the network; in the order of the graph.

    OpenVINO keeps no names of modules, so its constants are recognised by their bytes.

    Args:
        path: of the .xml file.
        weights: of the network that was exported, float32.
    """
    known = {
        _digest(tensor.detach().cpu().numpy().tobytes()): name for name, tensor in weights.items() if tensor.ndim > 1
    }
    found: dict[str, list[str]] = {}
    part = ""
    for operator in openvino_core().read_model(str(path)).get_ordered_ops():
        if operator.get_type_name() in ("Constant", "Parameter", "Result"):
            continue
        for value in operator.input_values():
            weight = _constant(value.get_node())
            name = None if weight is None else known.get(_digest(weight))
            part = part if name is None else part_of(name)
        found.setdefault(part, []).append(operator.get_friendly_name())
    return found


_LAYERS = {"Conv", "ConvTranspose", "Gemm", "MatMul", "Convolution", "ConvolutionBackpropData", "GroupConvolution"}


def without_weights(path: Path) -> set[str]:
    """Names of the operators of an exported .onnx or .xml file that are no convolution or matrix product.

    Among them is all that a detector computes with boxes: pixels and scores for which eight bits are too few.
    """
    if path.suffix == ".onnx":
        import onnx

        return {node.name for node in onnx.load(str(path)).graph.node if node.op_type not in _LAYERS}
    operators = openvino_core().read_model(str(path)).get_ordered_ops()
    kept = _LAYERS | {"Constant", "Parameter", "Result"}
    return {operator.get_friendly_name() for operator in operators if operator.get_type_name() not in kept}


def parts_of_graph(path: Path, weights: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Names of the operators of an exported .onnx or .xml file, by the part of the network."""
    found = parts_of_onnx(path) if path.suffix == ".onnx" else parts_of_openvino(path, weights)
    found.pop("", None)  # the normalisation, before the first weight
    return found


def _constant(node: Any) -> bytes | None:
    """Bytes of the constant behind an input, seen through the reshape of a grouped convolution; None: no constant."""
    if node.get_type_name() == "Reshape" and node.input_value(0).get_node().get_type_name() == "Constant":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    content: bytes = node.get_data().tobytes()
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
