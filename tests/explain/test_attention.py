"""Attention of query points: against the layers' own outputs, and over images of any size."""

import copy

import pytest
import torch

from scalablevit.backbone import ScalableViT, create_backbone
from scalablevit.detection.models import build_detector
from scalablevit.explain.attention import attention_maps, attention_over_image, iwsa_weights, ssa_weights
from scalablevit.explain.geometry import grid_points
from scalablevit.layers import InteractiveWindowSelfAttention, ScalableSelfAttention
from scalablevit.ops.layout import channels_first, channels_last
from scalablevit.ops.reduced_attention.reference import reduced_attention as reduced_definition
from scalablevit.ops.window_attention.reference import window_attention as window_definition
from scalablevit.ops.windows import crop_to, pad_to_multiple, window_partition, window_unpartition
from scalablevit.segmentation.models import build_segmenter

TINY = dict(embed_dims=(8, 16, 16, 32), num_heads=(1, 2, 2, 4), depths=(2, 2, 2, 2), head="plain")


def tiny(seed=0, **options):
    torch.manual_seed(seed)
    model = ScalableViT(num_classes=3, **{**TINY, **options}).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the initial weights attend almost evenly
            parameter.mul_(3).add_(torch.randn_like(parameter) * 0.2)
    return model


def model_of(wrapped):
    return next(module for module in wrapped.modules() if isinstance(module, ScalableViT))


def images_of(height, width, batch=2, seed=1):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(seed))


def all_tokens(height, width):
    return torch.cartesian_prod(torch.arange(height), torch.arange(width))


@pytest.mark.parametrize(("height", "width"), [(9, 13), (4, 4), (2, 3), (1, 1), (16, 7)])
@pytest.mark.parametrize("options", [{}, {"scale_value": True}, {"reduction": 1}], ids=str)
def test_ssa_weights_times_values_are_the_layers_output(height, width, options):
    torch.manual_seed(0)
    layer = ScalableSelfAttention(12, 3, **{"reduction": 4, "channel_ratio": 1.25, **options}).eval()
    x = torch.randn(2, height, width, 12) * 3
    weights = ssa_weights(layer, x, all_tokens(height, width))
    assert torch.allclose(weights.sum((-2, -1)), torch.ones(2, height * width, 3))
    assert float(weights.detach().amax()) > 1.2 / weights[0, 0, 0].numel() or weights[0, 0, 0].numel() == 1

    source = layer.reduced(x).flatten(1, 2)
    values = layer.kv(source)[..., layer.key_dim :] if layer.fused_kv else layer.v(source)
    values = values.unflatten(-1, (3, -1))  # (B, M, h, D)
    out = torch.einsum("bphm,bmhd->bphd", weights.flatten(-2), values).flatten(2)
    expected = layer(x).flatten(1, 2)
    torch.testing.assert_close(layer.proj(out), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(9, 13), (7, 14), (3, 2), (1, 1)])
@pytest.mark.parametrize("lim", [True, False])
@pytest.mark.parametrize("window", [7, (3, 5)], ids=str)
def test_iwsa_weights_times_values_and_lim_are_the_layers_output(height, width, lim, window):
    torch.manual_seed(0)
    layer = InteractiveWindowSelfAttention(12, 3, window_size=window, lim=lim).eval()
    with torch.no_grad():
        layer.qkv.bias.normal_()  # what padded tokens hold
    x = torch.randn(2, height, width, 12) * 3
    weights = iwsa_weights(layer, x, all_tokens(height, width))  # (B, P, h, rows, columns)
    assert torch.allclose(weights.sum((-2, -1)), torch.ones(2, height * width, 3))

    qkv = layer.qkv(pad_to_multiple(x, layer.window_size))
    _, Hp, Wp, _ = qkv.shape
    v = window_partition(qkv[..., 24:], layer.window_size)  # (B * n, L, C), the same for all queries of a window
    v = v.repeat_interleave(v.shape[1], dim=0)  # for each token of a window, that window's values
    v = window_unpartition(
        v.unflatten(0, (-1, layer.window_size[0] * layer.window_size[1])).flatten(0, 0).flatten(2),
        layer.window_size,
        Hp,
        Wp,
    )  # (B, Hp, Wp, L * C)
    v = crop_to(v, height, width).flatten(1, 2).unflatten(-1, (-1, 3, 4))  # (B, P, L, h, D)
    out = torch.einsum("bphl,bplhd->bphd", weights.flatten(-2), v).flatten(2).unflatten(1, (height, width))
    if lim:
        out = out + crop_to(channels_last(layer.lim(channels_first(qkv[..., 24:]))), height, width)
    torch.testing.assert_close(layer.proj(out), layer(x), rtol=1e-5, atol=1e-5)


