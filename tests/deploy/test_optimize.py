"""Networks prepared for inference give what they gave before."""

import copy

import pytest
import torch
from tiny_networks import network
from torch import Tensor

import scalablevit
from scalablevit.deploy.optimize import BACKENDS, OpenVINOModel, TorchModel, fold
from scalablevit.detection import mask_rcnn, retinanet
from scalablevit.segmentation import semantic_fpn

# Compiling takes minutes where something else computes.
pytestmark = pytest.mark.slow


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def assert_same(found: Tensor | list[Tensor], expected: Tensor | list[Tensor]) -> None:
    assert type(found) is type(expected)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale_value", [False, True], ids=["released form", "scaled-value form"])
def test_folding_changes_nothing_but_the_number_of_passes(scale_value: bool) -> None:
    model = network(scale_value=scale_value)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold(model.train())
    assert model.training
    assert not folded.training
    with torch.no_grad():
        assert_same(folded(images(2, 3, 70, 45)), model.eval()(images(2, 3, 70, 45)))
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not any(".attn.v." in name for name in folded.state_dict())


@pytest.mark.parametrize("backend", ["eager", "openvino", "compile"])
def test_a_classifier_gives_the_same_whatever_the_shape(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Inductor takes a minute for every shape here; that it takes this network is tested with the backbone.
    compile = torch.compile
    monkeypatch.setattr("torch.compile", lambda module, *, mode: compile(module, backend="aot_eager", fullgraph=True))
    model = network()
    fast = scalablevit.optimize(model, backend=backend)
    shapes = ((2, 3, 50, 64), (1, 3, 64, 40), (2, 3, 50, 64))
    for shape in shapes if backend != "compile" else shapes[:1]:
        with torch.no_grad():
            expected = model(images(*shape))
        found = fast(images(*shape))
        assert_same(found, expected)
        assert not found.requires_grad


def test_results_are_not_overwritten_by_the_next() -> None:
    fast = scalablevit.optimize(network(), backend="openvino")
    first = fast(images(1, 3, 32, 32))
    kept = first.clone()
    fast(images(1, 3, 32, 32) + 1)
    assert torch.equal(first, kept)


def test_old_programs_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OpenVINOModel, "_compile", lambda self, images: lambda images: images)
    fast = scalablevit.optimize(network(), backend="openvino")
    assert isinstance(fast, OpenVINOModel)
    for side in (32, 36, 40, 44, 32, 48):
        fast(images(1, 3, side, side))
    assert [shape[-1] for shape in fast._programs] == [40, 44, 32, 48]


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_a_pyramid_gives_its_four_maps(backend: str) -> None:
    torch.manual_seed(0)
    model = scalablevit.create_backbone("scalablevit_atto").eval()
    fast = scalablevit.optimize(model, backend=backend)
    with torch.no_grad():
        assert_same(fast(images(2, 3, 50, 64)), model(images(2, 3, 50, 64)))
    assert (fast.channels, fast.strides) == (model.channels, model.strides)


@pytest.mark.parametrize("backend", ["eager", "openvino"])
def test_a_segmentation_model_gives_the_same(backend: str) -> None:
    torch.manual_seed(0)
    model = semantic_fpn("scalablevit_atto", num_classes=4).eval()
    with torch.no_grad():
        assert_same(scalablevit.optimize(model, backend=backend)(images(1, 3, 64, 96)), model(images(1, 3, 64, 96)))


