"""The names of FSDP2, and what of it needs no second process: whole tensors and parts of them."""

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

from scalablevit.training.recipe_errors import RecipeError
from scalablevit.training.sharding import FullyShardedStrategy, as_ours, is_sharding, part_like, sharded_parts, whole


def test_lightnings_strategy_means_ours() -> None:
    assert isinstance(as_ours(ModelParallelStrategy()), FullyShardedStrategy)
    ours, ddp = FullyShardedStrategy(), DDPStrategy()
    assert [as_ours(strategy) for strategy in (ours, ddp, "auto", "fsdp2")] == [ours, ddp, "auto", "fsdp2"]
    assert [is_sharding(strategy) for strategy in (ours, "fsdp2", ddp, "auto")] == [True, True, False, False]


def test_parallel_tensors_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"tensor_parallel_size 2: .*--trainer.strategy fsdp2"):
        as_ours(ModelParallelStrategy(tensor_parallel_size=2))


def test_what_is_not_sharded_stays_as_it_is() -> None:
    network = torch.nn.Linear(2, 3)
    state = {"state": {0: {"step": torch.tensor(1.0), "exp_avg": network.weight}}, "param_groups": [{"params": [0]}]}
    found = whole(state)
    assert found["state"][0]["exp_avg"] is network.weight
    assert found["param_groups"] == [{"params": [0]}]
    assert part_like(network.weight, network.weight) is network.weight
    assert sharded_parts(network) == []
