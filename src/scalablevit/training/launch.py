"""How the processes of a run come about: started by torchrun or SLURM, or by the run itself."""

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch.utilities import rank_zero_only

from scalablevit.training.recipe_errors import RecipeError

_FIRST_SECONDS = 5.0  # for the first process to end before the others speak
_LONGEST_EXCUSE = 60.0  # seconds that a process which cannot begin waits for the first one, to tell it so


@dataclass(frozen=True)
class Launch:
    """Processes that a launcher has started.

    Attributes:
        launcher: "torchrun" or "SLURM".
        per_node: processes on each node.
        num_nodes: nodes.
        options: launcher's words for the two numbers.
    """

    launcher: str
    per_node: int
    num_nodes: int
    options: tuple[str, str]


def find_launch() -> Launch | None:
    """Read from the environment which launcher started this process; None: none did.

    Raises:
        RecipeError: the launcher's variables contradict each other; names variables, values and remedy.
    """
    if TorchElasticEnvironment.detect():
        return _launch("torchrun", "WORLD_SIZE", "LOCAL_WORLD_SIZE", ("--nproc-per-node", "--nnodes"))
    if SLURMEnvironment.detect():
        if "SLURM_NTASKS_PER_NODE" not in os.environ and _number("SLURM_NTASKS") == 1:
            return Launch("SLURM", 1, 1, ("--ntasks-per-node", "--nodes"))
        return _launch("SLURM", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", ("--ntasks-per-node", "--nodes"))
    return None


def _launch(launcher: str, of_all: str, of_node: str, options: tuple[str, str]) -> Launch:
    world_size, per_node = _number(of_all), _number(of_node, option=options[0])
    if world_size % per_node:
        raise RecipeError(
            f"{launcher} started {world_size} processes ({of_all}), {per_node} of them on this node ({of_node}): every "
            f"node needs as many; start {launcher} with the same {options[0]} on each"
        )
    return Launch(launcher, per_node, world_size // per_node, options)


def _number(variable: str, *, option: str | None = None) -> int:
    text = os.environ.get(variable)
    if text is None or not text.isdecimal() or int(text) < 1:
        remedy = f"start the job with {option} N" if option else "start it by its launcher"
        raise RecipeError(f"the environment variable {variable} is {text!r} and should be a number from 1: {remedy}")
    return int(text)


def launched_options(options: Mapping[str, Any], launch: Launch | None) -> dict[str, Any]:
    """Options of the Trainer with the processes that a launcher started: its numbers win over defaults.

    Args:
        options: of the recipe, with `devices` and `num_nodes`.
        launch: see `find_launch`.

    Raises:
        RecipeError: the recipe asks for other numbers; names both and the remedy.
    """
    if launch is None:
        return dict(options)
    devices, num_nodes = options.get("devices", "auto"), options.get("num_nodes", 1)
    wanted = len(_listed(devices)) if _listed(devices) else devices
    if wanted not in ("auto", -1, "-1", None) and str(wanted) != str(launch.per_node):
        raise RecipeError(
            f"--devices {devices} (trainer.devices) disagrees with {launch.launcher}, which started {launch.per_node} "
            f"process(es) on this node: give --devices {launch.per_node} or auto, or start {launch.launcher} with "
            f"{launch.options[0]} {wanted}"
        )
    if num_nodes not in (1, launch.num_nodes):
        raise RecipeError(
            f"--trainer.num_nodes {num_nodes} disagrees with {launch.launcher}, which started processes on "
            f"{launch.num_nodes} node(s): leave it out, or start {launch.launcher} with {launch.options[1]} {num_nodes}"
        )
    kept = devices if _listed(devices) else launch.per_node
    return {**options, "devices": kept, "num_nodes": launch.num_nodes}


def _listed(devices: Any) -> list[Any]:
    """The devices that a list picks, such as [0, 2] or "0,2"; empty: they are counted."""
    if isinstance(devices, list):
        return devices
    return [word for word in devices.split(",") if word] if isinstance(devices, str) and "," in devices else []


def told_once(error: ValueError | OSError) -> ValueError | OSError:
    """What a process says that cannot begin: beside the first one, only what that one does not say too.

    A launcher ends the others as soon as the first one has ended, which has the same recipe and mostly the same fault.

    Raises:
        SystemExit: the first process prints it.
    """
    rank = getattr(rank_zero_only, "rank", 0)
    if rank == 0:
        return error
    time.sleep(_FIRST_SECONDS)
    if _is_told_to_the_first(rank, str(error)):
        raise SystemExit(1) from error
    return ValueError(f"rank {rank} on {socket.gethostname()} cannot begin: {error}")


def _is_told_to_the_first(rank: int, why: str) -> bool:
    """Whether the first process, which would wait for this one, has heard why it does not come."""
    if find_launch() is None:
        return False
    from scalablevit.training.rank_watch import RankWatch

    environment = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment()
    watch = RankWatch(
        rank=rank,
        world_size=environment.world_size(),
        is_first_of_node=False,
        address=(environment.main_address, environment.main_port),
        timeout=_LONGEST_EXCUSE,
        facts={},
    )
    return watch.excuse(why)


def note_rank_of_node() -> None:
    """Have only the first node's first process talk and write, before the ranks are known.

    Without torchrun or SLURM, a node knows its place by NODE_RANK alone, which Lightning does not look at before it has
    a Trainer: the first process of each node would take itself for the run's first.
    """
    is_known = any(name in os.environ for name in ("RANK", "SLURM_PROCID"))
    node = os.environ.get("NODE_RANK", os.environ.get("GROUP_RANK", "0"))
    if not is_known and node.isdecimal() and int(node) > 0 and getattr(rank_zero_only, "rank", 0) == 0:
        any_but_zero = int(node)  # the strategy sets the right one
        setattr(rank_zero_only, "rank", any_but_zero)  # noqa: B010 - mypy knows no such attribute
