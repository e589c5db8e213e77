"""What stands on the disk after an export that could not be written."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from scalablevit import safe_write
from scalablevit.deploy.export import export
from scalablevit.safe_write import WriteError, write_together


def test_no_file_of_a_pair_is_replaced_before_both_are_complete(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_text("earlier")

    def fill_the_disk(file: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WriteError, match=r"m.xml could not be written \(No space left.*Free some disk space"):
        write_together({tmp_path / "m.bin": lambda file: file.write(b"new"), tmp_path / "m.xml": fill_the_disk})
    assert [path.name for path in tmp_path.iterdir()] == ["m.bin"]
    assert (tmp_path / "m.bin").read_text() == "earlier"


def test_pairs_are_renamed_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renamed: list[str] = []
    replace = os.replace

    def spy(source: str, target: Path) -> None:
        renamed.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(safe_write.os, "replace", spy)
    write_together({tmp_path / f"m{suffix}": lambda file: file.write(b"x") for suffix in (".bin", ".xml")})
    assert renamed == ["m.bin", "m.xml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.bin", "m.xml"]


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WriteError, match=r"file/m.pt2 could not be written .*Name another folder"):
        export(nn.Identity(), tmp_path / "file" / "m.pt2", format="torch", mean=(0.5,) * 3, std=(0.5,) * 3)