@pytest.mark.parametrize("backend", ["eager", "openvino"])
@pytest.mark.parametrize("build", [retinanet, mask_rcnn])
def test_a_detector_finds_the_same_in_images_of_several_sizes(build, backend: str) -> None:
    torch.manual_seed(0)
    model = build("scalablevit_atto", num_classes=3, min_size=64, max_size=96, score_thresh=0.0).eval()
    before = copy.deepcopy(model.state_dict())
    fast = scalablevit.optimize(model, backend=backend)
    batch = [images(3, 64, 80).sigmoid(), images(3, 50, 40).sigmoid()]
    with torch.no_grad():
        expected, found = model(batch), fast(batch)
    for ours, theirs in zip(found, expected, strict=True):
        assert set(ours) == set(theirs)
        torch.testing.assert_close(ours["scores"][:5], theirs["scores"][:5], rtol=1e-3, atol=1e-4)
        assert len(ours["boxes"]) == pytest.approx(len(theirs["boxes"]), abs=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_lower_precision_costs_no_more_than_a_plain_cast() -> None:
    model = network()
    fast = scalablevit.optimize(model, backend="eager", dtype=torch.bfloat16)
    cast = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad():
        found, expected = fast(images(4, 3, 64, 64)), model(images(4, 3, 64, 64))
        plain = cast(images(4, 3, 64, 64).to(torch.bfloat16)).float()
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().mean() < 1.5 * (plain - expected).abs().mean()
    assert next(model.parameters()).dtype == torch.float32


def test_without_a_dtype_the_models_own_is_kept() -> None:
    model = network().to(torch.bfloat16)
    assert scalablevit.optimize(model, backend="openvino")._precision == "bf16"
    assert next(scalablevit.optimize(model, backend="eager").parameters()).dtype == torch.bfloat16
    assert scalablevit.optimize(model, backend="openvino", dtype=torch.float32)._precision == "f32"


def test_openvino_runs_under_inference_mode() -> None:
    fast = scalablevit.optimize(network(), backend="openvino")
    with torch.inference_mode():
        found = fast(images(1, 3, 32, 32))
    with torch.no_grad():
        assert_same(found.clone(), network()(images(1, 3, 32, 32)))


@pytest.mark.parametrize(
    ("graphs", "autotune", "mode"),
    [
        (False, False, "default"),
        (True, False, "reduce-overhead"),
        (False, True, "max-autotune-no-cudagraphs"),
        (True, True, "max-autotune"),
    ],
)
def test_flags_become_torchs_modes(graphs: bool, autotune: bool, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    result = torch.zeros(1, 5)
    monkeypatch.setattr("torch.compile", lambda module, *, mode: asked.append(mode) or (lambda x: result))
    model = TorchModel(network(), is_compiled=True, cuda_graphs=graphs, autotune=autotune)
    assert asked == [mode]
    assert (model(images(1, 3, 8, 8)).data_ptr() == result.data_ptr()) is not graphs, "graphs overwrite their results"
    assert len(model.state_dict()) == len(network().state_dict())


def test_flags_that_would_do_nothing_are_told() -> None:
    with pytest.warns(UserWarning, match="autotune does nothing with backend 'eager' on cpu"):
        scalablevit.optimize(network(), backend="eager", autotune=True)
    with pytest.warns(UserWarning, match="cuda_graphs does nothing with backend 'openvino' on cpu"):
        scalablevit.optimize(network(), backend="openvino", cuda_graphs=True)


def test_auto_takes_openvino_on_a_cpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scalablevit.optimize(network()).backend == "openvino"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert scalablevit.optimize(network()).backend == "eager"


def test_wrong_arguments_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=rf"backend must be one of {', '.join(BACKENDS)}, got 'tensorrt'"):
        scalablevit.optimize(network(), backend="tensorrt")
    with pytest.raises(ValueError, match=r"dtype must be a floating one such as torch.bfloat16, got torch.int8"):
        scalablevit.optimize(network(), dtype=torch.int8)
    with pytest.raises(ValueError, match=r"OpenVINO computes in float32, bfloat16 or float16, not torch.float64"):
        scalablevit.optimize(network(), backend="openvino", dtype=torch.float64)
    with pytest.raises(ValueError, match=r"computes on the CPU, and the model is on meta: model.cpu\(\) first"):
        scalablevit.optimize(network().to("meta"), backend="openvino")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"python -m pip install openvino"):
        scalablevit.optimize(network(), backend="openvino")
