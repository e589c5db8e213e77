"""Where to compute."""

import torch


def choose_device(name: str | torch.device | None) -> torch.device:
    """The device that a user names; without a name, a GPU if there is one.

    Args:
        name: such as "cpu", "cuda", "cuda:1" or "mps"; None: choose.

    Raises:
        ValueError: this machine has no such device.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return there or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name}: no such device; choose cpu, cuda, cuda:1, mps, ...") from error
    if device.type == "cpu":
        return device
    count = torch.accelerator.device_count() if there is not None and there.type == device.type else 0
    if (device.index or 0) >= count:
        raise ValueError(f"--device {name}: this machine has {count} {device.type} device(s); choose --device cpu")
    return device
