"""One pass of a network: inference or a training step, in the precision and mode of a cell."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import scalablevit
from scalablevit.backbone import ScalableViT
from scalablevit.bench.cells import Cell, Precision, obstacle
from scalablevit.bench.contenders import CLASSES, CannotMeasure, Contender, build_contender
from scalablevit.deploy.exported import ExportedNetwork
from scalablevit.layers import measure_forms
from scalablevit.ops.layer_choice import may_run
from scalablevit.ops.measured import Task

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
# device types with a fused AdamW
_FUSED = ("cpu", "cuda", "mps", "xpu")


@contextlib.contextmanager
def precision_settings(precision: Precision) -> Iterator[None]:
    """Set every TF32 switch of torch for a precision, and let cuDNN pick its fastest algorithms."""
    cudnn = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    cudnn.allow_tf32, cudnn.benchmark = precision == "tf32", True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32, cudnn.benchmark = before[1:]


@contextlib.contextmanager
def thread_count(count: int | None) -> Iterator[None]:
    """Set the threads of torch's intra-op pool; None keeps them."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def synchroniser(device: torch.device) -> Callable[[], None]:
    """Return a function that waits until the device is done; on a CPU it does nothing."""
    if device.type == "cpu":
        return lambda: None
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: torch.accelerator.synchronize(device)


def prepare(
    contender: Contender, cell: Cell, device: torch.device, *, channels_last: bool = False
) -> Callable[[], object]:
    """Build a contender for a cell, and return a function that runs one pass.

    Args:
        contender: from `find_contender`.
        cell: what is measured.
        device: where to compute.
        channels_last: use the memory format channels_last for images and convolution weights.

    Raises:
        CannotMeasure: this contender cannot run in this cell, or not on this device.
    """
    mode = contender.mode or cell.mode
    obstructed = obstacle(cell, device, mode)
    if obstructed is not None:
        raise CannotMeasure(obstructed)
    dtype = DTYPES.get(cell.precision, torch.float32)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    built = build_contender(contender, cell.size)
    if isinstance(built, ExportedNetwork):
        return exported_pass(built, cell, device, mode)
    model = built.to(device, memory_format=layout)  # type: ignore[call-overload]
    channels = int(getattr(model, "in_chans", 3))
    images = torch.randn(cell.batch, channels, *cell.size, generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=layout)
    if cell.task == "training":
        _measure_forms(model, images, "training", dtype)
        return training_step(_in_mode(model.train(), mode), images, dtype)
    images = images.to(dtype)
    model = model.eval().to(dtype)
    _measure_forms(model, images, "inference", dtype)
    model = _in_mode(model, mode)

    def inference() -> None:
        if mode == "graphs":
            torch.compiler.cudagraph_mark_step_begin()
        with torch.inference_mode():
            model(images)

    return inference


def _measure_forms(model: nn.Module, images: Tensor, task: Task, dtype: torch.dtype) -> None:
    """Let our networks choose the forms of their layers by times of this device, measured once (`measure_forms`)."""
    if isinstance(model, ScalableViT) and may_run(images.device):
        measure_forms(model, images, task=task, dtype=dtype)


def exported_pass(
    network: ExportedNetwork, cell: Cell, device: torch.device, mode: str = "eager"
) -> Callable[[], object]:
    """Return a function that runs an exported file once, by its own runtime.

    Raises:
        CannotMeasure: the file cannot run in this cell.
    """
    if device.type != "cpu":
        raise CannotMeasure(f"{network.runtime} computes on the CPU: --device cpu")
    if (cell.precision, cell.task, mode) != ("fp32", "inference", "eager"):
        raise CannotMeasure("an exported file is measured as it is: --precision fp32 --task inference --mode eager")
    if network.fixed_size not in (None, cell.size):
        raise CannotMeasure("it is fixed to images of {} x {} pixels".format(*(network.fixed_size or ())))
    if cell.batch % (network.input.batch or 1):
        raise CannotMeasure(f"it is fixed to {network.input.batch} images at a time")
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(cell.batch, network.in_chans, *cell.size, generator=generator)
    return lambda: network.compute(pixels)


def _in_mode(model: nn.Module, mode: str) -> Callable[..., Tensor]:
    """Compile or optimize the network as the mode asks."""
    if mode == "eager":
        return model
    if mode == "optimized" and isinstance(model, ScalableViT):
        return scalablevit.optimize(model)
    return torch.compile(model, mode="max-autotune" if mode == "graphs" else None)


def training_step(model: Callable[..., Tensor], images: Tensor, dtype: torch.dtype) -> Callable[[], object]:
    """Return a function that runs one training step: forward, cross-entropy, backward, AdamW."""
    assert isinstance(model, nn.Module)
    kind = images.device.type
    classes = int(getattr(model, "num_classes", CLASSES))  # of a run its own
    labels = torch.randint(0, classes, images.shape[:1], generator=torch.Generator().manual_seed(0)).to(images.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=kind in _FUSED)
    scaler = torch.amp.GradScaler(kind, enabled=dtype == torch.float16)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
            loss = F.cross_entropy(model(images), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step
