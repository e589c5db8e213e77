"""Predictions of files, in order, with those that cannot be read in their places."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from scalablevit.backbone import VARIANTS, ScalableViT
from scalablevit.classification import Classifier, Preprocessing
from scalablevit.weights import WeightsError

PREPROCESSING = Preprocessing((4, 4), 1.0, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Brightness(nn.Module):
    """Logits: ten times the mean of each channel."""

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return images.mean((2, 3)) * 10


@pytest.fixture
def classifier() -> Classifier:
    names = ["red", "green", "blue"]
    return Classifier(Brightness(), class_names=names, preprocessing=PREPROCESSING, device="cpu")


def test_order_batches_and_errors(classifier: Classifier, tmp_path: Path) -> None:
    paths = []
    for i, colour in enumerate(["blue", "red", "lime", "junk", "red"]):
        paths.append(tmp_path / f"{i}.png")
        if colour == "junk":
            paths[-1].write_bytes(b"junk")
        else:
            Image.new("RGB", (9, 5), colour).save(paths[-1])
    for batch_size in (1, 2, 16):
        found = list(classifier.predict(paths, top=2, batch_size=batch_size))
        assert [p.path for p in found] == paths
        assert [p.classes[:1] for p in found] == [["blue"], ["red"], ["green"], [], ["red"]]
        assert found[3].error is not None
        assert "3.png" in found[3].error
        assert all(len(p.classes) == 2 for p in found if p.error is None)
        expected = torch.tensor([0.0, 0.0, 10.0]).softmax(0)[2].item()
        assert found[0].probabilities[0] == pytest.approx(expected)
        assert all(p.image is None for p in found)
    with_images = list(classifier.predict(paths[:1], keep_images=True))
    assert with_images[0].image is not None
    assert with_images[0].image.size == (9, 5)
    assert len(with_images[0].classes) == 3
    assert found[3].to_dict() == {"path": str(paths[3]), "error": found[3].error}
    assert found[0].to_dict()["predictions"][0]["class"] == "blue"


def test_a_single_path_is_one_image(classifier: Classifier, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (9, 5), "blue").save(path)
    for given in (path, str(path)):
        (prediction,) = classifier.predict(given)
        assert prediction.path == path


def test_wrong_arguments(classifier: Classifier) -> None:
    with pytest.raises(ValueError, match="top must be at least 1"):
        next(classifier.predict(["x.png"], top=0))
    with pytest.raises(ValueError, match="no such device"):
        Classifier(Brightness(), class_names=["a"], preprocessing=PREPROCESSING, device="gpux")


def test_metadata_of_other_tasks_and_incomplete_metadata() -> None:
    for metadata, message in (
        ({"task": "detection"}, "for 'detection', not for classification"),
        ({"task": "classification", "class_names": ["a"]}, "lacks class names or preprocessing"),
        ({"task": "classification", "preprocessing": PREPROCESSING.to_dict()}, "lacks class names"),
    ):
        with pytest.raises(WeightsError, match=message):
            Classifier.from_metadata(Brightness(), metadata, source="file")


@pytest.mark.parametrize("prepared", [False, True])
def test_embeddings_are_the_pooled_features(prepared: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ScalableViT(**{**VARIANTS["scalablevit_atto"], "num_classes": 3}).eval()
    preprocessing = Preprocessing((32, 32), 1.0, "bicubic", (0.5,) * 3, (0.5,) * 3)
    made = Classifier(network, class_names=["a", "b", "c"], preprocessing=preprocessing, device="cpu")
    if prepared:
        made.prepare()
    (tmp_path / "junk.png").write_bytes(b"junk")
    images = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    found = list(made.predict([images[0], tmp_path / "junk.png", images[1]], keep_embeddings=True))
    plain = list(made.predict(images))
    assert found[1].embedding is None
    assert plain[0].embedding is None
    for one, image, same in zip(found[::2], images, plain, strict=True):
        assert one.embedding is not None
        with torch.no_grad():
            expected = network.forward_features(preprocessing.eval_transform()(image)[None]).mean((1, 2))[0]
        assert one.embedding.dtype == "float32"
        torch.testing.assert_close(torch.from_numpy(one.embedding), expected, rtol=1e-4, atol=1e-5)
        assert one.classes == same.classes
        assert one.probabilities == pytest.approx(same.probabilities, abs=1e-6)


def test_a_network_without_features_has_no_embeddings(classifier: Classifier) -> None:
    with pytest.raises(ValueError, match="give the run folder"):
        next(classifier.predict([Image.new("RGB", (4, 4))], keep_embeddings=True))
