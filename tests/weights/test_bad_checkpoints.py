"""What `load_weights` refuses, in which words, and that the model is then as it was."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import scalablevit
from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.weights import WeightsError, load_model, read_metadata, save_model, save_weights


def atto(**options: Any) -> ScalableViT:
    return ScalableViT(**{**VARIANTS["scalablevit_atto"], "num_classes": 5, **options})


def assert_refused(model: nn.Module, source: Any, words: str) -> str:
    """Loading raises with these words, and changes nothing."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=words) as caught:
        scalablevit.load_weights(model, source)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    return str(caught.value)


def test_another_variant(tmp_path: Path) -> None:
    path = tmp_path / "nano.pth"
    torch.save(ScalableViT(**VARIANTS["scalablevit_nano"], num_classes=5).state_dict(), path)
    message = assert_refused(atto(), path, "does not fit; nothing was loaded")
    assert "nano.pth" in message
    assert "The checkpoint holds scalablevit_nano, the model is scalablevit_atto" in message
    assert "Build the model as 'scalablevit_nano'" in message
    assert len(message.splitlines()) < 12


def test_deeper_model_of_the_same_widths() -> None:
    deeper = atto(depths=(2, 2, 4, 2))
    message = assert_refused(atto(), deeper.state_dict(), "the model has no place for stages.2.blocks.2")
    assert "depths [2, 2, 4, 2]" in message
    assert_refused(deeper, atto().state_dict(), "the checkpoint lacks stages.2.blocks.2")


@pytest.mark.parametrize(("theirs", "ours"), [(True, False), (False, True)])
def test_another_value_form(theirs: bool, ours: bool) -> None:
    state = atto(scale_value=theirs).state_dict()
    assert_refused(atto(scale_value=ours), state, f"Build the model with scale_value={theirs}")
    backbone = scalablevit.create_backbone("scalablevit_atto", scale_value=ours)
    assert_refused(backbone, state, f"Build the model with scale_value={theirs}")


def test_same_classes_other_head() -> None:
    assert_refused(atto(head="published"), atto().state_dict(), "build the model with head='plain'")
    assert_refused(atto(), atto(head="published").state_dict(), "build the model with head='published'")


def test_one_tensor_missing_or_misshapen_or_too_many() -> None:
    state = atto().state_dict()
    name = "stages.1.blocks.0.mlp.fc1.bias"
    assert_refused(atto(), {k: v for k, v in state.items() if k != name}, f"the checkpoint lacks {name}")
    assert_refused(atto(), {**state, name: torch.zeros(3)}, rf"{name} is \(3,\), the model needs \(128,\)")
    assert_refused(atto(), {**state, "stages.1.blocks.0.attn.rel_pos": torch.zeros(3)}, "no place for .*rel_pos")


def test_another_network() -> None:
    assert_refused(
        atto(), {"conv1.weight": torch.zeros(3)}, "does not hold a ScalableViT; its entries are conv1.weight"
    )
    with pytest.raises(WeightsError, match=r"Sequential is not a ScalableViT; .*load_weights\(model.backbone"):
        scalablevit.load_weights(nn.Sequential(nn.Linear(2, 2)), atto().state_dict())


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999, 40], ids=str)
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated(kind: str, keep: float, tmp_path: Path) -> None:
    state = atto().state_dict()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    assert_refused(atto(), path, rf"{path.name} is truncated or not a checkpoint")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights"])
