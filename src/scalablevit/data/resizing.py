"""The size of a resized image: said once for all tasks, as a pixel more or less changes every figure."""


def resized_size(
    height: int, width: int, *, short_side: int | None, long_side: int | None, factor: float = 1.0
) -> tuple[int, int]:
    """Compute the size of an image that is resized in proportion, to fit a short and a long side.

    Args:
        height: of the image, in pixels.
        width: of the image, in pixels.
        short_side: length of the resized shorter side, in pixels; None: the image keeps its size.
        long_side: upper limit of the resized longer side, in pixels, whatever `short_side` asks; None: no limit.
        factor: applied to the size that fits.

    Returns:
        (height, width) in pixels, rounded half up; each at least 1.
    """
    fit = 1.0 if short_side is None else short_side / min(height, width)
    if long_side is not None:
        fit = min(fit, long_side / max(height, width))
    return max(1, int(height * fit * factor + 0.5)), max(1, int(width * fit * factor + 0.5))
