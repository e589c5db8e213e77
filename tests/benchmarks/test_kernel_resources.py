"""The recorded resources of the kernels are whole, and those of the versions of Triton that are tested."""

import json
from pathlib import Path

import pytest

from kernel_resources import CAPABILITIES, DTYPES, GPUS, Resources, load_widths, programs_per_multiprocessor

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("kernel_resources-triton-*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_written_resources_add_up(path: Path) -> None:
    result = json.loads(path.read_text())
    assert path.stem.endswith(f"triton-{result['triton']}")
    assert {"date", "commit", "torch", "python", "triton"} <= set(result)
    for row in result["kernels"]:
        taken = Resources(*(row[name] for name in Resources._fields))
        assert row["programs"] == programs_per_multiprocessor(taken, GPUS[row["capability"]])
    rows = [(row["case"], row["kernel"], row["capability"], row["dtype"]) for row in result["kernels"]]
    assert len(set(rows)) == len(rows), "each kernel of a case has a name of its own"
    for part in result.get("parts", []):
        assert {"what", "date", "commit"} == set(part)
    cases = {(row["capability"], row["dtype"]) for row in result["kernels"]}
    assert cases == {(c, str(dtype).removeprefix("torch.")) for c in CAPABILITIES for dtype in DTYPES}


def test_both_ends_of_the_tested_range_are_recorded() -> None:
    assert {"3.6", "3.8"} <= {".".join(path.stem.rsplit("-", 1)[1].split(".")[:2]) for path in RESULTS}


def test_loads_are_found_in_ptx() -> None:
    ptx = """
        @%p1 ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
        ld.global.b32 { %r5 }, [ %rd2 + 0 ];
        ld.global.L1::evict_last.v2.b16 { %rs1, %rs2 }, [ %rd3 + 0 ];
        @%p2 cp.async.cg.shared.global [ %r6 + 0 ], [ %rd4 + 0 ], 0x10, %r7;
        cp.async.ca.shared.global [ %r6 + 0 ], [ %rd4 + 0 ], 0x4, %r7;
        cp.async.commit_group;
        ld.shared.b32 { %r8 }, [ %r9 ];
        st.global.v4.b32 [ %rd5 + 0 ], { %r1, %r2, %r3, %r4 };
    """
    assert load_widths(ptx) == [16, 4, 4, 16, 4]
