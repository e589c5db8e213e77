"""The network: stages, the classifier `ScalableViT`, its variants, and the pyramid for dense tasks.

Source: ScalableViT: Rethinking the Context-oriented Generalization of Vision Transformer, arXiv:2203.10790.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, Unpack, cast

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from scalablevit.layers import (
    Block,
    ClassifierHead,
    InteractiveWindowSelfAttention,
    Mlp,
    PatchEmbed,
    PositionalEncodingGenerator,
    ScalableSelfAttention,
)
from scalablevit.layers.head import PUBLISHED_HIDDEN_DIM
from scalablevit.ops.layout import channels_first
from scalablevit.ops.windows import as_window
from scalablevit.weights.classes import check_class_names
from scalablevit.weights.published_names import to_native_names

WindowSize = int | tuple[int, int]

# torch.fx records the check as it is: it reads sizes, which it does not know.
torch.fx.wrap("check_images")


class BlockOptions(TypedDict, total=False):
    """Arguments of `ScalableViT` and `create_backbone` that say how every block is built; see `BlockSettings`."""

    scale_value: bool
    window_size: WindowSize | Sequence[WindowSize]
    attn_drop_rate: float
    proj_drop_rate: float
    mlp_ratio: float
    qkv_bias: bool
    lim: bool
    peg: bool
    pattern: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class BlockSettings:
    """How every block is built, checked; the defaults are those of the paper.

    Args:
        scale_value: scale the values of SSA in width, too (see `ScalableSelfAttention`).
        window_size: side of IWSA's windows in tokens, or (rows, columns); or one such per stage, as a list.
        attn_drop_rate: dropout probability of attention weights, in [0, 1).
        proj_drop_rate: dropout probability after projections and in MLPs, in [0, 1).
        mlp_ratio: hidden channels of the MLPs as a multiple of C.
        qkv_bias: give queries, keys and values a bias.
        lim: have IWSA's Local Interactive Module (paper, table 6).
        peg: have a positional encoding generator in every stage.
        pattern: attentions ("iwsa", "ssa") of the blocks, repeated along each stage.

    Raises:
        ValueError: a setting is out of its range.
    """

    scale_value: bool = False
    window_size: WindowSize | Sequence[WindowSize] = 7
    attn_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    lim: bool = True
    peg: bool = True
    pattern: Sequence[str] = ("iwsa", "ssa")

    def __post_init__(self) -> None:
        _check_rates(proj_drop_rate=self.proj_drop_rate, attn_drop_rate=self.attn_drop_rate)
        if not self.pattern or set(self.pattern) - {"iwsa", "ssa"}:
            raise ValueError(f"pattern must be made of 'iwsa' and 'ssa', got {list(self.pattern)}")


class Stage(nn.Module):
    """Patch embedding, then blocks of IWSA and SSA in alternation, with one PEG after the first block.

    Args:
        in_chans: channels of the input.
        dim: channels C of the stage.
        settings: how the blocks are built.
        kernel_size, stride: of the patch embedding.
        num_heads: attention heads.
        drop_paths: one drop-path probability per block; their number is the stage's depth.
        reduction, channel_ratio: of SSA.
        window_size: of IWSA in this stage.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        settings: BlockSettings,
        *,
        kernel_size: int,
        stride: int,
        num_heads: int,
        drop_paths: Sequence[float],
        reduction: int,
        channel_ratio: float,
        window_size: WindowSize,
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(in_chans, dim, kernel_size=kernel_size, stride=stride)
        self.blocks = nn.ModuleList()
        for i, drop_path in enumerate(drop_paths):
            attn: nn.Module
            if settings.pattern[i % len(settings.pattern)] == "iwsa":
                attn = InteractiveWindowSelfAttention(
                    dim,
                    num_heads,
                    window_size=window_size,
                    qkv_bias=settings.qkv_bias,
                    lim=settings.lim,
                    attn_drop=settings.attn_drop_rate,
                    proj_drop=settings.proj_drop_rate,
                )
            else:
                attn = ScalableSelfAttention(
                    dim,
                    num_heads,
                    reduction=reduction,
                    channel_ratio=channel_ratio,
                    scale_value=settings.scale_value,
                    qkv_bias=settings.qkv_bias,
                    attn_drop=settings.attn_drop_rate,
                    proj_drop=settings.proj_drop_rate,
                )
            mlp = Mlp(dim, int(dim * settings.mlp_ratio), drop=settings.proj_drop_rate)
            self.blocks.append(Block(dim, attn=attn, mlp=mlp, drop_path=drop_path))
        self.peg = PositionalEncodingGenerator(dim) if settings.peg else nn.Identity()
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, ceil(H / stride), ceil(W / stride), C)."""
        x = self.patch_embed(x)  # (B, C_in, H, W) -> (B, H', W', C)
        for i, block in enumerate(self.blocks):
            if self.grad_checkpointing and self.training and not torch.jit.is_scripting():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
            if i == 0:  # CPVT (arXiv:2102.10882): position is best generated after one block
                x = self.peg(x)
        return x


class ScalableViT(nn.Module):
    """Classifier of four stages, for images of any height and width of at least one pixel.

    Args:
        in_chans: channels of the images.
        num_classes: K; 0 leaves the head out, and `forward` returns pooled, normalised features.
        global_pool: "avg", "max", or "" to keep the map.
        head: "published" (Linear to 4096, LayerNorm, GELU, Linear, as the released classifiers) or "plain" (Linear).
        embed_dims: channels of the stages.
        num_heads: attention heads of the stages.
        depths: blocks of the stages.
        channel_ratios: r_c of SSA in each stage, scaling queries and keys in width.
        reductions: R of SSA in each stage; the spatial scaling factor r_n is 1 / R^2.
        drop_rate: dropout probability before the head, in [0, 1).
        drop_path_rate: drop-path probability of the last block, in [0, 1); it rises linearly from 0.
        options: how every block is built, as for `BlockSettings`: window_size, pattern, lim, peg, mlp_ratio, ...

    Raises:
        ValueError: an argument is out of its range, or the stages' lists differ in length.

    Source: ScalableViT, arXiv:2203.10790, table 1.
    """

    __jit_unused_properties__ = ("grad_checkpointing",)

    def __init__(
        self,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        *,
        head: Literal["published", "plain"] = "published",
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        num_heads: Sequence[int] = (2, 4, 8, 16),
        depths: Sequence[int] = (2, 2, 20, 2),
        channel_ratios: Sequence[float] = (1.25, 1.25, 1.25, 1.0),
        reductions: Sequence[int] = (8, 4, 2, 1),
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **options: Unpack[BlockOptions],
    ) -> None:
        super().__init__()
        num_stages, blocks = len(embed_dims), sum(depths)
        _check_lengths(
            num_stages, num_heads=num_heads, depths=depths, channel_ratios=channel_ratios, reductions=reductions
        )
        if in_chans < 1:
            raise ValueError(f"in_chans must be at least 1, got {in_chans}")
        if head not in ("published", "plain"):
            raise ValueError(f"head must be 'published' or 'plain', got {head!r}")
        _check_rates(drop_rate=drop_rate, drop_path_rate=drop_path_rate)
        _check_names("ScalableViT.__init__", options)
        settings = BlockSettings(**options)
        windows = _per_stage(settings.window_size, num_stages)

        self.in_chans = in_chans
        self.num_classes = num_classes
        self.head_type = head
        self.drop_rate = drop_rate
        self.output_fmt = "NHWC"
        self.stages = nn.ModuleList()
        feature_info: list[dict[str, Any]] = []
        reduction, first = 1, 0
        for i in range(num_stages):
            stride = 4 if i == 0 else 2
            reduction *= stride
            drop_paths = [drop_path_rate * j / max(blocks - 1, 1) for j in range(first, first + depths[i])]
            first += depths[i]
            self.stages.append(
                Stage(
                    in_chans if i == 0 else embed_dims[i - 1],
                    embed_dims[i],
                    settings,
                    kernel_size=7 if i == 0 else 3,
                    stride=stride,
                    num_heads=num_heads[i],
                    drop_paths=drop_paths,
                    reduction=reductions[i],
                    channel_ratio=channel_ratios[i],
                    window_size=windows[i],
                )
            )
            feature_info.append(dict(num_chs=embed_dims[i], reduction=reduction, module=f"stages.{i}"))
        self.feature_info = feature_info
        self.num_features = self.head_hidden_size = embed_dims[-1]
        self.norm: nn.Module = nn.LayerNorm(self.num_features, eps=1e-6)
        self.head: nn.Module
        self.global_pool: str
        self._make_head(num_classes, global_pool)
        self.apply(_init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, K); pooled features (B, C) where `num_classes` is 0."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> normalised last map, (B, ceil(H/32), ceil(W/32), C)."""
        check_images(x, self.in_chans)
        for i, stage in enumerate(self.stages):
            x = stage(x if i == 0 else channels_first(x))  # (B, H', W', C_i)
        return self.norm(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) -> logits (B, K); with `pre_logits`, the pooled features (B, C)."""
        if self.global_pool == "avg":
            x = x.mean(dim=(1, 2))  # (B, C)
        elif self.global_pool == "max":
            x = x.amax(dim=(1, 2))  # (B, C)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> Any:
        """Outputs of the stages, in timm's calling convention.

        Args:
            x: images, (B, in_chans, H, W).
            indices: stages to return; a number n means the last n, None all.
            norm: normalise the last stage's map by the network's own final LayerNorm.
            stop_early: do not run stages that nobody asked for.
            output_fmt: "NCHW" or "NHWC".
            intermediates_only: return the list only, not the final normalised map before it.

        Returns:
            list of maps, or (final map (B, H, W, C), list of maps).

        Raises:
            ValueError: an unknown `output_fmt`.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be 'NCHW' or 'NHWC', got {output_fmt!r}")
        check_images(x, self.in_chans)
        take, last = feature_take_indices(len(self.stages), indices)
        intermediates = []
        for i, stage in enumerate(self.stages if not stop_early else self.stages[: last + 1]):
            x = stage(x if i == 0 else channels_first(x))  # (B, H', W', C_i)
            if i in take:
                feature = self.norm(x) if norm and i == len(self.stages) - 1 else x
                intermediates.append(channels_first(feature) if output_fmt == "NCHW" else feature)
        if intermediates_only:
            return intermediates
        if not stop_early or last == len(self.stages) - 1:
            x = self.norm(x)
        return x, intermediates

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages behind the last one in `indices`, and the final norm with the last stage; timm's hook.

        Args:
            indices: stages that are needed, as for `forward_intermediates`.
            prune_norm: drop the final norm in any case.
            prune_head: drop the head; else it is made anew where its input has another width.

        Returns:
            the stages that `indices` means.
        """
        take, last = feature_take_indices(len(self.stages), indices)
        self.stages = self.stages[: last + 1]
        width = self.feature_info[last]["num_chs"]
        if prune_norm or width != self.num_features:
            self.norm = nn.Identity()  # the final norm belongs to the last stage
        is_narrower = width != self.num_features
        self.num_features = self.head_hidden_size = width
        if prune_head:
            self.reset_classifier(0, "")
        elif is_narrower:
            self.reset_classifier(self.num_classes)
        return take

    def get_classifier(self) -> nn.Module:
        """The last layer of the head: Linear to K logits, or Identity."""
        return self.head.fc if isinstance(self.head, ClassifierHead) else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one of the same type; 0 classes leave it out."""
        weight = next(self.parameters())
        self._make_head(num_classes, self.global_pool if global_pool is None else global_pool)
        self.head.apply(_init_weights)
        self.head.to(device=weight.device, dtype=weight.dtype)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions by which timm sorts parameters into layers, for layer-wise learning rates."""
        return layer_groups(coarse)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed: those of PEG."""
        return peg_weights(self.stages)

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for stage in typed(self.stages):
            stage.grad_checkpointing = enable

    @property
    def grad_checkpointing(self) -> bool:
        """Whether blocks are recomputed in the backward pass."""
        return any(stage.grad_checkpointing for stage in typed(self.stages))

    def set_input_size(
        self,
        img_size: int | tuple[int, int] | None = None,
        patch_size: int | tuple[int, int] | None = None,
        window_size: WindowSize | Sequence[WindowSize] | None = None,
    ) -> None:
        """Change IWSA's windows; timm's hook. No weight depends on the size of images, so any `img_size` is fine.

        Raises:
            ValueError: an empty image, or a `patch_size` other than 4, which the first convolution fixes.
        """
        if img_size is not None and min((img_size,) if isinstance(img_size, int) else img_size) < 1:
            raise ValueError(f"img_size must be at least 1 pixel, got {img_size}")
        if patch_size not in (None, 4, (4, 4)):
            raise ValueError(f"patch_size is fixed at 4 by the first convolution, got {patch_size}")
        if window_size is not None:
            sizes = [as_window(size) for size in _per_stage(window_size, len(self.stages))]
            for stage, size in zip(typed(self.stages), sizes, strict=True):
                for block in stage.blocks:
                    if isinstance(block.attn, InteractiveWindowSelfAttention):
                        block.attn.set_window_size(size)

    def _make_head(self, num_classes: int, global_pool: str) -> None:
        if num_classes < 0:
            raise ValueError(f"num_classes must be at least 0, got {num_classes}")
        if global_pool not in ("avg", "max", ""):
            raise ValueError(f"global_pool must be 'avg', 'max' or '', got {global_pool!r}")
        self.num_classes, self.global_pool = num_classes, global_pool
        self.head = (
            ClassifierHead(
                self.num_features,
                num_classes,
                hidden_dim=PUBLISHED_HIDDEN_DIM if self.head_type == "published" else None,
                drop=self.drop_rate,
            )
            if num_classes > 0
            else nn.Identity()
        )


