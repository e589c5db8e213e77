"""The recorded resources of the kernels are whole, and those of the versions of Triton that are tested."""

import json
from pathlib import Path

import pytest

from kernel_resources import CAPABILITIES, DTYPES, GPUS, Resources, programs_per_multiprocessor

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("kernel_resources-triton-*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_written_resources_add_up(path: Path) -> None:
    result = json.loads(path.read_text())
    assert path.stem.endswith(f"triton-{result['triton']}")
    assert {"date", "commit", "torch", "python", "triton"} <= set(result)
    for row in result["kernels"]:
        taken = Resources(*(row[name] for name in Resources._fields))
        assert row["programs"] == programs_per_multiprocessor(taken, GPUS[row["capability"]])
    cases = {(row["capability"], row["dtype"]) for row in result["kernels"]}
    assert cases == {(c, str(dtype).removeprefix("torch.")) for c in CAPABILITIES for dtype in DTYPES}


def test_both_ends_of_the_tested_range_are_recorded() -> None:
    assert {"3.6", "3.8"} <= {".".join(path.stem.rsplit("-", 1)[1].split(".")[:2]) for path in RESULTS}
