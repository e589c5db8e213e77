"""Write the tables of docs/performance.md, and its plot, from what was measured.

    python benchmarks/write_performance.py

Between `<!-- table: NAME -->` and `<!-- end -->` stands what `benchmarks/results` gives; a test holds the page to it.
The rest of the page is written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gpu import OURS, agree_lines, fallback_lines, kernels_conditions, left_out_lines
from linear_cost import series
from measure_cpu import COMMANDS
from predict_throughput import summary
from prepared import speeds
from scalablevit.safe_write import write_atomically

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results"
PAGE = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "images" / "linear_cost.png"
PLAIN = "plain:scalablevit_small"
GPU = "python benchmarks/gpu.py --minutes 8 --output benchmarks/results/gpu.json"
MODES = {"eager": "eager", "compile": "compiled", "graphs": "CUDA graphs", "optimized": "prepared"}
_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Result = Mapping[str, Any]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured(result: Result, command: str) -> str:
    """When, where, with what and how."""
    threads = f" ({result['threads']} threads)" if result.get("device_type") == "cpu" else ""
    return (
        f"Measured {result['date'][:10]} at commit {result['commit']} on {result['device']}{threads}, "
        f"torch {result['torch']}, timm {result['timm']}:\n\n```sh\n{command}\n```"
    )


def network(label: str, mode: str) -> str:
    """A contender, for people."""
    name, _, own = label.partition("@")
    return f"`{name}`, {MODES[own or mode]}"


def throughput(result: Result, command: str) -> str:
    """A row a contender; speeds as multiples of the plain definition's, and its own cells' conditions above."""
    parts = []
    for cell in result["cells"]:
        found = cell["contenders"]
        base = next(
            (x["spread"]["median"] for label, x in found.items() if label.startswith(PLAIN) and "spread" in x), None
        )
        header = ["", "median", "quartiles", "images/s", "of the plain definition's speed"]
        header += ["peak memory"] if result["memory"] else []
        rows = []
        for label, figures in found.items():
            row = [network(label, cell["mode"])]
            if "note" in figures:
                rows.append([*row, figures["note"], *[""] * (len(header) - 2)])
                continue
            low, median, high = (figures["spread"][key] for key in ("quartile_1", "median", "quartile_3"))
            row += [f"{1000 * median:.0f} ms", f"{1000 * low:.0f} – {1000 * high:.0f}"]
            row += [f"{figures['images_per_second']:.1f}", "" if base is None else f"{base / median:.2f}"]
            if result["memory"]:
                memory = figures.get("memory", {})
                row.append(f"{memory['peak_bytes'] / 2**30:.2f} GiB" if "peak_bytes" in memory else "")
            rows.append(row)
        height, width = cell["size"]
        what = "Training step" if cell["task"] == "training" else "Inference"
        parts.append(f"{what}, {cell['precision']}, batch {cell['batch']}, {height} × {width} pixels:")
        parts.append(markdown(header, rows))
    return "\n\n".join([*parts, measured(result, command)])


def linear_cost(result: Result, command: str) -> str:
    """A row a size, with the powers below."""
    labels = list(result["exponents"])
    values = {label: series(result, label) for label in labels}
    header = ["side"] + [f"{what}, `{label}`" for label in labels for what in ("time", "memory")]
    rows = []
    for cell in result["cells"]:
        pixels = cell["size"][0] * cell["size"][1]
        row = [f"{cell['size'][0]}"]
        for label in labels:
            found = values[label]
            if pixels not in found["pixels"]:
                row += ["–", "–"]
                continue
            i = found["pixels"].index(pixels)
            row += [f"{1000 * found['seconds'][i]:.0f} ms", f"{found['bytes'][i] / 2**20:.0f} MiB"]
        rows.append(row)
    powers = [result["exponents"][label][what] for label in labels for what in ("time", "memory")]
    rows.append(["power of the pixels", *("–" if power is None else f"{power:.2f}" for power in powers)])
    parts = [markdown(header, rows)]
    if result["device_type"] == "cpu":
        parts.append(f"![Time and memory over the number of pixels]({PLOT.relative_to(PAGE.parent)})")
    return "\n\n".join([*parts, measured(result, command)])


def prepared(result: Result, command: str) -> str:
    """A row a way to run the network, with columns for each number of threads."""
    cells = result["cells"]
    header = [""]
    for cell in cells:
        threads = f"{cell['threads']} thread{'s' if cell['threads'] > 1 else ''}"
        header += [f"median, {threads}", f"of the plain definition's speed, {threads}"]
    header += ["largest difference of logits", "same class"]
    rows = []
    for name, first in cells[0]["contenders"].items():
        row = [name]
        for cell in cells:
            median = cell["contenders"][name]["spread"]["median"]
            row += [f"{1000 * median:.0f} ms", f"{speeds(cell)[name]:.2f}"]
        rows.append([*row, f"{first['difference']:.1e}", f"{first['same_class']:.0%}"])
    unit = result["native_bfloat16"] or "no native bf16"
    clock = "" if result["clock"] == "wall" else ", times of the processor, as others computed too"
    what = f"`{result['variant']}`, batch {result['batch']}, {result['size']} × {result['size']} pixels, {unit}{clock}:"
    return "\n\n".join([what, markdown(header, rows), measured(result, command)])


def predicting(result: Result, command: str) -> str:
    """A row a way to predict a folder."""
    rows = [
        [way, f"{found['images_per_second']:.1f}", f"{found['outside']:.1%}", f"{found['speed']:.2f}"]
        for way, found in summary(dict(result)).items()
    ]
    header = ["", "images/s", "time outside of the network", "of the speed before"]
    threads = f"{result['threads']} thread{'s' if result['threads'] > 1 else ''} on {result['cores']} cores"
    what = f"{result['images']} photographs through `{result['variant']}` at {result['size']} pixels, {threads}:"
    return "\n\n".join([what, markdown(header, rows), measured(result, command)])


def traffic(result: Result, command: str) -> str:
    """A row a network, for each task that was counted."""
    parts = []
    header = ["", "generated kernels", "called operators", "GB", "MB an image", "GB read across the layout"]
    for task, found in ((task, result[task]) for task in ("inference", "training") if task in result):
        rows = [
            [
                f"`{label}`",
                f"{counted['generated']}",
                f"{sum(counted['called'].values())}",
                f"{counted['bytes'] / 1e9:.1f}",
                f"{counted['bytes_per_image'] / 1e6:.0f}",
                f"{counted['transposed_bytes'] / 1e9:.2f}",
            ]
            for label, counted in found.items()
        ]
        what = {"inference": "Inference", "training": "Forward and backward"}[task]
        size = f"{result['size']} × {result['size']}"
        parts.append(f"{what}, bf16, batch {result['batch']}, {size} pixels, compiled for an {result['target']}:")
        parts.append(markdown(header, rows))
    when = f"Counted, not timed, {result['date'][:10]} at commit {result['commit']}, torch {result['torch']}, "
    later = "".join(f" ({part['what']}: at commit {part['commit']})" for part in result.get("parts", []))
    return "\n\n".join([*parts, f"{when}timm {result['timm']}{later}:\n\n```sh\n{command}\n```"])


def draw(result: Result, path: Path) -> None:
    """Time and memory over pixels, both axes logarithmic, with a straight line of power 1 from ours at the left."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8, 3.2), dpi=90, layout="constrained")
    for axis, key, scale, title in zip(axes, ("seconds", "bytes"), (1000, 2**-20), ("ms", "MiB"), strict=True):
        for label, style in zip(result["exponents"], ("o-", "s--"), strict=False):
            values = series(result, label)
            axis.plot(values["pixels"], [value * scale for value in values[key]], style, label=label, markersize=4)
        first = series(result, next(iter(result["exponents"])))
        line = [first[key][0] * scale * pixels / first["pixels"][0] for pixels in first["pixels"]]
        axis.plot(first["pixels"], line, color="0.7", linewidth=1, zorder=0, label="linear")
        axis.set(xscale="log", yscale="log", xlabel="pixels", ylabel=title)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    write_atomically(path, lambda file: figure.savefig(file, format="png", metadata={"Software": None}))
    pyplot.close(figure)