class PyramidBackbone(nn.Module):
    """The four stages as a feature pyramid, each map through a LayerNorm of its own.

    The normalised map is also what the next stage reads: the published dense checkpoints were trained so.

    Args:
        network: classifier whose stages are used; its final norm and head are not.

    Attributes:
        channels: C_i of the maps.
        strides: pixels per token of the maps: 4, 8, 16, 32.

    Source: ScalableViT, arXiv:2203.10790, section 4.2, and the authors' dense checkpoints.
    """

    def __init__(self, network: ScalableViT) -> None:
        super().__init__()
        self.in_chans = network.in_chans
        self.channels = [int(info["num_chs"]) for info in network.feature_info]
        self.strides = [int(info["reduction"]) for info in network.feature_info]
        self.stages = network.stages
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for dim in self.channels)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) -> [(B, C_i, ceil(H / s_i), ceil(W / s_i))] at strides 4, 8, 16, 32."""
        check_images(images, self.in_chans)
        x, pyramid = images, []
        for stage, norm in zip(self.stages, self.norms):  # noqa: B905  torch.jit.script knows no `strict`
            x = channels_first(norm(stage(x)))  # (B, H_i, W_i, C_i) -> (B, C_i, H_i, W_i)
            pyramid.append(x)
        return pyramid

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass instead of keeping their activations."""
        for stage in typed(self.stages):
            stage.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of parameters of two or more dimensions that are not decayed: those of PEG."""
        return peg_weights(self.stages)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that sort parameters into layers, for layer-wise learning rates."""
        return layer_groups(coarse)


