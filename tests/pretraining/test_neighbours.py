"""Votes of nearest neighbours against scikit-learn's, and on a folder per class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from scalablevit.networks import build_classifier
from scalablevit.pretraining.data import UnlabelledImageData
from scalablevit.pretraining.labelled import scan_labelled
from scalablevit.pretraining.neighbours import TEMPERATURE, neighbours_votes


@pytest.mark.parametrize("k", [1, 20])
def test_votes_are_those_of_scikit_learn(k: int) -> None:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 8))
    bank_labels, query_labels = rng.integers(0, 4, 200), rng.integers(0, 4, 50)
    bank = centres[bank_labels] + rng.normal(size=(200, 8))
    queries = centres[query_labels] + rng.normal(size=(50, 8))
    theirs = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distances: np.exp(-distances / TEMPERATURE)
    ).fit(bank, bank_labels)
    votes = neighbours_votes(
        *(torch.from_numpy(bank), torch.from_numpy(bank_labels), torch.from_numpy(queries)), num_classes=4, k=k
    )
    shares = (votes / votes.sum(1, keepdim=True)).numpy()
    np.testing.assert_allclose(shares, theirs.predict_proba(queries), atol=1e-5)
    assert 0.3 < (shares.argmax(1) == query_labels).mean() < 1


def test_a_bank_of_fewer_images_votes_as_a_whole() -> None:
    bank = torch.eye(3)
    votes = neighbours_votes(bank, torch.tensor([0, 1, 1]), torch.tensor([[1.0, 0.0, 0.0]]), num_classes=2)
    assert votes.argmax(1).tolist() == [0]


def write(folder: Path, colour: tuple[int, int, int], count: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(len(folder.parts))
    for i in range(count):
        pixels = (np.array(colour) + rng.integers(-20, 20, (12, 12, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, count in (("train", 6), ("val", 3)):
        for name, colour in (("blue", (30, 30, 220)), ("red", (220, 30, 30))):
            write(tmp_path / part / name, colour, count)
    return tmp_path


def test_colours_are_told_by_an_untrained_network(root: Path) -> None:
    (root / "val" / "red" / "9.png").write_bytes(b"no image")
    data = UnlabelledImageData(root / "train", image_size=32, num_workers=0, labelled_root=root)
    assert data.labelled is not None
    network = build_classifier("scalablevit_atto", num_classes=0, in_chans=3, window_size=2).eval()
    found = data.labelled.accuracy(network, device=torch.device("cpu"), batch_size=4, num_workers=0)
    assert found.top1 == 1.0
    assert (found.num_bank, found.num_queries) == (12, 6)
    assert [Path(path).name for path in found.unreadable] == ["9.png"]


class Features(torch.nn.Module):
    """Brightness of red and blue, and a NaN for images that are mostly of a colour."""

    def __init__(self, lost: str) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(2))
        self.lost = {"red": 0, "blue": 1}.get(lost)

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        return (images[:, ::2] - images.amin()) * self.scale[:, None, None]

    def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        pooled = features.mean(dim=(2, 3))
        if self.lost is not None:
            return torch.where((pooled.argmax(1) == self.lost)[:, None], torch.nan, pooled)
        return pooled


@pytest.mark.parametrize(("lost", "top1"), [("none", 1.0), ("red", 0.5), ("blue", 0.5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_features_that_are_no_numbers_have_no_vote_and_count_as_wrong(
    root: Path, lost: str, top1: float, dtype: torch.dtype
) -> None:
    data = UnlabelledImageData(root / "train", image_size=32, num_workers=0, labelled_root=root)
    assert data.labelled is not None
    network = Features(lost).to(dtype)
    found = data.labelled.accuracy(network, device=torch.device("cpu"), batch_size=4, num_workers=0)
    assert (found.top1, found.num_bank, found.num_queries) == (top1, 12, 6)


def test_at_most_so_many_images_are_taken_of_all_classes(root: Path) -> None:
    scan = scan_labelled(root, most=4)
    assert scan.bank.labels == [0, 0, 1, 1]
    assert len(scan.queries.files) == 4


def test_faults_of_a_labelled_folder(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"does not exist; check the path given as data\.labelled_root"):
        scan_labelled(tmp_path / "nowhere", most=10)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        scan_labelled(root, most=0)
    with pytest.raises(ValueError, match=r"it needs images in train/CLASS"):
        scan_labelled(root / "train", most=10)
    write(root / "val" / "green", (0, 200, 0), 1)
    with pytest.raises(ValueError, match="classes that the training part lacks: green"):
        scan_labelled(root, most=10)
