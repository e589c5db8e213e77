"""What a weights file may not do, and what half a file is worth."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import scalablevit
from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.weights import METADATA_KEY, WeightsError, load_model, load_weights, save_model

ATTO = VARIANTS["scalablevit_atto"]


def atto(**options: object) -> ScalableViT:
    return ScalableViT(**{**ATTO, "num_classes": 3, **options})


@pytest.mark.parametrize(
    "model_args",
    [{"checkpoint_path": "evil.pth"}, {"pretrained": True}, {"features_only": True}, {"lim": [1, 2, 3], "x": 1}],
)
def test_metadata_reaches_nothing_but_the_network(tmp_path: Path, model_args: dict[str, object]) -> None:
    metadata = {"architecture": "scalablevit_atto", "model_args": {"num_classes": 3, **model_args}}
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(atto().state_dict(), path, {METADATA_KEY: json.dumps(metadata)})
    with pytest.raises(WeightsError, match="does not say how to build its network"):
        load_model(path)


def test_metadata_names_only_our_networks(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    metadata = {"architecture": "resnet18", "model_args": {}}
    safetensors.torch.save_file(atto().state_dict(), path, {METADATA_KEY: json.dumps(metadata)})
    with pytest.raises(WeightsError, match="does not say how to build its network"):
        load_model(path)


@pytest.mark.parametrize("lost", ["head.fc.weight", "head.fc.bias", "head.norm.weight", "norm.bias"])
@pytest.mark.parametrize("classes", [3, 4])
def test_half_a_head_or_norm_is_refused(lost: str, classes: int) -> None:
    state = atto(head="published").state_dict()
    del state[lost]
    model = atto(head="published", num_classes=classes)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    with pytest.raises(WeightsError, match=lost):
        load_weights(model, state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_half_a_norm_is_refused_with_a_fresh_head_too() -> None:
    state = atto().state_dict()
    del state["norm.bias"]
    with pytest.raises(WeightsError, match=r"norm\.bias"):
        load_weights(atto(), state, fresh_head=True)


def test_half_the_norms_of_a_pyramid_are_refused() -> None:
    state = scalablevit.create_backbone("scalablevit_atto").state_dict()
    del state["norms.3.weight"]
    with pytest.raises(WeightsError, match=r"norms\.3\.weight"):
        load_weights(scalablevit.create_backbone("scalablevit_atto"), state)


@pytest.mark.parametrize("window_size", [(4, 6), [(4, 6), 7, (2, 3), 1]])
def test_non_square_windows_survive_saving(tmp_path: Path, window_size: object) -> None:
    import timm

    model = atto(window_size=window_size).eval()
    options = {"num_classes": 3, "window_size": window_size}
    save_model(model, tmp_path, architecture="scalablevit_atto", model_args=options, metadata={})
    images = torch.randn(1, 3, 70, 90, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(load_model(tmp_path)[0](images), expected)
        torch.testing.assert_close(timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()(images), expected)


def test_classes_of_other_names_get_a_fresh_head(tmp_path: Path) -> None:
    metadata = {"class_names": ["a", "b", "c"]}
    path = save_model(
        atto(), tmp_path, architecture="scalablevit_atto", model_args={"num_classes": 3}, metadata=metadata
    )
    model = atto()
    before = model.head.fc.weight.clone()
    report = load_weights(model, path, class_names=["x", "y", "z"])
    assert torch.equal(model.head.fc.weight, before)
    assert "other names" in report.adapted["head.fc.weight"]
    assert "head.fc.weight" in load_weights(model, path, class_names=["a", "b", "c"]).matched


@pytest.mark.slow
def test_a_search_for_timm_does_not_end_the_registration() -> None:
    code = (
        "import scalablevit, importlib.util; assert importlib.util.find_spec('timm');"
        "import timm; assert timm.list_models('scalablevit*'); assert timm.__spec__.loader.get_source('timm')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert importlib.util.find_spec("timm") is not None


def test_a_refused_window_changes_nothing() -> None:
    model = atto()
    for wrong in (0, (7, 7, 7, 7), [7, 7, 7, 0]):
        with pytest.raises(ValueError, match="window_size"):
            model.set_input_size(window_size=wrong)
    assert model(torch.randn(1, 3, 32, 32)).isfinite().all()


def test_pruning_and_norms_agree() -> None:
    images = torch.randn(1, 3, 64, 64)
    model = atto().eval()
    with torch.no_grad():
        full = model.forward_intermediates(images, indices=[1], norm=True, intermediates_only=True)[0]
        model.prune_intermediate_layers([1], prune_head=False)
        pruned = model.forward_intermediates(images, indices=[1], norm=True, intermediates_only=True)[0]
        assert model(images).shape == (1, 3)
    torch.testing.assert_close(pruned, full)
    with pytest.raises(ValueError, match="num_classes"):
        model.reset_classifier(-1)


def test_a_hook_on_fc1_keeps_what_it_saw() -> None:
    model = atto().eval()
    seen = []
    model.stages[0].blocks[0].mlp.fc1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        model(images)
    model(images)
    torch.testing.assert_close(seen[0], seen[1])
