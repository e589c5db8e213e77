"""A non-finite step leaves weights and moments alone; too many end the run with a clear message."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.training.nonfinite_guard import NonFiniteError, NonFiniteGuard, any_nonfinite


class States(Callback):
    """Weights and AdamW's moments after each batch."""

    def __init__(self) -> None:
        self.states: list[list[torch.Tensor]] = []
        self.guard: NonFiniteGuard | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        moments = [v["exp_avg"].clone() for v in trainer.optimizers[0].state.values() if "exp_avg" in v]
        self.states.append([p.detach().clone() for p in pl_module.network.parameters()] + moments)
        self.guard = next(c for c in trainer.callbacks if isinstance(c, NonFiniteGuard))


def fit(folder: Path, task: ToyTask, **trainer: Any) -> States:
    states = States()
    make_trainer(folder, [states], max_epochs=1, **trainer).fit(task, datamodule=ToyData())
    return states


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_bad_step_changes_nothing(precision: str, value: float, tmp_path: Path) -> None:
    states = fit(tmp_path, ToyTask(poison={5: value}), precision=precision, gradient_clip_val=1.0)
    assert same(states.states[4], states.states[5])
    assert not same(states.states[5], states.states[6])
    assert all(t.isfinite().all() for t in states.states[-1])
    assert states.guard is not None
    assert states.guard.state_dict() == {"in_a_row": 0, "total": 1}


def test_one_bad_batch_drops_its_whole_accumulated_step(tmp_path: Path) -> None:
    states = fit(tmp_path, ToyTask(poison={3: float("nan")}), accumulate_grad_batches=3)
    assert same(states.states[2], states.states[5])  # batches 3 to 5 are one step
    assert not same(states.states[5], states.states[8])


def test_too_many_in_a_row_end_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    poison = {i: float("nan") for i in (1, 2, 4, 5, 6)}
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(NonFiniteError, match=r"3 optimizer steps in a row, up to step 6 .loss nan") as error,
    ):
        fit(tmp_path, ToyTask(poison=poison, max_nonfinite_steps=2))
    for remedy in ("optimizer.lr", "bf16-mixed", "gradient_clip_val"):
        assert remedy in str(error.value)
    dropped = [r.getMessage() for r in caplog.records if "dropped" in r.getMessage()]
    assert len(dropped) == 4


def test_fp16_overflow_lowers_the_scale_and_goes_on(tmp_path: Path) -> None:
    from lightning.pytorch.plugins import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    states = States()
    trainer = make_trainer(tmp_path, [states], max_epochs=1, gradient_clip_val=1.0)
    trainer.strategy.precision_plugin = plugin
    trainer.fit(ToyTask(poison={5: float("inf")}), datamodule=ToyData())
    assert scaler.get_scale() == 2.0**9
    assert same(states.states[4], states.states[5])
    assert not same(states.states[5], states.states[6])


def test_the_check_sees_any_bad_value_and_no_large_one() -> None:
    cpu = torch.device("cpu")
    large = [torch.full((5, 3), 3e38), torch.zeros(2)]
    assert not any_nonfinite(large, device=cpu)
    assert not any_nonfinite([], device=cpu)
    for bad in (float("nan"), float("inf"), -float("inf")):
        for place in range(2):
            gradients = [torch.ones(4, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
            gradients[place][2] = bad
            assert any_nonfinite(gradients, device=cpu)
