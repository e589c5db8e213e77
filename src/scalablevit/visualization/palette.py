"""A colour for each class."""

import colorsys

# Okabe and Ito's, which colour-blind readers tell apart; without black, which hides on dark images
_FIRST_COLOURS = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (230, 159, 0),
    (86, 180, 233),
    (240, 228, 66),
)
_GOLDEN_RATIO = 0.6180339887498949


def class_colours(count: int) -> list[tuple[int, int, int]]:
    """RGB colours in 0..255, always the same for the same class: neighbours in the list differ in hue.

    Args:
        count: how many; at least 0.
    """
    colours = list(_FIRST_COLOURS[:count])
    i = 0
    while len(colours) < count:
        # steps of the golden ratio spread hues evenly however many there are
        hue, lightness, saturation = i * _GOLDEN_RATIO % 1, (0.55, 0.4, 0.7)[i % 3], (0.85, 0.6)[i // 3 % 2]
        red, green, blue = (round(255 * value) for value in colorsys.hls_to_rgb(hue, lightness, saturation))
        if (red, green, blue) not in colours:
            colours.append((red, green, blue))
        i += 1
    return colours
