"""A small logger of the tests' own, which stands for a tracker: it notes what it is told, and can lose its network."""

import json
from pathlib import Path
from typing import Any, ClassVar

from lightning.pytorch.loggers import Logger


class Ledger(Logger):
    """Write each call as a line into SAVE_DIR/ledger-VERSION.jsonl."""

    offline: ClassVar[bool] = False
    num_runs: ClassVar[int] = 0

    def __init__(self, save_dir: str, version: str | None = None, team: str = "ours") -> None:
        super().__init__()
        Ledger.num_runs += version is None
        self._version = version or f"remote-{Ledger.num_runs}"
        self._folder = Path(save_dir)
        self.team = team

    @property
    def name(self) -> str:
        """Of the kind."""
        return "ledger"

    @property
    def version(self) -> str:
        """Of the remote run."""
        return self._version

    @property
    def experiment(self) -> "Ledger":
        """Connect."""
        self._connect()
        return self

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Note metrics."""
        self._write({"step": step, **metrics})

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Note parameters."""
        self._write({"params": params, "team": self.team})

    def _connect(self) -> None:
        if Ledger.offline:
            raise ConnectionError("the network is gone")

    def _write(self, entry: dict[str, Any]) -> None:
        self._connect()
        with (self._folder / f"ledger-{self._version}.jsonl").open("a") as file:
            file.write(json.dumps(entry) + "\n")


def entries(folder: Path, version: str) -> list[dict[str, Any]]:
    """What was noted in a remote run."""
    return [json.loads(line) for line in (folder / f"ledger-{version}.jsonl").read_text().splitlines()]
