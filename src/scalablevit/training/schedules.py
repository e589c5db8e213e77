"""Learning-rate schedules: pure functions from an optimizer step to a factor of the peak learning rate.

Step 0 is the first. Warm-up rises in a straight line from `warmup_factor` at step 0 to 1 at step
`warmup_steps`. Cosine and poly then fall from 1 at `warmup_steps` to `min_factor` at `total_steps`, the step
after the last.
"""

import math
from collections.abc import Sequence


def warmup(step: int, *, warmup_steps: int, warmup_factor: float) -> float:
    """Factor of the warm-up at `step` < `warmup_steps`."""
    return warmup_factor + (1.0 - warmup_factor) * step / warmup_steps


def progress(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """How much of the time after the warm-up has passed, in [0, 1]."""
    return min(1.0, max(0.0, (step - warmup_steps) / max(1, total_steps - warmup_steps)))


def cosine(step: int, *, total_steps: int, warmup_steps: int, warmup_factor: float, min_factor: float) -> float:
    """Half a cosine from 1 to `min_factor`, after the warm-up. Source: arXiv:1608.03983, no restarts."""
    if step < warmup_steps:
        return warmup(step, warmup_steps=warmup_steps, warmup_factor=warmup_factor)
    t = progress(step, warmup_steps=warmup_steps, total_steps=total_steps)
    return min_factor + (1.0 - min_factor) * 0.5 * (1.0 + math.cos(math.pi * t))


def poly(
    step: int, *, total_steps: int, warmup_steps: int, warmup_factor: float, min_factor: float, power: float
) -> float:
    """(1 - t) ** `power` from 1 to `min_factor`, after the warm-up. Source: DeepLab, arXiv:1606.00915."""
    if step < warmup_steps:
        return warmup(step, warmup_steps=warmup_steps, warmup_factor=warmup_factor)
    t = progress(step, warmup_steps=warmup_steps, total_steps=total_steps)
    return min_factor + (1.0 - min_factor) * (1.0 - t) ** power


def multistep(step: int, *, warmup_steps: int, warmup_factor: float, milestones: Sequence[int], gamma: float) -> float:
    """`gamma` to the number of `milestones` (in steps) that have passed; the warm-up multiplies it."""
    factor = gamma ** sum(step >= milestone for milestone in milestones)
    if step < warmup_steps:
        factor *= warmup(step, warmup_steps=warmup_steps, warmup_factor=warmup_factor)
    return factor


def constant(step: int, *, warmup_steps: int, warmup_factor: float) -> float:
    """1, after the warm-up."""
    if step < warmup_steps:
        return warmup(step, warmup_steps=warmup_steps, warmup_factor=warmup_factor)
    return 1.0
