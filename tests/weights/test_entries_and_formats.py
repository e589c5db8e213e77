"""Averaged weights beside the plain ones, and files that are not what their name says."""

import io
import os
import socket
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

import scalablevit
from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.classification import ClassificationTask
from scalablevit.weights import WeightsError, holds_scaled_values, load_weights, read_metadata, save_weights


def atto(seed: int = 0) -> ScalableViT:
    torch.manual_seed(seed)
    return ScalableViT(**{**VARIANTS["scalablevit_atto"], "num_classes": 3})


PLAIN, AVERAGED = atto(1).state_dict(), atto(2).state_dict()


def filled(source: Any, **options: Any) -> tuple[Tensor, str]:
    """Fill a fresh network; its last layer, and the report."""
    model = atto()
    report = load_weights(model, source, **options)
    return model.head.fc.weight, str(report)


@pytest.mark.parametrize(
    ("plain", "averaged"),
    [
        ("model", "model_ema"),
        ("state_dict", "state_dict_ema"),
        ("model_state_dict", "model_ema_state_dict"),
        ("model", "ema_state_dict"),
        ("module", "ema"),
        ("net", "averaged_model"),
    ],
)
def test_averaged_weights_are_reported_and_can_be_chosen(plain: str, averaged: str, tmp_path: Path) -> None:
    path = tmp_path / "c.pth"
    torch.save({averaged: AVERAGED, plain: PLAIN, "epoch": 9, "steps": torch.zeros(1)}, path)
    weight, report = filled(path)
    assert torch.equal(weight, PLAIN["head.fc.weight"])
    assert f"it also holds weights in {averaged}" in report
    assert f"--model.weights FILE#{averaged}" in report
    for source, options in ((path, {"entry": averaged}), (f"{path}#{averaged}", {})):
        weight, report = filled(source, **options)
        assert torch.equal(weight, AVERAGED["head.fc.weight"])
        assert f"it also holds weights in {plain}" in report
    assert holds_scaled_values(f"{path}#{averaged}") is False


def test_a_recipe_chooses_the_entry(tmp_path: Path) -> None:
    torch.save({"model": PLAIN, "model_ema": AVERAGED}, tmp_path / "c.pth")
    preprocessing = {"image_size": [32, 32], "crop_ratio": 1.0, "interpolation": "bilinear"}
    preprocessing |= {"mean": [0.5] * 3, "std": [0.2] * 3}
    task = ClassificationTask(
        "scalablevit_atto",
        class_names=["a", "b", "c"],
        preprocessing=preprocessing,
        weights=f"{tmp_path / 'c.pth'}#model_ema",
    )
    assert torch.equal(task.network.head.fc.weight, AVERAGED["head.fc.weight"])
    assert task.load_report is not None
    assert task.load_report.entry == "model_ema"
    assert task.load_report.other_entries == ["model"]


def test_averaged_weights_alone_are_taken(tmp_path: Path) -> None:
    torch.save(
        {"model_ema": {"module": {f"module.{k}": v for k, v in AVERAGED.items()}}, "epoch": 1}, tmp_path / "c.pth"
    )
    weight, report = filled(tmp_path / "c.pth")
    assert torch.equal(weight, AVERAGED["head.fc.weight"])
    assert "model_ema.module: the checkpoint holds no other weights" in report


def test_a_bare_state_dict_has_no_entry(tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "a#b.pth")
    weight, report = filled(tmp_path / "a#b.pth")  # the name of a file goes before an entry
    assert torch.equal(weight, PLAIN["head.fc.weight"])
    assert "entry" not in report
    assert torch.equal(filled({**PLAIN, "ema": AVERAGED})[0], PLAIN["head.fc.weight"])
    with pytest.raises(WeightsError, match=r"no weights in an entry 'model_ema'; it has a bare state dict"):
        filled(f"{tmp_path / 'a#b.pth'}#model_ema")


def test_an_entry_that_is_not_there(tmp_path: Path) -> None:
    torch.save({"model": PLAIN, "model_ema": AVERAGED}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"no weights in an entry 'ema'; it has .*: model, model_ema"):
        filled(tmp_path / "c.pth", entry="ema")
    with pytest.raises(WeightsError, match=r"names the entry .*leave out one"):
        filled(f"{tmp_path / 'c.pth'}#model", entry="model_ema")
    safetensors.torch.save_file(PLAIN, tmp_path / "c.safetensors")
    with pytest.raises(WeightsError, match="is a safetensors file, which has no entries"):
        filled(tmp_path / "c.safetensors", entry="model_ema")


def test_what_contains_itself_ends() -> None:
    loop: dict[str, Any] = {"optimizer": 1}
    loop["model"] = loop["state_dict"] = loop
    with pytest.raises(WeightsError, match="holds no tensors; its entries are model, optimizer, state_dict"):
        filled(loop)
    loop["head.fc.weight"] = torch.zeros(2)
    with pytest.raises(WeightsError, match="does not hold a ScalableViT"):
        filled(loop)


