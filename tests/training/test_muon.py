"""Muon: which weights it takes, how they move, and that a run goes on with the same bits."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.segmentation.models import build_segmenter
from scalablevit.training.optimizer import build_optimizer, hidden_matrices
from scalablevit.training.settings import OptimizerSettings
from scalablevit.training.sharding import _check

MUON = OptimizerSettings(name="muon", lr=0.01, lr_batch=None)


def test_it_takes_the_matrices_between_layers() -> None:
    network = ScalableViT(num_classes=10, **VARIANTS["scalablevit_atto"])
    names = set(hidden_matrices(network))
    assert len(names) > 40
    for name, parameter in network.named_parameters():
        is_depthwise = parameter.ndim == 4 and parameter.shape[1] == 1
        is_outside = name.startswith(("stages.0.patch_embed", "head"))
        assert (name in names) == (parameter.ndim > 1 and not is_depthwise and not is_outside), name


def test_heads_of_dense_tasks_are_left_to_adamw() -> None:
    names = hidden_matrices(build_segmenter("semantic_fpn", "scalablevit_atto", 3))
    bare = hidden_matrices(ScalableViT(num_classes=10, **VARIANTS["scalablevit_atto"]))
    assert names == [f"backbone.{name}" for name in bare]


def test_networks_of_timm() -> None:
    names = hidden_matrices(timm.create_model("test_vit", num_classes=10))
    assert "blocks.0.attn.qkv.weight" in names
    assert not [name for name in names if name.startswith(("patch_embed", "head", "pos_embed", "cls_token"))]
    with pytest.raises(ValueError, match=r"muon: Sequential does not say which layers are hidden.*take adamw"):
        hidden_matrices(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("layer_decay", [None, 0.5])
def test_a_step_is_orthogonal_where_it_should_be(layer_decay: float | None) -> None:
    """All singular values of a step are alike, and its size is that of AdamW: 0.2 lr an entry."""
    network = ScalableViT(num_classes=10, **VARIANTS["scalablevit_atto"])
    beside = nn.Linear(3, 5)
    settings = OptimizerSettings(name="muon", lr_batch=None, weight_decay=0.0, layer_decay=layer_decay)
    optimizer = build_optimizer(network, [beside], settings, lr=0.01, fused=True)
    parameters = dict(network.named_parameters()) | {"beside": beside.weight}
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates) == len(parameters) + 1
    before = {name: p.detach().clone() for name, p in parameters.items()}
    torch.manual_seed(0)
    for parameter in (p for group in optimizer.param_groups for p in group["params"]):
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    matrices = set(hidden_matrices(network))
    for name, parameter in parameters.items():
        step = (parameter.detach() - before[name]).flatten(1) if parameter.ndim > 1 else parameter - before[name]
        rate = rates[id(parameter)]
        if name in matrices:
            values = torch.linalg.svdvals(step)
            assert values.max() < 1.6 * values.quantile(0.1), name  # of raw gradients 3 to 10
            assert step.square().mean().sqrt() == pytest.approx(0.2 * rate, rel=0.15), name
        else:
            assert torch.allclose(step.abs(), torch.full_like(step, rate), rtol=1e-3), f"{name}: AdamW's first step"


class Task(ToyTask):
    def __init__(self, settings: OptimizerSettings = MUON) -> None:
        super().__init__(optimizer=settings)
        self.network.group_matcher = lambda coarse: {"blocks": r"^(\d+)"}  # type: ignore[assignment]


@pytest.fixture(scope="module")
def each_epoch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, with the checkpoint of each."""
    folder = tmp_path_factory.mktemp("muon")
    saver = ModelCheckpoint(dirpath=folder, filename="{epoch}", monitor="val/loss", save_top_k=-1)
    make_trainer(folder, [saver], max_epochs=2).fit(Task(), datamodule=ToyData())
    return folder


def state_of(path: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = torch.load(path, weights_only=True)["optimizer_states"][0]["state"]
    return found


def test_a_run_goes_on_with_the_same_bits(each_epoch: Path, tmp_path: Path) -> None:
    state = state_of(each_epoch / "epoch=1.ckpt")
    assert ["momentum_buffer" in found for found in state.values()].count(True) == 1, "the only hidden matrix"
    make_trainer(tmp_path, max_epochs=2).fit(Task(), datamodule=ToyData(), ckpt_path=str(each_epoch / "epoch=0.ckpt"))
    whole, resumed = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (each_epoch, tmp_path))
    torch.testing.assert_close(resumed["state_dict"], whole["state_dict"], rtol=0, atol=0)
    torch.testing.assert_close(state_of(tmp_path / "last.ckpt"), state_of(each_epoch / "last.ckpt"), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("momentum_buffer", torch.zeros(2, 2), "holds 2 x 2 as momentum_buffer of a parameter of shape 8 x 4"),
        ("use_muon", False, "took another step for a parameter of shape 8 x 4"),
    ],
)
def test_a_forged_state_is_refused(each_epoch: Path, tmp_path: Path, name: str, value: Any, message: str) -> None:
    checkpoint = torch.load(each_epoch / "epoch=0.ckpt", weights_only=True)
    optimizer = checkpoint["optimizer_states"][0]
    forged = next(found for found in optimizer["state"].values() if "momentum_buffer" in found)
    forged[name] = value
    if name == "use_muon":  # as whole as AdamW's
        forged |= {"step": torch.tensor(1.0), "exp_avg": torch.zeros(8, 4), "exp_avg_sq": torch.zeros(8, 4)}
        optimizer["param_groups"] = [group | {"use_muon": False} for group in optimizer["param_groups"]]
    torch.save(checkpoint, tmp_path / "forged.ckpt")
    with pytest.raises(ValueError, match=f"forged.ckpt is damaged: its optimizer {message}"):
        make_trainer(tmp_path, max_epochs=2).fit(Task(), datamodule=ToyData(), ckpt_path=str(tmp_path / "forged.ckpt"))


def test_the_state_of_the_other_optimizer_is_refused(each_epoch: Path, tmp_path: Path) -> None:
    adamw = Task(OptimizerSettings(lr=0.01, lr_batch=None))
    with pytest.raises(ValueError, match=r"forged|size of optimizer|parameter group"):
        make_trainer(tmp_path, max_epochs=2).fit(
            adamw, datamodule=ToyData(), ckpt_path=str(each_epoch / "epoch=0.ckpt")
        )


def test_matrices_in_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"name muon does not go with --trainer.strategy fsdp2.*take adamw"):
        _check(Task())
    _check(Task(OptimizerSettings()))


@pytest.mark.parametrize(
    ("given", "message"), [({"name": "sgd"}, "one of adamw, muon, got 'sgd'"), ({"momentum": 1.0}, r"lie in \[0, 1\)")]
)
def test_wrong_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**given)
