"""`create_backbone`: the four maps for dense tasks."""

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import scalablevit
from scalablevit.backbone import VARIANTS, BlockOptions, BlockSettings, PyramidBackbone


@pytest.mark.parametrize("name", ["scalablevit_small", "scalablevit_base", "scalablevit_large", "scalablevit_atto"])
def test_channels_and_strides(name: str) -> None:
    with torch.device("meta"):
        backbone = scalablevit.create_backbone(name)
    assert backbone.channels == list(VARIANTS[name]["embed_dims"])
    assert backbone.strides == [4, 8, 16, 32]
    assert not [key for key in backbone.state_dict() if key.startswith("head")]


@pytest.mark.parametrize("size", [(1, 1), (64, 64), (75, 130), (224, 31)], ids=str)
def test_any_size(size: tuple[int, int]) -> None:
    backbone = scalablevit.create_backbone("scalablevit_atto").eval()
    maps = backbone(torch.randn(2, 3, *size))
    assert isinstance(maps, list)
    for x, channels, stride in zip(maps, backbone.channels, backbone.strides, strict=True):
        assert x.shape == (2, channels, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
        assert x.isfinite().all()


def test_maps_are_normalised_and_feed_the_next_stage() -> None:
    backbone = scalablevit.create_backbone("scalablevit_atto").eval()
    for norm in backbone.norms:
        nn.init.normal_(norm.weight)
    images = torch.randn(1, 3, 64, 64)
    y = images
    for found, stage, norm in zip(backbone(images), backbone.stages, backbone.norms, strict=True):
        y = F.layer_norm(stage(y), norm.normalized_shape, norm.weight, norm.bias, 1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(found, y)


def test_gradients_reach_every_parameter() -> None:
    backbone = scalablevit.create_backbone("scalablevit_atto", drop_path_rate=0.1)
    sum(x.square().mul(torch.rand_like(x)).mean() for x in backbone(torch.randn(4, 3, 64, 64))).backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_gradients_without_the_last_map_need_no_unused_parameters_but_those_behind() -> None:
    backbone = scalablevit.create_backbone("scalablevit_atto")
    backbone(torch.randn(1, 3, 64, 64))[2].square().sum().backward()
    unused = {
        name.split(".")[0] + "." + name.split(".")[1] for name, p in backbone.named_parameters() if p.grad is None
    }
    assert unused == {"stages.3", "norms.3"}


@pytest.mark.parametrize(
    "options",
    [{"window_size": 5}, {"window_size": [7, 7, 7, 2]}],
    ids=str,
)
def test_windows_change_the_result(options: dict[str, Any]) -> None:
    backbone = scalablevit.create_backbone("scalablevit_atto").eval()
    other = scalablevit.create_backbone("scalablevit_atto", **options).eval()
    other.load_state_dict(backbone.state_dict())
    x = torch.randn(1, 3, 128, 128)
    assert not torch.equal(backbone(x)[-1], other(x)[-1])


@pytest.mark.parametrize("knob", ["drop_path_rate", "attn_drop_rate", "proj_drop_rate"])
def test_dropout_acts_in_training_only(knob: str) -> None:
    backbone = scalablevit.create_backbone("scalablevit_atto", **{knob: 0.5})
    x = torch.randn(4, 3, 64, 64)
    assert not torch.equal(backbone(x)[-1], backbone(x)[-1])
    backbone.eval()
    assert torch.equal(backbone(x)[-1], backbone(x)[-1])


def test_channels_in_and_value_form() -> None:
    backbone = scalablevit.create_backbone("scalablevit_atto", in_chans=4, scale_value=True)
    assert len(backbone(torch.randn(1, 4, 32, 32))) == 4
    assert hasattr(backbone.stages[0].blocks[1].attn, "kv")
    with pytest.raises(ValueError, match=r"images must be \(B, 4, H, W\)"):
        backbone(torch.randn(1, 3, 32, 32))


def test_grad_checkpointing() -> None:
    def gradients(backbone: PyramidBackbone) -> dict[str, torch.Tensor | None]:
        backbone(torch.ones(1, 3, 64, 64))[-1].square().sum().backward()
        return {name: p.grad for name, p in backbone.named_parameters()}

    plain = scalablevit.create_backbone("scalablevit_atto")
    recomputed = scalablevit.create_backbone("scalablevit_atto", grad_checkpointing=True)
    recomputed.load_state_dict(plain.state_dict())
    assert all(stage.grad_checkpointing for stage in recomputed.stages)
    assert not any(stage.grad_checkpointing for stage in plain.stages)
    expected = gradients(plain)
    for name, grad in gradients(recomputed).items():
        torch.testing.assert_close(grad, expected[name])


def test_parameter_groups_for_fine_tuning() -> None:
    from timm.optim import param_groups_layer_decay

    backbone = scalablevit.create_backbone("scalablevit_atto")
    assert backbone.no_weight_decay() == {f"stages.{i}.peg.conv.weight" for i in range(4)}
    groups = param_groups_layer_decay(backbone, layer_decay=0.5, no_weight_decay_list=backbone.no_weight_decay())
    assert sum(len(g["params"]) for g in groups) == len(list(backbone.parameters()))
    assert len({g["lr_scale"] for g in groups}) >= 9  # the stem, eight blocks


def test_unknown_variant_names_the_known() -> None:
    with pytest.raises(
        ValueError, match=r"no variant 'scalablevit_huge'; choose from scalablevit_small, .*scalablevit_atto"
    ):
        scalablevit.create_backbone("scalablevit_huge")


@pytest.mark.parametrize("option", ["depth", "head", "global_pool", "drop_rate"])
def test_an_option_of_another_network_is_refused(option: str) -> None:
    with pytest.raises(TypeError, match=rf"create_backbone\(\) got an unexpected keyword argument '{option}'"):
        scalablevit.create_backbone("scalablevit_atto", **{option: "plain"})  # type: ignore[misc]


def test_options_of_blocks_are_declared_as_they_are_stored() -> None:
    stored = {field.name: field.type for field in dataclasses.fields(BlockSettings)}
    assert {name: hint.__forward_arg__ for name, hint in BlockOptions.__annotations__.items()} == stored
