"""Check that a file of torch.export holds data only, before PyTorch reads it: `torch.export.load` can run code."""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from scalablevit.deploy.export_formats import METADATA_KEY
from scalablevit.weights.source import WeightsError, first_line, shortened

_MOST_UNPACKED = 4  # times the archive's size; torch.export stores without compression
_LONGEST_FORMULA = 20_000
_DEEPEST = 60
_PARTS = re.compile(
    r"models/model\.json|extra/[\w.-]+|archive_format|archive_version|byteorder|version|\.data/\w+"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt"
)
# operators of PyTorch and torchvision on tensors, and arithmetic on sizes
_TARGETS = re.compile(
    r"torch\.ops\.(aten|torchvision)\.\w+\.\w+|torch\.sym_[a-z]+|math\.(ceil|floor|trunc)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
_REFUSED = re.compile(r"torch\.ops\.aten\.(from_file|save\w*|load\w*|_print)\.\w+")
_IDENTIFIERS = re.compile(r"[\w.]{0,500}")
_TYPES = re.compile(r'"type":\s*"([^"]*)"')
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict"}
_FUNCTIONS = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Abs|floor|ceiling|Identity|Where|ModularIndexing"
    r"|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|CeilToInt|FloorToInt|TruncToInt|RoundToInt|ToFloat|IntTrueDiv"
    r"|FloatTrueDiv|PowByNatural|FloatPow|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality|StrictLessThan|LessThan"
    r"|StrictGreaterThan|GreaterThan|And|Or|Not|Piecewise|ExprCondPair|Tuple"
)
_NAMES = re.compile(r"[a-z]{1,4}\d{1,6}|int_oo|oo|true|false")


def check_archive(content: bytes, path: Path) -> str | None:
    """Check a file of `torch.export.save`, and return the metadata in it.

    Args:
        content: of the file.
        path: for messages.

    Returns:
        our JSON; None: there is none.

    Raises:
        WeightsError: truncated, not such a file, or one that holds more than a graph and its tensors.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return _check(archive, len(content), path)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, KeyError, RecursionError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path} is truncated or not a file of torch.export ({first_line(error)}); copy it again, or export the "
            "run again"
        ) from error


def _check(archive: zipfile.ZipFile, size: int, path: Path) -> str | None:
    entries = archive.infolist()
    if sum(entry.file_size for entry in entries) > _MOST_UNPACKED * size + 2**20:
        raise WeightsError(f"{path} is a compressed archive that unpacks to many times its size; export the run again")
    inner = {entry.filename.partition("/")[2]: entry for entry in entries}
    if len(inner) != len(entries) or "models/model.json" not in inner:
        raise WeightsError(f"{path} is not a file of torch.export; take one that `scalablevit export` wrote")
    for name in inner:
        if not _PARTS.fullmatch(name):
            raise _unsafe(path, f"a part {shortened(name, 80)!r}")
    for kind in ("weights", "constants"):
        _check_tensors(json.loads(archive.read(inner[f"data/{kind}/model_{kind}_config.json"])), path)
    with archive.open(inner["data/sample_inputs/model.pt"]) as file:
        try:
            torch.load(io.BytesIO(file.read()), weights_only=True)
        except Exception as error:  # whatever a damaged pickle makes of it
            raise _unsafe(path, "example inputs that are no tensors") from error
    program = json.loads(archive.read(inner["models/model.json"]))
    for key, value in _entries(program):
        if key == "target" and isinstance(value, str) and not _is_known_target(value):
            raise _unsafe(path, f"the operation {shortened(value, 80)!r}")
        if key.endswith("name") and not (value is None or (isinstance(value, str) and _IDENTIFIERS.fullmatch(value))):
            raise _unsafe(path, f"the name {shortened(value, 80)!r}")
        if key.endswith("_spec") and isinstance(value, str) and not set(_TYPES.findall(value)) <= _CONTAINERS:
            raise _unsafe(path, "arguments of an unknown type")
        if key == "expr_str" and not (isinstance(value, str) and _is_formula(value)):
            raise _unsafe(path, f"the size {shortened(value, 80)!r}")
    found = inner.get(f"extra/{METADATA_KEY}.json")
    return None if found is None else archive.read(found).decode()


def _check_tensors(config: Any, path: Path) -> None:
    """Refuse tensors that are kept as pickles, which can run code."""
    for key, value in _entries(config):
        if key == "use_pickle" and value is not False:
            raise _unsafe(path, "pickled tensors")
        if key == "path_name" and not (isinstance(value, str) and re.fullmatch(r"(weight|tensor)_\d+", value)):
            raise _unsafe(path, f"tensors in {shortened(value, 80)!r}")


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of all objects in a JSON value, however deep."""
    todo = [tree]
    while todo:
        value = todo.pop()
        if isinstance(value, dict):
            yield from value.items()
            todo += value.values()
        elif isinstance(value, list):
            todo += value


def _is_known_target(target: str) -> bool:
    return bool(_TARGETS.fullmatch(target)) and not _REFUSED.fullmatch(target)


def _is_formula(text: str) -> bool:
    """Whether text is arithmetic on sizes: PyTorch has SymPy evaluate it as Python."""
    if len(text) > _LONGEST_FORMULA:
        return False
    try:
        return _is_arithmetic(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_arithmetic(node: ast.AST, depth: int = 0) -> bool:
    if depth > _DEEPEST:
        return False
    if isinstance(node, ast.Constant):
        return isinstance(node.value, bool | float) or (isinstance(node.value, int) and abs(node.value) < 2**63)
    if isinstance(node, ast.Name):
        return bool(_NAMES.fullmatch(node.id))
    if isinstance(node, ast.UnaryOp | ast.BinOp | ast.Compare):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow | ast.LShift):
            return _is_symbol(node.left) and _is_small(node.right)
        parts = [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        return all(_is_arithmetic(part, depth + 1) for part in parts)
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not _FUNCTIONS.fullmatch(node.func.id):
        return False
    flags = all(isinstance(word.value, ast.Constant) and isinstance(word.value.value, bool) for word in node.keywords)
    if node.func.id == "Symbol":
        return flags and _is_symbol(node)
    if node.func.id in ("Pow", "PowByNatural", "FloatPow"):
        return flags and len(node.args) == 2 and _is_symbol(node.args[0]) and _is_small(node.args[1])
    return flags and all(_is_arithmetic(arg, depth + 1) for arg in node.args)


def _is_symbol(node: ast.AST) -> bool:
    """Whether it names a size, as s0 or Symbol('s0', integer=True)."""
    if isinstance(node, ast.Name):
        return bool(_NAMES.fullmatch(node.id))
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Symbol"):
        return False
    (name,) = node.args if len(node.args) == 1 else (None,)
    return isinstance(name, ast.Constant) and isinstance(name.value, str) and bool(_NAMES.fullmatch(name.value))


def _is_small(node: ast.AST) -> bool:
    """Whether an exponent is a small number: SymPy works out powers of any size."""
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        return isinstance(node.func, ast.Name) and node.func.id == "Integer" and _is_small(node.args[0])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        node = node.operand
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and abs(node.value) <= 8


def _unsafe(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path} holds {what}, which `scalablevit export` does not write: as it may run code, it is not opened"
    )