def create_backbone(
    name: str,
    *,
    in_chans: int = 3,
    drop_path_rate: float = 0.0,
    channel_ratios: Sequence[float] | None = None,
    reductions: Sequence[int] = (8, 4, 2, 1),
    grad_checkpointing: bool = False,
    **options: Unpack[BlockOptions],
) -> PyramidBackbone:
    """Build a feature pyramid for dense tasks.

    Args:
        name: a variant, such as "scalablevit_small" (see `VARIANTS`).
        in_chans, drop_path_rate, reductions: as for `ScalableViT`.
        channel_ratios: as for `ScalableViT`; None: the variant's.
        grad_checkpointing: recompute blocks in the backward pass, for less memory.
        options: how every block is built, as for `BlockSettings`: scale_value, window_size, lim, peg, mlp_ratio, ...

    Returns:
        module from images (B, in_chans, H, W) to a list of four maps (B, C_i, H_i, W_i), with `channels` and
        `strides`. Load weights with `scalablevit.load_weights`.

    Raises:
        ValueError: no such variant, or an argument out of range.
        TypeError: no such option.
    """
    if name not in VARIANTS:
        raise ValueError(f"no variant {name!r}; choose from {', '.join(VARIANTS)}")
    _check_names("create_backbone", options)  # `ScalableViT` takes more, for heads
    numbers = dict(VARIANTS[name])
    if channel_ratios is not None:
        numbers["channel_ratios"] = channel_ratios
    network = ScalableViT(
        in_chans, num_classes=0, drop_path_rate=drop_path_rate, reductions=reductions, **numbers, **options
    )
    network.set_grad_checkpointing(grad_checkpointing)
    return PyramidBackbone(network)


