"""Check the state of an optimizer that a checkpoint restored: torch takes it as it is."""

import torch
from torch import Tensor
from torch.optim import Optimizer


def check_optimizer_state(optimizer: Optimizer) -> None:
    """Refuse the state of other parameters, and lay out the rest as the parameters are.

    `Optimizer.load_state_dict` compares the number of parameters, not their shapes; the fused AdamW then reads and
    writes memory that is not its own.

    Args:
        optimizer: AdamW or Muon, whose state was restored.

    Raises:
        ValueError: an entry of the state is missing, or has not the shape of its parameter.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state.get(parameter)
            if not state:  # a parameter that never had a gradient
                continue
            if state.get("use_muon") is not group.get("use_muon"):  # AdamW has it in neither
                raise ValueError(f"its optimizer took another step for a parameter of shape {_shape(parameter)}")
            is_adamw = not group.get("use_muon")
            if is_adamw and not _counts_steps(state.get("step")):
                raise ValueError(f"its optimizer has no count of steps for a parameter of shape {_shape(parameter)}")
            for name in ("exp_avg", "exp_avg_sq") if is_adamw else ("momentum_buffer",):
                value = state.get(name)
                if not isinstance(value, Tensor) or value.layout != torch.strided or value.shape != parameter.shape:
                    found = _shape(value) if isinstance(value, Tensor) else "nothing"
                    raise ValueError(
                        f"its optimizer holds {found} as {name} of a parameter of shape {_shape(parameter)}"
                    )
                if value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter).copy_(value)


def _counts_steps(value: object) -> bool:
    return isinstance(value, Tensor) and value.numel() == 1 and value.is_floating_point()


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
