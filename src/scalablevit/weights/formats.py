"""Tell what a file is by its content, whatever its name, and what to do with one that holds no readable weights."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

from scalablevit.weights.source import WeightsError

# torch.save stores without compression; an archive that unpacks to far more than its size is not from there
_MOST_UNPACKED = 4
_CLONE = 'load it where you trust it, and save its state dict: safetensors.torch.save_file(state_dict, "x.safetensors")'
_SPECIAL = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# first bytes of the file -> what it is, and what to do
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"\x93NUMPY", "a NumPy array", f"a state dict is needed; {_CLONE}"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes", f"convert it to PyTorch; {_CLONE}"),
    (b"GGUF", "a GGUF file", f"convert it to PyTorch; {_CLONE}"),
    (b"version https://git-lfs", "a Git LFS pointer, not the weights themselves", "fetch them: git lfs pull"),
    (b"\x1f\x8b", "a gzip archive", "unpack it, and give the file inside"),
    (b"BZh", "a bzip2 archive", "unpack it, and give the file inside"),
    (b"\xfd7zXZ\0", "an xz archive", "unpack it, and give the file inside"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it, and give the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it, and give the file inside"),
    (b"Rar!", "a RAR archive", "unpack it, and give the file inside"),
    (b"\xff\xd8\xff", "a JPEG image", "give the file with the weights"),
    (b"\x89PNG", "a PNG image", "give the file with the weights"),
    (b"%PDF", "a PDF document", "give the file with the weights"),
    (b"\x7fELF", "a program or library", "give the file with the weights"),
)
_RENAME = "if it was exported by scalablevit: rename it to a name that ends in {}"
_HTML = (b"<!doctype html", b"<html", b"<head", b"<body", b"<!--")
_PAGE_REMEDY = (
    "the address led to a page (a login, an error, a preview) instead of the file: download the raw file, such as "
    "https://huggingface.co/OWNER/NAME/resolve/main/model.safetensors"
)


def weights_format(path: Path) -> str:
    """Tell how to read a file: "safetensors", "zip" (of torch.save) or "pickle" (the older form of torch.save).

    Args:
        path: an existing path.

    Raises:
        WeightsError: not a regular file, empty, or of a kind that holds no readable weights; the message names the
            kind and the remedy.
        OSError: the system refuses to read it.
    """
    refuse_irregular(path, "give a file with weights")
    size = path.stat().st_size
    if size == 0:
        raise WeightsError(f"{path} is empty; copy or download it again")
    with path.open("rb") as file:
        start = file.read(512)
    if start.startswith(b"PK\x03\x04"):
        _check_zip(path, size)
        return "zip"
    if size > 9 and start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") < 2**32:
        return "safetensors"
    if (found := _foreign(path, start)) is not None:
        kind, remedy = found
        raise WeightsError(f"{path} is {kind}; {remedy}")
    return "safetensors" if path.suffix == ".safetensors" and start[:1] != b"\x80" else "pickle"


def refuse_irregular(path: Path, remedy: str) -> None:
    """Refuse what would block or never end when it is read: pipes, sockets, devices; and folders.

    Raises:
        WeightsError: not a regular file; names its kind.
        OSError: there is none, or the system refuses to look.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = next((name for is_kind, name in _SPECIAL if is_kind(mode)), "not a regular file")
        raise WeightsError(f"{path} is {kind}; {remedy}")


def _foreign(path: Path, start: bytes) -> tuple[str, str] | None:
    """Name a file that holds no readable weights, and the remedy; None: it may be a pickle."""
    for signature, kind, remedy in _SIGNATURES:
        if start.startswith(signature):
            return kind, remedy
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(_HTML):
        return "a web page", _PAGE_REMEDY
    if text.startswith(b"<?xml") and b"<net " in text:
        return "an XML file of OpenVINO", f"{_RENAME.format('.xml')}; or give the weights that it was exported from"
    if text.startswith(b"<?xml"):
        return "an XML file", "give the file with the weights"
    if start[257:262] == b"ustar":
        return "a tar archive", "unpack it, and give the file inside"
    if path.suffix.lower() == ".onnx" or (start[:1] == b"\x08" and start[2:3] == b"\x12"):
        return (
            "an ONNX model",
            f"{_RENAME.format('.onnx')}; to train from it, give the PyTorch checkpoint that it was exported from",
        )
    if text[:1] in (b"{", b"[") and _is_text(start):
        return "a JSON file", "give the file with the weights, which stands beside it"
    if len(start) >= 16 and _is_text(start):
        return "a text file", "give the file with the weights"
    return None


def _is_text(start: bytes) -> bool:
    return all(byte in b"\t\n\r" or 32 <= byte < 127 or byte >= 128 for byte in start) and b"\0" not in start


def _check_zip(path: Path, size: int) -> None:
    """Refuse a zip archive that torch.save did not write, or that unpacks to many times its size."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError, EOFError) as error:
        raise WeightsError(
            f"{path} is truncated or not a checkpoint (its zip archive is incomplete); copy it again"
        ) from error
    names = [entry.filename for entry in entries]
    inner = [name.partition("/")[2] for name in names]
    if any(name.startswith("code/") for name in inner) or "constants.pkl" in inner:
        raise WeightsError(
            f"{path} is a TorchScript archive, which holds code; where you trust it, write its weights alone: "
            f'safetensors.torch.save_file(dict(torch.jit.load("{path.name}").state_dict()), "x.safetensors")'
        )
    if "archive_format" in inner or "models/model.json" in inner:
        raise WeightsError(
            f"{path} is a torch.export archive; {_RENAME.format('.pt2')}; otherwise write its weights alone: "
            f'safetensors.torch.save_file(dict(torch.export.load("{path.name}").state_dict), "x.safetensors")'
        )
    if names and all(name.endswith(".npy") for name in names):
        raise WeightsError(
            f"{path} is a NumPy archive; convert it: safetensors.torch.save_file({{name: torch.from_numpy(array) for "
            f'name, array in numpy.load("{path.name}").items()}}, "x.safetensors")'
        )
    if "data.pkl" not in inner:
        shown = ", ".join(names[:3]) or "nothing"
        raise WeightsError(f"{path} is a zip archive (of {shown}); unpack it, and give the file with the weights")
    if sum(entry.file_size for entry in entries) > _MOST_UNPACKED * size + 2**20:
        raise WeightsError(f"{path} is a compressed archive that unpacks to many times its size; save it by torch.save")
