"""Which form of a layer runs is what was measured on the device, once."""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import scalablevit
from scalablevit.bench import passes
from scalablevit.bench.cells import Cell
from scalablevit.bench.contenders import find_contender
from scalablevit.cli import info
from scalablevit.deploy import optimize as optimize_room
from scalablevit.layers import autotune, measure_forms
from scalablevit.ops import choice, depthwise, feed_forward, layer_choice, measured, norm_depthwise, norm_linear
from scalablevit.ops.choice import Choice

CUDA, BF16 = torch.device("cuda", 0), torch.bfloat16
HERE = "NVIDIA H100, driver 1"


@pytest.fixture(autouse=True)
def _kernels_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kernels are taken for such as can run; a file of our own; a device with a name."""
    monkeypatch.setenv(measured.FILE_VARIABLE, str(tmp_path / "cache" / "autotune.json"))
    monkeypatch.setattr(choice, "_HAS_TRITON", True)
    monkeypatch.setattr(choice, "IS_INTERPRETED", True)
    monkeypatch.setattr(layer_choice, "IS_INTERPRETED", True)
    monkeypatch.setattr(measured, "environment", lambda device: HERE)
    for room in (feed_forward, depthwise, norm_linear, norm_depthwise):
        monkeypatch.setattr(room.operators, "kernel_or_plain", lambda kernel, plain, **_: plain())
    measured.forget()
    yield
    measured.forget()


def small_network() -> scalablevit.ScalableViT:
    torch.manual_seed(0)
    network = scalablevit.ScalableViT(
        num_classes=3, embed_dims=(16, 32), num_heads=(1, 2), depths=(2, 2), channel_ratios=(1, 1), reductions=(2, 1)
    )
    return network.bfloat16()


IMAGES = torch.zeros(1, 3, 16, 16, dtype=BF16)


def timer(seconds: Callable[[int], float], ran: list[int]):
    """Tells the n-th measurement's seconds; every form is called once."""

    def seconds_of(run: Callable[[], object], device: torch.device) -> float:
        run()
        ran.append(1)
        return seconds(len(ran))

    return seconds_of


FIRST, SECOND = (torch.zeros(1, side, side, C, dtype=BF16) for side, C in ((4, 16), (2, 32)))
"""Maps of the two stages."""


def choices() -> dict[str, Choice]:
    """What "auto" takes on a CUDA device for the layers of the first and the second stage."""
    where = {"device": CUDA, "dtype": BF16}
    with torch.no_grad():
        return {
            "first": feed_forward.select_implementation(dim=16, hidden_dim=64, x=FIRST, **where),
            "second": feed_forward.select_implementation(dim=32, hidden_dim=128, x=SECOND, **where),
            "peg": depthwise.select_implementation(dim=16, side=3, stride=1, padding=1, x=FIRST, **where),
            "reduce": norm_depthwise.select_implementation(dim=16, outputs=16, side=2, x=FIRST, **where),
        }


def test_the_faster_form_runs_and_each_case_is_measured_once() -> None:
    ran: list[int] = []
    # Pairs: our kernel, then PyTorch. In the first case ours is slower, in all others faster.
    seconds_of = timer(lambda n: {1: 3e-3, 2: 1e-3}.get(n, 1e-3 if n % 2 else 2e-3), ran)
    assert {found.implementation for found in choices().values()} == {"triton"}, "without a measurement"
    found = measure_forms(small_network(), IMAGES, seconds_of=seconds_of)
    assert list(found) == [
        "feed_forward, 16 channels, 64 hidden, up to 16 tokens of bfloat16, bfloat16, inference",
        "norm_linear, 16 channels, 48 outputs, up to 16 tokens of bfloat16, bfloat16, inference",
        "depthwise, 16 channels, 3 x 3 of stride 1, up to 16 tokens of bfloat16, bfloat16, inference",
        "norm_reduce, 16 channels, 16 outputs, 2 x 2, up to 16 tokens of bfloat16, bfloat16, inference",
        "depthwise, 16 channels, 2 x 2 of stride 2, up to 16 tokens of bfloat16, bfloat16, inference",
        "feed_forward, 32 channels, 128 hidden, up to 4 tokens of bfloat16, bfloat16, inference",
        "norm_linear, 32 channels, 96 outputs, up to 4 tokens of bfloat16, bfloat16, inference",
        "depthwise, 32 channels, 3 x 3 of stride 1, up to 4 tokens of bfloat16, bfloat16, inference",
    ]
    assert len(ran) == 16, "two forms a case"
    assert choices()["first"] == Choice("torch", "PyTorch was measured to be 3.00 times as fast on this device")
    assert choices()["second"].implementation == choices()["peg"].implementation == "triton"
    assert measure_forms(small_network(), IMAGES, seconds_of=seconds_of) == {}
    assert len(ran) == 16