def test_the_content_decides_how_a_file_is_read(tmp_path: Path) -> None:
    safetensors.torch.save_file(PLAIN, tmp_path / "a.pth")
    torch.save({"model": PLAIN}, tmp_path / "b.safetensors")
    torch.save(PLAIN, tmp_path / "c.safetensors", _use_new_zipfile_serialization=False)
    torch.save(PLAIN, tmp_path / "pytorch_model.bin")
    for name in ("a.pth", "b.safetensors", "c.safetensors", "pytorch_model.bin"):
        assert torch.equal(filled(tmp_path / name)[0], PLAIN["head.fc.weight"])
    with pytest.raises(WeightsError, match="is not a safetensors file but a pickle of PyTorch"):
        read_metadata(tmp_path / "b.safetensors")


def torchscript(path: Path) -> None:
    with pytest.warns((DeprecationWarning, FutureWarning)):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))


def exported(path: Path) -> None:
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.zeros(1, 2),)), path)


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


def tape(path: Path) -> None:
    with tarfile.open(path, "w") as file:
        file.addfile(tarfile.TarInfo("weights.pth"), io.BytesIO())


def bomb(path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x/data/1", bytes(2**24))


def arrays(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(2))


def array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(2))


FOREIGN: list[tuple[Any, str]] = [
    (b"<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page; the address led to a page"),
    (b"\xef\xbb\xbf  <html>", "is a web page"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer.* git lfs pull"),
    (b'{"weight_map": {"a": "b.safetensors"}}', "is a JSON file"),
    (b"learning_rate: 0.1\nepochs: 3\n", "is a text file"),
    (b"\x1f\x8b\x08" + bytes(30), "is a gzip archive; unpack it"),
    (b"\x89PNG\r\n\x1a\n" + bytes(30), "is a PNG image"),
    (b"\x89HDF\r\n\x1a\n" + bytes(30), "is an HDF5 file"),
    (b"GGUF" + bytes(30), "is a GGUF file"),
    (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0" + bytes(30), "is an ONNX model"),
    (torchscript, r"is a TorchScript archive.*torch.jit.load"),
    (exported, r"is a torch.export archive.*torch.export.load"),
    (archive, r"is a zip archive \(of readme.txt\); unpack it"),
    (tape, "is a tar archive"),
    (bomb, "is a compressed archive that unpacks to many times"),
    (arrays, r"is a NumPy archive; convert it"),
    (array, "is a NumPy array"),
]


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "model.bin"])
@pytest.mark.parametrize(("content", "words"), FOREIGN, ids=[words[:24] for _, words in FOREIGN])
def test_a_foreign_file_is_named_with_the_remedy(content: Any, words: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content(path)
    for opened in (lambda: load_weights(atto(), path), lambda: scalablevit.load_model(path)):
        with pytest.raises(WeightsError, match=f"{name} {words}"):
            opened()


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with socket.socket(socket.AF_UNIX) as listener:
        where = os.getcwd()
        os.chdir(tmp_path)  # the path of a socket is short
        try:
            listener.bind("socket.safetensors")
        finally:
            os.chdir(where)
        for path, words in (
            (tmp_path / "pipe.pth", "is a named pipe"),
            (tmp_path / "socket.safetensors", "is a socket"),
            (Path("/dev/zero"), "is a device"),
        ):
            for opened in (lambda path: load_weights(atto(), path), scalablevit.load_model, read_metadata):
                with pytest.raises(WeightsError, match=words):
                    opened(path)


def test_an_address_and_a_folder_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights are read from files; download the file"):
        filled("https://example.org/weights.pth")
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(WeightsError, match=r"model\.safetensors is a folder; give a file with weights"):
        filled(tmp_path)


def test_a_folder_names_the_weights_that_it_has(tmp_path: Path) -> None:
    torch.save(PLAIN, tmp_path / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"the folder holds pytorch_model.bin: give .*pytorch_model.bin"):
        filled(tmp_path)


@pytest.mark.parametrize("kind", ["sparse", "without values", "quantized"])
def test_tensors_that_are_no_plain_ones(kind: str, tmp_path: Path) -> None:
    name = "stages.0.patch_embed.proj.weight"
    odd = {
        "sparse": lambda: torch.zeros(16, 3).to_sparse(),
        "without values": lambda: torch.zeros(16, 3, device="meta"),
        "quantized": lambda: torch.quantize_per_tensor(torch.zeros(16, 3), 1.0, 0, torch.qint8),
    }[kind]()
    torch.save({**PLAIN, name: odd}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=f"holds a tensor that is {kind}, {name}|holds more than data"):
        filled(tmp_path / "x.pth")


def test_weights_that_are_not_finite_change_nothing() -> None:
    model = atto()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"NaN or infinity in norm\.bias: its training diverged"):
        load_weights(model, {**PLAIN, "norm.bias": torch.full((128,), torch.nan)})
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_equal_weights_are_equal_files(tmp_path: Path) -> None:
    """safetensors writes metadata in an order by chance; names of any writing come back, and tensors stay in place."""
    model = torch.nn.Linear(3, 2)
    metadata = {"class_names": ["größe", 'a "b" \\', "tab\there", "\x01\x7f", "🙂"]}
    contents = set()
    for i in range(8):
        save_weights(model, tmp_path / f"{i}.safetensors", metadata=metadata)
        contents.add((tmp_path / f"{i}.safetensors").read_bytes())
    (content,) = contents
    assert content[8:].startswith(b'{"__metadata__":{"format":"pt","scalablevit":')
    assert int.from_bytes(content[:8], "little") % 8 == 0
    assert read_metadata(tmp_path / "0.safetensors") == metadata
    state = safetensors.torch.load_file(tmp_path / "0.safetensors")
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
