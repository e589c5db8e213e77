"""WebDataset tars become shards of class folders."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from image_sets import write_image

from scalablevit.classification.data import ImageFolderData
from scalablevit.data.stream.tars import tar_source
from scalablevit.data.stream.write import write_shards


def write_tar(path: Path, labels: list[str], *, ending: str = "cls") -> dict[str, bytes]:
    """Write an image with each label; gives their bytes by key."""
    images = {}
    with tarfile.open(path, "w") as tar:
        for i, label in enumerate(labels):
            image = write_image(path.parent / "image.jpg", seed=i).read_bytes()
            images[f"{i:04d}"] = image
            for name, content in ((f"{i:04d}.jpg", image), (f"{i:04d}.{ending}", label.encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    (path.parent / "image.jpg").unlink()
    return images


def test_tars_become_shards(tmp_path):
    root = tmp_path / "tars"
    root.mkdir()
    images = write_tar(root / "train-0000.tar", ["10", "2", "0", "2", "10", "0"])
    write_tar(root / "val-0000.tar", ["0", "2", "10"])
    source = tar_source(root)
    write_shards(source, tmp_path / "shards", version="0", size_mb=0.005, num_workers=0)
    data = ImageFolderData(tmp_path / "shards", image_size=16, num_workers=0)
    assert data.class_names == ["00", "02", "10"]
    assert (len(data.train_dataset), len(data.val_dataset)) == (6, 3)
    paths = [data.train_dataset.path(i) for i in range(6)]
    assert [path.parent.name + "/" + path.name for path in paths][:2] == ["train-0000/0002.jpg", "train-0000/0005.jpg"]
    assert all(path.read_bytes() == images[path.stem] for path in paths)


def test_names_of_classes(tmp_path):
    write_tar(tmp_path / "a.tar", ["1", "0"])
    (tmp_path / "names.txt").write_text("ant\nbee\n")
    assert tar_source(tmp_path / "a.tar", classes=tmp_path / "names.txt").layout["classes"] == {"train": ["ant", "bee"]}
    write_tar(tmp_path / "b.tar", [json.dumps({"label": "bee"}), json.dumps({"label": "ant/s"})], ending="json")
    assert tar_source(tmp_path / "b.tar").layout["classes"] == {"train": ["ant_s", "bee"]}


def test_faults_are_named(tmp_path):
    write_tar(tmp_path / "a.tar", ["0", "1"], ending="txt")
    with pytest.raises(ValueError, match=r"a\.tar: the image '0000' has no label"):
        tar_source(tmp_path / "a.tar")
    write_tar(tmp_path / "b.tar", ["0", "7"])
    (tmp_path / "names.json").write_text('["ant"]')
    with pytest.raises(ValueError, match="there is a label 7, and --classes names 1 classes"):
        tar_source(tmp_path / "b.tar", classes=tmp_path / "names.json")
    (tmp_path / "c.tar.gz").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ValueError, match="it is compressed, damaged or no tar"):
        tar_source(tmp_path / "c.tar.gz")
