"""Predictions of files: in order, in their own pixels, above the threshold, with those that cannot be read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

from scalablevit.detection import Detector, Preprocessing
from scalablevit.detection.models import build_detector
from scalablevit.detection.predict import Detection, Prediction, decode_mask, encode_mask
from scalablevit.weights import WeightsError, save_network, save_weights

NAMES = ["cat", "dog"]
PREPROCESSING = Preprocessing(min_size=64, max_size=96)
SMALL: dict[str, dict[str, Any]] = {
    "retinanet": {"fpn_channels": 16, "num_convs": 1, "anchor_sizes": [8, 16, 32, 64, 128]},
    "mask_rcnn": {
        "fpn_channels": 16, "box_head_channels": 16, "mask_convs": 1, "mask_channels": 16,
        "rpn_post_nms_top_n_test": 50,
    },
}  # fmt: skip


def make(kind: Any, **options: Any) -> Detector:
    """An untrained detector, sure of everything: many objects in any image."""
    network = build_detector(kind, "scalablevit_atto", 2, **SMALL[kind], min_size=64, max_size=96, **options)
    return Detector(network, class_names=NAMES, preprocessing=PREPROCESSING, device="cpu")


def noise(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_outputs_that_are_not_numbers_are_told(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = make(kind)
    next(detector.network.backbone.parameters()).data.fill_(torch.nan)
    (found,) = detector.predict(noise(tmp_path / "a.png", (64, 64)), threshold=0.001)
    assert found.detections == []
    assert "values that are not numbers (NaN), and so no object" in caplog.text


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_order_sizes_and_errors(kind: str, tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{i}.png", size, i) for i, size in enumerate([(90, 40), (31, 77), (64, 64)])]
    paths.insert(1, tmp_path / "junk.png")
    paths[1].write_bytes(b"junk")
    detector = make(kind)
    for batch_size in (1, 3):
        found = list(detector.predict(paths, batch_size=batch_size, threshold=0.001))
        assert [p.path for p in found] == paths
        assert [(p.width, p.height) for p in found] == [(90, 40), (0, 0), (31, 77), (64, 64)]
        assert found[1].error is not None
        assert "junk.png" in found[1].error
        assert found[1].to_dict() == {"path": str(paths[1]), "error": found[1].error}
        assert found[1].detections == []
        for prediction in (found[0], *found[2:]):
            assert prediction.detections
            assert prediction.image is None
            assert prediction.output_images() == {}
            scores = [d.score for d in prediction.detections]
            assert scores == sorted(scores, reverse=True)
            for d in prediction.detections:
                left, top, right, bottom = d.box_xyxy
                assert 0 <= left < right <= prediction.width
                assert 0 <= top < bottom <= prediction.height
                assert d.name == NAMES[d.label]
                assert (d.mask is not None) == (kind == "mask_rcnn")
                if d.mask is not None:
                    assert decode_mask(d.mask).shape == (prediction.height, prediction.width)
    entry = json.loads(json.dumps(found[0].to_dict()))
    assert (entry["width"], entry["height"]) == (90, 40)
    first = found[0].detections[0]
    assert entry["predictions"][0]["class"] == first.name
    assert entry["predictions"][0]["box"] == list(first.box_xyxy)
    assert entry["predictions"][0].get("mask") == first.mask


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_options_change_what_is_found(kind: str, tmp_path: Path) -> None:
    path = noise(tmp_path / "a.png", (90, 40))
    detector = make(kind)

    def found(**options: Any) -> list[Detection]:
        (prediction,) = detector.predict([path], **options)
        return prediction.detections

    everything = found(threshold=0.0)
    scores = sorted({d.score for d in everything})
    middle = sum(scores[len(scores) // 2 :][:2]) / 2
    some = found(threshold=middle)
    assert 0 < len(some) < len(everything)
    assert min(d.score for d in some) > middle
    assert some == [d for d in everything if d.score > middle], "boxes and masks are the same"
    assert found(threshold=1.0) == []
    assert found(threshold=0.0, min_size=32) != everything
    assert found(threshold=0.0, max_size=64) != everything
    # others may use the same network
    assert found(threshold=0.0) == everything
    head = getattr(detector.network, "roi_heads", detector.network)
    assert (head.score_thresh, detector.network.transform.min_size) == (0.05, 64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"threshold": 1.5}, "threshold must lie in"),
        ({"min_size": 0}, "min_size must be at least 1"),
        ({"min_size": 200}, "min_size 200 and max_size 96: give both"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        list(make("retinanet").predict([noise(tmp_path / "a.png", (20, 20))], **options))


def test_images_upright_and_at_their_own_size(tmp_path: Path) -> None:
    """A photograph held upright, whose file says so in its EXIF block."""
    photo = Image.fromarray(skimage.data.chelsea())  # 451 x 300
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=exif)
    detector = make("mask_rcnn", detections_per_image=10)
    (found,) = detector.predict([tmp_path / "turned.jpg"], threshold=0.001, keep_images=True)
    assert (found.width, found.height) == photo.size[::-1]
    assert found.detections
    (image,) = found.output_images().values()
    assert list(found.output_images()) == [""]
    assert image.size == (600, 902), "enlarged, so that the names can be read"
    assert max(d.box_xyxy[3] for d in found.detections) <= 451


def test_rows_for_people() -> None:
    objects = [Detection(0, "cat", score, (0, 0, 1, 1)) for score in (0.9, 0.61, 0.3)]
    objects.insert(1, Detection(1, "dog", 0.75, (0, 0, 1, 1)))
    prediction = Prediction(Path("a.png"), 9, 9, objects)
    assert prediction.table_rows() == [("3 x cat", "30.0% to 90.0%"), ("dog", "75.0%")]
    assert Prediction(Path("a.png"), 9, 9, []).table_rows() == [("nothing", "")]
    for threshold, words in ((0.5, "nothing above 50 %"), (0.07, "nothing above 7 %"), (0.001, "nothing above 0.1 %")):
        assert Prediction(Path("a.png"), 9, 9, [], threshold=threshold).table_rows() == [(words, "")]


def test_a_single_path_is_one_image(tmp_path: Path) -> None:
    path = noise(tmp_path / "a.png", (40, 30))
    detector = make("retinanet")
    for given in (path, str(path)):
        (prediction,) = detector.predict(given, threshold=1.0)
        assert prediction.path == path
        assert prediction.table_rows() == [("nothing above 100 %", "")]


def metadata(kind: str, **changes: Any) -> dict[str, Any]:
    return {
        "task": "detection",
        "detector": kind,
        "variant": "scalablevit_atto",
        "model_args": SMALL[kind],
        "class_names": NAMES,
        "preprocessing": PREPROCESSING.to_dict(),
        **changes,
    }


@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    detector = make(kind)
    file = save_network(detector.network, tmp_path / "run", metadata=metadata(kind))
    path = noise(tmp_path / "a.png", (90, 40))
    expected = [p.detections for p in detector.predict([path], threshold=0.001)]
    for source in (tmp_path / "run", file):
        loaded = Detector.load(source, device="cpu")
        assert [p.detections for p in loaded.predict([path], threshold=0.001)] == expected
    assert expected[0]


def test_what_is_no_detector(tmp_path: Path) -> None:
    network = make("retinanet").network
    for changes, message in (
        ({"task": "classification"}, "for 'classification', not for detection"),
        ({"class_names": None}, "lacks class names or preprocessing"),
        ({"preprocessing": {"min_size": 3}}, "lacks class names or preprocessing"),
        ({"detector": "yolo"}, "there is no detector 'yolo'"),
        ({"model_args": {}}, "does not fit"),
    ):
        save_network(network, tmp_path, metadata=metadata("retinanet", **changes))
        with pytest.raises(WeightsError, match=message):
            Detector.load(tmp_path, device="cpu")
    save_weights(network, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="without the task that they were trained for"):
        Detector.load(tmp_path / "bare.safetensors")
    (tmp_path / "last.ckpt").write_bytes(b"x")
    with pytest.raises(WeightsError, match="takes a run folder"):
        Detector.load(tmp_path / "last.ckpt")
    with pytest.raises(FileNotFoundError):
        Detector.load(tmp_path / "nowhere")


def test_a_mask_survives_its_code() -> None:
    mask = np.zeros((40, 30), bool)
    mask[3:9, 5:20] = True
    assert (decode_mask(encode_mask(mask)) == mask).all()
    assert (decode_mask(encode_mask(~mask[::-1, ::2])) == ~mask[::-1, ::2]).all(), "whatever its strides"
    assert torch.tensor(decode_mask(encode_mask(np.zeros((2, 2), bool)))).sum() == 0


def test_images_of_12_bits_are_read_in_the_range_of_training(tmp_path: Path) -> None:
    path = tmp_path / "dark.png"
    Image.fromarray(np.linspace(0, 4095, 40 * 40).reshape(40, 40).astype(np.uint16)).save(path)
    detector = make("retinanet")
    for value_range, brightest in ((None, 16), ((0, 4095), 255)):
        settings = Preprocessing(min_size=64, max_size=96, value_range=value_range)
        detector.preprocessing = Preprocessing.from_dict(settings.to_dict())
        (found,) = detector.predict(path, keep_images=True)
        assert found.image is not None
        assert max(high for _, high in found.image.getextrema()) == brightest