@pytest.mark.parametrize(
    "content",
    [
        b"not a checkpoint at all\n",
        b"\x80\x04K\x01.",
        b"PK\x03\x04" + b"\0" * 60,
        bytes(range(256)),
        b"\xff\xd8\xff\xe0JFIF",
    ],
    ids=["text", "pickled number", "broken zip", "bytes", "jpeg"],
)
def test_not_a_checkpoint(content: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    kinds = "is truncated or not a checkpoint|holds a int|holds more than data|is a text file|is a JPEG image"
    assert_refused(atto(), path, f"{name} ({kinds})")


def test_a_run_that_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=f"resume the run with scalablevit fit --resume {tmp_path}, "):
        scalablevit.load_weights(atto(), tmp_path)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_empty_file(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert_refused(atto(), tmp_path / name, f"{name} is empty; copy or download it again")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere.pth: there is no such file or folder; give a .safe"):
        scalablevit.load_weights(atto(), tmp_path / "nowhere.pth")
    (tmp_path / "nowhere2.pth").touch()
    with pytest.raises(FileNotFoundError, match=r"no such file or folder \(did you mean .*nowhere2.pth\?\); give"):
        scalablevit.load_weights(atto(), tmp_path / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"no such file or folder; give"):
        scalablevit.load_weights(atto(), tmp_path / "no_folder" / "nowhere.pth")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        scalablevit.load_weights(atto(), tmp_path)


class Bomb:
    """Unpickled by a careless loader, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_with_code_is_not_run(legacy: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "bomb.pth", tmp_path / "exploded"
    torch.save({"model": atto().state_dict(), "x": Bomb(trace)}, path, _use_new_zipfile_serialization=not legacy)
    message = assert_refused(atto(), path, r"holds more than data: unpickling would call (posix|nt)\.mkdir")
    assert "safetensors" in message
    assert not trace.exists()
    torch.load(path, weights_only=False)  # the bomb is a real one
    assert trace.exists()


def test_plain_pickle_with_code_is_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "bomb.pkl", tmp_path / "exploded"
    path.write_bytes(pickle.dumps({"model": Bomb(trace)}))
    assert_refused(atto(), path, "bomb.pkl")
    assert not trace.exists()


def test_whole_module_pickled(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    assert_refused(atto(), tmp_path / "module.pth", "holds more than data: unpickling would call torch.nn.*Linear")


@pytest.mark.parametrize(
    ("checkpoint", "words"),
    [
        ({"epoch": 3, "args": {"lr": 0.1}}, "holds no tensors; its entries are args, epoch"),
        ({"model": {}}, "holds no tensors"),
        ({}, "holds no tensors"),
        ([1, 2], "holds a list, not a state dict"),
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ({0: torch.zeros(2)}, "holds no tensors; its entries are 0"),
    ],
    ids=["no tensors", "empty model", "empty", "list", "tensor", "numbered"],
)
def test_no_state_dict(checkpoint: Any, words: str, tmp_path: Path) -> None:
    torch.save(checkpoint, tmp_path / "odd.pth")
    assert_refused(atto(), tmp_path / "odd.pth", words)


def test_failed_write_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    model = atto()
    save_weights(model, path, metadata={"run": 1})

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        OSError, match=r"model.safetensors could not be written .No space left.*earlier file of that name is intact"
    ):
        save_weights(atto(), path, metadata={"run": 2})
    assert read_metadata(path) == {"run": 1}
    assert os.listdir(tmp_path) == ["model.safetensors"]


def test_model_round_trip(tmp_path: Path) -> None:
    options = {"num_classes": 5, "window_size": 4, "in_chans": 1}
    model = atto(**options).eval()
    preprocessing = {
        "image_size": [32, 32],
        "crop_ratio": 0.9,
        "interpolation": "bilinear",
        "mean": [0.5],
        "std": [0.2],
    }
    metadata = {"class_names": list("abcde"), "preprocessing": preprocessing}
    path = save_model(model, tmp_path, architecture="scalablevit_atto", model_args=options, metadata=metadata)
    x = torch.randn(2, 1, 40, 40)
    for source in (path, tmp_path):
        again, found = load_model(source)
        assert not again.training
        torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
        assert found["class_names"] == list("abcde")
        assert found["preprocessing"] == preprocessing


def test_load_model_needs_our_metadata(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(atto().state_dict(), path)
    with pytest.raises(WeightsError, match=r"does not say how to build its network .*load_weights\(model, file\)"):
        load_model(path)
    save_weights(atto(), path, metadata={"architecture": "resnet9000", "model_args": {}})
    with pytest.raises(WeightsError, match="resnet9000"):
        load_model(path)
    path.write_bytes(b"junk")
    with pytest.raises(WeightsError, match="is truncated or not a checkpoint"):
        load_model(path)
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere"):
        load_model(tmp_path / "nowhere")
