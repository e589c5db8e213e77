"""The devices of a run: whether this machine has them, and the CPU threads that each takes."""

import os
from typing import Any

import torch

from scalablevit.data.cores import available_cores
from scalablevit.training.recipe_errors import RecipeError

MOST_THREADS = 1024
"""More than any machine has for one process; OpenMP ends the process without a word where it cannot start them."""


def check_devices(accelerator: str, devices: Any) -> None:
    """Refuse more devices than this machine has, in words; Lightning runs any number of CPU processes.

    Args:
        accelerator: of the Trainer.
        devices: of the Trainer: a number, a list of them, "auto", or any of these as text.

    Raises:
        RecipeError: with the number asked for, the number there is, and the remedy; or a list where it is
            not GPUs that it picks from.
    """
    if accelerator not in ("auto", "cpu", "gpu", "cuda", "mps", "tpu"):
        raise RecipeError(f"trainer.accelerator must be auto, cpu, gpu, cuda, mps or tpu, got {accelerator!r}")
    gpus = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    on_gpu = accelerator in ("gpu", "cuda", "mps") or (accelerator == "auto" and gpus > 0)
    if on_gpu and gpus == 0:
        raise RecipeError(
            f"trainer.accelerator {accelerator}: this machine has no GPU that torch can use; "
            "train with --trainer.accelerator cpu, or repair the driver"
        )
    if devices in ("auto", -1, "-1") or accelerator == "tpu":
        return
    listed = isinstance(devices, list) or "," in str(devices)
    try:
        wanted = devices if isinstance(devices, list) else [int(word) for word in str(devices).split(",") if word]
    except ValueError:
        wanted = []
    if not wanted:
        raise RecipeError(f"--devices {devices}: give a number of devices, a list such as 0,2, or auto")
    if listed and not on_gpu:
        raise RecipeError(
            f"--devices {devices}: a list picks GPUs, and this run is on the CPU; give a number of processes"
        )
    there, kind = (gpus, "GPU(s)") if on_gpu else (os.cpu_count() or 1, "CPU core(s)")
    most = max(wanted) + 1 if listed else wanted[0]
    if most > there or min(wanted) < 0 or (not listed and most < 1):
        what = f"choose from 0 to {there - 1}" if listed else f"ask for 1 to {there}"
        raise RecipeError(f"--devices {devices}: this machine has {there} {kind}; {what}")


def threads_per_process(num_devices: int, num_workers: int) -> int:
    """CPU threads of a training process that leave the data workers their cores.

    Threads that wait for a core spin, and slow each other down.

    Args:
        num_devices: training processes on this machine.
        num_workers: data workers of each.
    """
    # From what the process may use, not from what is set: the same run then computes with as many threads, to the bit,
    # whatever ran in this process before.
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # a list has a number for each nesting
    cores = (int(asked) if asked.isdecimal() else 0) or available_cores()
    return max(1, cores // num_devices - num_workers)
