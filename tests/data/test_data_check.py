"""What checks of all kinds of data share: the report, looks at images in processes, repeated images."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from scalablevit.data.check import (
    DataReport,
    ImageFile,
    Problem,
    look_at_all,
    raise_for_errors,
    repeated_images,
    size_range,
)


@dataclass(frozen=True)
class Report(DataReport):
    counts: dict[str, int] = field(default_factory=dict)

    def _facts(self) -> list[str]:
        return [*self._sizes(), f"classes     {len(self.classes)}"]

    def _count(self, kind: str, listed: int) -> int:
        return self.counts.get(kind, listed)


def problem(kind: str, *, severity: str = "error") -> Problem:
    return Problem(severity, kind, "p", f"p: {kind}")


def test_report_has_errors_first_and_counts_them_all():
    problems = [problem("tiny", severity="warning"), *[problem("empty")] * 25, problem("huge")]
    report = Report("root", smallest=(2, 3), largest=(20, 30), problems=problems, counts={"empty": 1000})
    assert [len(report.errors), len(report.warnings), report.ok] == [26, 1, False]
    assert [p.kind for p in report.problems][-2:] == ["huge", "tiny"]
    lines = report.to_text().splitlines()
    assert lines[:3] == ["data        root", "sizes       2 x 3 to 20 x 30 pixels", "classes     0"]
    assert lines.count("  p: empty") == 20
    assert "  ... and 980 more; the JSON report lists more" in lines
    assert lines[-1] == "1,001 errors, 1 warnings"
    assert "5 more; the JSON report lists all" in Report("root", problems=problems).to_text()
    assert list(json.loads(report.to_json()))[-2:] == ["problems", "ok"]
    assert Report("root", problems=problems[:1]).to_text().endswith("no errors, 1 warnings")


def test_one_error_is_raised_as_it_is_and_several_are_listed():
    raise_for_errors(Path("root"), [problem("tiny", severity="warning")])
    with pytest.raises(ValueError, match=r"^p: empty$"):
        raise_for_errors(Path("root"), [problem("tiny", severity="warning"), problem("empty")])
    with pytest.raises(ValueError, match=r"(?s)root: .* 2 faults:\n  - p: empty\n  - p: huge$"):
        raise_for_errors(Path("root"), [problem("empty"), problem("huge")])


@pytest.mark.parametrize("num_workers", [0, 2, "auto"])
def test_looks_come_in_order_with_progress(num_workers):
    seen = []
    items = list(range(70))
    looks = look_at_all(
        partial(pow, 2), items, num_workers=num_workers, on_progress=lambda *at: seen.append(at), images_each=2
    )
    assert list(looks) == [2**i for i in items]
    assert seen == [(32, 70), (64, 70), (70, 70)]


def test_an_image_in_two_classes_and_in_both_parts():
    ant = ImageFile("training", "a.png", "ant")
    files = [ant, ImageFile("validation", "b.png", "bee"), *[ant._replace(path=f"{i}.png") for i in range(3)]]
    found = list(repeated_images([(b"1", file) for file in files] + [(b"2", ant)]))
    assert [p.kind for p in found] == ["contradiction", "leak"]
    assert "a.png: the same image as b.png, 0.png, 1.png and 1 more, in the classes 'ant', 'bee'" in found[0].message
    (twice,) = repeated_images([(b"1", ant), (b"1", ant._replace(path="b.png")), (b"2", files[1])])
    assert (twice.kind, twice.path) == ("duplicate", "a.png")


def test_smallest_and_largest_image():
    assert size_range([]) == (None, None)
    assert size_range(iter([(9, 9), (100, 3), (20, 16)])) == ((100, 3), (20, 16))


def test_imports_no_engine():
    code = "import sys, scalablevit.data.check, scalablevit.data.split; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
