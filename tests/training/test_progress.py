"""What a run says of its epochs."""

from pathlib import Path

import pytest
from toy_run import ToyData, ToyTask, make_trainer

from scalablevit.training.metrics_csv import CSVMetrics
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
