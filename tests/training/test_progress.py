"""What a run says of its epochs."""

import time
from pathlib import Path

import pytest
from torch import Tensor
from toy_run import NoisySamples, ToyData, ToyTask, make_trainer

from scalablevit.training import progress
from scalablevit.training.checkpoint_interval import CheckpointInterval
from scalablevit.training.data_wait import ADVICE, DataWait
from scalablevit.training.epoch_times import EpochTimes, read_epoch_times
from scalablevit.training.metrics_csv import CSVMetrics
from scalablevit.training.mid_epoch_checkpoints import MidEpochCheckpoints
from scalablevit.training.progress import EpochLines
from scalablevit.visualization.metrics_file import read_metrics


@pytest.mark.parametrize(
    ("options", "validated"),
    [
        ({"check_val_every_n_epoch": 2}, [1, 3]),
        ({"check_val_every_n_epoch": 3}, [2, 3]),
        ({"check_val_every_n_epoch": 9}, [3]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 15}, [1, 2]),  # 11 batches an epoch
        ({}, [0, 1, 2, 3]),
    ],
    ids=["every second epoch", "every third epoch and the last", "the last alone", "by steps", "every epoch"],
)
def test_validation_metrics_stand_at_the_epochs_that_have_them(
    options: dict[str, int | None], validated: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = CSVMetrics(tmp_path / "metrics.csv")
    trainer = make_trainer(tmp_path, [EpochLines()], max_epochs=4, num_sanity_val_steps=2, logger=logger, **options)
    trainer.fit(ToyTask(), datamodule=ToyData())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert [i for i, line in enumerate(lines) if "val/loss" in line] == validated
    assert [i for i, row in enumerate(read_metrics(tmp_path / "metrics.csv")) if "val/loss" in row] == validated


class SlowSamples(NoisySamples):
    """Every sample takes 5 ms to load."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.005)
        return super().__getitem__(index)


def test_images_a_second_and_the_wait_for_data_are_logged_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toy_run.NoisySamples", SlowSamples)
    monkeypatch.setattr(progress, "_SHORTEST_TO_ADVISE", 0.0)
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,val/loss\n0,10,1\n")  # of an earlier version
    saving = MidEpochCheckpoints(tmp_path / "last.ckpt", CheckpointInterval(steps=4))
    callbacks = [DataWait(), EpochTimes(tmp_path / "timing.json"), EpochLines(), saving]
    trainer = make_trainer(tmp_path, callbacks, max_epochs=2, logger=CSVMetrics(path))
    trainer.fit(ToyTask(), datamodule=ToyData())
    rows, times = read_metrics(path), read_epoch_times(tmp_path / "timing.json")
    for row, timed in zip(rows, times, strict=True):
        # 11 batches of 2; 10 ms of loading a batch
        assert row["images_per_second"] == pytest.approx(22 / timed["training_seconds"], rel=0.1)
        assert row["data_wait"] * timed["training_seconds"] * 1.1 >= 0.11
        assert row["data_wait"] <= 1
        assert timed["data_wait"] == pytest.approx(row["data_wait"], abs=1e-3)
        assert timed["checkpoint_seconds"] > 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "of the time for data" in line]
    assert ["raise --data.num_workers" in line for line in lines] == [True, False][: len(lines)]
    assert lines


def test_a_run_that_does_not_wait_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = EpochLines()
    assert line._said_of_waiting(0.2) == []
    assert line._said_of_waiting(0.35) == [f"waited 35% of the time for data: {ADVICE}"]
    assert line._said_of_waiting(0.35) == ["waited 35% of the time for data"]