def test_ssa_weights_are_those_of_the_definition():
    """Values that are unit vectors make the attention itself the output of `ops.reduced_attention.reference`."""
    torch.manual_seed(0)
    layer = ScalableSelfAttention(12, 3, reduction=2, channel_ratio=1.25).eval()
    x = torch.randn(2, 9, 13, 12) * 3
    source = layer.reduced(x)  # (B, 4, 6, C')
    k = source.flatten(1, 2)
    k = layer.kv(k)[..., : layer.key_dim] if layer.fused_kv else layer.k(k)
    units = torch.eye(k.shape[1]).repeat(2, 1, 3)  # (B, M, h * M)
    expected = reduced_definition(layer.q(x).flatten(1, 2), k, units, num_heads=3, scale=layer.scale)
    found = ssa_weights(layer, x, all_tokens(9, 13))  # (B, N, h, 4, 6)
    torch.testing.assert_close(found.flatten(2), expected, rtol=1e-5, atol=1e-6)
    assert float(found.detach().amax()) > 2 / k.shape[1]


def test_iwsa_weights_are_those_of_the_definition():
    """The same for `ops.window_attention.reference`, D keys of each window at a time."""
    torch.manual_seed(0)
    layer = InteractiveWindowSelfAttention(12, 3, window_size=(3, 5)).eval()
    with torch.no_grad():
        layer.qkv.bias.normal_()
    x = torch.randn(2, 8, 13, 12) * 3
    qkv = layer.qkv(pad_to_multiple(x, (3, 5)))  # (B, 9, 15, 3C)
    found = iwsa_weights(layer, x, all_tokens(8, 13)).flatten(-2)  # (B, N, h, 15)
    number = (torch.arange(9)[:, None] % 3) * 5 + torch.arange(15) % 5  # of each token in its window
    for first in range(0, 15, 4):
        units = (number[..., None] == torch.arange(first, first + 4)).float()  # (9, 15, D)
        packed = torch.cat([qkv[..., :24], units.repeat(2, 1, 1, 3)], dim=-1)
        expected = window_definition(packed, None, None, num_heads=3, window_size=(3, 5))[:, :8, :13]
        expected = expected.flatten(1, 2).unflatten(-1, (3, 4))[..., : 15 - first]
        torch.testing.assert_close(found[..., first : first + 4], expected, rtol=1e-5, atol=1e-6)
    assert float(found.detach().amax()) > 2 / 15


