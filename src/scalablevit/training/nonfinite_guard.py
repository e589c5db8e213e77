"""A step whose gradients are not finite is dropped, on all ranks together; too many in a row end the run."""

import logging
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

log = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Too many optimizer steps in a row had non-finite gradients."""


class NonFiniteGuard(Callback):
    """Drop each optimizer step with a NaN or infinite gradient, before clipping and before the weights.

    All ranks drop the same steps. Under fp16 the gradient scaler still sees them and lowers its scale. The
    check is one pass over the gradients and one wait for the device a step.

    Args:
        max_steps: how many may be dropped one after the other; at least 1. The next one raises
            `NonFiniteError`.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.in_a_row = 0
        self.total = 0
        self._loss: Tensor | None = None

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Keep the loss for the message."""
        self._loss = loss.detach()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Check the gradients (unscaled, not yet clipped); drop them all if one of them is not finite.

        Raises:
            NonFiniteError: on all ranks, after `max_steps` dropped steps in a row.
        """
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not any_nonfinite(gradients, device=pl_module.device):
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.total += 1
        loss = self._plain_loss(trainer)
        if self.in_a_row > self.max_steps:
            raise NonFiniteError(
                f"the gradients were not finite in {self.in_a_row} optimizer steps in a row, up to step "
                f"{trainer.global_step} (loss {loss:.4g}). Lower optimizer.lr or lengthen the warm-up; use "
                "trainer.precision bf16-mixed instead of 16-mixed; set trainer.gradient_clip_val, say to 5. "
                "The last checkpoint holds finite weights."
            )
        if trainer.is_global_zero:
            log.warning(
                "step %d dropped: its gradients are not finite (loss %.4g; %d in a row, %d in all)",
                trainer.global_step,
                loss,
                self.in_a_row,
                self.total,
            )
        # an optimizer leaves a parameter without gradient as it is; zeros would still decay it and move its
        # moments
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def _plain_loss(self, trainer: Trainer) -> float:
        """This rank's loss as the task returned it: no fp16 scale, not divided for accumulation."""
        if self._loss is None:
            return float("nan")
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        return float(self._loss) * trainer.accumulate_grad_batches / scale

    def state_dict(self) -> dict[str, Any]:
        """The two counts."""
        return {"in_a_row": self.in_a_row, "total": self.total}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the two counts."""
        self.in_a_row = int(state_dict["in_a_row"])
        self.total = int(state_dict["total"])


def any_nonfinite(gradients: list[Tensor], *, device: torch.device) -> bool:
    """Whether any gradient on any rank holds a NaN or an infinity; the same answer on every rank.

    Args:
        gradients: of this rank; may be empty.
        device: where the ranks' answers meet.
    """
    flag = torch.zeros((), device=device)
    # of a sharded network each process has its part, which may be empty
    gradients = [part for part in map(_own_part, gradients) if part.numel()]
    if gradients:
        # the largest magnitude: unlike a 2-norm it cannot overflow while all values are finite
        norms = torch.stack([norm.float() for norm in torch._foreach_norm(gradients, float("inf"))])
        flag = (~norms.isfinite().all()).float().to(device)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def _own_part(gradient: Tensor) -> Tensor:
    return gradient.to_local() if isinstance(gradient, DTensor) else gradient
