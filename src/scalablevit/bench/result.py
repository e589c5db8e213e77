"""The result of a measurement as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table(result: Mapping[str, Any]) -> str:
    """Format a result as a table."""
    labels = [label for cell in result["cells"] for label in cell["contenders"]]
    width = max(map(len, labels), default=0) + 2
    memory = "   peak GiB" if result["memory"] else ""
    lines = [
        f"{result['device']}, torch {result['torch']}, {result['threads']} threads, commit {result['commit']}, "
        f"{result['date']}"
    ]
    for cell in result["cells"]:
        size = f"{cell['size'][0]} x {cell['size'][1]}"
        lines.append(f"\n{cell['task']}, {cell['precision']}, {cell['mode']}, batch {cell['batch']}, {size} px")
        lines.append(f"{'':{width}}{'median ms':>11}{'quartiles ms':>20}{'images/s':>11}{'time / first':>14}{memory}")
        lines += [f"{label:{width}}{_row(found)}" for label, found in cell["contenders"].items()]
    lines.append(f"\nmedians of {result['rounds']} rounds in turns; time / first: how many times as fast the first is")
    return "\n".join(lines)


def _row(found: Mapping[str, Any]) -> str:
    """Format a contender's figures, or the note that replaces them."""
    if "note" in found:
        return f"   {found['note']}"
    low, median, high = (1000 * found["spread"][key] for key in ("quartile_1", "median", "quartile_3"))
    ratio = "" if found["time_ratio"] is None else f"{found['time_ratio']:.2f}"
    row = f"{median:11.2f}{f'{low:.2f} - {high:.2f}':>20}{found['images_per_second']:11.1f}{ratio:>14}"
    memory = found.get("memory", {})
    if "note" in memory:
        return f"{row}   {memory['note']}"
    return row + (f"{memory['peak_bytes'] / 2**30:11.2f}" if memory else "")
