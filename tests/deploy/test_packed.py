"""Layers packed for oneDNN compute what PyTorch's layers do."""

import copy
import pickle

import pytest
import torch
from tiny_networks import network
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import scalablevit
from scalablevit.deploy import packed as packed_module
from scalablevit.deploy.optimize import fold
from scalablevit.deploy.packed import PackedLinear, PackedMlp, PackedPointwise, can_pack, pack
from scalablevit.layers import Mlp

pytestmark = pytest.mark.skipif(not can_pack(torch.float32), reason="torch without oneDNN")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Conversions(TorchDispatchMode):
    """Records the dtypes that tensors are converted to."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._to_copy.default:
            self.dtypes.append(kwargs["dtype"])
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize(
    "x",
    [random(5, 6), random(2, 3, 4, 6), random(2, 6, 3).transpose(1, 2), random(4, 9)[:, :6], random(0, 6), random(6)],
    ids=["2-D", "4-D", "transposed", "strided", "empty", "1-D"],
)
def test_a_packed_linear_layer_is_the_linear_layer(x: Tensor, bias: bool) -> None:
    plain = nn.Linear(6, 10, bias=bias)
    with torch.no_grad():
        torch.testing.assert_close(pack(plain)(x), plain(x))


def test_a_packed_pointwise_convolution_is_the_convolution() -> None:
    plain = nn.Conv2d(6, 10, 1)
    packed = pack(plain)
    assert isinstance(packed, PackedPointwise)
    with torch.no_grad():
        for x in (random(2, 6, 3, 5), random(2, 6, 3, 5).contiguous(memory_format=torch.channels_last)):
            torch.testing.assert_close(packed(x), plain(x))


def test_a_packed_mlp_is_the_mlp_and_leaves_its_input_alone() -> None:
    plain, x = Mlp(6, 12).eval(), random(2, 3, 6)
    packed, before = pack(plain), x.clone()
    assert isinstance(packed, PackedMlp)
    with torch.no_grad():
        torch.testing.assert_close(packed(x), plain(x))
    assert torch.equal(x, before)


@pytest.mark.parametrize("scale_value", [False, True], ids=["released form", "scaled-value form"])
@pytest.mark.parametrize("shape", [(2, 3, 70, 45), (1, 3, 32, 32), (1, 3, 1, 1)], ids=str)
def test_a_packed_network_errs_no_more_than_the_plain_one(scale_value: bool, shape: tuple[int, ...]) -> None:
    model, x = network(scale_value=scale_value), random(*shape)
    packed = pack(fold(model))
    assert not any(type(layer) is nn.Linear for layer in packed.modules())
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(x.double())
        error = (packed(x) - exact).abs().max()
        assert error <= 4 * (model(x) - exact).abs().max() + 1e-6 * exact.abs().max()


def test_layers_that_do_more_than_their_maths_stay() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), Mlp(4, 8), nn.Conv2d(4, 4, 1, stride=2))
    model[0].register_forward_hook(lambda module, inputs, output: output + 1)
    nn.utils.parametrizations.weight_norm(model[1])
    model[3].fc1.register_forward_hook(lambda module, inputs, output: output + 1)
    pack(model.eval())
    assert [type(layer).__name__ for layer in model] == [
        "Linear", "ParametrizedLinear", "PackedLinear", "Mlp", "Conv2d"
    ]  # fmt: skip
    assert isinstance(model[3].fc2, PackedLinear)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"])
def test_packed_layers_can_be_copied(duplicate) -> None:
    packed, x = pack(nn.Linear(6, 10)), random(3, 6)
    copied = duplicate(packed)
    assert torch.equal(copied(x), packed(x))
    assert copied.bias is not packed.bias
    assert torch.equal(packed(x), duplicate(copied)(x))


def test_a_prepared_network_is_not_moved_or_converted() -> None:
    fast = scalablevit.optimize(network(), backend="eager")
    assert fast.to("cpu", torch.float32) is fast
    with pytest.raises(ValueError, match=r"was prepared for torch\.float32 on the CPU: move or convert the model"):
        fast.to(torch.bfloat16)
    with pytest.raises(ValueError, match=r"was prepared for torch\.float32 on the CPU"):
        fast.to("meta")


def test_other_precisions_stay_pytorchs() -> None:
    assert type(pack(nn.Linear(4, 4).double())) is nn.Linear
    assert type(pack(nn.Linear(4, 4, device="meta"))) is nn.Linear


@pytest.mark.skipif(not can_pack(torch.bfloat16), reason="oneDNN takes no bfloat16 on this processor")
def test_bfloat16_makes_no_copies_of_its_own() -> None:
    # Statistics of LayerNorm and the softmax are float32 inside of their kernels: nothing is converted around them.
    fast = scalablevit.optimize(network(), backend="eager", dtype=torch.bfloat16)
    with Conversions() as conversions:
        fast(random(2, 3, 64, 64))
    assert conversions.dtypes == [torch.bfloat16, torch.float32], "images in, logits out"


def test_each_weight_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[tuple[int, ...]] = []
    original = packed_module._reordered
    monkeypatch.setattr(packed_module, "_reordered", lambda weight: packed.append(weight.shape) or original(weight))
    prepared = pack(fold(network()))
    assert len(packed) == sum(isinstance(module, PackedLinear) for module in prepared.modules()) > 10
