"""`load_weights`: every format in, one out."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import scalablevit
from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.weights import read_checkpoint, save_weights
from scalablevit.weights.published_names import to_native_names

State = dict[str, Tensor]


def atto(**options: Any) -> ScalableViT:
    return ScalableViT(**{**VARIANTS["scalablevit_atto"], "num_classes": 5, **options})


def published_names(state: State, *, dense: bool = False) -> State:
    """The state dict of one of our networks under the names of the authors' code."""
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "stages" and parts[2] == "blocks":
            new = ".".join(["blocks" if dense else "stages", parts[1], *parts[3:]])
        elif parts[0] == "stages":
            new = {"patch_embed": f"patch_embeds.{parts[1]}.", "peg": f"pos_block.{parts[1]}.proj.0."}[parts[2]]
            new += ".".join(parts[3 + (parts[2] == "peg") :])
        else:
            new = name.replace("head.hidden", "head.0").replace("head.norm", "head.1").replace("norms.", "norm_list.")
            new = new.replace("head.fc", "head.3" if "head.hidden.weight" in state else "head")
        for ours, theirs in (
            (".attn.lim.", ".attn.lepe_func." if dense else ".attn.lim_func."),
            (".attn.reduce.", ".attn.reduction.0."),
            (".attn.expand.", ".attn.reduction.1."),
            (".attn.norm.", ".attn.norm_act.0."),
        ):
            new = new.replace(ours, theirs)
        renamed[new] = value
    return renamed


def assert_same(model: nn.Module, other: nn.Module) -> None:
    state = other.state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


WRAPPERS: dict[str, Callable[[State], Any]] = {
    "model and args": lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
    "bare": lambda state: state,
    "state_dict, module.": lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "state_dict, backbone.": lambda state: {"state_dict": {f"backbone.{k}": v for k, v in state.items()}},
    "module.backbone.": lambda state: {f"module.backbone.{k}": v for k, v in state.items()},
    "compiled, lightning": lambda state: {
        "state_dict": {f"network._orig_mod.{k}": v for k, v in state.items()},
        "epoch": 3,
    },
    "model_state_dict": lambda state: {"model_state_dict": state},
}


