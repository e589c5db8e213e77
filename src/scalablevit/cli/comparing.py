"""What `compare` and `ablate` share: from words and combinations to trained runs, a table, numbers and plots."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scalablevit.abridged import abridged
from scalablevit.cli import comparison_study
from scalablevit.cli.comparison_progress import RunLines
from scalablevit.cli.errors import UsageError, fail
from scalablevit.cli.explain_study import print_table
from scalablevit.cli.fit import recipe_named
from scalablevit.cli.importing import importing
from scalablevit.cli.run_words import split, task_of_recipes
from scalablevit.cli.terminal import print_json, tell
from scalablevit.recipes import find_recipe
from scalablevit.tasks import entry_of

if TYPE_CHECKING:
    from scalablevit.training.comparison.plan import PlannedRun
    from scalablevit.training.comparison.report import Comparison
    from scalablevit.training.comparison.results import CombinationResult, Metric

VALUES = ("--run", "--metric", "--allow-class", "--tabulate", *comparison_study.VALUES)
FLAGS = ("--dry-run", "--json", *comparison_study.FLAGS)


@dataclass
class Words:
    """A command line, taken apart.

    Attributes:
        command: "compare" or "ablate".
        configs: recipes, as they are given.
        keys: `--KEY VALUE` words that all runs share.
        taken: flag -> value.
        allowed: classes that --allow-class names.
    """

    command: str
    configs: list[str]
    keys: list[str]
    taken: dict[str, str]
    allowed: list[str] = field(default_factory=list)

    def folder(self) -> Path:
        """Where the comparison goes."""
        given = self.taken.get("--run")
        return Path(given) if given else Path("runs") / f"{self.command}-{Path(self.configs[0]).stem}"


def read_words(command: str, words: Sequence[str], *, values: Sequence[str] = (), flags: Sequence[str] = ()) -> Words:
    """Take a command line apart.

    Args:
        command: "compare" or "ablate".
        words: behind it.
        values, flags: those that the command has beside the shared ones.

    Raises:
        UsageError: a word is missing, or is fit's alone.
    """
    first = [] if not words or words[0].startswith("-") else ["--config", recipe_named(words[0])]
    given = split([*first, *words[len(first) // 2 :]], values=(*VALUES, *values), flags=(*FLAGS, *flags))
    names = [word.partition("=")[0] for word in given.keys]
    for name, instead in (("--resume", "give the same command again"), ("--print_config", "use --dry-run")):
        if name in names:
            raise UsageError(f"{command} takes no {name}: {instead}")
    if not {"--tabulate", "--print-switches"} & given.taken.keys() and not given.configs:
        raise UsageError(
            f"{command} needs a recipe: scalablevit {command} NAME|FILE ...; `scalablevit recipes` lists names"
        )
    if "--tabulate" in given.taken and (given.configs or given.keys):
        raise UsageError(f"--tabulate FOLDER reads runs that are there: leave out {(given.configs + given.keys)[0]}")
    return Words(command, given.configs, given.keys, given.taken, given.allowed)


def metric_of(recipes: Sequence[Path], name: str | None) -> "Metric":
    """The metric to compare by: the one that is named, else that by which the task chooses its best checkpoint."""
    from scalablevit.training.comparison.results import Metric

    if name is not None:
        return Metric(name, mode_of(name))
    task: Any = task_of_recipes(recipes)
    if task is None or entry_of(task) is None:
        raise ValueError("the recipe's task is not one of this package: name the metric by --metric, such as val/loss")
    return Metric(*task.monitor)


def mode_of(name: str) -> str:
    """Which value of a metric is the best: the lowest of a loss, the highest of all others."""
    return "min" if "loss" in name else "max"


def compare(words: Words, combinations: Sequence[Any], seeds: Sequence[int]) -> int:
    """Train what is lacking, then tabulate.

    Args:
        words: of the command line.
        combinations: `Combination`s, the first one is what the others are compared to.
        seeds: empty: the recipe's own.

    Returns:
        exit code.
    """
    recipes = [find_recipe(config) for config in words.configs]
    folder = words.folder()
    if (folder / "recipe.yaml").is_file():
        raise ValueError(f"{folder} is a run: name another folder for the comparison by --run")
    with importing():
        from scalablevit.training.command import quiet_lightning
        from scalablevit.training.comparison.networks import check_networks, repeated
        from scalablevit.training.comparison.process import ComparisonStopped
        from scalablevit.training.comparison.report import Comparison, others_in, write_numbers
        from scalablevit.training.comparison.results import gather
        from scalablevit.training.comparison.runs import check_folders, train
        from scalablevit.training.run_lock import RunLock

    quiet_lightning()
    runs = resolved_runs(words, recipes, combinations, seeds, folder)
    same = repeated(runs, check_networks(runs))
    if words.command == "ablate":  # what a comparison is told to train, it trains
        for label in sorted(same):
            tell(f"{label}: the baseline is that already; left out")
        runs = [run for run in runs if run.combination.label not in same]
    metric = metric_of(recipes, words.taken.get("--metric"))
    fit_words = [word for config in words.configs for word in ("--config", config)]
    fit_words += ["--allow-class", ",".join(words.allowed)] if words.allowed else []
    states = check_folders(runs)
    if "--dry-run" in words.taken:
        show_plan(runs, states, fit_words)
        return 0
    comparison = Comparison(folder, runs, metric, shlex.join(["scalablevit", *sys.argv[1:]]))
    folder.mkdir(parents=True, exist_ok=True)
    lock = RunLock(folder)
    lock.acquire()
    try:
        failures: Mapping[Path, str] = {}
        if others := others_in(comparison):
            tell(
                f"warning: {folder} holds another comparison, of {abridged(others, 4)}: its runs stay, and table, "
                "numbers and plots are now of this one; name another folder by --run to keep both"
            )
        write_numbers(comparison, gather(runs, metric))
        try:
            with RunLines(metric, after_each=lambda: write_numbers(comparison, gather(runs, metric))) as reporter:
                failures = train(runs, fit_words, reporter)
        except ComparisonStopped as stopped:
            write_numbers(comparison, results := gather(runs, metric))
            finished = sum(len(result.runs) for result in results)
            return fail(
                f"stopped with {finished} of {len(runs)} runs finished; to go on, give the same command again",
                code=128 + stopped.signum,
            )
        results = gather(runs, metric, failures)
        return finish(comparison, results, words)
    finally:
        lock.release()


def resolved_runs(
    words: Words, recipes: Sequence[Path], combinations: Sequence[Any], seeds: Sequence[int], folder: Path
) -> list["PlannedRun"]:
    """The runs with their recipes; every key and kind of value is checked."""
    from dataclasses import replace

    from scalablevit.training.comparison.asked import resolve
    from scalablevit.training.comparison.axes import SEED
    from scalablevit.training.comparison.plan import plan

    if not seeds:
        seeds = [int(resolve(recipes, words.keys, run=folder, allowed=words.allowed)[SEED])]
    runs = plan(combinations, seeds, folder=folder, words=words.keys)
    # seeds change nothing else in a recipe: it is resolved once for each combination
    recipe = {
        run.combination.label: resolve(recipes, run.words, run=run.folder, allowed=words.allowed)
        for run in runs
        if run.seed == seeds[0]
    }
    return [replace(run, asked={**recipe[run.combination.label], SEED: run.seed}) for run in runs]


def show_plan(runs: Sequence["PlannedRun"], states: Mapping[Path, str], fit_words: Sequence[str]) -> None:
    """Print what would run."""
    for run in runs:
        state = states[run.folder]
        if state == "finished":
            print(f"finished  {run.folder}")
        elif state == "broken":
            print(f"resume    scalablevit fit --resume {shlex.quote(str(run.folder))}")
        else:
            print("train     " + shlex.join(["scalablevit", "fit", *fit_words, "--run", str(run.folder), *run.words]))
    count = sum(states[run.folder] != "finished" for run in runs)
    print(f"{len(runs)} runs, {count} of them to train")


def tabulate(words: Words) -> int:
    """Tabulate a comparison again, without training."""
    from dataclasses import replace

    with importing():
        from scalablevit.training.comparison.report import read_comparison
        from scalablevit.training.comparison.results import Metric, gather

    comparison = read_comparison(Path(words.taken["--tabulate"]))
    name = words.taken.get("--metric")
    if name is not None:
        comparison = replace(comparison, metric=Metric(name, mode_of(name)))
    results = gather(comparison.runs, comparison.metric)
    return finish(comparison, results, words)


def finish(comparison: "Comparison", results: Sequence["CombinationResult"], words: Words) -> int:
    """Count costs, measure what the study wants, write the files, print the tables, and tell of what failed."""
    from scalablevit.training.comparison.costs import add_costs
    from scalablevit.training.comparison.report import write_numbers, write_pictures
    from scalablevit.training.comparison.statistics import METHOD
    from scalablevit.training.comparison.studies import study_table
    from scalablevit.training.comparison.table import table

    add_costs(results)
    by_itself = words.command == "ablate" and "--tabulate" not in words.taken
    not_studied = comparison_study.add_studies(results, words.taken, by_itself=by_itself)
    content = write_numbers(comparison, results)
    rows, seen = table(results), study_table(results)
    files = write_pictures(comparison, results, rows)
    if "--json" in words.taken:
        print_json(content, indent=2)
    else:
        print_table(rows)
        if seen:
            print()
            print_table(seen)
        print(f"\n{comparison.metric.name}: of each run's best epoch, mean ± standard deviation over seeds")
        print(f"difference to first: {METHOD}")
        sizes = {tuple(result.cost["image"]) for result in results if result.cost}
        print(
            "multiply-adds: of convolutions and linear layers, for "
            + ", ".join(f"{h} x {w}" for h, w in sorted(sizes))
            + " pixels"
        )
    tell(f"in {comparison.folder}: {', '.join(file.name for file in (comparison.file, *files))}")
    failed = [(result, seed, reason) for result in results for seed, reason in result.failures.items()]
    for result, seed, reason in failed:
        tell(f"failed: {result.combination.label}, seed {seed}: {reason}")
    if failed:
        return fail(f"{len(failed)} of {len(comparison.runs)} runs have no result")
    return fail(f"{not_studied} runs could not be studied") if not_studied else 0
