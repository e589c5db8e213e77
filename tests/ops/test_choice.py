"""Which implementation runs, why, and who is told."""

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import scalablevit
from scalablevit.backbone import ScalableViT
from scalablevit.ops import choice, probe
from scalablevit.ops.choice import Choice, choose, warn_if_ignored

# Compiling takes minutes where something else computes.
pytestmark = pytest.mark.timeout(1800)

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
SERVED = {"wanted": "auto", "device": GPU, "dtype": torch.bfloat16, "dropout": 0.0, "cannot": lambda: None}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A GPU on which Triton works, as far as `choose` can tell; the indices of devices that were tried."""
    tried: list[int] = []
    monkeypatch.setattr(choice, "_HAS_TRITON", True)
    monkeypatch.setattr(choice, "_said", set())
    # Not in torch.cuda itself, which torch.compile asks too.
    driver = SimpleNamespace(
        is_available=lambda: True, current_device=lambda: 3, get_device_capability=lambda index: (9, 0)
    )
    monkeypatch.setattr(choice, "cuda", driver)
    monkeypatch.setattr(probe, "_failures", {})
    monkeypatch.setattr(probe, "_try", tried.append)
    return tried


def test_torch_runs_on_a_cpu_and_says_why() -> None:
    for wanted in ("auto", "triton"):
        chosen = choose(wanted, device=CPU, dtype=torch.float32, dropout=0.0, cannot=lambda: None)
        assert chosen.implementation == "torch"
        assert "need a CUDA device, not cpu" in chosen.reason or "not installed" in chosen.reason
    for wanted in ("torch", "reference"):
        chosen = choose(wanted, device=CPU, dtype=torch.float32, dropout=0.0, cannot=lambda: None)
        assert (chosen.implementation, chosen.reason) == (wanted, "asked for")


@pytest.mark.parametrize(
    ("change", "implementation", "reason"),
    [
        ({}, "triton", "it can serve here"),
        ({"dtype": torch.float16}, "triton", "it can serve here"),
        ({"wanted": "triton"}, "triton", "asked for"),
        pytest.param({"cannot": lambda: "too wide"}, "torch", "too wide", id="too wide"),
        ({"dropout": 0.1}, "torch", "no dropout"),
        ({"dtype": torch.float64}, "torch", "float32, bfloat16 and float16, not float64"),
        ({"dtype": torch.float32}, "torch", 'take it only where "triton" is asked for'),
        ({"dtype": torch.float32, "wanted": "triton"}, "triton", "asked for"),
        ({"device": torch.device("meta")}, "torch", "not meta"),
    ],
    ids=str,
)
def test_a_gpu_gets_the_kernel_where_it_was_made_for(
    change: dict, implementation: str, reason: str, gpu: list[int]
) -> None:
    chosen = choose(**{**SERVED, **change})
    assert chosen.implementation == implementation
    assert reason in chosen.reason
    assert gpu == ([0] if implementation == "triton" else [])  # nobody builds a kernel to hear that torch runs


def test_rocm_gets_the_kernel_only_when_asked(gpu: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_IS_ROCM", True)
    assert "never tried on ROCm" in choose(**SERVED).reason
    assert choose(**{**SERVED, "wanted": "triton"}).implementation == "triton"


def test_an_old_gpu_does_not(gpu: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice.cuda, "get_device_capability", lambda index: (7, 5))
    assert choose(**SERVED) == Choice("torch", "the CUDA device is older than compute capability 8.0")
    assert gpu == []


def test_a_fake_gpu_does_not(gpu: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice.cuda, "is_available", lambda: False)
    assert choose(**SERVED) == Choice("torch", "this machine has no CUDA device")


def test_a_device_is_tried_once(gpu: list[int]) -> None:
    for device in (GPU, torch.device("cuda"), GPU, torch.device("cuda", 3)):
        assert choose(**{**SERVED, "device": device}).implementation == "triton"
    assert gpu == [0, 3]


def test_a_device_on_which_triton_fails_gets_torch_and_one_warning(
    gpu: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_try", lambda index: gpu.append(index) or f"Triton does not work on cuda:{index} (no)")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for wanted in ("auto", "triton", "auto"):
            chosen = choose(**{**SERVED, "wanted": wanted})
            assert chosen == Choice("torch", "Triton does not work on cuda:0 (no)")
            warn_if_ignored(wanted, chosen, GPU)
    assert [str(x.message) for x in told] == [
        "our attention kernels do not run: Triton does not work on cuda:0 (no); PyTorch computes instead"
    ]
    assert gpu == [0]


def test_torch_compile_asks_outside_of_its_graph(gpu: list[int]) -> None:
    def scaled(x: Tensor) -> Tensor:
        return x * (2 if choose(**SERVED).implementation == "triton" else 3)

    torch._dynamo.reset()
    compiled = torch.compile(scaled, backend="eager", fullgraph=True)
    assert compiled(torch.ones(2)).tolist() == [2, 2]
    assert compiled(torch.ones(3)).tolist() == [2, 2, 2]
    assert gpu == [0]
    # torch.func's transforms are looked for in the graph and around it.
    batched = torch.compile(torch.vmap(scaled), backend="eager", fullgraph=True)
    assert batched(torch.ones(2)).tolist() == [3, 3]
    assert torch.compile(scaled, backend="eager", fullgraph=True)(torch.ones(2)).tolist() == [2, 2]


@pytest.mark.slow
def test_compiled_graphs_hold_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """With torch 2.11 to 2.13 `torch.compiler.is_exporting` is true under torch.compile, and no kernel ever ran."""
    monkeypatch.setattr(choice, "_HAS_TRITON", True)
    monkeypatch.setattr(choice, "IS_INTERPRETED", True)  # the kernels are chosen on a CPU; none of them runs here
    model = scalablevit.scalablevit_atto().eval()
    scalablevit.set_attention(model, "triton")
    called: list[str] = []

    class RecordedError(Exception):
        """The graph was recorded."""

    def record(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> None:
        called.extend(str(node.target) for node in graph.graph.nodes)
        raise RecordedError

    torch._dynamo.reset()
    with torch.no_grad(), pytest.raises(Exception, match="RecordedError"):
        torch.compile(model, backend=record, fullgraph=True)(torch.randn(2, 3, 64, 64))
    for name in ("window_attention", "reduced_attention"):
        assert sum(f"scalablevit.{name}" in target for target in called) == 4, called


@pytest.mark.slow
def test_exported_graphs_hold_pytorchs_operators_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_HAS_TRITON", True)
    monkeypatch.setattr(choice, "IS_INTERPRETED", True)
    model = ScalableViT(
        embed_dims=(16,), num_heads=(1,), depths=(2,), channel_ratios=(1.25,), reductions=(2,), head="plain"
    )
    model.eval()
    scalablevit.set_attention(model, "triton")
    for strict in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(model, (torch.randn(2, 3, 64, 64),), strict=strict)
        assert not any("scalablevit" in str(node.target) for node in program.graph.nodes), strict


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_transforms_run_on_torch(gpu: list[int]) -> None:
    seen: list[Choice] = []

    def f(x: Tensor) -> Tensor:
        seen.append(choose(**SERVED))
        return x.sin().sum()

    x = torch.ones(2)
    torch.func.grad(f)(x)
    torch.vmap(f)(x[None])
    torch.func.jvp(f, (x,), (x,))
    assert {found.implementation for found in seen} == {"torch"}
    assert "transforms of torch.func" in seen[0].reason
    f(x.requires_grad_()).backward()
    assert seen[-1].implementation == "triton"


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated:FutureWarning")
def test_a_trace_needs_no_sizes(gpu: list[int]) -> None:
    seen: list[Choice] = []

    def f(x: Tensor) -> Tensor:
        seen.append(choose(**{**SERVED, "cannot": lambda: pytest.fail("sizes are tensors here")}))
        return x + 1

    torch.jit.trace(f, torch.ones(2), check_trace=False)
    assert set(seen) == {Choice("torch", "an exported or traced graph holds PyTorch's operators only")}


def test_who_asked_for_the_kernels_in_vain_is_told_once_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_said", set())
    slow, wide, fast = Choice("torch", "slow"), Choice("torch", "wide"), Choice("triton", "asked for")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_ignored("auto", slow, CPU)
        warn_if_ignored("torch", Choice("torch", "asked for"), CPU)
        warn_if_ignored("triton", fast, CPU)
        warn_if_ignored("triton", slow, torch.device("meta"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for chosen in (slow, wide, slow, wide):
            warn_if_ignored("triton", chosen, CPU)
        monkeypatch.setattr(choice, "DEFAULT", "triton")
        warn_if_ignored("auto", Choice("torch", "by the environment"), CPU)
    assert [str(x.message) for x in told] == [
        f"our attention kernels do not run: {reason}; PyTorch computes instead"
        for reason in ("slow", "wide", "by the environment")
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("value", "said"), [("reference", "reference asked for"), ("tritn", "one of auto, triton")])
def test_the_environment_sets_the_default_and_importing_needs_no_triton(value: str, said: str) -> None:
    code = (
        "import sys, torch, scalablevit; from scalablevit.ops.choice import choose; c = choose('auto', "
        "device=torch.device('cpu'), dtype=torch.float32, dropout=0.0, cannot=lambda: None); "
        "assert not [m for m in sys.modules if m.startswith('scalablevit') and m.endswith('.kernel')]; "
        "print(c.implementation, c.reason)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "SCALABLEVIT_ATTENTION": value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in (done.stdout if value == "reference" else done.stderr)
    assert (done.returncode == 0) == (value == "reference")
