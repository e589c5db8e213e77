"""Two thousand annotation files, each damaged in its own way: read, or refused in one message."""

import copy
import json
import random
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from scalablevit.detection.average_precision import average_precision
from scalablevit.detection.coco import CocoError, read_annotations

NUMBER = 2000
VALUES: list[Any] = [
    None, True, -1, 0, 1, 2**31, 2**53 + 1, 2**63, -(2**64), 10**400, 0.5, 1e308, float("nan"), float("inf"), "", "1",
    "é\n", "\ud800", "../../x", "x" * 5000, [], [[]], [1, 2], [0] * 7, {}, {"size": [1, 1], "counts": "1"},
    [[1] * 6] * 3, {"size": [10**6, 10**6], "counts": [10**12]}, {"size": [30, 40], "counts": "\x00"}, [{}], [None],
]  # fmt: skip
CONTENT = {
    "images": [{"id": i, "file_name": f"{i}.png", "width": 40, "height": 30} for i in range(4)],
    "annotations": [
        {"id": i, "image_id": i % 4, "category_id": 1 + i % 2, "bbox": [i, 2, 9, 8], "area": 72, "iscrowd": 0,
         "segmentation": [[i, 2, i + 9, 2, i + 9, 10, i, 10]]} for i in range(8)
    ],
    "categories": [{"id": 1, "name": "ant"}, {"id": 2, "name": "bee"}],
}  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of everything inside a JSON value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
    return [path] * bool(path) + [place for key in keys for place in places(value[key], (*path, key))]


PLACES = places(CONTENT)


def damaged(rng: random.Random) -> bytes:
    content: Any = copy.deepcopy(CONTENT)
    for _ in range(rng.randint(0, 3)):
        *parents, last = rng.choice(PLACES)
        inside = content
        try:
            for key in parents:
                inside = inside[key]
            if rng.random() < 0.2:
                del inside[last]
            else:
                inside[last] = copy.deepcopy(rng.choice(VALUES))
        except (KeyError, IndexError, TypeError):  # an earlier change took it away
            continue
    data = json.dumps(content).encode()
    for _ in range(rng.choice([0, 0, 0, 1, 5])):
        start = rng.randrange(len(data))
        piece = bytes(rng.randrange(256) for _ in range(rng.randint(0, 4)))
        data = data[:start] + piece + data[start + rng.randint(0, 8) :]
    return data


@pytest.mark.slow
def test_damaged_annotations_are_read_or_refused(tmp_path: Path) -> None:
    rng = random.Random(20260)
    file = tmp_path / "a.json"
    outcomes = {"read": 0, "refused": 0}
    tracemalloc.start()
    for number in range(NUMBER):
        file.write_bytes(damaged(rng))
        start = time.process_time()
        try:
            found = read_annotations(file, None, masks=number % 2 == 0)
        except CocoError as error:
            outcomes["refused"] += 1
            message = str(error)
        else:
            outcomes["read"] += 1
            message = "\n".join(found.log.describe())
            if number % 20 == 0:
                average_precision(found.ground_truth(), [], "box")
        assert "Traceback" not in message
        assert time.process_time() - start < 10
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 << 20
    assert min(outcomes.values()) > NUMBER / 5, outcomes
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]
