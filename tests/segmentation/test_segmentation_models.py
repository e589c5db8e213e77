"""Published counts, parity with other people's heads, and what any size and batch must survive."""

import math
from typing import Any

import pytest
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from scalablevit.complexity import describe
from scalablevit.segmentation.cost import parts
from scalablevit.segmentation.decoders import ConvNormReLU, FCNHead, SemanticFPNDecoder, UperNetDecoder
from scalablevit.segmentation.models import SegmentationModel, build_segmenter, semantic_fpn, upernet
from scalablevit.training.param_groups import parameter_groups

CHANNELS = (16, 32, 64, 128)
KINDS = ("semantic_fpn", "upernet")


def small(kind: str, num_classes: int = 5, **options: Any) -> SegmentationModel:
    widths = dict(fpn_channels=16, channels=8) if kind == "semantic_fpn" else dict(channels=16, auxiliary_channels=8)
    return build_segmenter(kind, "scalablevit_atto", num_classes, **{**widths, **options})  # type: ignore[arg-type]


def maps(height: int = 64, width: int = 96, batch: int = 2) -> list[Tensor]:
    return [
        torch.randn(batch, channels, -(-height // s), -(-width // s))
        for channels, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def with_lived_in_norms(module: nn.Module) -> nn.Module:
    """Statistics and affine weights as after training: fresh ones hide an exchanged norm."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean, std=0.5)  # type: ignore[arg-type]
            nn.init.uniform_(part.running_var, 0.5, 2)  # type: ignore[arg-type]
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.normal_(part.bias, std=0.5)
    return module.eval()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "size", "parameters", "multiply_adds"),
    [
        ("semantic_fpn", "small", 30.4, 174),
        ("semantic_fpn", "base", 79.0, 270),
        ("semantic_fpn", "large", 105.5, 402),
        ("upernet", "small", 56.5, 931),
        ("upernet", "base", 107.0, 1029),
        ("upernet", "large", 135.5, 1162),
    ],
)
def test_published_parameters_and_flops(kind: Any, size: str, parameters: float, multiply_adds: float) -> None:
    cost = describe(parts(kind, f"scalablevit_{size}"), 512, 2048)
    assert round(cost["parameters"] / 1e6, 1) == parameters
    assert cost["multiply_adds"] / 1e9 == pytest.approx(multiply_adds, rel=0.01)


def test_describe_knows_the_maps() -> None:
    small = parts("semantic_fpn", "scalablevit_atto", 37, 100, num_classes=3, channels=8)
    described = describe(small, 37, 100)["stages"]
    model = semantic_fpn("scalablevit_atto", 3).eval()
    with torch.no_grad():
        sizes = [tuple(x.shape[1:]) for x in model.backbone(torch.zeros(1, 3, 37, 100))]
    assert [(s["channels"], s["height"], s["width"]) for s in described] == sizes


@pytest.mark.parametrize("build", [semantic_fpn, upernet])
@pytest.mark.parametrize(("variant", "scaled"), [("scalablevit_small", True), ("scalablevit_base", False)])
def test_only_small_is_of_the_scaled_value_form_unless_asked(build: Any, variant: str, scaled: bool) -> None:
    def is_scaled(model: SegmentationModel) -> bool:
        return "backbone.stages.0.blocks.1.attn.kv.weight" in model.state_dict()

    with torch.device("meta"):
        assert is_scaled(build(variant)) is scaled
        assert is_scaled(build(variant, scale_value=not scaled)) is not scaled


def test_upernet_heads_agree_with_transformers() -> None:
    modeling = pytest.importorskip("transformers.models.upernet.modeling_upernet")
    config = pytest.importorskip("transformers").UperNetConfig(
        hidden_size=24, pool_scales=(1, 2, 3, 6), num_labels=7, auxiliary_channels=12, auxiliary_num_convs=1
    )
    theirs = with_lived_in_norms(modeling.UperNetHead(config, in_channels=CHANNELS))
    ours = UperNetDecoder(CHANNELS, 7, hidden_channels=24, pool_sizes=(1, 2, 3, 6), dropout=0.1).eval()
    renamed = {}
    for key, value in theirs.state_dict().items():
        for old, new in (
            ("batch_norm", "norm"),
            ("lateral_convs", "laterals"),
            ("fpn_convs", "smoothers"),
            ("fpn_bottleneck", "fusion"),
        ):
            key = key.replace(old, new)
        if key.startswith("psp_modules."):  # psp_modules.<pool>.1.<layer>: 0 is the pooling itself
            _, pool, _, rest = key.split(".", 3)
            key = f"pools.{pool}.{rest}"
        renamed[key] = value
    ours.load_state_dict(renamed)
    features = maps(75, 130)
    with torch.no_grad():
        torch.testing.assert_close(ours(features), theirs(features), rtol=1e-5, atol=1e-5)

    theirs = with_lived_in_norms(modeling.UperNetFCNHead(config, in_channels=CHANNELS))
    auxiliary = FCNHead(CHANNELS[2], 7, hidden_channels=12, dropout=0.1).eval()
    state = theirs.state_dict()
    auxiliary.load_state_dict(
        {key.replace("convs.0", "conv").replace("batch_norm", "norm"): value for key, value in state.items()}
    )
    with torch.no_grad():
        torch.testing.assert_close(auxiliary(features), theirs(features), rtol=1e-5, atol=1e-5)


def test_semantic_fpn_agrees_with_its_definition() -> None:
    decoder = SemanticFPNDecoder(CHANNELS, 5, fpn_channels=16, hidden_channels=8, dropout=0.1)
    with_lived_in_norms(decoder)
    features = maps(64, 96)
    with torch.no_grad():
        pyramid = decoder.fpn(dict(enumerate(features)))
        total = torch.zeros(2, 8, 16, 24)
        for i, doublings in enumerate((0, 1, 2, 3)):
            x = pyramid[i]
            layers: Any = decoder.levels[i]
            assert len(layers) == max(doublings, 1)
            for layer in layers:
                x = torch.relu(layer.norm(layer.conv(x)))
                if doublings:
                    x = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)(x)
            total += x
        torch.testing.assert_close(decoder(features), decoder.classifier(total), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (33, 70), (64, 32)])
def test_any_size_in_training_and_evaluation(kind: str, size: tuple[int, int]) -> None:
    model = small(kind)
    images = torch.randn(1, 3, *size)
    for training in (True, False):
        logits = model.train(training)(images)
        assert logits.shape == (1, 5, *size)
        assert logits.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("synchronised", [False, True])
def test_one_image_trains_every_parameter(kind: str, synchronised: bool) -> None:
    model = small(kind, dropout=0.0).train()
    if synchronised:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        assert any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())
    logits, auxiliary = model.forward_with_auxiliary(torch.randn(1, 3, 64, 64))
    loss = logits.logsumexp(1).mean() - logits[:, 0].mean()
    if auxiliary is not None:
        loss = loss + auxiliary.logsumexp(1).mean() - auxiliary[:, 0].mean()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} would stop DistributedDataParallel"
        assert parameter.grad.isfinite().all(), name
    if kind == "upernet":
        pool: Any = model.decoder.pools[0]  # type: ignore[index,union-attr]
        assert pool.conv.weight.grad.abs().sum() > 0, "the pooled pixel has a say"


def test_a_single_value_is_normalised_by_running_statistics() -> None:
    layer = ConvNormReLU(4, 3, 1)
    with_lived_in_norms(layer)
    x = torch.randn(1, 4, 1, 1)
    expected, mean = layer(x), layer.norm.running_mean.clone()  # type: ignore[union-attr]
    layer.train()
    torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(layer.norm.running_mean, mean)
    layer(torch.randn(1, 4, 1, 2))
    assert not torch.equal(layer.norm.running_mean, mean), "two values are statistics already"  # type: ignore[arg-type]


def test_auxiliary_logits_come_beside_the_same_logits() -> None:
    images = torch.randn(2, 3, 40, 56)
    model = small("upernet").eval()
    with torch.no_grad():
        logits, auxiliary = model.forward_with_auxiliary(images)
        torch.testing.assert_close(logits, model(images))
    assert auxiliary is not None
    assert auxiliary.shape == (2, 5, 40, 56)
    assert small("semantic_fpn").forward_with_auxiliary(images)[1] is None
    assert small("upernet", auxiliary_channels=0).auxiliary is None


def test_options_reach_the_backbone() -> None:
    model = small(
        "upernet",
        in_chans=4,
        drop_path_rate=0.5,
        window_size=4,
        grad_checkpointing=True,
        network_options={"lim": False},
    )
    assert model.in_chans == 4
    first: Any = model.backbone.stages[0]
    last: Any = model.backbone.stages[-1]
    assert first.grad_checkpointing
    assert first.blocks[0].attn.lim is None
    assert first.blocks[0].attn.window_size == (4, 4)
    assert last.blocks[-1].drop_path.p == 0.5
    model.set_grad_checkpointing(False)
    assert not first.grad_checkpointing


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_there_in_training_only(kind: str) -> None:
    images = torch.randn(1, 3, 64, 64)
    model = small(kind, dropout=0.9)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 0.0  # both passes see the same network
    with torch.no_grad():
        assert not torch.equal(model.train()(images), model(images))
        assert torch.equal(model.eval()(images), model(images))


@pytest.mark.parametrize("kind", KINDS)
def test_groups_for_the_optimizer(kind: str) -> None:
    model = small(kind)
    names = dict(model.named_parameters())
    undecayed = model.no_weight_decay()
    assert undecayed <= set(names)
    assert {name for name in names if name.endswith("peg.conv.weight")} == undecayed

    groups = parameter_groups(model, lr=1.0, weight_decay=0.1, layer_decay=0.5)
    lr = {id(p): group["lr"] for group in groups for p in group["params"]}
    of = {name: lr[id(p)] for name, p in names.items()}
    assert all(rate == 1.0 for name, rate in of.items() if not name.startswith("backbone.")), "heads learn fastest"
    assert of["backbone.stages.3.blocks.1.mlp.fc1.weight"] < 1
    assert math.isclose(
        of["backbone.stages.0.blocks.1.mlp.fc1.weight"], 2 * of["backbone.stages.0.blocks.0.mlp.fc1.weight"]
    )
    assert of["backbone.stages.0.patch_embed.proj.weight"] == min(of.values())
    layers = group_parameters(model, model.group_matcher(coarse=True), reverse=True)
    assert layers["backbone.stages.0.patch_embed.proj.weight"] == 0
    assert layers["backbone.stages.3.blocks.1.mlp.fc1.weight"] == 4
    assert layers["decoder.classifier.weight"] > 4


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("deeplab", {}, "semantic_fpn, upernet, got 'deeplab'"),
        ("semantic_fpn", {"pool_sizes": (1,)}, "semantic_fpn has no option pool_sizes; its options are .*fpn_channels"),
        ("upernet", {"pool_sizes": ()}, "pool_sizes must be"),
        ("upernet", {"pool_sizes": [0, 1]}, "pool_sizes must be"),
        ("upernet", {"auxiliary_channels": -1}, "auxiliary_channels must be"),
        ("upernet", {"dropout": 1.0}, "dropout must be in"),
        ("semantic_fpn", {"channels": 0}, "channels must be at least 1"),
        ("semantic_fpn", {"network_options": {"depth": 3}}, "network_options has no depth; it takes .*mlp_ratio"),
    ],
)
def test_wrong_options_are_named(kind: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_segmenter(kind, "scalablevit_atto", 5, **options)


def test_wrong_variant_and_class_count() -> None:
    with pytest.raises(ValueError, match="no variant 'resnet999'"):
        build_segmenter("upernet", "resnet999", 5)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        upernet("scalablevit_atto", 0)
