"""`scalablevit info`."""

import argparse
from pathlib import Path
from typing import Any

from scalablevit.abridged import abridged
from scalablevit.cli.importing import importing
from scalablevit.cli.terminal import print_json, show_warnings, tell
from scalablevit.cli.trained_run import is_run, not_a_run, run_metadata, variant_of
from scalablevit.cli.words import Parser, parser_of
from scalablevit.tasks import Model, TaskEntry, entries, load

SUMMARY = "Print parameters, FLOPs and the sizes of the feature maps"


def _models() -> dict[str, tuple[TaskEntry, Model]]:
    return {model.name: (entry, model) for entry in entries().values() for model in entry.models}


def parser() -> Parser:
    """The command's arguments."""
    found = parser_of("info", SUMMARY)
    models = list(_models())
    found.add_argument(
        "variant",
        nargs="?",
        help="such as scalablevit_small, a name of timm's registry, or a run folder (default: a line for each of ours)",
    )
    found.add_argument(
        "--model", choices=models, default=models[0], metavar="MODEL",
        help=f"{', '.join(models)} (default: {models[0]})",
    )  # fmt: skip
    found.add_argument(
        "--size",
        type=int,
        nargs="+",
        metavar="N",
        help="image size in pixels: side, or height width (default: as published)",
    )
    found.add_argument("--classes", type=int, metavar="N", help="number of classes (default: as published)")
    found.add_argument(
        "--scale-value", action=argparse.BooleanOptionalAction,
        help="the scaled-value form of SSA (default: as published: only scalablevit_small in dense tasks)",
    )  # fmt: skip
    found.add_argument("--json", action="store_true", help="print JSON")
    return found


def main(words: list[str]) -> int:
    """Run the command."""
    args = parser().parse_args(words)
    show_warnings()
    if args.variant is not None and is_run(args.variant):
        args = _of_run(args)
    entry, model = _models()[args.model]
    size = args.size or model.size
    if len(size) > 2:
        raise ValueError(f"--size takes a side, or height and width, got {size}")
    height, width = size[0], size[-1]
    if min(height, width) < 1:
        raise ValueError(f"--size must be at least 1 pixel, got {size}")
    with importing():
        from scalablevit.backbone import VARIANTS
        from scalablevit.complexity import describe
        from scalablevit.networks import check_network_name

        parts = load(entry.cost)
    if args.variant is not None and args.variant not in VARIANTS:
        if Path(args.variant).exists():
            raise ValueError(not_a_run(args.variant))
        check_network_name(args.variant)
    num_classes = model.num_classes if args.classes is None else args.classes
    options = {**getattr(args, "options", {}), "num_classes": num_classes, "scale_value": args.scale_value}
    costs = {
        variant: describe(parts(model.name, variant, height, width, **options), height, width)
        for variant in ([args.variant] if args.variant else VARIANTS)
    }
    if args.json:
        print_json(costs, indent=2)
        return 0
    is_first = args.model == next(iter(_models()))
    _print_table(costs, f"{'' if is_first else f' of {args.model}'} for {height} x {width} pixels")
    if args.variant:
        _print_stages(costs[args.variant])
    print("\nmultiply-adds: of convolutions and linear layers, as papers print FLOPs;")
    print("FLOPs: with attention products, a multiply-add counted as two operations")
    if model.note:
        print(model.note)
    _print_measured_forms()
    return 0


def _of_run(args: argparse.Namespace) -> argparse.Namespace:
    """The same question about the network of a run."""
    trained = run_metadata(args.variant)
    entry, metadata = entries()[trained.task], trained.metadata
    names = metadata.get("class_names", [])
    tell(f"{args.variant}: {trained.task} of {len(names)} classes ({abridged(names)})")
    options = metadata.get("model_args", {})
    return argparse.Namespace(
        variant=variant_of(trained),
        model=metadata.get(entry.model_key, entry.models[0].name),
        size=args.size,
        classes=args.classes or len(names) or None,
        scale_value=options.get("scale_value") if args.scale_value is None else args.scale_value,
        json=args.json,
        options=options,
    )


def _print_table(costs: dict[str, Any], what: str) -> None:
    wide = max(20, *(len(name) + 2 for name in costs))
    print(f"{'variant':<{wide}}{'parameters':>12}{'multiply-adds':>16}{'FLOPs':>10}  {what}")
    for name, cost in costs.items():
        print(
            f"{name:<{wide}}{cost['parameters'] / 1e6:>10.2f} M{cost['multiply_adds'] / 1e9:>14.2f} G"
            f"{cost['flops'] / 1e9:>8.2f} G"
        )


def _print_stages(cost: dict[str, Any]) -> None:
    print()
    for i, stage in enumerate(cost["stages"], 1):
        blocks = f"   {stage['blocks']} blocks" if "blocks" in stage else ""
        print(
            f"stage {i}   stride {stage['stride']:>2}   {stage['channels']:>4} channels   "
            f"{stage['height']} x {stage['width']} tokens{blocks}"
        )
    for path in cost.get("attention", []):
        print(f"{path['blocks']} x {path['attention']}: {path['implementation']}, as {path['reason']}")


def _print_measured_forms() -> None:
    """What was measured of our kernels beside PyTorch on devices of this machine, if anything was."""
    with importing():
        from scalablevit.ops.measured import known
    for environment, cases in known().items():
        print(f"\nmeasured on {environment}:")
        for case, times in sorted(cases.items()):
            faster = "our kernel" if times["triton"] <= times["torch"] else "PyTorch"
            ours, theirs = (f"{times[form] * 1e3:.3f} ms" for form in ("triton", "torch"))
            print(f"{case}: {faster} runs (our kernel {ours}, PyTorch {theirs})")