@pytest.mark.parametrize("of", ["more tokens", "another dtype of the map"])
def test_a_map_of_another_kind_is_measured_by_itself(of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A form that wins at one batch or in half precision may lose at another batch or under autocast."""
    network, slow = small_network(), timer(lambda n: 2e-3 if n % 2 else 1e-3, [])
    measure_forms(network, IMAGES, seconds_of=slow)
    other, x = (IMAGES.repeat(3, 1, 1, 1), FIRST.repeat(3, 1, 1, 1)) if of == "more tokens" else (IMAGES, FIRST.float())
    options = {"dim": 16, "hidden_dim": 64, "device": CUDA, "dtype": BF16}
    with torch.no_grad():
        assert feed_forward.select_implementation(**options, x=FIRST).implementation == "torch"
        assert feed_forward.select_implementation(**options, x=x).implementation == "triton", "not measured"
        assert feed_forward.select_implementation(**options).implementation == "triton", "of no map"
    fast = timer(lambda n: 1e-3 if n % 2 else 2e-3, [])
    if of != "more tokens":  # as LayerNorm makes it under a CUDA device's autocast
        maps = autotune._maps
        monkeypatch.setattr(autotune, "_maps", lambda *a: [(m, shape, torch.float32) for m, shape, _ in maps(*a)])
    found = measure_forms(network, other, seconds_of=fast)
    words = "up to 64 tokens of bfloat16" if of == "more tokens" else "up to 16 tokens of float32"
    assert f"feed_forward, 16 channels, 64 hidden, {words}, bfloat16, inference" in found
    with torch.no_grad():
        assert feed_forward.select_implementation(**options, x=FIRST).implementation == "torch"
        assert feed_forward.select_implementation(**options, x=x).implementation == "triton", "measured"


def test_maps_of_about_one_size_share_a_measurement() -> None:
    assert [measured.most_tokens(torch.empty(n, 1, 7)) for n in (0, 1, 2, 3, 4, 5, 1000)] == [1, 1, 2, 4, 4, 8, 1024]


def test_symbolic_sizes_are_looked_up_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph of any batch guards on the range of a measurement, and only where there is one."""
    seen: list[int] = []

    @torch.compiler.assume_constant_result
    def slower(operator: str, sizes: str, tokens: int, *rest: object) -> str | None:
        assert type(tokens) is int
        seen.append(tokens)
        return "slower"

    def choose(x: torch.Tensor) -> torch.Tensor:
        choice = feed_forward.select_implementation(dim=16, hidden_dim=64, device=CUDA, dtype=BF16, x=x)
        return x + 1 if choice.implementation == "torch" else x - 1

    monkeypatch.setattr(measured, "slower_kernel", slower)
    measured._times = {HERE: {}}
    torch.compiler.reset()
    compiled = torch.compile(choose, backend="eager", dynamic=True, fullgraph=True)
    for batch in (2, 3, 4, 5):
        assert compiled(torch.zeros(batch, 4, 16)).eq(1).all()
    assert sorted(set(seen)) == [8, 16, 32]
    torch.compiler.reset()


def test_times_outlive_the_process_and_hold_for_one_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    slow_kernel = timer(lambda n: 2e-3 if n % 2 else 1e-3, [])
    found = measure_forms(small_network(), IMAGES, seconds_of=slow_kernel)
    measured.forget()  # as a new process
    assert choices()["first"].implementation == "torch"
    assert json.loads(measured.path().read_text()) == {"format": 1, "environments": {HERE: found}}
    monkeypatch.setattr(measured, "environment", lambda device: "NVIDIA H100, driver 2")
    measured.forget()
    assert choices()["first"].implementation == "triton"
    measure_forms(small_network(), IMAGES, seconds_of=slow_kernel)
    assert set(measured.read()) == {HERE, "NVIDIA H100, driver 2"}


def test_training_is_another_case_with_a_backward() -> None:
    network, grads = small_network(), []
    network.stages[0].blocks[0].mlp.fc1.weight.register_hook(grads.append)
    state = torch.random.get_rng_state()
    found = measure_forms(network, IMAGES, task="training", seconds_of=timer(lambda n: 1e-3 + n % 2 * 1e-3, []))
    assert all(key.endswith("training") for key in found)
    assert network.training
    assert not grads
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert choices()["first"].implementation == "triton", "it infers"
    training = feed_forward.select_implementation(dim=16, hidden_dim=64, device=CUDA, dtype=BF16, x=FIRST)
    assert training.implementation == "torch"
    assert not any(key.startswith("norm") for key in found), "nothing follows it"


@pytest.mark.parametrize("name", ["stages.0.peg.conv", "stages.0.blocks.1.attn.reduce"])
def test_a_convolution_that_was_replaced_is_not_measured(name: str) -> None:
    whole, network = set(measure_forms(small_network(), IMAGES, seconds_of=timer(float, []))), small_network()
    network.set_submodule(name, torch.nn.Sequential(network.get_submodule(name)))
    measured.path().unlink()
    measured.forget()
    missing = whole - set(measure_forms(network, IMAGES, seconds_of=timer(float, [])))
    assert len(missing) == (1 if "peg" in name else 2)
    assert all(("3 x 3" if "peg" in name else "2 x 2") in key for key in missing)


def test_what_does_not_fit_into_memory_leaves_the_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*shape: int, **options: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    network = small_network()
    monkeypatch.setattr(torch, "randn", full)
    assert measure_forms(network, IMAGES, seconds_of=timer(float, [])) == {}


def test_other_faults_are_not_hidden() -> None:
    def fails(run: Callable[[], object], device: torch.device) -> float:
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        measure_forms(small_network(), IMAGES, seconds_of=fails)


def test_a_user_without_a_home_has_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(measured.FILE_VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(measured.tempfile, "gettempdir", lambda: str(tmp_path))
    assert measured.path() == tmp_path / "scalablevit" / "autotune.json"
    assert choices()["first"].implementation == "triton"


def test_writers_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    held: list[bool] = []

    def read() -> dict[str, dict[str, measured.Times]]:
        with measured.path().with_name("autotune.json.lock").open("a") as other:
            try:
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held.append(False)
            except BlockingIOError:
                held.append(True)
        return {}

    measured.known()
    monkeypatch.setattr(measured, "read", read)
    measure_forms(small_network(), IMAGES, seconds_of=timer(float, []))
    assert held == [True]


def test_a_form_that_is_asked_for_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    measure_forms(small_network(), IMAGES, seconds_of=timer(lambda n: 2e-3 if n % 2 else 1e-3, []))
    options = {"dim": 16, "hidden_dim": 64, "device": CUDA, "dtype": BF16, "x": FIRST}
    with torch.no_grad():
        assert feed_forward.select_implementation(**options).implementation == "torch"
        assert feed_forward.select_implementation(**options, implementation="triton").implementation == "triton"
        monkeypatch.setattr(layer_choice, "DEFAULT", "triton")
        assert feed_forward.select_implementation(**options).implementation == "triton"


def test_a_form_that_fails_leaves_the_rule() -> None:
    def fails(run: Callable[[], object], device: torch.device) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert measure_forms(small_network(), IMAGES, seconds_of=fails) == {}
    assert not measured.path().exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "JSONDecodeError"),
        ('{"format": 2}', "not of format 1"),
        ('{"format": 1, "environments": {"x": {"case": {"triton": 1.0}}}}', "does not hold times"),
        ('{"format": 1, "environments": {"x": {"case": {"triton": 0.0, "torch": 1.0}}}}', "does not hold times"),
    ],
)
def test_a_broken_file_is_named_and_ignored(text: str, reason: str) -> None:
    measured.path().parent.mkdir()
    measured.path().write_text(text)
    with pytest.warns(UserWarning, match=rf"autotune.json are ignored \(.*{reason}.*remove the file"):
        assert choices()["first"].implementation == "triton"


