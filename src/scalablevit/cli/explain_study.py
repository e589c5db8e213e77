"""`scalablevit explain --study`."""

import argparse
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scalablevit.abridged import abridged
from scalablevit.cli.errors import UsageError, memory_advice
from scalablevit.cli.importing import importing
from scalablevit.cli.progress import progress
from scalablevit.cli.save_images import check_folder, save
from scalablevit.cli.terminal import print_json, show_warnings, tell
from scalablevit.cli.trained_run import is_exported_file
from scalablevit.explain.methods import METHODS
from scalablevit.printable import markdown_table, printable
from scalablevit.safe_write import json_text
from scalablevit.tasks import Flag, TaskEntry, entries, load

DEFAULT_IMAGES = 50


def add_arguments(found: argparse.ArgumentParser) -> None:
    """Add the flags of a study to the command."""
    group = found.add_argument_group("study", "measure over a data set what runs see, and compare them")
    group.add_argument("--study", nargs="+", metavar="RUN", help="run folders or their weights, in place of IMAGE")
    group.add_argument("--data", metavar="FOLDER", help="data set with boxes or masks; its validation images are used")
    group.add_argument(
        "--images", type=int, metavar="N", help=f"images of the data set, evenly spread (default: {DEFAULT_IMAGES})"
    )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what does not go together.

    Raises:
        UsageError: images, weights or a method are given with --study, or --data or --images without.
    """
    if args.study is None:
        for flag, value in (("--data", args.data), ("--images", args.images)):
            if value is not None:
                raise UsageError(f"{flag} goes with --study RUN ...")
        if not args.inputs:
            raise UsageError("explain needs images and weights, or --study RUN ... --data FOLDER")
        return
    if args.inputs or args.weights:
        shown = f"--weights {args.weights}" if args.weights else " ".join(args.inputs)
        raise UsageError(f"--study takes its images from --data: leave out {shown}")
    given = {"--method": args.method, **{flag.name: getattr(args, flag.dest, None) for flag in method_flags()}}
    if named := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"--study measures everything: leave out {', '.join(named)}")
    if args.data is None:
        raise UsageError("--study needs --data FOLDER: a data set with boxes or masks")
    if args.images is not None and args.images < 1:
        raise UsageError(f"--images must be at least 1, got {args.images}")


def method_flags() -> list[Flag]:
    """The flags of all methods."""
    return list({flag.name: flag for method in METHODS.values() for flag in method.flags}.values())


def run_study(args: argparse.Namespace) -> int:
    """Study the runs and print the table."""
    for source in args.study:
        if is_exported_file(source):
            raise ValueError(f"--study reads maps inside the network, but {source} is an exported file: give its run")
    folder = None if args.save is None else check_folder(args.save)
    root = Path(args.data).expanduser()
    if not root.exists():
        raise ValueError(f"--data {args.data}: there is no such folder")
    show_warnings()
    with importing():
        from scalablevit.explain.study_figures import draw_studies, table
    failed = Failures()
    labels = run_labels(args.study)
    studies = []
    for source, label in zip(args.study, labels, strict=True):
        count = DEFAULT_IMAGES if args.images is None else args.images
        options = {"device": args.device, "threshold": args.threshold, "count": count}
        studies.append(study_of(source, label, root, on_unreadable=failed, **options))
    content = {
        "data": str(args.data),
        "runs": [study.to_dict() for study in studies],
        "differences_to_first": [_differences(studies[0], study) for study in studies[1:]],
    }
    if folder is not None:
        rows = markdown_table(table(studies))
        documents = {".json": f"{json_text(content)}\n".encode(), ".md": rows.encode("utf-8", "surrogateescape")}
        save({"": draw_studies(studies)}, folder, Path("study"), documents=documents)
        tell(f"plot, table and numbers are in {folder}")
    if args.json:
        print_json(content)
    else:
        print_table(table(studies))
    return 1 if failed.count else 0


class Failures:
    """Counts files that could not be read, and tells each once."""

    def __init__(self) -> None:
        self.count = 0
        self._told: set[str] = set()

    def __call__(self, message: str) -> None:
        """Tell of a file."""
        self.count += 1
        if message not in self._told:
            self._told.add(message)
            tell(f"skipped {message}")


def run_labels(sources: Sequence[str]) -> list[str]:
    """Name runs by their folders; by more of their paths where two folders have one name."""
    paths = [Path(source).absolute() for source in sources]
    paths = [path.parent if path.is_file() else path for path in paths]
    for depth in itertools.count(1):
        labels = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(labels)) == len(set(paths)) or depth > max(len(path.parts) for path in paths):
            return labels
    raise AssertionError


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for i, row in enumerate(rows):
        print(printable("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()))
        if i == 0:
            print("  ".join("-" * width for width in widths))


def study_of(
    source: str,
    label: str,
    root: Path,
    *,
    count: int,
    on_unreadable: Failures,
    device: str | None = None,
    threshold: float = 0.5,
) -> Any:
    """Measure a run over a data set.

    Args:
        source: of the run: its folder, or weights.
        label: as tables name it.
        root: of the data set.
        count: how many of its validation images to take.
        on_unreadable: is told of files that cannot be read.
        device: to compute on; None: a GPU if there is one.
        threshold: lowest score of what is explained.

    Returns:
        `scalablevit.explain.study.RunStudy`.

    Raises:
        ValueError: the weights are not of a task that explain knows, or no image can be read.
    """
    with importing():
        from scalablevit.explain.study import RunStudy
        from scalablevit.weights import open_trained

    trained = open_trained(source)
    entry = entries().get(trained.task)
    if entry is None or not entry.explained:
        raise ValueError(f"{source} holds weights for {trained.task!r}; explain knows {', '.join(entries())}")
    predictor = load(entry.predictor).load(trained, device=device)
    subject_of = load(entry.explained)
    study = RunStudy(label, entry.name)
    annotated_names: set[str] = set()
    with memory_advice("explain", lambda: entry), progress(f"study {label}") as on_progress:
        for i, annotated in enumerate(_annotated(entry, root, predictor, count, on_unreadable)):
            annotated_names.update(one.name for one in annotated.objects or ())
            study.add(subject_of(predictor, annotated.path, annotated.image, threshold), annotated)
            if on_progress is not None:
                on_progress(i + 1, count)
    if not study.rows:
        raise ValueError(f"--data {root}: none of its validation images could be read")
    if annotated_names and not annotated_names & set(predictor.class_names):
        tell(
            f"warning: {label} has none of the annotated classes, so that figures of objects are left out: it knows "
            f"{abridged(list(predictor.class_names), 5)}; annotated are {abridged(sorted(annotated_names), 5)}"
        )
    return study


def _annotated(entry: TaskEntry, root: Path, predictor: Any, count: int, failed: Failures) -> Iterator[Any]:
    """The images of the data set: annotated, if its layout has annotations."""
    owners = owners_of(root)
    if not owners:
        tell(f"--data {root}: no boxes or masks were found there; figures of objects are left out")
        yield from _plain(entry, root, predictor, count, failed)
        return
    owner = entry if entry in owners else owners[0]
    yield from load(owner.annotated)(root, predictor, count=count, on_unreadable=failed)


def owners_of(root: Path) -> list[TaskEntry]:
    """The tasks whose boxes or masks a data set has."""
    able = [other for other in entries().values() if other.annotated]
    return [other for other in able if other.check.matches(root, {})]


def _plain(entry: TaskEntry, root: Path, predictor: Any, count: int, failed: Failures) -> Iterator[Any]:
    """Images without annotations: the validation images of a folder per class, or all images."""
    from scalablevit.data.check import evenly_spread
    from scalablevit.data.find_images import find_images
    from scalablevit.explain.annotated import AnnotatedImage
    from scalablevit.explain.subject import read_images

    try:
        paths = load(entry.validation_images)(root, {})
    except (ValueError, OSError):
        paths = find_images([str(root)])
    chosen = [paths[i] for i in evenly_spread(len(paths), count)]
    for file in read_images(chosen, predictor):
        if file.image is None:
            failed(str(file.error))
        else:
            yield AnnotatedImage(file.path, file.image, None)


def _differences(first: Any, other: Any) -> dict[str, Any]:
    from scalablevit.explain.study import differences

    return {"run": other.label, "figures": {key: value.to_dict() for key, value in differences(first, other).items()}}
