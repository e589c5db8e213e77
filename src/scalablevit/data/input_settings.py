"""Settings of a network's input, such as the size of images and the scale of their pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from scalablevit.data.bands import MOST_BANDS
from scalablevit.data.pixel_values import checked_value_range

# By channels of the network's input. For grayscale: ImageNet's over the three colours.
_IMAGENET: dict[str, dict[int, tuple[float, ...]]] = {
    "mean": {3: IMAGENET_DEFAULT_MEAN, 1: (0.449,)},
    "std": {3: IMAGENET_DEFAULT_STD, 1: (0.226,)},
}
_LONGEST_SIDE = 2**14
"""Pixels: whoever sends weights with a larger size of images than this asks for more memory than machines have."""
MOST_PIXELS = 2**25
"""Of an image that is resized for the network: a float image of this size takes 400 MB."""
_SIDES = ("image_size", "min_size", "short_side")


@dataclass(frozen=True)
class InputSettings:
    """What a network was trained to be fed: a frozen dataclass that travels with the weights, as JSON.

    Args:
        value_range: values that become black and white, in grayscale of more than 8 bits a pixel; None: see
            `read_image`.

    Raises:
        ValueError: a value is out of its range.
    """

    value_range: tuple[float, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value_range", checked_value_range(self.value_range))

    def to_dict(self) -> dict[str, Any]:
        """Settings as JSON takes them; `from_dict` reads them back."""
        settings = {name: _with_lists(value) for name, value in asdict(self).items()}
        if self.value_range is None:  # as weights of earlier versions have it
            del settings["value_range"]
        return settings

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: a key is missing or unknown, or a value is of the wrong type or out of its range.
        """
        if not isinstance(settings, Mapping):
            raise ValueError(f"preprocessing must be an object with keys, got {_cut(settings)}")
        expected, given = {item.name for item in fields(cls)}, set(settings)
        later = {"value_range"}  # which weights of earlier versions lack
        if not expected - later <= given <= expected:
            raise ValueError(
                f"preprocessing needs exactly the keys {sorted(expected)}: "
                f"missing {sorted(expected - later - given)}, unknown {_cut(sorted(map(str, given - expected)))}"
            )
        for name, kind in get_type_hints(cls).items():
            value = settings.get(name)
            if not _is_of(value, kind):
                raise ValueError(f"preprocessing has a value of the wrong type: {name} {_cut(value)}")
            if name in _SIDES and value is not None:
                longest = max([value] if isinstance(value, int) else value, default=0)
                if longest > _LONGEST_SIDE:
                    raise ValueError(f"{name} must be at most {_LONGEST_SIDE:,} pixels, got {_cut(value)}")
        return cls(**settings)


def check_mean_std(mean: Sequence[float], std: Sequence[float], *, any_bands: bool = False) -> None:
    """Check that each has one value (grayscale) or three (RGB), and that deviations are above 0.

    Args:
        mean: of each channel.
        std: likewise.
        any_bands: another number of channels is right too.

    Raises:
        ValueError: they are not.
    """
    if any_bands and len(mean) == len(std) and 1 <= len(mean) <= MOST_BANDS:
        pass
    elif len(mean) not in (1, 3) or len(mean) != len(std):
        raise ValueError(f"mean and std need one value each (grayscale) or three each (RGB), got {mean} and {std}")
    if min(std) <= 0:
        raise ValueError(f"std must be above 0, got {std}")


def per_channel(
    name: str, values: Sequence[float] | None, in_chans: int, *, any_bands: bool = False
) -> tuple[float, ...]:
    """Return a mean or deviation for each channel of images in 0..1.

    Args:
        name: "mean" or "std".
        values: None: ImageNet's.
        in_chans: channels of the network's input, 3 (RGB) or 1 (grayscale).
        any_bands: another number of channels is right too, with values.

    Raises:
        ValueError: another number of channels, or of values.
    """
    if in_chans not in _IMAGENET[name] and not any_bands:
        raise ValueError(
            f"in_chans must be 3 (RGB) or 1 (grayscale), got {in_chans}; segmentation alone takes other numbers"
        )
    if not 1 <= in_chans <= MOST_BANDS:
        raise ValueError(f"in_chans must be 1 to {MOST_BANDS}, got {in_chans}")
    if values is None and in_chans not in _IMAGENET[name]:
        raise ValueError(
            f"in_chans {in_chans} needs a {name} of each band, for values in 0..1: set data.{name}; `scalablevit "
            f"check-data FOLDER --in-chans {in_chans}` prints those of a folder"
        )
    if values is None:
        return _IMAGENET[name][in_chans]
    if len(values) != in_chans:
        raise ValueError(f"{name} needs {in_chans} value(s), one per channel of in_chans, got {list(values)}")
    return tuple(values)


def height_and_width(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) from one number or both.

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


def _is_of(value: Any, kind: Any) -> bool:
    """Tell whether a value, as JSON or Python holds it, is of an annotated type of the settings."""
    if isinstance(kind, UnionType):
        return any(_is_of(value, part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            return False
        parts = get_args(kind)
        if parts[-1] is Ellipsis:
            return all(_is_of(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_is_of, value, parts))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _cut(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _with_lists(value: Any) -> Any:
    return [_with_lists(item) for item in value] if isinstance(value, tuple) else value
