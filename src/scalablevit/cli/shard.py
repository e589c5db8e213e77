"""`scalablevit shard`."""

import argparse
import shlex
from pathlib import Path
from typing import Any

from scalablevit import __version__
from scalablevit.cli.errors import UsageError
from scalablevit.cli.progress import progress
from scalablevit.cli.terminal import show_warnings
from scalablevit.cli.trained_run import is_run
from scalablevit.cli.words import Parser, add_flags, given_arguments, parser_of
from scalablevit.printable import printable
from scalablevit.tasks import DataCheck, Flag, data_checks, layout_of, load

SUMMARY = "Pack a data folder into shards, to train from one folder of large files or from a remote address"
_MOST_LISTED = 20
_TABLES = (".csv", ".tsv")
_CAN_BE = (
    "`scalablevit shard` packs class folders, COCO annotations, images with masks, and WebDataset tars with classes"
)


def parser() -> Parser:
    """The command's arguments."""
    found = parser_of("shard", SUMMARY)
    checks = {title: check for title, check in data_checks().items() if check.shards}
    found.add_argument("root", metavar="FOLDER", help=f"data folder ({'; '.join(checks)}), or WebDataset tars")
    found.add_argument(
        "out", metavar="OUT", help="folder to write to: empty, or with unfinished shards of the same data"
    )
    found.add_argument("--kind", choices=[check.kind for check in checks.values()],
                       help="layout of the data (default: detected)")  # fmt: skip
    found.add_argument("--size-mb", type=float, default=64.0, metavar="X",
                       help="target size of a shard, in 10^6 bytes (default: 64)")  # fmt: skip
    found.add_argument("--workers", type=_workers, default="auto", metavar="N",
                       help="processes that write (default: auto, one a core, 16 at most)")  # fmt: skip
    for title, check in checks.items():
        add_flags(found, title, _flags(check))
    group = found.add_argument_group("WebDataset tars")
    group.add_argument("--classes", metavar="FILE", help="names of the classes by number, a line each or a JSON list")
    return found


def main(words: list[str]) -> int:
    """Run the command."""
    from scalablevit.data.stream.index import is_stream
    from scalablevit.data.stream.tars import find_tars, tar_source
    from scalablevit.data.stream.write import write_shards

    args = parser().parse_args(words)
    show_warnings()
    if is_run(args.root):
        raise UsageError(f"{args.root} is a run, not data; its recipe.yaml names its data as data.root")
    if is_stream(args.root):
        raise ValueError(f"{args.root}: these are shards already; train from them with --data.root {args.root}")
    root, out = Path(args.root).expanduser(), Path(args.out).expanduser()
    if out.absolute().is_relative_to(root.absolute()):
        raise ValueError(f"{out} lies in the data folder {root}; name a folder outside of it")
    tars = find_tars(root)
    source = tar_source(root, classes=args.classes) if tars else _source(args, root)
    for warning in source.warnings:
        print(printable(f"warning: {warning}"))
    with progress("writing shards") as on_progress:
        written = write_shards(
            source, out, version=__version__, size_mb=args.size_mb, num_workers=args.workers, on_progress=on_progress
        )
    print(printable(_summary(written, out), multiline=True))
    return 0


def _flags(check: DataCheck) -> tuple[Flag, ...]:
    return tuple(flag for flag in check.flags if flag.name in check.shard_flags)


def _source(args: argparse.Namespace, root: Path) -> Any:
    """What goes into the shards of a data folder."""
    if args.classes is not None:
        raise UsageError("--classes is for WebDataset tars; class folders have the names of their classes")
    checks = data_checks()
    title = layout_of(args.root, args.kind, vars(args))
    if not checks[title].shards or root.suffix.lower() in _TABLES:
        folder = root.parent if root.is_file() else root
        raise ValueError(
            f"{args.root}: a table of labels cannot be sharded: {_CAN_BE}. Train from the table and its images: "
            f"scalablevit fit --config train_multi_label --data.root {shlex.quote(str(folder))}"
        )
    if not checks[title].recognizes and _has_images_alone(root):
        raise ValueError(
            f"{args.root}: its images lie in no class folders, so they cannot be sharded: {_CAN_BE}. Move them to "
            f"{root}/CLASS/*.jpg; or pretrain without labels, which reads the plain folder: "
            f"scalablevit fit --config pretrain_masked --data.root {shlex.quote(str(root))}"
        )
    flags = {title: _flags(check) for title, check in checks.items() if check.shards}
    given = given_arguments(args, flags, title, f"{args.root} looks like {title}; --kind names another layout")
    return load(checks[title].shards)(root, **given)


def _has_images_alone(root: Path) -> bool:
    """Whether a folder holds images, and no folders."""
    from scalablevit.data.find_images import has_image_suffix

    if not root.is_dir():
        return False
    entries = [entry for entry in root.iterdir() if not entry.name.startswith(".")]
    return any(has_image_suffix(entry.name) for entry in entries) and not any(entry.is_dir() for entry in entries)


def _summary(written: Any, out: Path) -> str:
    lines = [f"shards      {out} ({written.index.task})"]
    for name, part in written.index.parts.items():
        shards = len(part.shards)
        lines.append(
            f"{name:<12}{part.samples:,} samples in {shards:,} shard{'s' if shards != 1 else ''}, {part.bytes:,} bytes"
        )
    if written.kept:
        lines.append(f"kept        {written.kept:,} shards of an earlier run")
    if written.unreadable:
        count = len(written.unreadable)
        lines.append(f"unreadable  {count:,} files, which are stored as empty ones and skipped in training:")
        lines += [f"  - {file}" for file in written.unreadable[:_MOST_LISTED]]
        lines += [f"  ... and {count - _MOST_LISTED:,} more"] if count > _MOST_LISTED else []
    lines.append(f"checked     counts and hashes of all shards; train with --data.root {out}")
    return "\n".join(lines)


def _workers(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"it must be a number of processes or auto, got {text!r}")
    return number