@pytest.mark.parametrize(("height", "width"), [(64, 96), (45, 71), (33, 20), (1, 1)])
def test_every_block_of_images_of_any_size(height, width):
    model, points = tiny(), [(0, 0), (width - 1, height - 1), (width // 2, height // 3)]
    before = copy.deepcopy(model.state_dict())
    found = attention_maps(model, images_of(height, width), points)
    assert [(b.name, b.kind) for b in found] == [
        (f"stages.{s}.blocks.{i}", kind) for s in range(4) for i, kind in enumerate(("iwsa", "ssa"))
    ]
    for block in found:
        B, P, h = block.weights.shape[:3]
        assert (B, P, h) == (2, 3, TINY["num_heads"][block.stage])
        torch.testing.assert_close(block.weights.sum((-2, -1)), torch.ones(B, P, h))
        over = attention_over_image(block, (height, width))
        assert over.shape == (2, 3, height, width)
        assert torch.isfinite(over).all()
        if min(height, width) >= 32 and block.kind == "ssa":
            assert set(over[0, 0].unique().tolist()) <= {0.0, *block.weights.mean(2)[0, 0].unique().tolist()}
        one = attention_over_image(block, (height, width), head=h - 1, point=1)
        expected = block.weights[:, 1, h - 1].amax((-2, -1))
        if float(block.on_padding.max()) == 0:  # else the largest weight may lie outside the image
            torch.testing.assert_close(one.amax((-2, -1)), expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_query_lies_in_its_window_and_the_window_in_the_image():
    model = tiny(window_size=3)
    (block,) = attention_maps(model, images_of(64, 96), [(50, 21)], blocks=["stages.0.blocks.0"])
    assert block.queries.tolist() == [[5, 13]]  # tokens lie at pixels 4 * i: 21 / 4 and 50 / 4, rounded
    assert block.corners.tolist() == [[3, 12]]
    over = attention_over_image(block, (64, 96), point=0)[0]
    rows, columns = over.nonzero().T
    assert (int(rows.min()), int(rows.max())) == (3 * 4 - 2, 5 * 4 + 1)
    assert (int(columns.min()), int(columns.max())) == (12 * 4 - 2, 14 * 4 + 1)
    torch.testing.assert_close(over.sum() / 16, torch.tensor(1.0))


def test_attention_on_padding_is_counted():
    model = tiny()
    (block,) = attention_maps(model, images_of(32, 32), [(0, 0), (31, 31)], blocks=["stages.0.blocks.0"])
    assert block.map_size == (8, 8)
    assert torch.equal(block.on_padding[:, 0], torch.zeros(2, 1))  # the first window is whole
    assert (block.on_padding[:, 1] > 0.5).all()  # of the last one, 48 of 49 tokens are padding
    torch.testing.assert_close(block.on_padding[:, 1], 1 - block.weights[:, 1, :, 0, 0])


def test_ssa_leaves_out_rows_that_fill_no_patch():
    model = tiny()
    (block,) = attention_maps(model, images_of(60, 64), [(3, 3)], blocks=["stages.0.blocks.1"])  # 15 x 16 tokens, R = 8
    assert block.weights.shape[-2:] == (1, 2)
    over = attention_over_image(block, (60, 64), point=0)[0]
    assert (over[:30] > 0).all()
    assert (over[30:] == 0).all()


def test_maps_follow_the_image():
    model, images = tiny(), images_of(64, 64, batch=1)
    changed = images.clone()
    changed[..., 32:] = images[..., 32:].flip(-1) * 2
    before, after = (attention_maps(model, x, [(5, 5)], kind="ssa")[-1].weights for x in (images, changed))
    assert float((before - after).abs().max()) > 1e-3


@pytest.mark.parametrize("wrap", ["compiled", "averaged", "parallel", "training", "half", "autocast"])
def test_wrapped_and_half_networks_give_the_same(wrap):
    model, images = tiny(), images_of(40, 64)
    expected = attention_maps(model, images, [(11, 7)])
    wrapped, given = copy.deepcopy(model), images
    if wrap == "compiled":
        wrapped = torch.compile(wrapped, backend="eager")
        wrapped(images)
    elif wrap == "averaged":
        wrapped = torch.optim.swa_utils.AveragedModel(wrapped)
    elif wrap == "parallel":
        wrapped = torch.nn.DataParallel(wrapped)
    elif wrap == "training":
        wrapped.train()
    elif wrap == "half":
        wrapped, given = wrapped.half(), images.half()
    with torch.autocast("cpu", torch.bfloat16, enabled=wrap == "autocast"):
        found = attention_maps(wrapped, given, [(11, 7)])
    tolerance = 2e-2 if wrap == "half" else 1e-6
    for block, other in zip(found, expected, strict=True):
        assert block.weights.dtype == torch.float32
        torch.testing.assert_close(block.weights, other.weights, rtol=0, atol=tolerance)
    assert model_of(wrapped).training == (wrap == "training")
    assert all(parameter.requires_grad for parameter in wrapped.parameters())
    if wrap == "half":
        assert {parameter.dtype for parameter in wrapped.parameters()} == {torch.float16}


def test_networks_of_all_tasks_have_their_backbones_attention():
    images = images_of(64, 64)
    segmenter = build_segmenter("semantic_fpn", "scalablevit_atto", 3, fpn_channels=8, channels=8)
    detector = build_detector("retinanet", "scalablevit_atto", 3, fpn_channels=8, num_convs=1)
    for model in (create_backbone("scalablevit_atto"), segmenter, detector):
        backbone = getattr(model, "backbone", model)
        backbone = getattr(backbone, "body", backbone)
        found = attention_maps(model, images, [(11, 7)])
        assert len(found) == 8
        expected = attention_maps(backbone, images, [(11, 7)])
        assert all(torch.equal(a.weights, b.weights) for a, b in zip(found, expected, strict=True))


def test_what_cannot_be_shown_is_said():
    model, images = tiny(), images_of(32, 48)
    with pytest.raises(ValueError, match=r"point 48,5 lies outside the image of 48 x 32 pixels"):
        attention_maps(model, images, [(1, 1), (48, 5)])
    with pytest.raises(ValueError, match="outside"):
        attention_maps(model, images, [(-1, 5)])
    with pytest.raises(ValueError, match="at least one"):
        attention_maps(model, images, [])
    with pytest.raises(ValueError, match=r"no block stages.7.blocks.0; its blocks are stages.0.blocks.0"):
        attention_maps(model, images, [(1, 1)], blocks=["stages.7.blocks.0"])
    with pytest.raises(ValueError, match="has no ScalableViT"):
        attention_maps(torch.nn.Conv2d(3, 4, 1), images, [(1, 1)])
    (block,) = attention_maps(model, images, [(1, 1)], blocks=["stages.0.blocks.1"])
    with pytest.raises(ValueError, match=r"has heads 0..0, got head 1"):
        attention_over_image(block, (32, 48), head=1)


def test_grid_points_are_spread_evenly():
    assert grid_points((30, 60), 2) == [(15, 7), (45, 7), (15, 22), (45, 22)]
    with pytest.raises(ValueError, match="at least 1"):
        grid_points((30, 60), 0)
