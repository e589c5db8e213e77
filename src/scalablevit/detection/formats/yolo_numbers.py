"""What the numbers of all lines of a YOLO data set look like: keypoints, corners, and other mistakes.

Imports neither torch nor lightning, so that checking data starts at once.
"""

from collections.abc import Sequence

import numpy as np

_FEW, _MANY = 4, 20  # lines that a pattern must hold for: one that chance does not make, and one that it may
_MOST_LOOKED_AT = 2000
_NEARLY_ALL, _OVER_THE_EDGE = 0.95, 0.05  # shares of the lines
_ROUNDING = 0.01  # of the image
_FILLED = 0.5  # mean share of a box's side that keypoints span; of outlines that are read so it is less


def hold_keypoints(numbers: Sequence[Sequence[float]]) -> str:
    """Say so where boxes with keypoints stand on the lines, which would be taken for outlines; otherwise "".

    Args:
        numbers: of each line behind the class, in fractions of the image.
    """
    lines = [line for line in numbers if line]
    lengths = {len(line) for line in lines}
    if len(lengths) != 1 or (length := lengths.pop()) < 7:
        return ""
    values = np.array(lines[:: max(1, len(lines) // _MOST_LOOKED_AT)])
    words = f"all lines have {length} numbers behind the class: a box and"
    remedy = "the boxes are used; write kpt_shape into the YAML, or export boxes or outlines"
    if (length - 4) % 3 == 0 and np.isin(values[:, 6::3], (0, 1, 2)).all():
        return f"{words} {(length - 4) // 3} keypoints with their visibility; {remedy}"
    if length < 10 or length % 2 or len(values) < _FEW:
        return ""
    centres, sides = values[:, None, :2], values[:, None, 2:4]
    points = values[:, 4:].reshape(len(values), -1, 2)
    known = (points != 0).any(axis=2)
    inside = ((np.abs(points - centres) <= sides / 2 + _ROUNDING).all(axis=2) | ~known).all(axis=1)
    low = np.where(known[..., None], points, np.inf).min(axis=1)
    high = np.where(known[..., None], points, -np.inf).max(axis=1)
    span = (high - low) / np.maximum(sides[:, 0], 1e-9)
    span = span[known.any(axis=1)]
    if inside.mean() >= _NEARLY_ALL and len(span) and span.mean(axis=0).min() > _FILLED:
        return f"{words} {(length - 4) // 2} keypoints, which lie in it; {remedy}"
    return ""


def look_like_corners(numbers: Sequence[Sequence[float]]) -> str:
    """Say so where boxes are corners, or start at their corner, in the place of their centre; otherwise "".

    Args:
        numbers: as of `hold_keypoints`.
    """
    boxes = np.array([line[:4] for line in numbers if len(line) in (4, 5)]).reshape(-1, 4)
    if len(boxes) < _FEW or boxes.max() > 1 + _ROUNDING or boxes.min() < -_ROUNDING:
        return ""
    first, second = boxes[:, :2], boxes[:, 2:]
    over = ((first - second / 2 < -_ROUNDING) | (first + second / 2 > 1 + _ROUNDING)).any(axis=1).mean()
    if over <= _OVER_THE_EDGE:
        return ""
    words = f"{over:.0%} of the boxes reach over the edge of their images, and all of them would fit as"
    needed = "YOLO's are centre x, centre y, width, height"
    if (second > first).all():
        return f"{words} corners (left, top, right, bottom): {needed}; convert them"
    if len(boxes) >= _MANY and over > 2 * _OVER_THE_EDGE and (first + second <= 1 + _ROUNDING).all():
        return f"{words} left, top, width, height: {needed}; add half of the width to left and of the height to top"
    return ""
