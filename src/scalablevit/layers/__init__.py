"""One module per box of the paper's figure; feature maps are (B, H, W, C)."""

from scalablevit.layers.autotune import measure_forms
from scalablevit.layers.block import Block
from scalablevit.layers.head import ClassifierHead
from scalablevit.layers.implementation import AttentionPath, attention_paths, set_attention
from scalablevit.layers.iwsa import InteractiveWindowSelfAttention
from scalablevit.layers.mlp import Mlp
from scalablevit.layers.patch_embed import PatchEmbed
from scalablevit.layers.peg import PositionalEncodingGenerator
from scalablevit.layers.ssa import ScalableSelfAttention

__all__ = [
    "AttentionPath",
    "Block",
    "ClassifierHead",
    "InteractiveWindowSelfAttention",
    "Mlp",
    "PatchEmbed",
    "PositionalEncodingGenerator",
    "ScalableSelfAttention",
    "attention_paths",
    "measure_forms",
    "set_attention",
]
