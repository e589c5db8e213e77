"""Evaluate every run of a comparison on images that chose nothing, and tabulate the means with paired differences.

    python benchmarks/comparison_on_test.py runs/ablate-fashion_mnist

FOLDER is one of `scalablevit compare` or `ablate`, whose data hold a third folder beside `train` and `val`. The best
checkpoint of each run, chosen on `val`, is evaluated on `test`; results are kept in FOLDER/test.json and not measured
again, unless the checkpoint is written anew. `--checkpoint last` takes the weights after the last epoch, for
comparisons in which `val` must choose nothing. Folders with the same combinations and other seeds are one table.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from scalablevit.printable import markdown_table
from scalablevit.safe_write import write_json
from scalablevit.training.comparison.report import read_comparison
from scalablevit.training.comparison.statistics import METHOD, mean_of, paired_difference
from scalablevit.training.comparison.table import difference_text, mean_text


def checkpoint_of(run: Path, name: str) -> Path:
    """The file of a run's checkpoint, "best" or "last"."""
    return run / "checkpoints" / f"{name}.ckpt"


def evaluate(run: Path, *, part: str, checkpoint: str, threads: int) -> dict[str, float]:
    """Evaluate a run with `scalablevit validate`; metric -> value.

    Raises:
        ValueError: it fails; names the run and the last line that it wrote.
    """
    file = checkpoint_of(run, checkpoint)
    command = [sys.executable, "-m", "scalablevit", "validate", str(run), "--checkpoint", str(file)]
    command += ["--data.val", part, "--threads", str(threads), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"{run}: {(done.stderr.strip().splitlines() or ['it failed'])[-1]}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def measure(folder: Path, *, part: str, checkpoint: str, threads: int) -> dict[str, dict[int, dict[str, float]]]:
    """Label of each combination -> seed of a finished run -> metrics on `part`; FOLDER/test.json keeps them.

    Raises:
        ValueError: the folder holds no comparison, or a run cannot be evaluated.
    """
    kept = folder / f"{part}.json"
    known: dict[str, dict[str, float]] = json.loads(kept.read_text()) if kept.is_file() else {}
    found: dict[str, dict[int, dict[str, float]]] = {}
    for run in read_comparison(folder).runs:
        by_seed = found.setdefault(run.combination.label, {})
        if not (run.folder / "results.json").is_file():
            continue
        file = checkpoint_of(run.folder, checkpoint)
        if not file.is_file():
            raise ValueError(f"{run.folder}: there is no {file.relative_to(run.folder)} to evaluate")
        # A run that goes on, or runs again, writes its checkpoint anew.
        key = f"{run.folder.relative_to(folder)} {checkpoint} {file.stat().st_mtime_ns}"
        if key not in known:
            print(f"evaluate {run.folder}", file=sys.stderr)
            known[key] = evaluate(run.folder, part=part, checkpoint=checkpoint, threads=threads)
            write_json(kept, known)
        by_seed[run.seed] = known[key]
    return found


def tabulate(found: Mapping[str, Mapping[int, Mapping[str, float]]], *, metric: str, part: str) -> str:
    """Means over seeds and paired differences to the first combination, as a Markdown table.

    Raises:
        ValueError: the first combination has no value, which all others are compared to.
    """
    rows, first = [], None
    for label, by_seed in found.items():
        values = {seed: metrics[metric] for seed, metrics in by_seed.items() if metric in metrics}
        mean = mean_of(values)
        if mean is None and first is None:
            raise ValueError(
                f"{label}: {metric} has no value on {part}, and the others are compared to it; finish its runs"
            )
        if mean is None:
            continue
        difference = "" if first is None else difference_text(paired_difference(first, values))
        rows.append([label, mean_text(mean), f"{mean.count}", difference])
        first = values if first is None else first
    name = metric.removeprefix("val/")
    return markdown_table([["combination", f"{name} on {part}", "seeds", "difference to first"], *rows])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="of a comparison")
    parser.add_argument("--part", default="test", help="folder of the data to evaluate on (default: %(default)s)")
    parser.add_argument(
        "--metric", default="val/top1", help="as `scalablevit validate` names it (default: %(default)s)"
    )
    parser.add_argument("--checkpoint", choices=["best", "last"], default="best", help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    arguments = parser.parse_args()
    try:
        found: dict[str, dict[int, dict[str, float]]] = {}
        for folder in arguments.folders:
            measured = measure(folder, part=arguments.part, checkpoint=arguments.checkpoint, threads=arguments.threads)
            for label, by_seed in measured.items():
                if known := by_seed.keys() & found.get(label, {}).keys():
                    raise ValueError(f"{folder}: {label}: seed {min(known)} is in an earlier folder too; name it once")
                found.setdefault(label, {}).update(by_seed)
        if not any(found.values()):
            raise ValueError(f"{arguments.folders[0]}: no run is finished; go on with the comparison first")
        print(tabulate(found, metric=arguments.metric, part=arguments.part))
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"\ndifference to first: {METHOD}")


if __name__ == "__main__":
    main()
