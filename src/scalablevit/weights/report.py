"""Report what was loaded, and why a checkpoint does not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from scalablevit.abridged import abridged
from scalablevit.backbone import VARIANTS


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Attributes:
        source: where the weights came from.
        variant: name of the variant the checkpoint holds, or a description of its widths and depths.
        matched: names of the model's parameters that were copied as they were.
        adapted: name -> what was changed to make it fit.
        fresh: names that the checkpoint does not hold, which keep their initialisation.
        ignored: entries of the checkpoint that the model has no place for.
        warning: why less was taken than the names of the checkpoint promise, and what to do; empty: all is well.
        entry: of the checkpoint, the one with the weights, such as "model"; empty: it is a bare state dict.
        other_entries: further ones with weights, such as averaged ones ("model_ema"), which were not taken.
    """

    source: str
    variant: str
    matched: list[str] = field(default_factory=list)
    adapted: dict[str, str] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    warning: str = ""
    entry: str = ""
    other_entries: list[str] = field(default_factory=list)

    def renamed(self, names: Mapping[str, str]) -> LoadReport:
        """Return the report with the model's parameters under other names; `ignored` are the checkpoint's."""
        return replace(
            self,
            matched=[names[key] for key in self.matched],
            adapted={names[key]: what for key, what in self.adapted.items()},
            fresh=[names[key] for key in self.fresh],
        )

    def __str__(self) -> str:
        lines = [f"loaded {self.source} ({self.variant}): {len(self.matched)} tensors matched"]
        lines += [f"  warning  {self.warning}"] if self.warning else []
        lines += [f"  adapted  {name}: {what}" for name, what in self.adapted.items()]
        if self.other_entries:
            lines.append(
                f"  entry    {self.entry or 'the top of the checkpoint'}; it also holds weights in "
                f"{abridged(self.other_entries, 4)}: to take those, pass entry={self.other_entries[0]!r} "
                f"(fit: --model.weights FILE#{self.other_entries[0]})"
            )
        elif self.entry not in ("", "model", "state_dict", "model_state_dict", "module"):
            lines.append(f"  entry    {self.entry}: the checkpoint holds no other weights")
        for word, names in (("fresh  ", self.fresh), ("ignored", self.ignored)):
            if names:
                lines.append(f"  {word}  {abridged(names, 6)}")
        return "\n".join(lines)


def misfit(source: str, theirs: str, ours: str, problems: list[str]) -> str:
    """Say why a checkpoint does not fit the model, and how to build one that it fits."""
    lines = [f"{source} does not fit; nothing was loaded."]
    if theirs != ours:
        lines.append(f"The checkpoint holds {theirs}, the model is {ours}.")
        if "scaled-value" in theirs and "scaled-value" not in ours:
            lines.append("Build the model with scale_value=True.")
        elif "scaled-value" in ours and "scaled-value" not in theirs:
            lines.append("Build the model with scale_value=False.")
        elif theirs in VARIANTS:
            lines.append(f"Build the model as {theirs!r} (fit: --model.variant {theirs}), or load other weights.")
    if all(problem.startswith("the checkpoint lacks norm.") for problem in problems):
        lines.append("It comes from a dense task; pass fresh_head=True to keep the model's own final norm.")
    lines += [f"  {problem}" for problem in problems[:5]]
    if len(problems) > 5:
        lines.append(f"  and {len(problems) - 5} more")
    return "\n".join(lines)