def typed(stages: nn.ModuleList) -> list[Stage]:
    """The stages, for the type checker: torch's ModuleList does not say what it holds."""
    return [cast(Stage, stage) for stage in stages]


def check_images(images: Tensor, in_chans: int) -> None:
    """Refuse what is not a batch of floating-point images of `in_chans` channels."""
    shape = images.shape if torch.jit.is_scripting() else tuple(images.shape)
    if images.ndim != 4 or images.shape[1] != in_chans:
        raise ValueError(
            f"images must be (B, {in_chans}, H, W), got {shape}; "
            "build the model with in_chans=... for images of other channels"
        )
    if not images.is_floating_point():
        raise ValueError(f"images must be floating-point and normalised, got {images.dtype}; scale and normalise them")
    if not torch.compiler.is_compiling() and min(images.shape[2:]) < 1:
        raise ValueError(f"images must be at least 1 pixel high and wide, got {shape}")


def peg_weights(stages: nn.ModuleList) -> set[str]:
    """Names of the kernels of PEG, which are not decayed."""
    return {f"stages.{i}.peg.conv.weight" for i, s in enumerate(typed(stages)) if not isinstance(s.peg, nn.Identity)}


def layer_groups(coarse: bool) -> dict[str, Any]:
    """timm's group matcher: the stem, then one layer per block (or per stage if coarse), then the norms."""
    if coarse:
        return dict(stem=r"^stages\.0\.patch_embed", blocks=r"^stages\.(\d+)")
    return dict(
        stem=r"^stages\.0\.patch_embed",
        blocks=[
            (r"^stages\.(\d+)\.blocks\.(\d+)", None),
            (r"^stages\.(\d+)\.(?:patch_embed|peg)", (0,)),
            (r"^norms?\.", (99999,)),
        ],
    )