def test_a_file_that_cannot_be_written_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(measured.FILE_VARIABLE, str(tmp_path / "file" / "autotune.json"))
    measured.forget()
    measured._times = {}
    with pytest.warns(UserWarning, match="serve this process alone"):
        measure_forms(small_network(), IMAGES, seconds_of=timer(lambda n: 2e-3 if n % 2 else 1e-3, []))
    with warnings.catch_warnings(action="error"):  # said once
        measure_forms(small_network(), IMAGES, task="training", seconds_of=timer(float, []))
    assert choices()["first"].implementation == "torch"


def test_an_optimized_network_measures_with_its_first_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network, **_: network)
    seen = []
    monkeypatch.setattr(optimize_room, "measure_forms", lambda network, images: seen.append(images.dtype))
    for is_measured in (False, True):
        fast = scalablevit.optimize(small_network(), backend="compile", autotune=is_measured)
        fast(IMAGES.float()), fast(IMAGES.float())
    assert seen == [BF16]


@pytest.mark.parametrize("task", ["inference", "training"])
def test_bench_measures(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(passes, "measure_forms", lambda model, images, **options: seen.append(options))
    cell = Cell((16, 16), "bf16", "eager", task, 1)
    passes.prepare(find_contender("scalablevit_atto"), cell, torch.device("cpu"))
    passes.prepare(find_contender("resnet18"), cell, torch.device("cpu"))
    assert seen == [{"task": task, "dtype": BF16}]


def test_info_prints_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main(["scalablevit_atto"]) == 0
    assert "measured on" not in capsys.readouterr().out
    measure_forms(small_network(), IMAGES, seconds_of=timer(lambda n: 2e-3 if n % 2 else 1e-3, []))
    assert info.main(["scalablevit_atto"]) == 0
    printed = capsys.readouterr().out
    assert f"measured on {HERE}:" in printed
    assert (
        "feed_forward, 16 channels, 64 hidden, up to 16 tokens of bfloat16, bfloat16, inference: "
        "PyTorch runs (our kernel 2.000 ms, PyTorch 1.000 ms)" in printed
    )


def test_the_environment_names_device_driver_and_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()

    class Properties:
        name = "NVIDIA H100"

    monkeypatch.setattr(measured.cuda, "get_device_properties", lambda index: Properties)
    monkeypatch.setattr(measured, "_driver", lambda: "550.54")
    name = measured.environment(CUDA)
    assert name.startswith(f"NVIDIA H100, driver 550.54, torch {torch.__version__}, triton ")
    assert ", scalablevit " in name
    monkeypatch.setattr(measured, "_sources", lambda: "other")
    assert measured.environment(CUDA) != name
