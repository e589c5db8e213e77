"""Frozen backbones and stages: what does not learn, until when, and what is undone afterwards."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.detection import retinanet
from scalablevit.segmentation import semantic_fpn
from scalablevit.training.freezing import Freezing, frozen_names
from scalablevit.training.settings import FreezeSettings


def classifier(**options: Any) -> ScalableViT:
    return ScalableViT(**{**VARIANTS["scalablevit_atto"], "num_classes": 3, **options})


def top(names: list[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("head", ["plain", "published"])
def test_of_a_classifier_the_head_alone_learns(head: Any) -> None:
    network = classifier(head=head)
    names = set(frozen_names(network, None))
    learning = [name for name, _ in network.named_parameters() if name not in names]
    assert top(learning) == {"head"}
    assert top(list(names)) == {"stages", "norm"}


def test_stages_are_counted_from_the_stem() -> None:
    names = frozen_names(classifier(), 2)
    assert {name.split(".")[1] for name in names} == {"0", "1"}
    assert len(names) == sum(name.startswith(("stages.0.", "stages.1.")) for name, _ in classifier().named_parameters())
    assert top(frozen_names(classifier(), 4)) == {"stages"}
    with pytest.raises(ValueError, match=r"model\.freeze\.stages must be at most 4"):
        frozen_names(classifier(), 5)


@pytest.mark.parametrize(
    ("name", "head", "frozen"),
    [("resnet18", {"fc"}, {"conv1", "bn1", "layer1"}), ("convnext_atto", {"head"}, {"stem", "stages"})],
)
def test_networks_of_timm_have_them_too(name: str, head: set[str], frozen: set[str]) -> None:
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=3)
    names = set(frozen_names(network, None))
    assert top([name for name, _ in network.named_parameters() if name not in names]) == head
    assert top(frozen_names(network, 1)) == frozen


@pytest.mark.parametrize(("build", "prefix"), [(semantic_fpn, "backbone."), (retinanet, "backbone.body.")])
def test_dense_models_keep_their_decoders_learning(build: Any, prefix: str) -> None:
    network = build("scalablevit_atto", num_classes=3)
    names = frozen_names(network, None)
    assert all(name.startswith(prefix) for name in names)
    assert len(names) == sum(name.startswith(prefix) for name, _ in network.named_parameters())
    stages = frozen_names(network, 1)
    assert stages
    assert all(name.startswith(f"{prefix}stages.0.") for name in stages)


def test_what_never_learns_is_known_before_the_optimizer_is_made() -> None:
    network = classifier()
    made = Freezing(FreezeSettings(), network)
    assert {p.requires_grad for p in made.parameters} == {False}
    assert {p.requires_grad for p in network.head.parameters()} == {True}
    assert "in the whole run" in made.announcement()


@pytest.mark.parametrize("world_size", [1, 2])
def test_until_its_epoch_a_part_stays_as_it_is_whatever_the_optimizer_does(world_size: int) -> None:
    network = classifier().train()
    made = Freezing(FreezeSettings(epochs=2, stages=2), network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=0.5)
    assert len(optimizer.param_groups[0]["params"]) == len(list(network.parameters()))
    moved = []
    for epoch in range(4):
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        made.apply(epoch, world_size=world_size)
        assert network.stages[1].training == (epoch >= 2)
        assert network.stages[2].training
        optimizer.zero_grad()
        network(torch.randn(2, 3, 32, 32)).square().sum().backward()
        made.drop_gradients(epoch)
        optimizer.step()
        changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
        moved.append("stages.0.patch_embed.proj.weight" in changed)
        assert "stages.2.patch_embed.proj.weight" in changed
        assert not any(name.startswith(("stages.0.", "stages.1.")) for name in changed) or epoch >= 2
    assert moved == [False, False, True, True]


def test_batch_norm_of_a_frozen_part_keeps_its_statistics() -> None:
    network: nn.Module = timm.create_model("test_resnet", num_classes=3).train()
    made = Freezing(FreezeSettings(), network)
    made.apply(0, world_size=1)
    before = {name: value.clone() for name, value in network.named_buffers()}
    network(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"stages": 0}])
def test_settings_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"model\.freeze\.\w+ must be at least 1 or null, got 0"):
        FreezeSettings(**settings)


def test_what_did_not_learn_before_does_not_learn_later() -> None:
    network = classifier()
    idle = network.stages[0].get_parameter(next(name for name, _ in network.stages[0].named_parameters()))
    idle.requires_grad_(False)
    freezing = Freezing(FreezeSettings(epochs=1), network)
    freezing.apply(0, world_size=1)
    freezing.apply(1, world_size=1)
    assert [parameter for parameter in network.parameters() if not parameter.requires_grad] == [idle]