def groups_below(prefix: str, groups: dict[str, Any]) -> dict[str, Any]:
    """Adapt the backbone's group matcher to a model that holds the backbone.

    Args:
        prefix: of the backbone's parameters in that model, such as "backbone.".
        groups: from `PyramidBackbone.group_matcher`, or any of timm's in a dict.

    Returns:
        the same rules for the prefixed names. Parameters that match none, such as those of heads, form the last layer.
    """

    def below(rule: Any) -> Any:
        if isinstance(rule, str):
            # an anchor begins each alternative; "[^" is none
            inner = re.sub(r"(^|[|(]|\(\?:)\^", r"\1", rule)
            return f"^{re.escape(prefix)}{f'(?:{inner})' if '|' in inner else inner}"
        if rule is None:
            return None
        return [(below(pattern), layer) for pattern, layer in rule]

    return {name: below(rule) for name, rule in groups.items()}


def _check_lengths(num_stages: int, **per_stage: Sequence[Any]) -> None:
    for name, values in per_stage.items():
        if len(values) != num_stages:
            raise ValueError(f"{name} must have one value per stage ({num_stages}), got {list(values)}")


def _check_names(function: str, options: Mapping[str, Any]) -> None:
    if unknown := sorted(options.keys() - BlockOptions.__annotations__.keys()):
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}")


def _check_rates(**rates: float) -> None:
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{name} must be in [0, 1), got {rate}")


def _per_stage(window_size: WindowSize | Sequence[WindowSize], num_stages: int) -> list[WindowSize]:
    """A list means one size per stage, a number or a tuple one size for all."""
    if isinstance(window_size, int | tuple):
        return [window_size] * num_stages
    if len(window_size) != num_stages:
        raise ValueError(
            f"window_size must be a number, a tuple (rows, columns), or a list of one per stage ({num_stages}), "
            f"got {window_size}"
        )
    return list(window_size)