def gpu_section(name: str) -> Callable[[Result, str], str]:
    """From gpu.json to the table of one of its sections."""

    def write(result: Result, command: str) -> str:
        if result["smoke"]:
            raise ValueError("gpu.json is of a smoke run, which measures nothing; remove it, or measure on a GPU")
        section = result["sections"].get(name)
        if section is None:
            return f"Not measured in the run of {result['date'][:10]}."
        is_empty = not (section.get("rows") or section.get("best") or section.get("cases"))
        parts = ["Nothing of it was measured."] if is_empty else [GPU_TABLES[name](section)]
        trouble = [f"Not finished: {section[key]}" for key in ("error", "note") if key in section]
        if trouble or section["fallbacks"]:
            parts.append(bullets([*trouble, *fallback_lines(section)]))
        return "\n\n".join([*parts, measured(result, command)])

    return write


def bullets(lines: list[str]) -> str:
    """A list; capitals are for the terminal."""
    loud = re.compile(r"^(WRONG|FELL BACK|FAILED)\b")
    return "\n".join(f"- {loud.sub(lambda word: f'**{word[0].lower()}**', line)}" for line in lines)


def agree(section: Result) -> str:
    """What holds, what does not, and what was not reached."""
    return bullets(agree_lines(dict(section)))


def kernels(section: Result) -> str:
    """A row for each kernel, stage and direction."""
    failed = [
        f"FAILED {row['op']}, {row['stage']}, {row['dtype']}: {row['error']}"
        for row in section["rows"]
        if "error" in row
    ]
    rows = [
        [
            f"{row['op']}, {row['stage']}, {row['direction']}, {row['dtype']}",
            f"{1e6 * row['seconds']:.0f} µs",
            f"{1e6 * row['floor_seconds']:.0f} µs",
            f"{row['over_floor']:.2f}",
            f"{1e6 * row['torch_seconds']:.0f} µs",
            f"{1e6 * row['called_seconds']:.0f} µs",
        ]
        for row in section["rows"]
        if "error" not in row
    ]
    header = ["kernel", "launch", "floor", "launch over floor", "PyTorch's attention", "called in eager mode"]
    parts = [f"Conditions: {kernels_conditions(dict(section))}.", markdown(header, rows)]
    return "\n\n".join([*parts, bullets(failed)] if failed else parts)