@pytest.mark.parametrize("head", ["published", "plain"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", "in memory"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_classifier_formats(wrapper: str, suffix: str, head: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    original = atto(head=head)
    wrapped = WRAPPERS[wrapper](published_names(original.state_dict()))
    source: Any = wrapped
    if suffix == ".safetensors":
        source = tmp_path / "weights.safetensors"
        tensors = wrapped
        while not all(isinstance(v, Tensor) for v in tensors.values()):
            tensors = next(v for v in tensors.values() if isinstance(v, dict))
        safetensors.torch.save_file(tensors, source)
    elif suffix == ".pth":
        source = tmp_path / "weights.pth"
        torch.save(wrapped, source)
    model = atto(head=head)
    report = scalablevit.load_weights(model, source)
    assert_same(model, original)
    assert sorted(report.matched) == sorted(model.state_dict())
    assert not (report.adapted)
    assert not (report.fresh)
    assert not (report.ignored)
    assert report.variant == "scalablevit_atto"
    assert f"{len(report.matched)} tensors matched" in str(report)


@pytest.mark.parametrize("scale_value", [False, True])
def test_dense_formats(scale_value: bool, tmp_path: Path) -> None:
    original = scalablevit.create_backbone("scalablevit_atto", scale_value=scale_value)
    path = tmp_path / "dense.pth"
    detector = {f"backbone.{k}": v for k, v in published_names(original.state_dict(), dense=True).items()}
    detector["neck.lateral_convs.0.conv.weight"] = torch.zeros(2)
    torch.save({"state_dict": detector, "meta": {"CLASSES": ("a", "b")}}, path)
    backbone = scalablevit.create_backbone("scalablevit_atto", scale_value=scale_value)
    report = scalablevit.load_weights(backbone, path)
    assert_same(backbone, original)
    assert report.ignored == ["neck.lateral_convs.0.conv.weight"]
    assert "neck.lateral_convs" in str(report)


def test_our_own_files(tmp_path: Path) -> None:
    original, model = atto(), atto()
    save_weights(original, tmp_path / "model.safetensors")
    for source in (tmp_path / "model.safetensors", tmp_path, str(tmp_path), f"local-dir:{tmp_path}"):
        torch.nn.init.zeros_(model.norm.weight)
        scalablevit.load_weights(model, source)
        assert_same(model, original)


def test_names_survive_the_renaming_of_ours() -> None:
    state = {**atto().state_dict(), **scalablevit.create_backbone("scalablevit_atto").state_dict()}
    assert list(to_native_names(state)) == list(state)


def test_two_entries_under_one_name_are_refused() -> None:
    state = atto().state_dict()
    doubled = {**state, "patch_embeds.0.proj.weight": state["stages.0.patch_embed.proj.weight"]}
    with pytest.raises(ValueError, match=r"holds 'stages.0.patch_embed.proj.weight' twice"):
        scalablevit.load_weights(atto(), doubled)


@pytest.mark.parametrize(("old", "new"), [(3, 1), (3, 4), (1, 3), (3, 6), (4, 3)])
def test_input_channels_are_adapted(old: int, new: int) -> None:
    original, model = atto(in_chans=old), atto(in_chans=new)
    report = scalablevit.load_weights(model, original.state_dict())
    name = "stages.0.patch_embed.proj.weight"
    assert report.adapted == {name: f"{old} -> {new} input channels"}
    assert name not in report.matched
    assert f"{old} -> {new} input channels" in str(report)
    # A gray image, the same in every channel, still gives the same features.
    gray = torch.randn(2, 1, 40, 40)
    if new == 1 or new % old == 0 or old == 1:
        torch.testing.assert_close(
            model(gray.expand(-1, new, -1, -1)), original(gray.expand(-1, old, -1, -1)), rtol=1e-4, atol=1e-5
        )
    kernel = model.stages[0].patch_embed.proj.weight
    assert kernel.shape[1] == new
    if new >= old:
        torch.testing.assert_close(kernel[:, :old], original.stages[0].patch_embed.proj.weight * old / new)


def test_other_classes_keep_a_fresh_last_layer_and_say_so() -> None:
    original, model = atto(head="published"), atto(head="published", num_classes=9)
    last = model.head.fc.weight.detach().clone()
    report = scalablevit.load_weights(model, original.state_dict())
    assert set(report.adapted) == {"head.fc.weight", "head.fc.bias"}
    assert report.adapted["head.fc.bias"] == "(5,) -> (9,), freshly initialised"
    assert torch.equal(model.head.fc.weight, last)
    assert torch.equal(model.head.hidden.weight, original.head.hidden.weight)
    assert torch.equal(model.norm.weight, original.norm.weight)


def test_other_classes_and_other_head_keep_a_fresh_head() -> None:
    original, model = atto(head="published"), atto(head="plain", num_classes=9)
    report = scalablevit.load_weights(model, original.state_dict())
    assert set(report.adapted) == {"head.fc.weight", "head.fc.bias"}
    assert {"head.hidden.weight", "head.norm.weight"} <= set(report.ignored)


def test_fresh_head_on_wish() -> None:
    original, model = atto(), atto()
    head = model.head.fc.weight.detach().clone()
    report = scalablevit.load_weights(model, original.state_dict(), fresh_head=True)
    assert torch.equal(model.head.fc.weight, head)
    assert set(report.fresh) >= {"head.fc.weight", "head.fc.bias"}
    assert torch.equal(model.stages[2].blocks[1].attn.q.weight, original.stages[2].blocks[1].attn.q.weight)


def test_classifier_into_pyramid() -> None:
    original, backbone = atto(), scalablevit.create_backbone("scalablevit_atto")
    report = scalablevit.load_weights(backbone, published_names(original.state_dict()))
    assert sorted(report.fresh) == sorted(f"norms.{i}.{kind}" for i in range(4) for kind in ("weight", "bias"))
    assert report.ignored == ["head.fc.bias", "head.fc.weight", "norm.bias", "norm.weight"]
    assert torch.equal(backbone.stages[3].peg.conv.weight, original.stages[3].peg.conv.weight)


def test_dense_into_classifier_needs_consent() -> None:
    original, model = scalablevit.create_backbone("scalablevit_atto"), atto()
    published = published_names(original.state_dict(), dense=True)
    with pytest.raises(ValueError, match="no classifier; pass fresh_head=True"):
        scalablevit.load_weights(model, published)
    report = scalablevit.load_weights(model, published, fresh_head=True)
    assert sorted(report.fresh) == ["head.fc.bias", "head.fc.weight", "norm.bias", "norm.weight"]
    assert torch.equal(model.stages[3].peg.conv.weight, original.stages[3].peg.conv.weight)


def test_dense_into_a_network_without_head_needs_consent() -> None:
    original, model = scalablevit.create_backbone("scalablevit_atto"), atto(num_classes=0)
    with pytest.raises(ValueError, match="It comes from a dense task; pass fresh_head=True"):
        scalablevit.load_weights(model, original.state_dict())
    report = scalablevit.load_weights(model, original.state_dict(), fresh_head=True)
    assert sorted(report.fresh) == ["norm.bias", "norm.weight"]


def test_classifier_into_features() -> None:
    original, model = atto(), atto(num_classes=0)
    report = scalablevit.load_weights(model, original.state_dict())
    assert report.ignored == ["head.fc.bias", "head.fc.weight"]
    assert not report.fresh


def test_weights_take_the_models_precision() -> None:
    original, model = atto(), atto().to(torch.bfloat16)
    scalablevit.load_weights(model, original.state_dict())
    assert model.norm.weight.dtype == torch.bfloat16
    torch.testing.assert_close(model.head.fc.weight, original.head.fc.weight.to(torch.bfloat16))


def test_read_checkpoint_gives_the_names_in_the_file(tmp_path: Path) -> None:
    torch.save({"model": {"a.b": torch.ones(2)}, "args": argparse.Namespace()}, tmp_path / "x.pth")
    assert list(read_checkpoint(tmp_path / "x.pth")) == ["a.b"]
