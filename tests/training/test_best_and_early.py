"""Which epoch is kept, and why a run ends before its last one."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.training.early_stopping import Patience, why_ended_early
from scalablevit.training.metrics_csv import CSVMetrics
from scalablevit.training.run_checkpoints import MovableCheckpoint
from scalablevit.visualization.metrics_file import read_metrics


class Scored(ToyTask):
    """Logs scores and losses that were written beforehand, an epoch each."""

    def __init__(self, scores: list[float], losses: list[float] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.scores, self.val_losses = scores, losses

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/score", self.scores[self.current_epoch])
        if self.val_losses is not None:
            self.log("val/loss", self.val_losses[self.current_epoch])


def fit(folder: Path, task: ToyTask, *callbacks: Any, resume: bool = False, **options: Any) -> Any:
    trainer = make_trainer(folder, list(callbacks), max_epochs=len(getattr(task, "scores", [0] * 3)), **options)
    trainer.fit(task, datamodule=ToyData(num_validation=2), ckpt_path=folder / "last.ckpt" if resume else None)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scores", "losses", "mode", "kept"),
    [
        ([0.5, 0.9, 0.9, 0.9], [9, 3, 2, 4], "max", 2),
        ([0.5, 0.9, 0.9, 0.9], [9, 3, 3, 3], "max", 3),
        ([0.9, 0.9, 0.8, 0.9], None, "max", 3),
        ([0.9, 0.5, 0.5, 0.9], [1, 1, 2, 0], "min", 1),
        ([math.nan, math.nan, math.nan], [3, 2, 1], "max", 2),
        ([math.nan, 0.1, math.nan], [3, 5, 1], "max", 1),
        ([0.9, 0.9], [1, math.nan], "max", 0),
        ([0.2, 0.1, 0.3], [1, 2, 3], "max", 2),
    ],
)
def test_of_tied_epochs_the_lower_loss_wins_then_the_later(
    scores: list[float], losses: list[float] | None, mode: str, kept: int, tmp_path: Path
) -> None:
    best = MovableCheckpoint(dirpath=tmp_path / "c", filename="best", monitor="val/score", mode=mode)
    fit(tmp_path, Scored(scores, losses), best)
    assert torch.load(tmp_path / "c" / "best.ckpt", weights_only=True)["epoch"] == kept


def test_a_resumed_run_knows_the_loss_of_the_best_epoch(tmp_path: Path) -> None:
    def best() -> MovableCheckpoint:
        where: dict[str, Any] = {"dirpath": tmp_path / "c", "enable_version_counter": False}
        return MovableCheckpoint(filename="best", monitor="val/score", mode="max", **where)

    fit(tmp_path, Scored([0.9], [1.0]), best())
    trainer = make_trainer(tmp_path, [best()], max_epochs=2)
    trainer.fit(Scored([0.9, 0.9], [1.0, 2.0]), datamodule=ToyData(), ckpt_path=tmp_path / "c" / "best.ckpt")
    assert torch.load(tmp_path / "c" / "best.ckpt", weights_only=True)["epoch"] == 0


def test_patience_ends_a_run_and_says_why(tmp_path: Path) -> None:
    patience = Patience("val/score", "max", 2)
    trainer = fit(tmp_path, Scored([0.1, 0.4, 0.3, 0.4, 0.9, 0.9]), patience)
    assert trainer.current_epoch == 4
    assert why_ended_early(trainer) == (
        "stopped early, after epoch 4 of 6: val/score did not improve in 2 validations in a row (patience 2); its best "
        "value was 0.4000 in epoch 2"
    )


def test_a_resumed_run_takes_the_patience_of_its_recipe(tmp_path: Path) -> None:
    scores = [0.4, 0.3, 0.3, 0.3, 0.3, 0.3]
    assert fit(tmp_path, Scored(scores), Patience("val/score", "max", 1)).current_epoch == 2
    longer = fit(tmp_path, Scored(scores), Patience("val/score", "max", 4), resume=True)
    assert longer.current_epoch == 5
    assert "4 validations in a row (patience 4); its best value was 0.4000 in epoch 1" in str(why_ended_early(longer))


def test_other_ends_are_told_too(tmp_path: Path) -> None:
    stopping = EarlyStopping(monitor="val/score", mode="max", stopping_threshold=0.5)
    assert "Stopping threshold reached" in str(why_ended_early(fit(tmp_path / "a", Scored([0.1, 0.6, 0.7]), stopping)))
    over = fit(tmp_path / "b", ToyTask(), max_time={"seconds": 0})
    assert "trainer.max_time or a Timer is over" in str(why_ended_early(over))
    assert why_ended_early(fit(tmp_path / "c", ToyTask())) is None
    assert why_ended_early(fit(tmp_path / "d", ToyTask(), max_steps=2)) is None


def test_the_task_takes_patience_as_a_setting() -> None:
    class Toy(ToyTask):
        monitor = ("val/loss", "min")

    (patience,) = (c for c in Toy(patience=3).configure_callbacks() if isinstance(c, Patience))
    assert (patience.monitor, patience.mode, patience.patience) == ("val/loss", "min", 3)
    assert not any(isinstance(c, Patience) for c in Toy().configure_callbacks())


def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step(tmp_path: Path) -> None:
    task = ToyTask()
    fit(tmp_path, task, logger=CSVMetrics(tmp_path / "metrics.csv"))
    written = [row["lr"] for row in read_metrics(tmp_path / "metrics.csv")]
    assert written == pytest.approx([task.rates[i] for i in (10, 21, 32)], rel=1e-5)
