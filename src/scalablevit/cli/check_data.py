"""`scalablevit check-data`."""

from scalablevit.cli.errors import UsageError
from scalablevit.cli.progress import progress
from scalablevit.cli.terminal import print_json, show_warnings
from scalablevit.cli.trained_run import is_run
from scalablevit.cli.words import Parser, add_flags, given_arguments, parser_of
from scalablevit.printable import printable
from scalablevit.tasks import data_checks, entries, layout_of, load

SUMMARY = "Check a data folder and report every bad file"


def parser() -> Parser:
    """The command's arguments."""
    found = parser_of("check-data", SUMMARY)
    checks = data_checks()
    found.add_argument("root", help=f"data folder ({'; '.join(checks)}), or a file of COCO annotations")
    kinds = [check.kind for check in checks.values()]
    found.add_argument("--kind", choices=kinds, help="layout of the data (default: detected)")
    found.add_argument(
        "--val-fraction", type=float, default=0.1, metavar="X",
        help="share set aside for validation if there is no validation data (default: 0.1)",
    )  # fmt: skip
    found.add_argument("--json", action="store_true", help="print JSON")
    for title, check in checks.items():
        add_flags(found, title, check.flags)
    return found


def main(words: list[str]) -> int:
    """Run the command."""
    from scalablevit.data.stream.opened import task_of

    args = parser().parse_args(words)
    show_warnings()
    checks = data_checks()
    if is_run(args.root):
        raise UsageError(f"{args.root} is a run, not data; its recipe.yaml names its data as data.root")
    task = task_of(args.root)
    title = layout_of(args.root, args.kind or (None if task is None else entries()[task].check.kind), vars(args))
    flags = {title: check.flags for title, check in checks.items()}
    given = given_arguments(args, flags, title, f"{args.root} looks like {title}; --kind names another layout")
    check = load(checks[title].function)
    with progress("checking images") as on_progress:
        report = check(args.root, val_fraction=args.val_fraction, on_progress=on_progress, **given)
    if args.json:
        print_json(report.to_dict(), indent=2)
    else:
        print(printable(report.to_text(), multiline=True))
    return 0 if report.ok else 1
