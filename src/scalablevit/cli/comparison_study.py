"""The figures of `scalablevit explain --study` for the runs of a comparison."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scalablevit.cli.errors import UsageError
from scalablevit.cli.explain_study import Failures, owners_of, study_of
from scalablevit.cli.terminal import tell

if TYPE_CHECKING:
    from scalablevit.training.comparison.results import CombinationResult

VALUES = ("--study-data", "--study-images")
FLAGS = ("--study", "--no-study")
DEFAULT_IMAGES = 20


def add_studies(results: Sequence["CombinationResult"], taken: dict[str, str], *, by_itself: bool) -> int:
    """Measure the finished runs that have not been measured so yet, and take what is known of the others.

    Args:
        results: of the comparison.
        taken: flag -> value of the command line.
        by_itself: measure without being asked, where the data have boxes or masks.

    Returns:
        how many runs could not be measured; each is told.

    Raises:
        UsageError: flags that contradict each other, or a number that is none.
        ValueError: no such data.
    """
    from scalablevit.training.comparison.studies import figures_of, read_study, take_studies, write_study

    count = _count(taken)
    runs = [(result, run) for result in results for run in result.runs.values()]
    root = _root(taken, runs[0][1].folder) if runs else None
    asked = bool({"--study", *VALUES} & taken.keys())
    if asked and "--no-study" in taken:
        raise UsageError("--no-study contradicts --study: leave one out")
    wanted = asked or (by_itself and "--no-study" not in taken and root is not None and _has_objects(root))
    failed = 0
    if wanted and "--study-data" not in taken and len({_root(taken, run.folder) for _, run in runs}) > 1:
        tell(f"study: every run is measured on {root}, the data of the first one; --study-data names others")
    for result, run in runs:
        if not wanted or root is None:
            break
        if read_study(run.folder, data=root, count=count):
            continue
        label = f"{result.combination.label}, {run.folder.name}"
        tell(f"study {label}")
        try:
            study = study_of(str(run.folder), label, root, count=count, on_unreadable=Failures())
        except (ValueError, RuntimeError, NotImplementedError) as error:  # a network that explain cannot look into
            failed += 1
            tell(f"    failed: {error}")
            continue
        write_study(run.folder, figures_of(study.summary()), data=root, count=count)
    left_out = take_studies(results, data=root, count=count) if wanted and root is not None else take_studies(results)
    if left_out:
        tell(
            f"warning: the study of {len(left_out)} runs is of other images than that of the first one, and left out "
            f"({left_out[0]}{' ...' if len(left_out) > 1 else ''}); --study measures all on the same"
        )
    return failed


def _count(taken: dict[str, str]) -> int:
    text = taken.get("--study-images", str(DEFAULT_IMAGES))
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--study-images must be a number of at least 1, got {text}")
    return int(text)


def _root(taken: dict[str, str], folder: Path) -> Path | None:
    """Where the images lie: as the command line says, else the run's own data."""
    from scalablevit.training.recipe_file import read_recipe

    given = taken.get("--study-data")
    if given is not None:
        root = Path(given).expanduser()
        if not root.exists():
            raise ValueError(f"--study-data {given}: there is no such folder")
        return root
    own = ((read_recipe(folder / "recipe.yaml").get("data") or {}).get("init_args") or {}).get("root")
    return Path(own) if isinstance(own, str) and Path(own).exists() else None


def _has_objects(root: Path) -> bool:
    try:
        return bool(owners_of(root))
    except (ValueError, OSError):  # of a layout that the recipe alone describes
        return False
