"""The plain definition, written on its own, gives what our network gives."""

import pytest
import torch
from torch import Tensor, nn

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.bench.plain_definition import PlainScalableViT


def outputs_and_gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    images = images.clone().requires_grad_()
    logits = model(images)
    # Weighted: the gradient of a plain sum is the same for every logit and hides swapped ones.
    (logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    missing = [name for name, grad in gradients.items() if grad is None]
    assert not missing, f"no gradient reaches {missing}"
    assert images.grad is not None
    return {
        "logits": logits.detach(),
        "images": images.grad,
        **{k: g for k, g in gradients.items() if g is not None},
    }


@pytest.mark.parametrize("scale_value", [False, True], ids=["released", "scaled-value"])
@pytest.mark.parametrize("size", [(64, 96), (57, 91), (224, 35), (5, 130), (1, 1)], ids=str)
def test_outputs_and_gradients_equal_ours(size: tuple[int, int], scale_value: bool) -> None:
    ours = ScalableViT(num_classes=5, scale_value=scale_value, **VARIANTS["scalablevit_atto"])
    for parameter in ours.parameters():  # not the initialisation, whose biases are 0 and logits tiny
        nn.init.normal_(parameter, std=0.1 if parameter.ndim == 1 else parameter[0].numel() ** -0.5)
    plain = PlainScalableViT("scalablevit_atto", num_classes=5, scale_value=scale_value)
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    expected = outputs_and_gradients(plain.double(), images)
    for name, value in outputs_and_gradients(ours.double(), images).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_published_head_and_variant_equal_ours() -> None:
    ours = ScalableViT(num_classes=7, **VARIANTS["scalablevit_small"]).eval()
    plain = PlainScalableViT("scalablevit_small", num_classes=7).eval()
    plain.load_state_dict(ours.state_dict())
    images = torch.randn(1, 3, 70, 101)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), plain(images), rtol=1e-4, atol=1e-5)