def rates(section: Result) -> str:
    """Best of the batch sizes, the targets, and who is missing."""
    rows = []
    for label, found in section["best"].items():
        ratio = section["ratios"].get(label, {})
        goals = [f"{ratio[key]}" for key in ("least", "aim") if ratio.get(key) is not None]
        ours = f"{ratio['ratio']:.2f}" if ratio else ""
        if goals:
            ours += " (met)" if ratio["ratio"] >= ratio["least"] else " (missed)"
        rows.append(
            [
                network(label, "compile"),
                f"{found['images_per_second']:.0f}",
                f"{found['batch']}",
                ours,
                ", ".join(goals),
            ]
        )
    header = ["", "images/s", "best batch", f"`{OURS}` is so many times as fast", "wanted at least, aimed at"]
    missing = left_out_lines(dict(section))
    parts = [markdown(header, rows)]
    return "\n\n".join([*parts, bullets(missing)] if missing else parts)


GPU_TABLES = {"agree": agree, "kernels": kernels, "inference": rates, "training": rates}
# name of a table -> (JSON, how it is written, command)
TABLES: dict[str, tuple[str, Callable[[Result, str], str], str]] = {
    "cpu-inference": ("cpu-inference.json", throughput, COMMANDS["inference"]),
    "cpu-training": ("cpu-training.json", throughput, COMMANDS["training"]),
    "prepared-cpu": (
        "prepared-amd-epyc.json",
        prepared,
        "python benchmarks/prepared.py --threads 1 --rounds 5 --no-compile --clock cpu",
    ),
    "predict-throughput-cpu": (
        "predict_throughput-amd-epyc.json",
        predicting,
        "python benchmarks/predict_throughput.py --images 200 --rounds 2 --threads 1",
    ),
    "linear-cost-cpu": ("linear_cost-cpu.json", linear_cost, COMMANDS["linear-cost"]),
    "linear-cost-cuda": (
        "linear_cost-cuda.json",
        linear_cost,
        "python benchmarks/linear_cost.py --device cuda --precision bf16 --rounds 20",
    ),
    "traffic": ("traffic.json", traffic, "python benchmarks/traffic.py"),
    **{f"gpu-{name}": ("gpu.json", gpu_section(name), GPU) for name in GPU_TABLES},
}


def filled(page: str, results: Path = RESULTS) -> str:
    """The page with every table as the results give it.

    Raises:
        ValueError: a marker names no table, or a result is none.
    """

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in TABLES:
            raise ValueError(f"there is no table {name!r}; choose from {', '.join(TABLES)}")
        file, write, command = TABLES[name]
        path = results / file
        if path.is_file():
            text = write(json.loads(path.read_text()), command)
        else:
            text = f"Not measured yet. To do so:\n\n```sh\n{command}\n```"
        return f"{match[1]}\n{text}\n\n{match[3]}"

    return _BLOCK.sub(block, page)


def main() -> int:
    """Write the page and the plot."""
    try:
        text = filled(PAGE.read_text())
    except ValueError as error:
        print(f"not written: {error}", file=sys.stderr)
        return 1
    write_atomically(PAGE, text.encode())
    costs = RESULTS / "linear_cost-cpu.json"
    if costs.is_file():
        draw(json.loads(costs.read_text()), PLOT)
    print(f"written: {PAGE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
