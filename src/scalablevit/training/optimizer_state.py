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
            names = ("momentum_buffer",) if group.get("use_muon") else ("exp_avg", "exp_avg_sq")
            if "use_muon" in group and state.get("use_muon") is not group["use_muon"]:
                raise ValueError(f"its optimizer took another step for a parameter of shape {_shape(parameter)}")
            step = state.get("step", torch.tensor(0.0) if group.get("use_muon") else None)
            if not isinstance(step, Tensor) or step.numel() != 1 or not step.is_floating_point():
                raise ValueError(f"its optimizer has no count of steps for a parameter of shape {_shape(parameter)}")
            for name in names:
                value = state.get(name)
                if not isinstance(value, Tensor) or value.layout != torch.strided or value.shape != parameter.shape:
                    found = _shape(value) if isinstance(value, Tensor) else "nothing"
                    raise ValueError(
                        f"its optimizer holds {found} as {name} of a parameter of shape {_shape(parameter)}"
                    )
                if value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter).copy_(value)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"