def _init_weights(module: nn.Module) -> None:
    """Linear: truncated normal of std 0.02. Convolution: normal of std sqrt(2 / fan_out). Biases: 0."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
    elif isinstance(module, nn.Conv2d):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _variant(
    embed_dims: tuple[int, ...],
    num_heads: tuple[int, ...],
    depths: tuple[int, ...],
    channel_ratios: tuple[float, ...],
    head: str = "published",
) -> dict[str, Any]:
    return dict(embed_dims=embed_dims, num_heads=num_heads, depths=depths, channel_ratios=channel_ratios, head=head)


# channels, heads, blocks and r_c of the stages
VARIANTS: dict[str, dict[str, Any]] = {
    # Of the paper, table 1.
    "scalablevit_small": _variant((64, 128, 256, 512), (2, 4, 8, 16), (2, 2, 20, 2), (1.25, 1.25, 1.25, 1.0)),
    "scalablevit_base": _variant((96, 192, 384, 768), (3, 6, 12, 24), (2, 2, 14, 6), (2.0, 1.25, 1.25, 1.0)),
    "scalablevit_large": _variant((128, 256, 512, 1024), (4, 8, 16, 32), (2, 6, 12, 4), (0.25, 0.5, 1.0, 1.0)),
    # Our own, not in the paper: for small data, CPUs and tests. Their head is plain.
    "scalablevit_tiny": _variant((32, 64, 160, 320), (1, 2, 5, 10), (2, 2, 6, 2), (1.25, 1.25, 1.25, 1.0), "plain"),
    "scalablevit_nano": _variant((32, 64, 128, 256), (1, 2, 4, 8), (2, 2, 2, 2), (1.25, 1.25, 1.25, 1.0), "plain"),
    "scalablevit_atto": _variant((16, 32, 64, 128), (1, 2, 4, 8), (2, 2, 2, 2), (1.25, 1.25, 1.25, 1.0), "plain"),
}


# Whose published dense figures come from the scaled-value form of SSA; those of B and L come from the released one.
SCALED_VALUE_VARIANTS = ("scalablevit_small",)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """timm's hook: names of any published checkpoint become ours; class names must be as many as classes."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("label_names")
    check_class_names(state_dict, names, "the checkpoint beside timm's config.json")
    return to_native_names(state_dict)


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 224 / 256,
        "interpolation": "bicubic",
        "fixed_input_size": False,
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stages.0.patch_embed.proj",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


# No weights can be fetched by name: the authors' files are not on a hub. `pretrained=True` therefore raises in timm,
# unless a source is given: `local-dir:`, `hf-hub:`, or pretrained_cfg_overlay=dict(file=...).
default_cfgs = generate_default_cfgs({name: _cfg() for name in VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> ScalableViT:
    return build_model_with_cfg(
        ScalableViT,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=kwargs.pop("out_indices", (0, 1, 2, 3)), feature_cls="getter"),
        **{**VARIANTS[variant], **kwargs},
    )


@register_model
def scalablevit_small(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """ScalableViT-S: 32.0 M parameters, 4.2 G multiply-adds at 224 px."""
    return _create("scalablevit_small", pretrained, **kwargs)


@register_model
def scalablevit_base(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """ScalableViT-B: 81.9 M parameters, 8.6 G multiply-adds at 224 px."""
    return _create("scalablevit_base", pretrained, **kwargs)


@register_model
def scalablevit_large(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """ScalableViT-L: 109.3 M parameters, 14.7 G multiply-adds at 224 px."""
    return _create("scalablevit_large", pretrained, **kwargs)


@register_model
def scalablevit_tiny(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """Not in the paper."""
    return _create("scalablevit_tiny", pretrained, **kwargs)


@register_model
def scalablevit_nano(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """Not in the paper."""
    return _create("scalablevit_nano", pretrained, **kwargs)


@register_model
def scalablevit_atto(pretrained: bool = False, **kwargs: Any) -> ScalableViT:
    """Not in the paper; the smallest, for demonstrations and tests."""
    return _create("scalablevit_atto", pretrained, **kwargs)
