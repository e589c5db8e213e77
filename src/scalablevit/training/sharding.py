"""FSDP2: each process keeps a part of the weights and of the optimizer's state; checkpoints are those of DDP."""

import copy
from collections.abc import Iterator, Mapping
from datetime import timedelta
from itertools import chain
from typing import Any

import torch
from lightning.fabric.utilities.optimizer import _optimizers_to_device
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.overrides.distributed import _sync_module_states
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy, StrategyRegistry
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.constants import default_pg_timeout
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from scalablevit.training.recipe_errors import RecipeError

_NAME = "fsdp2"
_ENTRANCES = ("forward_features", "forward_head", "forward_with_auxiliary")  # of networks, beside forward


class FullyShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, of data alone, as `--trainer.strategy fsdp2` names it.

    The network is sharded after a checkpoint was read, a part for each of its blocks, and whole again once the training
    is over. Checkpoints hold whole tensors, in the form that DDP has: a run goes on under either.

    Args:
        process_group_backend: as of Lightning's.
        timeout: that processes wait for each other.
    """

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=process_group_backend,
            timeout=timeout,
        )
        self._whole: nn.Module | None = None
        self._is_copied = False

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """Whether a checkpoint is read into the sharded network: no, before."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """Whether the Trainer hands the optimizer's state over: yes, by `load_optimizer_state_dict`."""
        return True

    def setup_environment(self) -> None:
        """Have the processes meet, all of which share the data."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Shard the network for a training; an evaluation has it whole."""
        assert self.accelerator is not None
        assert self.model is not None
        self.accelerator.setup(trainer)
        is_fitting = trainer.state.fn == TrainerFn.FITTING
        self.precision_plugin.convert_module(self.model)
        self.model_to_device()
        _sync_module_states(self.model)
        if is_fitting:
            _check(self.lightning_module)
            network = self._network
            self._whole = copy.deepcopy(network).to("cpu")
            shard(network, self.device_mesh["data_parallel"])
        self.barrier()
        if is_fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()
        if is_fitting:
            _optimizers_to_device(self.optimizers, self.root_device)

    @property
    def _network(self) -> nn.Module:
        module: Any = self.lightning_module
        network: nn.Module = module.network
        return network

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Validate a whole copy: processes may differ by a batch, and must not wait for each other in one."""
        if self._whole is None:
            return super().validation_step(*args, **kwargs)
        module: Any = self.lightning_module
        sharded = self._network
        if not self._is_copied:  # after callbacks have put averaged weights in the place of the trained ones
            self._gather(self._whole).eval()
            self._is_copied = True
        module.network = self._whole
        try:
            return super().validation_step(*args, **kwargs)
        finally:
            module.network = sharded

    def on_validation_end(self) -> None:
        """Have the next validation copy the weights anew."""
        self._is_copied = False
        if self._whole is not None:
            self._whole.to("cpu")

    def on_train_end(self) -> None:
        """Make the network whole again, to write and evaluate it."""
        if self._whole is not None:
            reshard(self._network)
            module: Any = self.lightning_module
            module.network = self._gather(self._whole)
            self._whole = None

    def _gather(self, copied: nn.Module) -> nn.Module:
        """Fill a copy of the network, on this process's device, with its whole weights; all processes call it."""
        copied.load_state_dict(whole(self._network.state_dict()))
        return copied.to(self.root_device)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """The whole weights, on each process."""
        assert self.lightning_module is not None
        if self._whole is not None:
            reshard(self._network)
        return whole(self.lightning_module.state_dict())

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Take up whole weights, before they are sharded."""
        assert self.lightning_module is not None
        self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The whole state, on each process, in the form of `Optimizer.state_dict`."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)
        found: dict[str, Any] = whole(optimizer.state_dict())
        return found

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up the whole state: each process keeps its part."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
            names = chain.from_iterable(group["params"] for group in state["param_groups"])
            own = dict(zip(names, parameters, strict=True))
            parts = {
                name: {key: part_like(value, own[name]) for key, value in values.items()}
                for name, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": parts})

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        """Have the first process write it, as other strategies do."""
        ParallelStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Read it, as other strategies do."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only)


def as_ours(strategy: Any) -> Any:
    """Take `FullyShardedStrategy` for Lightning's ModelParallelStrategy, which leaves the sharding to the task.

    Raises:
        RecipeError: tensors shall be parallel too.
    """
    if not isinstance(strategy, ModelParallelStrategy) or isinstance(strategy, FullyShardedStrategy):
        return strategy
    if strategy._tensor_parallel_size not in ("auto", 1):
        raise RecipeError(
            f"trainer.strategy ModelParallelStrategy with tensor_parallel_size {strategy._tensor_parallel_size}: "
            "networks of this package are sharded over the data alone; leave it out, or give --trainer.strategy fsdp2"
        )
    return FullyShardedStrategy(strategy._process_group_backend, strategy._timeout)


def is_sharding(strategy: Any) -> bool:
    """Whether a strategy, or its name, is `FullyShardedStrategy`."""
    return strategy == _NAME or isinstance(strategy, FullyShardedStrategy)


def _check(module: Any) -> None:
    """Refuse what needs a network whose parameters stay the same objects."""
    settings = getattr(module, "settings", None)
    if getattr(getattr(settings, "optimizer", None), "name", None) == "muon":
        raise ValueError(
            "model.optimizer.name muon does not go with --trainer.strategy fsdp2, which cuts matrices into parts: take "
            "adamw, or --trainer.strategy ddp"
        )
    freeze = getattr(settings, "freeze", None)
    if freeze is not None and freeze.epochs is not None:
        raise ValueError(
            f"model.freeze.epochs {freeze.epochs} does not go with --trainer.strategy fsdp2, which shards what learns: "
            "leave it out, or take --trainer.strategy ddp"
        )


def shard(network: nn.Module, mesh: Any) -> None:
    """Shard a network over processes: each block by itself, then what is left."""
    for stage in getattr(getattr(network, "backbone", network), "stages", []):
        for block in getattr(stage, "blocks", []):
            fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    for name in _ENTRANCES:
        if hasattr(network, name):
            register_fsdp_forward_method(network, name)


def sharded_parts(network: nn.Module) -> list[Any]:
    """The modules of a network that are sharded; none, if it is whole."""
    return [part for part in network.modules() if isinstance(part, FSDPModule)]


def reshard(network: nn.Module) -> None:
    """Let go of what was gathered of a sharded network."""
    for part in sharded_parts(network):
        part.reshard()


def whole(value: Any) -> Any:
    """The same with whole tensors on the CPU in the place of parts; all processes have to call it."""
    if isinstance(value, DTensor):
        return value.full_tensor().detach().cpu()
    if isinstance(value, Mapping):
        return {key: whole(inner) for key, inner in value.items()}
    return [whole(inner) for inner in value] if isinstance(value, list) else value


def part_like(value: Any, parameter: Tensor) -> Any:
    """This process's part of a whole tensor, if it has the shape of a sharded parameter; else the value itself."""
    is_of_it = isinstance(value, Tensor) and isinstance(parameter, DTensor) and value.shape == parameter.shape
    if not is_of_it:
        return value
    assert isinstance(parameter, DTensor)
    return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)


class WholeTensors:
    """The parameters and buffers of a module, with those that are sharded gathered one by one.

    Args:
        module: sharded or not.
    """

    def __init__(self, module: LightningModule) -> None:
        self._module = module

    def parameters(self) -> Iterator[Tensor]:
        """Each parameter, whole."""
        for parameter in self._module.parameters():
            yield parameter.full_tensor() if isinstance(parameter, DTensor) else parameter

    def buffers(self) -> Iterator[Tensor]:
        """Each buffer."""
        return self._module.buffers()


@torch.no_grad()
def copy_into(target: Tensor, source: Tensor) -> None:
    """Copy a whole tensor into a parameter, of which this process may have a part alone."""
    target.copy_(part_like(source, target))


if _NAME not in StrategyRegistry:
    StrategyRegistry.register(
        _NAME, FullyShardedStrategy, description="FSDP2: weights and optimizer state in parts, one for each process"
    )
