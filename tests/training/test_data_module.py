"""What the data modules of all tasks have in common."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import TensorDataset

from scalablevit.training.data_module import TaskData


class Numbers(TaskData):
    """Training and validation numbers."""

    def __init__(self, num_train: int, num_val: int, **trainer: Any) -> None:
        super().__init__(batch_size=2, num_workers=0, max_unreadable=0, seed=0, collate_fn=list)
        self.train_dataset, self.val_dataset = (TensorDataset(torch.arange(n)) for n in (num_train, num_val))
        settings = {"world_size": 1, "global_rank": 0, "num_nodes": 1, "accumulate_grad_batches": 1, **trainer}
        self.trainer = SimpleNamespace(**settings)  # type: ignore[assignment]


def test_fewer_validation_samples_than_processes_are_an_error_on_all_of_them() -> None:
    for rank in range(3):
        assert len(Numbers(6, 3, world_size=3, global_rank=rank).val_dataloader()) == 1
        with pytest.raises(ValueError, match=r"2 validation images for 3 processes.* --devices 2.*data\.val_fraction"):
            Numbers(6, 2, world_size=3, global_rank=rank).val_dataloader()


def test_an_epoch_has_whole_optimizer_steps() -> None:
    assert len(Numbers(11, 1).train_dataloader()) == 5
    assert len(Numbers(11, 1, accumulate_grad_batches=2).train_dataloader()) == 4


@pytest.mark.parametrize("count", [1025, 10**9])
def test_more_workers_than_any_machine_runs_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=rf"num_workers must be at most 1,024, got {count}"):
        TaskData(batch_size=2, num_workers=count, max_unreadable=0, seed=0, collate_fn=list)
