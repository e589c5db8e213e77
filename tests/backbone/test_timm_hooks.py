"""What timm asks of a registered network."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor

import scalablevit
from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.weights import save_model


def make(**options: Any) -> ScalableViT:
    return timm.create_model("scalablevit_atto", **{"num_classes": 5, **options}).eval()


def test_every_variant_is_registered() -> None:
    assert set(timm.list_models("scalablevit_*")) == set(VARIANTS)
    for name in ("scalablevit_small", "scalablevit_base", "scalablevit_large"):
        assert callable(getattr(scalablevit, name))
    with torch.device("meta"):
        model = timm.create_model("scalablevit_small")
    assert model.pretrained_cfg["input_size"] == (3, 224, 224)
    assert model.pretrained_cfg["crop_pct"] == 0.875
    assert model.default_cfg["classifier"] == "head.fc"
    assert isinstance(model.get_submodule(model.default_cfg["classifier"]), torch.nn.Linear)
    assert isinstance(model.get_submodule(model.default_cfg["first_conv"]), torch.nn.Conv2d)


@pytest.mark.parametrize("name", ["scalablevit_small", "scalablevit_atto"])
def test_pretrained_without_a_source_raises(name: str) -> None:
    with pytest.raises(RuntimeError, match="No pretrained weights exist"):
        timm.create_model(name, pretrained=True)


def test_attributes() -> None:
    model = make()
    assert (model.num_classes, model.in_chans, model.global_pool) == (5, 3, "avg")
    assert model.num_features == model.head_hidden_size == 128
    assert [(i["num_chs"], i["reduction"], i["module"]) for i in model.feature_info] == [
        (16, 4, "stages.0"),
        (32, 8, "stages.1"),
        (64, 16, "stages.2"),
        (128, 32, "stages.3"),
    ]
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), model(x))
    assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.head_hidden_size)


@pytest.mark.parametrize("taken", [[0, 1, 2, 3], [1, 2], [3]], ids=str)
def test_features_only(taken: list[int]) -> None:
    options = {} if len(taken) == 4 else {"out_indices": taken}
    features = timm.create_model("scalablevit_atto", features_only=True, **options).eval()
    channels, strides = [(16, 32, 64, 128)[i] for i in taken], [(4, 8, 16, 32)[i] for i in taken]
    assert features.feature_info.channels() == channels
    assert features.feature_info.reduction() == strides
    maps = features(torch.randn(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(1, c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]


def test_forward_intermediates() -> None:
    model = make()
    torch.nn.init.normal_(model.norm.weight)
    x = torch.randn(1, 3, 64, 96)
    final, maps = model.forward_intermediates(x)
    torch.testing.assert_close(final, model.forward_features(x))
    assert [m.shape[1:] for m in maps] == [(16, 16, 24), (32, 8, 12), (64, 4, 6), (128, 2, 3)]
    last_two = model.forward_intermediates(x, indices=2, intermediates_only=True)
    assert len(last_two) == 2
    torch.testing.assert_close(last_two[1], maps[3])
    channels_last = model.forward_intermediates(x, output_fmt="NHWC", intermediates_only=True)
    torch.testing.assert_close(channels_last[0].permute(0, 3, 1, 2), maps[0])
    normed = model.forward_intermediates(x, norm=True, intermediates_only=True)
    torch.testing.assert_close(normed[3].permute(0, 2, 3, 1), final)
    torch.testing.assert_close(normed[2], maps[2])
    with pytest.raises(ValueError, match="output_fmt must be 'NCHW' or 'NHWC', got 'NLC'"):
        model.forward_intermediates(x, output_fmt="NLC")


def test_stop_early_does_not_run_later_stages() -> None:
    model = make()
    ran = []
    model.stages[2].register_forward_hook(lambda *_: ran.append(2))
    x = torch.randn(1, 3, 64, 64)
    early = model.forward_intermediates(x, indices=[0, 1], stop_early=True, intermediates_only=True)
    assert not ran
    full = model.forward_intermediates(x, indices=[0, 1], intermediates_only=True)
    assert ran
    for a, b in zip(early, full, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("prune_norm", [False, True])
def test_prune_intermediate_layers(prune_norm: bool) -> None:
    model = make()
    x = torch.randn(1, 3, 64, 64)
    expected = model.forward_intermediates(x, indices=[1], intermediates_only=True)[0]
    model = model.double()
    assert model.prune_intermediate_layers([1], prune_norm=prune_norm, prune_head=True) == [1]
    assert len(model.stages) == 2
    assert isinstance(model.norm, torch.nn.Identity)  # it belonged to the last stage
    final, maps = model.forward_intermediates(x.double(), indices=[1])
    torch.testing.assert_close(maps[0].float(), expected)
    assert final.shape == (1, 8, 8, 32)
    assert model(x.double()).shape == (1, 8, 8, 32)
    model.reset_classifier(3, "avg")
    assert model(x.double()).shape == (1, 3)


def test_layer_decay_goes_block_by_block() -> None:
    model = make()
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, layer_decay=0.5, no_weight_decay_list=model.no_weight_decay()
    )
    names = {id(p): name for name, p in model.named_parameters()}
    scale = {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}
    decay = {names[id(p)]: g["weight_decay"] for g in groups for p in g["params"]}
    assert set(scale) == set(names.values())
    order = [
        "stages.0.patch_embed.proj.weight",
        "stages.0.blocks.0.attn.qkv.weight",
        "stages.0.blocks.1.mlp.fc1.weight",
        "stages.1.blocks.0.attn.qkv.weight",
        "stages.2.blocks.1.attn.q.weight",
        "stages.3.blocks.0.attn.qkv.weight",
        "stages.3.blocks.1.attn.q.weight",
        "head.fc.weight",
    ]
    scales = [scale[name] for name in order]
    assert all(a < b for a, b in itertools.pairwise(scales)), dict(zip(order, scales, strict=True))
    assert scales[-1] == 1.0
    assert scale["stages.0.blocks.0.attn.qkv.weight"] * 2 == scale["stages.0.blocks.1.attn.q.weight"]
    assert scale["stages.1.patch_embed.proj.weight"] == scale["stages.1.blocks.0.attn.qkv.weight"]
    assert scale["stages.1.peg.conv.weight"] == scale["stages.1.blocks.0.attn.qkv.weight"]
    undecayed = {name for name, value in decay.items() if value == 0}
    assert undecayed == {n for n, p in model.named_parameters() if p.ndim == 1 or ".peg." in n}


def test_no_weight_decay_names_exist() -> None:
    model = make()
    assert model.no_weight_decay() == {f"stages.{i}.peg.conv.weight" for i in range(4)}
    assert model.no_weight_decay() <= set(dict(model.named_parameters()))
    assert make(peg=False).no_weight_decay() == set()
    groups = param_groups_weight_decay(model, 0.05, no_weight_decay_list=model.no_weight_decay())
    undecayed = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert id(model.stages[0].peg.conv.weight) in undecayed
    assert id(model.stages[0].blocks[0].attn.lim.weight) not in undecayed


def test_set_input_size_changes_windows() -> None:
    model, other = make(), make(window_size=(4, 6))
    other.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 128, 160)
    assert not torch.allclose(model(x), other(x), rtol=1e-4, atol=1e-5)
    model.set_input_size(img_size=(128, 160), window_size=(4, 6))
    torch.testing.assert_close(model(x), other(x))
    model.set_input_size(window_size=[8, 7, 7, 5])
    assert [stage.blocks[0].attn.window_size for stage in model.stages] == [(8, 8), (7, 7), (7, 7), (5, 5)]
    with pytest.raises(ValueError, match="patch_size is fixed at 4 by the first convolution, got 16"):
        model.set_input_size(patch_size=16)
    with pytest.raises(ValueError, match="img_size must be at least 1 pixel, got 0"):
        model.set_input_size(img_size=0)


def test_img_size_is_not_needed() -> None:
    """timm passes no image size; any works without being told."""
    assert make(in_chans=1, drop_path_rate=0.1)(torch.randn(1, 1, 20, 31)).shape == (1, 5)


def saved(folder: Path, **options: Any) -> tuple[ScalableViT, Path]:
    model = make(**options)
    path = save_model(
        model,
        folder,
        architecture="scalablevit_atto",
        model_args={"num_classes": 5, **options},
        metadata={"class_names": list("abcde")},
    )
    return model, path


def test_local_dir_round_trip(tmp_path: Path) -> None:
    model, path = saved(tmp_path)
    assert path == tmp_path / "model.safetensors"
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.randn(2, 3, 40, 50)
    torch.testing.assert_close(again(x), model(x), rtol=0, atol=0)
    assert again.pretrained_cfg["label_names"] == list("abcde")
    report = scalablevit.load_weights(make(), f"local-dir:{tmp_path}")
    assert len(report.matched) == len(model.state_dict())


def test_local_dir_with_other_channels_and_classes(tmp_path: Path) -> None:
    model, _ = saved(tmp_path)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, in_chans=1, num_classes=9).eval()
    assert again(torch.randn(2, 1, 40, 50)).shape == (2, 9)
    kernel: Tensor = again.stages[0].patch_embed.proj.weight
    torch.testing.assert_close(kernel, model.stages[0].patch_embed.proj.weight.sum(1, keepdim=True))
    torch.testing.assert_close(again.norm.weight, model.norm.weight)


def test_published_names_through_timm(tmp_path: Path) -> None:
    """timm's own loader hands the file to our filter."""
    model, _ = saved(tmp_path)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    released = tmp_path / "released.pth"
    torch.save({"model": state}, released)
    again = timm.create_model(
        "scalablevit_atto",
        pretrained=True,
        num_classes=5,
        pretrained_cfg_overlay={"file": str(released), "num_classes": 5},
    ).eval()
    x = torch.randn(1, 3, 40, 50)
    torch.testing.assert_close(again(x), model(x))


def test_hub_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm downloads through huggingface_hub; here the download is a folder."""
    model, _ = saved(tmp_path)
    asked = []

    def download(repo_id: str, filename: str, **_: Any) -> str:
        asked.append((repo_id, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    monkeypatch.setattr("timm.models._hub.has_hf_hub", lambda *_, **__: True)
    again = timm.create_model("hf-hub:someone/digits", pretrained=True).eval()
    x = torch.randn(1, 3, 40, 50)
    torch.testing.assert_close(again(x), model(x))
    other = make()
    report = scalablevit.load_weights(other, "hf-hub:someone/digits")
    torch.testing.assert_close(other(x), model(x))
    assert len(report.matched) == len(model.state_dict())
    assert {repo for repo, _ in asked} == {"someone/digits"}
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "scalablevit_atto"
