"""Parity with the published code: golden outputs, through `load_weights` on files as published."""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from synthetic import synthetic_images
from torch import Tensor, nn

import scalablevit
from scalablevit.backbone import ScalableViT

GOLDEN = Path(__file__).parents[1] / "golden"
State = dict[str, Tensor]


def as_released_pickle(state: State, folder: Path) -> Path:
    args = argparse.Namespace(model="ScalableViT_S", lr=1e-3, betas=(0.9, 0.999), output_dir="out")
    path = folder / "released.pth"
    torch.save({"model": state, "optimizer": {"param_groups": []}, "epoch": 299, "args": args}, path)
    return path


def as_bare_state_dict(state: State, folder: Path) -> Path:
    path = folder / "bare.pt"
    torch.save(state, path)
    return path


def as_wrapped_state_dict(state: State, folder: Path) -> Path:
    """A detector trained under DDP."""
    path = folder / "detector.pth"
    wrapped = {f"module.backbone.{key}": value for key, value in state.items()}
    torch.save({"state_dict": {**wrapped, "module.neck.convs.0.weight": torch.zeros(1)}, "meta": {"epoch": 12}}, path)
    return path


def as_safetensors(state: State, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    safetensors.torch.save_file({f"module.{key}": value for key, value in state.items()}, path)
    return path


def as_legacy_pickle(state: State, folder: Path) -> Path:
    path = folder / "legacy.pth"
    torch.save({"model": state, "args": argparse.Namespace(epochs=300)}, path, _use_new_zipfile_serialization=False)
    return path


def summaries(x: Tensor) -> dict[str, np.ndarray]:
    """What the golden files keep of a map (B, H, W, C)."""
    return {
        "mean": x.mean(dim=(1, 2)).numpy(),
        "first": x[:, 0, 0].numpy(),
        "last": x[:, -1, -1].numpy(),
        "rms": x.square().mean(dim=(1, 2, 3)).sqrt().numpy(),
        "corner": x[:, -2:, -2:].permute(0, 3, 1, 2).numpy(),
    }


def watch_stages(model: nn.Module) -> dict[str, Tensor]:
    """A dict that a run of `model` fills with the outputs of stages, and of first blocks, before PEG."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: seen.__setitem__(name, output)

    for i, stage in enumerate(model.stages, start=1):
        stage.register_forward_hook(keep(f"stage{i}"))
        stage.blocks[0].register_forward_hook(keep(f"stage{i}_block1"))
    return seen


def assert_equals_golden(found: dict[str, np.ndarray], golden: Path) -> None:
    """Every array of the file is there, and agrees to 1e-4 of its largest entry."""
    with np.load(golden) as file:
        stored = {key: file[key] for key in file.files if key != "size"}
    assert len(stored) > 20
    for key, expected in stored.items():
        assert found[key].shape == expected.shape, key
        error = np.abs(found[key] - expected).max() / np.abs(expected).max()
        assert error < 1e-4, f"{key} is off by {error:.1e}"


def golden_images(golden: Path) -> Tensor:
    with np.load(golden) as file:
        batch, height, width, seed = file["size"].tolist()
    return torch.from_numpy(synthetic_images(batch, height, width, seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "save"),
    [
        ("224x224", as_released_pickle),
        ("224x224", as_wrapped_state_dict),
        ("224x448", as_safetensors),
        ("224x448", as_bare_state_dict),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_classifier(
    size: str,
    save: Callable[[State, Path], Path],
    tmp_path: Path,
    reference_state: Callable[[str], State],
) -> None:
    golden = GOLDEN / f"released_small_{size}.npz"
    model = ScalableViT().eval()
    report = scalablevit.load_weights(model, save(reference_state("released_small"), tmp_path))
    assert len(report.matched) == len(model.state_dict())
    assert not report.adapted
    assert not report.fresh
    assert report.variant == "scalablevit_small"
    seen = watch_stages(model)
    with torch.inference_mode():
        logits = model(golden_images(golden))
    found = {f"{name}_{key}": value for name, x in seen.items() for key, value in summaries(x).items()}
    assert_equals_golden({"logits": logits.numpy(), **found}, golden)


@pytest.mark.parametrize("save", [as_legacy_pickle, as_wrapped_state_dict], ids=lambda f: f.__name__)
def test_pyramid(save: Callable[[State, Path], Path], tmp_path: Path, reference_state: Callable[[str], State]) -> None:
    golden = GOLDEN / "dense_small_250x333.npz"
    model = scalablevit.create_backbone("scalablevit_small", scale_value=True).eval()
    report = scalablevit.load_weights(model, save(reference_state("dense_small"), tmp_path))
    assert len(report.matched) == len(model.state_dict())
    assert report.variant == "scalablevit_small, scaled-value form"
    with torch.inference_mode():
        pyramid = model(golden_images(golden))
    found = {}
    for i, x in enumerate(pyramid, start=1):
        found[f"map{i}_shape"] = np.array(x.shape)
        found |= {f"map{i}_{key}": value for key, value in summaries(x.permute(0, 2, 3, 1)).items()}
    assert_equals_golden(found, golden)
