"""Runs of a comparison are evaluated once each, and their differences are paired by seed."""

import json
import os
import sys
from pathlib import Path

import pytest

import comparison_on_test as script

VALUES = {
    "ours/seed-0": 0.90,
    "ours/seed-1": 0.88,
    "other/seed-0": 0.91,
    "other/seed-1": 0.90,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = []
    for label in ("ours", "other"):
        folders = {str(seed): f"{label}/seed-{seed}" for seed in (0, 1, 2)}
        rows.append({"label": label, "settings": {}, "folders": folders})
        for seed in (0, 1):  # the third is not finished
            (tmp_path / folders[str(seed)]).mkdir(parents=True)
            (tmp_path / folders[str(seed)] / "results.json").write_text("{}")
            (tmp_path / folders[str(seed)] / "checkpoints").mkdir()
            for name in ("best", "last"):
                (tmp_path / folders[str(seed)] / "checkpoints" / f"{name}.ckpt").write_text("")
    content = {"metric": {"name": "val/top1", "mode": "max"}, "combinations": rows}
    (tmp_path / "comparison.json").write_text(json.dumps(content))
    return tmp_path


def test_table_and_what_is_kept(folder, monkeypatch, capsys):
    seen = []

    def evaluate(run: Path, *, part: str, checkpoint: str, threads: int) -> dict[str, float]:
        name = run.relative_to(folder).as_posix()
        seen.append((name, part, checkpoint, threads))
        return {"val/top1": VALUES[name]}

    monkeypatch.setattr(script, "evaluate", evaluate)
    monkeypatch.setattr(sys, "argv", ["comparison_on_test.py", str(folder)])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| combination | top1 on test | seeds | difference to first |"
    assert lines[2] == "| ours | 0.8900 ± 0.0141 | 2 |  |"
    assert lines[3].startswith("| other | 0.9050 ± 0.0071 | 2 | +0.0150 [")
    assert len(seen) == 4
    assert {word for _, *words in seen for word in words} == {"test", "best", 1}
    script.main()
    assert len(seen) == 4
    monkeypatch.setattr(sys, "argv", ["comparison_on_test.py", str(folder), "--checkpoint", "last"])
    script.main()
    assert len(seen) == 8
    os.utime(folder / "ours" / "seed-1" / "checkpoints" / "last.ckpt", ns=(1, 1))  # trained again
    script.main()
    assert seen[8:] == [("ours/seed-1", "test", "last", 1)]
    monkeypatch.setattr(sys, "argv", ["comparison_on_test.py", str(folder), str(folder)])
    with pytest.raises(SystemExit):
        script.main()
    assert "seed 0 is in an earlier folder too" in capsys.readouterr().err


def test_the_first_combination_must_have_values(folder, monkeypatch, capsys):
    for file in folder.glob("ours/*/results.json"):
        file.unlink()
    monkeypatch.setattr(script, "evaluate", lambda run, **_: {"val/top1": 0.9})
    monkeypatch.setattr(sys, "argv", ["comparison_on_test.py", str(folder)])
    with pytest.raises(SystemExit):
        script.main()
    assert "ours: val/top1 has no value on test, and the others are compared to it" in capsys.readouterr().err


def test_a_run_without_its_checkpoint_is_named(folder, monkeypatch, capsys):
    (folder / "ours" / "seed-0" / "checkpoints" / "best.ckpt").unlink()
    monkeypatch.setattr(sys, "argv", ["comparison_on_test.py", str(folder)])
    with pytest.raises(SystemExit):
        script.main()
    assert "seed-0: there is no checkpoints/best.ckpt" in capsys.readouterr().err


def test_faults_are_told(tmp_path, folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["comparison_on_test.py", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as stopped:
        script.main()
    assert stopped.value.code == 1
    assert "holds no comparison" in capsys.readouterr().err
    for file in folder.rglob("results.json"):
        file.unlink()
    monkeypatch.setattr(sys, "argv", ["comparison_on_test.py", str(folder)])
    with pytest.raises(SystemExit):
        script.main()
    assert "no run is finished" in capsys.readouterr().err
