"""Weights go into a network whatever wraps it, and the report names the parameters as the wrapped model does."""

import copy
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DataParallel
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel

import scalablevit
from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.classification import ClassificationTask
from scalablevit.detection.models import retinanet
from scalablevit.segmentation.models import semantic_fpn
from scalablevit.weights import WeightsError, load_weights

NAME = "scalablevit_atto"


def atto(seed: int = 0, **options: Any) -> ScalableViT:
    torch.manual_seed(seed)
    return ScalableViT(**{**VARIANTS[NAME], "num_classes": 3, **options})


class Holder(nn.Module):
    """A user's own wrapper."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.net = network
        self.register_buffer("steps", torch.zeros(1))


def task(network: nn.Module) -> nn.Module:
    preprocessing = {"image_size": [32, 32], "crop_ratio": 1.0, "interpolation": "bilinear"}
    preprocessing |= {"mean": [0.5] * 3, "std": [0.2] * 3}
    made = ClassificationTask(NAME, class_names=["a", "b", "c"], preprocessing=preprocessing)
    made.network = network  # type: ignore[assignment]
    return made


WRAPPERS: dict[str, Any] = {
    "compile": torch.compile,
    "DataParallel": DataParallel,
    "AveragedModel": AveragedModel,
    "ModelEmaV2": ModelEmaV2,
    "ModelEmaV3": ModelEmaV3,
    "Lightning task": task,
    "Sequential": nn.Sequential,
    "Holder": Holder,
    "compiled, then parallel": lambda network: DataParallel(torch.compile(network)),
    "parallel, then averaged": lambda network: AveragedModel(DataParallel(network)),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_classifier_is_filled_through_its_wrapper(wrapper: str) -> None:
    source, model = atto(1).state_dict(), WRAPPERS[wrapper](atto())
    report = load_weights(model, source)
    state = model.state_dict()
    assert len(report.matched) == len(source)
    assert set(report.matched) <= set(state)
    for name, value in source.items():
        (key,) = [key for key in report.matched if key.endswith(name) and key[: -len(name)] in prefixes(model)]
        assert torch.equal(state[key], value), key
    assert not report.fresh


def prefixes(model: nn.Module) -> set[str]:
    """What may stand before the names of the network itself."""
    return {f"{path}." if path else "" for path, part in model.named_modules() if isinstance(part, ScalableViT)}


@pytest.mark.parametrize("build", [retinanet, semantic_fpn])
@pytest.mark.parametrize("wrapper", ["compile", "DataParallel", "AveragedModel", "Holder"])
def test_a_whole_model_is_filled_through_its_wrapper(build: Any, wrapper: str) -> None:
    torch.manual_seed(1)
    source = build(NAME, 3)
    torch.manual_seed(0)
    inner = build(NAME, 3)
    report = load_weights(WRAPPERS[wrapper](inner), source.state_dict())
    filled = inner if wrapper != "AveragedModel" else None
    assert len(report.matched) == len(source.state_dict())
    if filled is not None:
        assert all(torch.equal(value, source.state_dict()[key]) for key, value in filled.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("build", [retinanet, semantic_fpn])
def test_a_model_with_a_compiled_backbone(build: Any) -> None:
    """The mark of torch.compile stands in the middle of the names, here, there, or in both."""
    torch.manual_seed(1)
    source = build(NAME, 3)
    plain = {key: value.clone() for key, value in source.state_dict().items()}
    marked = copy.deepcopy(source)
    marked.backbone = torch.compile(marked.backbone)
    for state in (plain, marked.state_dict()):
        for compiled in (False, True):
            torch.manual_seed(0)
            model = build(NAME, 3)
            if compiled:
                model.backbone = torch.compile(model.backbone)
            report = load_weights(model, state)
            assert set(report.matched) == set(model.state_dict())
            filled = {key.replace("_orig_mod.", ""): value for key, value in model.state_dict().items()}
            assert all(torch.equal(value, plain[key]) for key, value in filled.items())


@pytest.mark.parametrize("options", [{}, {"out_indices": (0, 2)}, {"feature_cls": "hook"}], ids=str)
def test_timm_features(options: dict[str, Any]) -> None:
    source = atto(1)
    model = timm.create_model(NAME, features_only=True, **options)
    report = load_weights(model, source.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = source.eval().forward_intermediates(images, intermediates_only=True)
        for index, found in zip(options.get("out_indices", range(4)), model.eval()(images), strict=True):
            if options.get("feature_cls") == "hook":  # timm hands out what it meets inside, (B, H, W, C)
                found = found.permute(0, 3, 1, 2)
            torch.testing.assert_close(found, expected[index])
    assert {"head.fc.weight", "head.fc.bias"} <= set(report.ignored)
    left_out = [name for name in report.ignored if name.startswith("stages.")]
    assert bool(left_out) == ("out_indices" in options)
    assert all(name.startswith("stages.3.") for name in left_out)


def test_other_blocks_in_a_stage_are_not_dropped_from_features() -> None:
    model = timm.create_model(NAME, features_only=True)
    deeper = atto(depths=(2, 2, 4, 2)).state_dict()
    with pytest.raises(WeightsError, match=r"the model has no place for stages\.2\.blocks\.2"):
        load_weights(model, deeper)


def test_classes_of_other_names_stay_fresh_in_a_wrapper_too() -> None:
    model = DataParallel(atto(num_classes=5))
    before = model.module.head.fc.weight.clone()
    report = load_weights(model, atto(1).state_dict())
    assert torch.equal(model.module.head.fc.weight, before)
    assert set(report.adapted) == {"module.head.fc.weight", "module.head.fc.bias"}


@pytest.mark.parametrize("form", ["folder", "checkpoint"])
def test_class_names_are_compared_with_accents_in_either_form_and_in_order(form: str, tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(accents, "café") for accents in ("NFC", "NFD"))
    names = [apart, "tea", "Ünal"]
    source: Any = tmp_path
    if form == "folder":
        scalablevit.save_model(
            atto(1), tmp_path, architecture=NAME, model_args={"num_classes": 3}, metadata={"class_names": names}
        )
    else:
        source = tmp_path / "last.ckpt"
        torch.save({"state_dict": atto(1).state_dict(), "trained": {"class_names": names}}, source)
    for own, is_same in (
        ([composed, "tea", "Ünal"], True),
        ([apart, "tea", "U\u0308nal"], True),
        (["tea", composed, "Ünal"], False),
        (["tea", apart, "Ünal"], False),
        (["cafe", "tea", "Ünal"], False),
    ):
        model = atto(0)
        before = model.head.fc.weight.clone()
        report = load_weights(model, source, class_names=own)
        expected = atto(1).head.fc.weight if is_same else before
        assert torch.equal(model.head.fc.weight, expected), own
        assert ("head.fc.weight" in report.matched) is is_same
        assert is_same or "other names" in report.adapted["head.fc.weight"]


def test_a_compiled_network_is_written_under_its_own_names(tmp_path: Path) -> None:
    model = torch.compile(atto(1))
    scalablevit.save_model(model, tmp_path, architecture=NAME, model_args={"num_classes": 3}, metadata={})
    again, _ = scalablevit.load_model(tmp_path)
    assert list(again.state_dict()) == list(atto().state_dict())
    assert torch.equal(again.head.fc.weight, atto(1).head.fc.weight)


def test_what_cannot_be_filled_says_what_to_do() -> None:
    state = atto(1).state_dict()
    with pytest.raises(WeightsError, match=r"was prepared for inference by optimize\(\), .*load the weights into the"):
        load_weights(scalablevit.optimize(atto(), backend="eager"), state)
    with torch.device("meta"):
        empty = atto()
    with pytest.raises(WeightsError, match=r"is on the meta device: call model\.to_empty\(device=\.\.\.\) first"):
        load_weights(empty, state)
    for change in (prune.identity, parametrizations.weight_norm):
        changed = atto()
        change(changed.head.fc, "weight")
        with pytest.raises(
            WeightsError, match=r"layers of the model were changed after it was built.*load the weights"
        ):
            load_weights(changed, state)
    with pytest.raises(WeightsError, match=r"got a ScalableViT: for a network, give network\.state_dict\(\)"):
        load_weights(atto(), atto(1))  # type: ignore[arg-type]
    two = nn.ModuleDict({"student": atto(), "teacher": atto()})
    with pytest.raises(
        WeightsError, match=r"not 2 \(student, teacher\): pass the network itself: load_weights\(model\.s"
    ):
        load_weights(two, state)
    with pytest.raises(WeightsError, match=r"Linear is not a ScalableViT; it must hold one, and holds none"):
        load_weights(nn.Linear(2, 2), state)


@pytest.mark.slow
def test_transformers_read_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = pytest.importorskip("transformers")
    model = atto(1).eval()
    names = ["cat", "dog", "cow"]
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for metadata, expected in (({"class_names": names}, names), ({}, ["LABEL_0", "LABEL_1", "LABEL_2"])):
        folder = tmp_path / str(len(metadata))
        scalablevit.save_model(
            model, folder, architecture=NAME, model_args={"num_classes": 3, "window_size": 4}, metadata=metadata
        )
        theirs = transformers.AutoModelForImageClassification.from_pretrained(folder).eval()
        assert list(theirs.config.id2label.values()) == expected
        ours = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        again, _ = scalablevit.load_model(folder)
        with torch.no_grad():
            logits: Tensor = theirs(images).logits
            torch.testing.assert_close(logits, ours(images), rtol=0, atol=0)
            torch.testing.assert_close(logits, again(images), rtol=0, atol=0)
        if metadata:
            assert ours.pretrained_cfg["label_names"] == names
        fewer = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=2)
        assert fewer.head.fc.weight.shape[0] == 2
