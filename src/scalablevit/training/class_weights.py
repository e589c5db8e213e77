"""From a recipe's class weights to a factor for each class."""

import unicodedata
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scalablevit.abridged import abridged


def weights_of_classes(
    given: str | Sequence[float] | Mapping[str, float],
    class_names: Sequence[str],
    counts: Sequence[int],
    *,
    key: str = "model.class_weights",
) -> Tensor:
    """Turn the recipe's class weights into a factor for each class, with mean 1 over what is counted.

    Args:
        given: "balanced" (each class counts the same in total, and one without a count weighs as the rarest of the
            others), or weights by class index or by class name; classes that are not named get 1.
        class_names: by class index.
        counts: how much there is of each class to train on, such as images or pixels.
        key: of the recipe, for errors.

    Returns:
        (K,) float32.

    Raises:
        ValueError: names no class, another number of weights, or one that is negative or not finite.
    """
    numbers = torch.tensor(counts, dtype=torch.float64)
    if isinstance(given, str):
        if given != "balanced":
            raise ValueError(f"{key} must be 'balanced', a list, an object or null, got {given!r}")
        # What was not counted may still occur, where counts are of a sample: it weighs as the rarest that was.
        rarest = numbers[numbers > 0].min() if bool((numbers > 0).any()) else 1.0
        weights = 1.0 / numbers.where(numbers > 0, rarest)
    elif isinstance(given, Mapping):
        # Accents of names typed on macOS stand apart from their letters.
        given = {unicodedata.normalize("NFC", name): weight for name, weight in given.items()}
        names = [unicodedata.normalize("NFC", name) for name in class_names]
        if unknown := [name for name in given if name not in names]:
            raise ValueError(
                f"{key} names {abridged(map(repr, unknown))}, which are no classes; they are "
                f"{abridged(map(repr, class_names), 8)}"
            )
        weights = torch.tensor([float(given.get(name, 1.0)) for name in names], dtype=torch.float64)
    else:
        weights = torch.tensor([float(weight) for weight in given], dtype=torch.float64)
    if len(weights) != len(class_names):
        raise ValueError(f"{key} needs {len(class_names)} weights, one per class, got {len(weights)}")
    if not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()) or not bool((weights * numbers).any()):
        raise ValueError(f"{key} must be at least 0, and one above 0, got {given}")
    return (weights * numbers.sum() / (weights * numbers).sum()).float()
