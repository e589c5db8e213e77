"""Prepare a trained network for inference: folded and packed layers, compilation, precision, layout in one call."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scalablevit.backbone import PyramidBackbone
from scalablevit.deploy.packed import pack
from scalablevit.deploy.precision import Precision, resolve_dtype
from scalablevit.deploy.runtimes import openvino_core
from scalablevit.layers import PositionalEncodingGenerator, ScalableSelfAttention, measure_forms
from scalablevit.layers.plain import is_plain, is_plain_convolution
from scalablevit.ops.layer_choice import may_run
from scalablevit.ops.layout import channels_first, channels_last
from scalablevit.timm_pyramid import TimmPyramid

Backend = Literal["auto", "compile", "openvino", "eager"]
Outputs = Tensor | list[Tensor]

BACKENDS = ("auto", "compile", "openvino", "eager")

# Compiled programs kept, one for each shape of images; each holds the weights once more.
_PROGRAMS_KEPT = 4


def optimize(
    model: nn.Module,
    *,
    backend: Backend = "auto",
    dtype: Precision = None,
    cuda_graphs: bool | None = None,
    autotune: bool = False,
) -> nn.Module:
    """Prepare a copy of a network for fast inference on its device.

    Layers are folded (`fold`), weights get the precision and the channels-last memory format, and the network is
    compiled when it first gets images of a shape. The model itself does not change. The copy stays on its device, has
    no gradients and is not meant to be saved.

    Args:
        model: a network of one image tensor, such as `ScalableViT`, a pyramid from `create_backbone`, a segmentation
            model, or anything like it; or a detector of `scalablevit.detection`, whose pyramid is prepared while its
            proposals and heads stay as they are.
        backend: "compile" (torch.compile), "openvino" (CPU only; `pip install openvino`), "eager"
            (folding, precision and layout alone, and on a CPU linear layers packed for oneDNN), or "auto": on a CUDA
            device "compile", on a CPU "openvino" where it is installed, otherwise "eager".
        dtype: precision of weights and activations. None keeps the model's, so that outputs differ by rounding only.
            "auto" takes bfloat16 for a float32 model where the device multiplies it natively (AVX512-BF16, AMX, tensor
            cores), and logs that it did. Images of any floating dtype are taken, and outputs are float32. OpenVINO is
            asked to compute in this precision.
        cuda_graphs: under "compile" on a CUDA device, record CUDA graphs, one for each shape of images; saves the
            launches, which matters for small batches, and holds a batch's memory. None: for all but detectors, whose
            images come in too many shapes.
        autotune: under "compile", try several kernels for each matrix product; minutes instead of seconds. On a CUDA
            device also time which form of each layer is faster there, our kernel or PyTorch's, when the first images
            come, and keep the answers for every network (`scalablevit.layers.measure_forms`).

    Returns:
        module with the model's outputs, in evaluation mode.

    Raises:
        ValueError: an unknown backend, a dtype that is no floating one, or OpenVINO off the CPU.
        ModuleNotFoundError: OpenVINO was asked for and is not installed.
    """
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    weight = next(model.parameters(), torch.empty(0))
    device = weight.device
    precision = resolve_dtype(dtype, weight.dtype, device)
    chosen = _choose(device) if backend == "auto" else backend
    is_detector = _takes_lists(model)
    can_record = chosen == "compile" and device.type == "cuda"
    has_graphs = can_record and (not is_detector if cuda_graphs is None else cuda_graphs)
    for flag, is_idle in (
        ("cuda_graphs", cuda_graphs and not can_record),
        ("autotune", autotune and chosen != "compile"),
    ):
        if is_idle:
            warnings.warn(f"{flag} does nothing with backend {chosen!r} on {device.type}", stacklevel=2)
    if chosen == "openvino":
        if device.type != "cpu":
            raise ValueError(f"backend 'openvino' computes on the CPU, and the model is on {device}: model.cpu() first")
        if importlib.util.find_spec("openvino") is None:
            raise ModuleNotFoundError("backend 'openvino' needs OpenVINO: python -m pip install openvino")

    def prepare(network: nn.Module) -> nn.Module:
        # OpenVINO gets float32 weights, in whatever precision it computes.
        is_single = weight.dtype.itemsize >= 4 and (chosen == "openvino" or precision.itemsize >= 4)
        network = fold(network, peg=is_single).requires_grad_(False)
        if chosen == "openvino":
            return OpenVINOModel(network, precision)
        network = network.to(precision).to(memory_format=torch.channels_last)
        if chosen == "eager" and device.type == "cpu":
            network = pack(network)
        return TorchModel(network, is_compiled=chosen == "compile", cuda_graphs=has_graphs, autotune=autotune)

    if not is_detector:
        return prepare(model).eval()
    detector = copy.deepcopy(model).eval().requires_grad_(False)
    for name, module in list(detector.named_modules()):
        if isinstance(module, PyramidBackbone | TimmPyramid):
            detector.set_submodule(name, prepare(module))
    return detector


def fold(model: nn.Module, *, peg: bool = True) -> nn.Module:
    """Copy a network, in evaluation mode, with fewer passes over memory; outputs differ by rounding only.

    PEG's residual is added to the middle tap of its kernel, and the two matrices of SSA's keys and values become one.
    The softmax's scales stay where they are: the attention kernels apply them at no cost.

    Args:
        model: any network with layers of ours.
        peg: fold PEG. Leave it out where weights have less than single precision: a tap that is small beside 1 would
            be lost.
    """
    model = copy.deepcopy(model).eval()
    for name, module in list(model.named_modules()):
        # Layers with hooks, adapters or parametrizations stay: their weights are not all that they compute.
        if isinstance(module, PositionalEncodingGenerator):
            if peg and is_plain_convolution(module.conv, kernel_size=3, is_depthwise=True):
                model.set_submodule(name, _FoldedPEG(module))
        elif isinstance(module, ScalableSelfAttention):
            _merge_keys_and_values(module)
    return model


class _FoldedPEG(nn.Module):
    """PEG as one depthwise convolution."""

    def __init__(self, peg: PositionalEncodingGenerator) -> None:
        super().__init__()
        self.conv = peg.conv
        with torch.no_grad():
            self.conv.weight[:, 0, 1, 1] += 1

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return channels_last(self.conv(channels_first(x)))


def _merge_keys_and_values(ssa: ScalableSelfAttention) -> None:
    if ssa.fused_kv or not (is_plain(ssa.k, nn.Linear) and is_plain(ssa.v, nn.Linear)):
        return
    k, v = ssa.k, ssa.v
    kv = nn.Linear(k.in_features, k.out_features + v.out_features, bias=k.bias is not None)
    kv.weight = nn.Parameter(torch.cat([k.weight, v.weight]).detach())
    if k.bias is not None:
        kv.bias = nn.Parameter(torch.cat([k.bias, v.bias]).detach())
    ssa.kv, ssa.fused_kv = kv.eval(), True
    del ssa.k, ssa.v


class _Prepared(nn.Module):
    """Base of prepared networks; of a pyramid it has `channels` and `strides`, which detectors and segmenters read."""

    backend: str

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        if isinstance(network, PyramidBackbone | TimmPyramid):
            self.channels: list[int] = network.channels
            self.strides: list[int] = network.strides


class TorchModel(_Prepared):
    """Run a network in PyTorch, compiled or not.

    Args:
        network: what to run.
        is_compiled: by `torch.compile`.
        cuda_graphs, autotune: see `optimize`; of compiled networks.
    """

    def __init__(self, network: nn.Module, *, is_compiled: bool, cuda_graphs: bool, autotune: bool) -> None:
        super().__init__(network)
        self.backend = "compile" if is_compiled else "eager"
        self._dtype = next(network.parameters(), torch.empty(0)).dtype
        self._has_graphs = cuda_graphs
        self._has_to_measure = is_compiled and autotune
        run: Callable[[Tensor], Any] = network
        if is_compiled:
            plain = "reduce-overhead" if cuda_graphs else "default"
            tuned = "max-autotune" if cuda_graphs else "max-autotune-no-cudagraphs"
            run = torch.compile(network, mode=tuned if autotune else plain)
        self._run = (run,)  # in a tuple, so that it is no second child with the same weights

    def forward(self, images: Tensor) -> Outputs:
        """(B, C, H, W) -> the network's outputs, in float32."""
        if self._has_to_measure:
            self._has_to_measure = False
            if may_run(images.device):
                measure_forms(self.network, images.to(self._dtype))
        with torch.no_grad():
            if self._has_graphs:
                torch.compiler.cudagraph_mark_step_begin()
            outputs = self._run[0](images.to(self._dtype))
            # A recorded graph writes into the same memory at its next run.
            return _each(outputs, lambda x: x.to(torch.float32, copy=self._has_graphs))


