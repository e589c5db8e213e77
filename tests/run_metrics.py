"""What a run learned, epoch by epoch, without how fast it was: equal to the bit where two runs are."""

from pathlib import Path

from scalablevit.training.data_wait import DATA_WAIT, IMAGES_PER_SECOND
from scalablevit.visualization.metrics_file import read_metrics


def learned_by(run: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv without the columns that no two runs share."""
    rows = read_metrics(run / "metrics.csv")
    return [{name: value for name, value in row.items() if name not in (DATA_WAIT, IMAGES_PER_SECOND)} for row in rows]
