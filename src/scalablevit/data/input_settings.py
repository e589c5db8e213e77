"""Settings of a network's input, such as the size of pictures and the scale of their pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

# By channels of the network's input. For grayscale: ImageNet's over the three colours.
_IMAGENET: dict[str, dict[int, tuple[float, ...]]] = {
    "mean": {3: IMAGENET_DEFAULT_MEAN, 1: (0.449,)},
    "std": {3: IMAGENET_DEFAULT_STD, 1: (0.226,)},
}


@dataclass(frozen=True)
class InputSettings:
    """What a network was trained to be fed: a frozen dataclass that travels with the weights, as JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Settings as JSON takes them; `from_dict` reads them back."""
        return {name: _with_lists(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: a key is missing or unknown, or a value is out of its range.
        """
        expected, given = {field.name for field in fields(cls)}, set(settings)
        if expected != given:
            raise ValueError(
                f"preprocessing needs exactly the keys {sorted(expected)}: "
                f"missing {sorted(expected - given)}, unknown {sorted(given - expected)}"
            )
        try:
            return cls(**settings)
        except TypeError as error:
            raise ValueError(f"preprocessing has a value of the wrong type: {dict(settings)}") from error


def check_mean_std(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise a ValueError unless each has one value (grayscale) or three (RGB), and deviations are above 0."""
    if len(mean) not in (1, 3) or len(mean) != len(std):
        raise ValueError(f"mean and std need one value each (grayscale) or three each (RGB), got {mean} and {std}")
    if min(std) <= 0:
        raise ValueError(f"std must be above 0, got {std}")


def per_channel(name: str, values: Sequence[float] | None, in_chans: int) -> tuple[float, ...]:
    """A mean or deviation for each channel of pictures in 0..1.

    Args:
        name: "mean" or "std".
        values: None: ImageNet's.
        in_chans: channels of the network's input, 3 (RGB) or 1 (grayscale).

    Raises:
        ValueError: another number of channels, or of values.
    """
    if in_chans not in _IMAGENET[name]:
        raise ValueError(
            f"in_chans must be 3 (RGB) or 1 (grayscale) for picture files, got {in_chans}; for other channels write a "
            "LightningDataModule of your own"
        )
    if values is None:
        return _IMAGENET[name][in_chans]
    if len(values) != in_chans:
        raise ValueError(f"{name} needs {in_chans} value(s), one per channel of in_chans, got {list(values)}")
    return tuple(values)


def height_and_width(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width) from one number or both.

    Args:
        name: of the argument, for the error.
        size: in pixels.

    Raises:
        ValueError: neither one number nor two.
    """
    if isinstance(size, int):
        return size, size
    if len(size) != 2:
        raise ValueError(f"{name} must be one number or [height, width], got {list(size)}")
    return size[0], size[1]


def _with_lists(value: Any) -> Any:
    return [_with_lists(item) for item in value] if isinstance(value, tuple) else value