class OpenVINOModel(_Prepared):
    """Run a network that OpenVINO compiles for the CPU, once for each shape of images.

    Args:
        network: what to compile; float32.
        dtype: precision that OpenVINO is asked to compute in.
    """

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__(network.float())
        names = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}
        if dtype not in names:
            raise ValueError(f"OpenVINO computes in float32, bfloat16 or float16, not {dtype}")
        self.backend = "openvino"
        self._precision = names[dtype]
        self._programs: OrderedDict[tuple[int, ...], Callable[[Tensor], Outputs]] = OrderedDict()

    def forward(self, images: Tensor) -> Outputs:
        """(B, C, H, W) -> the network's outputs, in float32."""
        shape = tuple(images.shape)
        program = self._programs.pop(shape, None) or self._compile(images.float())
        self._programs[shape] = program  # the latest used is the last
        while len(self._programs) > _PROGRAMS_KEPT:
            self._programs.popitem(last=False)
        return program(images.float().contiguous())

    def _compile(self, images: Tensor) -> Callable[[Tensor], Outputs]:
        import openvino

        with torch.no_grad():
            exported = torch.export.export(self.network, (images,))
            is_single = isinstance(self.network(images[:1]), Tensor)
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": self._precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        program = openvino.convert_model(exported)
        program.reshape(list(images.shape))
        request = openvino_core().compile_model(program, "CPU", settings).create_infer_request()

        def run(images: Tensor) -> Outputs:
            request.infer({0: images.detach().numpy()}, share_inputs=True)
            # Copies: the request writes its next results into the same memory.
            outputs = [torch.tensor(output.data).float() for output in request.output_tensors]
            return outputs[0] if is_single else outputs

        return run

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVINOModel:
        copied = OpenVINOModel(copy.deepcopy(self.network, memo), torch.float32)
        copied._precision = self._precision
        return copied.eval()


def _choose(device: torch.device) -> Backend:
    if device.type == "cuda":
        return "compile"
    # Without OpenVINO, inductor was no faster than eager mode on two cores, and takes a minute (docs/performance.md).
    return "openvino" if device.type == "cpu" and importlib.util.find_spec("openvino") is not None else "eager"


def _takes_lists(model: nn.Module) -> bool:
    """Tell whether it is one of torchvision's detectors, which take a list of images of several sizes."""
    from torchvision.models.detection import RetinaNet
    from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

    return isinstance(model, RetinaNet | GeneralizedRCNN)


def _each(outputs: Tensor | Sequence[Tensor], function: Callable[[Tensor], Tensor]) -> Outputs:
    return function(outputs) if isinstance(outputs, Tensor) else [function(x) for x in outputs]
