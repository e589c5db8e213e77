"""A transformer block."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from scalablevit.layers.iwsa import InteractiveWindowSelfAttention
from scalablevit.layers.mlp import Mlp
from scalablevit.layers.plain import is_plain
from scalablevit.layers.ssa import ScalableSelfAttention
from scalablevit.ops import feed_forward
from scalablevit.ops.choice import Choice, Implementation, check_implementation
from scalablevit.ops.layer_choice import dtype_of_products, may_run
from scalablevit.ops.recording import is_symbolic


class Block(nn.Module):
    """Pre-norm residual block: attention, then MLP.

    Args:
        dim: channels.
        attn: module that maps (B, H, W, C) to (B, H, W, C): IWSA or SSA.
        mlp: module that maps (B, H, W, C) to (B, H, W, C).
        drop_path: probability that a sample skips either branch while training, in [0, 1).
        implementation: of what follows the attention: "auto", "triton", "torch" or "reference"; see
            `scalablevit.ops.feed_forward.feed_forward`. Weights are the same for all.

    Source: ScalableViT, arXiv:2203.10790, figure 3.
    """

    def __init__(
        self,
        dim: int,
        *,
        attn: nn.Module,
        mlp: nn.Module,
        drop_path: float = 0.0,
        implementation: Implementation = "auto",
    ) -> None:
        super().__init__()
        self.implementation = check_implementation(implementation)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = mlp
        self.drop_path = StochasticDepth(drop_path, "row") if drop_path > 0 else nn.Identity()

    def choice(self, device: torch.device, dtype: torch.dtype, x: Tensor | None = None) -> Choice:
        """Choose the implementation of norm, MLP and residuals for products of a dtype on a device.

        Times measured on the device count for the map `x` alone.
        """
        fc1, _ = self._linear_layers()
        return feed_forward.select_implementation(
            dim=fc1.in_features,
            hidden_dim=fc1.out_features,
            device=device,
            dtype=dtype,
            x=x,
            implementation=self.implementation,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript leaves out what stands inside, not behind `and`
            if self._runs_as_kernel(x):
                return self._by_kernel(x)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _runs_as_kernel(self, x: Tensor) -> bool:
        """Tell whether one kernel may compute all that follows the attention: nobody watches or replaced a layer."""
        if is_symbolic(x) or not may_run(x.device) or not self.is_fusible():
            return False
        dtype = dtype_of_products(x)
        # The result has the dtype of x; PyTorch's has the wider one of x and the branches.
        return (
            torch.promote_types(x.dtype, dtype) == x.dtype
            and self.choice(x.device, dtype, x).implementation == "triton"
        )

    def is_fusible(self) -> bool:
        """Tell whether what follows the attention does no more than the kernel: nobody watches or replaced a layer."""
        norm, mlp = self.norm2, self.mlp
        if not isinstance(mlp, Mlp) or not is_plain(mlp, Mlp):
            return False
        if not is_plain(norm, nn.LayerNorm) or norm.weight is None or norm.bias is None:
            return False
        if not (is_plain(mlp.fc1, nn.Linear) and is_plain(mlp.fc2, nn.Linear) and is_plain(mlp.drop, nn.Dropout)):
            return False
        sizes = mlp.fc1.in_features, mlp.fc1.out_features
        if norm.normalized_shape != sizes[:1] or (mlp.fc2.out_features, mlp.fc2.in_features) != sizes:
            return False
        if mlp.fc1.bias is None or mlp.fc2.bias is None or (mlp.training and mlp.drop.p > 0):
            return False
        if isinstance(self.drop_path, StochasticDepth):
            return is_plain(self.drop_path, StochasticDepth) and self.drop_path.mode == "row"
        return is_plain(self.drop_path, nn.Identity)

    def _linear_layers(self) -> tuple[nn.Linear, nn.Linear]:
        assert isinstance(self.mlp, Mlp)
        return self.mlp.fc1, self.mlp.fc2

    def _projection(self) -> nn.Linear | None:
        """The attention's projection, if the kernel may compute it too."""
        attn = self.attn
        if not isinstance(attn, InteractiveWindowSelfAttention | ScalableSelfAttention) or not is_plain(
            attn, type(attn)
        ):
            return None
        if not is_plain(attn.proj_drop, nn.Dropout) or (attn.training and attn.proj_drop.p > 0):
            return None
        return attn.proj if is_plain(attn.proj, nn.Linear) and attn.proj.bias is not None else None

    def weights(self, dtype: torch.dtype) -> feed_forward.Weights:
        """What the kernel multiplies in `dtype`; with the attention's projection, if the kernel may compute it too."""
        first, second = self._linear_layers()
        proj = self._projection()
        return feed_forward.Weights(
            self.norm2.weight,
            self.norm2.bias,
            first.weight.to(dtype),
            first.bias.to(dtype),
            second.weight.to(dtype),
            second.bias.to(dtype),
            None if proj is None else proj.weight.to(dtype),
            None if proj is None else proj.bias.to(dtype),
        )

    def _by_kernel(self, x: Tensor) -> Tensor:
        dtype, attn = dtype_of_products(x), self.attn
        weights = self.weights(dtype)
        if weights.proj_weight is None:
            branch = attn(self.norm1(x))
        else:
            assert isinstance(attn, InteractiveWindowSelfAttention | ScalableSelfAttention)
            branch = attn.attend(x, norm=self.norm1, implementation=self.implementation)
        return feed_forward.feed_forward(
            x,
            branch.to(dtype),
            weights,
            eps=self.norm2.eps,
            branch_scale=self._drop_path_scale(x.shape[0], branch),
            scale=self._drop_path_scale(x.shape[0], branch),
            implementation=self.implementation,
        )

    def _drop_path_scale(self, images: int, like: Tensor) -> Tensor | None:
        """Draw what drop path multiplies the images of a branch with, (B,); None where it keeps all."""
        drop_path = self.drop_path
        if not isinstance(drop_path, StochasticDepth) or not drop_path.training or drop_path.p == 0:
            return None
        kept = 1 - drop_path.p
        drawn = torch.empty(images, dtype=like.dtype, device=like.device).bernoulli_(kept)
        return drawn.div_(kept) if kept > 0 else drawn
