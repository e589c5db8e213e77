"""The runs of a comparison: which folder each has, and how far it came."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scalablevit.training.comparison.axes import SEED, Combination, folder_names
from scalablevit.training.run_folder import RunFolder
from scalablevit.training.run_lock import RunLock

State = Literal["new", "begun", "broken", "finished"]


@dataclass(frozen=True)
class PlannedRun:
    """One combination with one seed.

    Args:
        combination: what it is trained with.
        seed: likewise.
        folder: of the run.
        words: `--KEY VALUE` of all that is asked.
        asked: the recipe with every value.
    """

    combination: Combination
    seed: int
    folder: Path
    words: Sequence[str] = ()
    asked: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"{self.combination.label}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """Where the run's output goes."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def epochs(self) -> int | None:
        """How many it shall have; None: bounded otherwise."""
        most = (self.asked.get("trainer") or {}).get("max_epochs")
        return most if isinstance(most, int) and most > 0 else None


def plan(
    combinations: Sequence[Combination], seeds: Sequence[int], *, folder: Path, words: Sequence[str] = ()
) -> list[PlannedRun]:
    """List the runs: every combination with the first seed, then with the second, and so on.

    So a comparison that is stopped has as many seeds of each combination as it can.

    Args:
        combinations: at least one.
        seeds: at least one.
        folder: of the comparison; each run has one of its own below.
        words: `--KEY VALUE` that all runs share.
    """
    names = folder_names([combination.label for combination in combinations])
    return [
        PlannedRun(
            combination,
            seed,
            folder / name / f"seed-{seed}",
            [*words, *combination.words(), f"--{SEED}={seed}"],
        )
        for seed in seeds
        for combination, name in zip(combinations, names, strict=True)
    ]


def state_of(path: Path) -> State:
    """How far the run in a folder came.

    Returns:
        "new": there is none; "begun": it ended before its first checkpoint; "broken": it can be resumed;
        "finished": weights and results are written.
    """
    folder = RunFolder(path)
    if not folder.holds_a_run():
        return "new"
    if folder.weights.is_file() and (path / "results.json").is_file() and folder.recipe.is_file():
        return "finished"
    return "broken" if folder.last.is_file() and folder.recipe.is_file() else "begun"


def clear_begun(path: Path) -> None:
    """Remove what a run without a checkpoint left behind; its folder must be in state "begun".

    Raises:
        ValueError: another process trains it, or there are weights or checkpoints, which somebody may want.
    """
    folder = RunFolder(path)
    lock = RunLock(path)
    lock.acquire()  # a run of another process has no checkpoint at first either
    lock.release()
    if kept := [file for file in (folder.best, folder.last, folder.weights) if file.exists()]:
        raise ValueError(
            f"{path} holds {kept[0].relative_to(path)} and cannot be resumed: move or remove the folder, then run the "
            "same command again"
        )
    for file in (folder.recipe, folder.environment, folder.metrics, folder.timing):
        file.unlink(missing_ok=True)
