"""The study: curves that catch a false map, intervals, and the figures of a network whose object is known."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from scalablevit.backbone import ScalableViT
from scalablevit.explain.annotated import AnnotatedImage, AnnotatedObject
from scalablevit.explain.bootstrap import bootstrap, bootstrap_of
from scalablevit.explain.faithfulness import curves, pixel_ranks
from scalablevit.explain.regions import box_around, pixels_in
from scalablevit.explain.study import RunStudy, _explained, blobs_by_chance, differences, measures
from scalablevit.explain.study_figures import draw_studies, table
from scalablevit.explain.subject import Frame, Subject, Target


class BrightnessOf(nn.Module):
    """Scores the mean of a corner of the image."""

    def forward(self, x):
        return x[:, :, 8:16, 8:16].mean(dim=(1, 2, 3))[:, None]


def region():
    found = np.zeros((32, 32), dtype=bool)
    found[8:16, 8:16] = True
    return found


def subject_of(network, targets=(), size=32, names=("disk", "bar")):
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 0.2
    pixels[:, :, 8:16, 8:16] += 0.8
    frame = Frame((size, size), (size, size), (0.0, 0.0, float(size), float(size)))
    return Subject(
        Path("a.png"),
        Image.fromarray((pixels[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)),
        network,
        inputs=pixels,
        frame=frame,
        pixels=pixels,
        pixels_frame=frame,
        find_targets=lambda name: [t for t in targets if name in (None, t.name)],
        class_names=list(names),
        compute=lambda model, x: model(x),
        mean=[0.0] * 3,
    )


def target_of(name="disk", **place):
    return Target(name, 0.9, "90 %", lambda output: output[:, 0], **place)


def test_curves_tell_a_true_map_from_a_false_one():
    subject, target = subject_of(BrightnessOf()), target_of()
    true, false = region().astype(float), 1 - region().astype(float)
    deletion, insertion = curves(subject, target, true).areas
    assert deletion < 0.1
    assert insertion > 0.9
    deletion, insertion = curves(subject, target, false).areas
    assert deletion > 0.9
    assert insertion < 0.1
    deletion, insertion = curves(subject, target, np.zeros((32, 32))).areas  # an order by chance
    assert 0.35 < deletion < 0.65
    assert 0.35 < insertion < 0.65
    found = curves(subject, target, true)
    assert (found.deletion[0], found.deletion[-1]) == (1, 0)
    assert (found.insertion[0], found.insertion[-1]) == (0, 1)


def test_there_are_no_curves_where_nothing_falls():
    subject = subject_of(BrightnessOf())
    assert curves(subject, Target("a", 0, "", lambda output: output[:, 0] * 0), np.zeros((32, 32))) is None
    assert curves(subject, Target("a", 0, "", lambda output: -output[:, 0]), np.zeros((32, 32))) is None


def test_pixels_are_ranked_and_ties_are_spread():
    heat = np.zeros((20, 20))
    heat[3, 4], heat[5, 6] = 2, 1
    ranks = pixel_ranks(heat)
    assert (ranks[3, 4], ranks[5, 6]) == (0, 1)
    assert sorted(ranks.ravel()) == list(range(400))
    assert abs(np.corrcoef(ranks.ravel(), np.arange(400))[0, 1]) < 0.2
    assert np.array_equal(ranks, pixel_ranks(heat))


def test_intervals_hold_the_mean_and_shrink_with_images():
    values = np.random.default_rng(1).normal(3, 1, 400)
    few, many = bootstrap(values[:25].tolist()), bootstrap([*values.tolist(), None])
    for interval, count in ((few, 25), (many, 400)):
        assert interval.low < interval.value < interval.high
        assert interval.images == count
    assert many.high - many.low == pytest.approx(2 * 1.96 / 20, rel=0.25)
    assert few.high - few.low > 2 * (many.high - many.low)
    assert bootstrap(values.tolist()) == bootstrap(values.tolist())
    assert bootstrap([None, None]) is None
    assert bootstrap([2.0]) == bootstrap_of(np.array([2.0]), lambda rows: 2.0)


def test_found_boxes_go_with_the_annotated_objects_of_their_class():
    other = np.zeros((32, 32), dtype=bool)
    other[20:28, 20:28] = True
    objects = [AnnotatedObject("disk", region()), AnnotatedObject("bar", other)]
    assert objects[0].box_xyxy == (8, 8, 16, 16)
    near, far = (9.0, 8.0, 17.0, 16.0), (0.0, 0.0, 8.0, 8.0)
    targets = [target_of(box_xyxy=far), target_of("bar", box_xyxy=near), target_of(box_xyxy=near)]
    pairs, found = _explained(subject_of(BrightnessOf(), targets), objects)
    assert [(t.name, t.box_xyxy) for t, _ in pairs] == [("disk", near)]
    assert np.array_equal(pairs[0][1], region())
    assert found == 0.5
    pairs, found = _explained(subject_of(BrightnessOf(), [target_of(region=region())]), objects)  # a segmenter's
    assert np.array_equal(pairs[0][1], region())
    assert found == 0.5
    classes = [target_of("disk"), target_of("bar")]  # a classifier's
    pairs, found = _explained(subject_of(BrightnessOf(), classes), objects)
    assert [t.name for t, _ in pairs] == ["disk", "bar"]
    assert np.array_equal(pairs[1][1], other)
    assert found is None
    assert _explained(subject_of(BrightnessOf(), []), objects) == ([], 0.0)
    behind = target_of("Background", region=~region())
    objects.append(AnnotatedObject("background", ~region()))
    pairs, found = _explained(subject_of(BrightnessOf(), [behind, target_of(region=region())]), objects)
    assert [t.name for t, _ in pairs] == ["disk"]  # the background is no object
    assert found == 0.5
    assert [t.name for t, _ in _explained(subject_of(BrightnessOf(), classes), None)[0]] == ["disk"]


def test_the_box_around_a_region_and_the_map_by_chance():
    parts = region()
    parts[20, 25] = True
    assert np.argwhere(pixels_in(box_around(parts) or (0, 0, 0, 0), parts.shape)).tolist() == [
        [y, x] for y in range(8, 21) for x in range(8, 26)
    ]
    noise = blobs_by_chance((64, 96))
    assert noise.shape == (64, 96)
    assert np.array_equal(noise, blobs_by_chance((64, 96)))
    assert np.abs(np.diff(noise, axis=0)).mean() < 0.3 * noise.std()  # smooth


def tiny_study(label, seed=0, **options):
    torch.manual_seed(seed)
    sizes = dict(embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), depths=(2, 2, 2, 2), head="plain", window_size=3)
    model = ScalableViT(num_classes=2, **{**sizes, **options}).eval()
    target = target_of()
    study = RunStudy(label, "classification")
    for i in range(3):
        subject = dataclasses.replace(subject_of(model, [target], size=64), path=Path(f"{i}.png"))
        subject.pixels.add_(0.1 * torch.randn(subject.pixels.shape, generator=torch.Generator().manual_seed(i)))
        mask = np.zeros((64, 64), dtype=bool)
        mask[8:16, 8:16] = True
        study.add(subject, AnnotatedImage(subject.path, subject.image, [AnnotatedObject("disk", mask)]))
    return study


@pytest.mark.slow
def test_a_study_has_every_figure_and_its_table_and_plot():
    study, other = tiny_study("with"), tiny_study("without", lim=False)
    found = study.summary()
    expected = {m.key for m in measures(4)} - {f"entropy_{i}" for i in (1, 2, 3, 4) if f"entropy_{i}" not in found}
    expected -= {"found"} | {f"{key}_{i}" for key in ("attention", "attention_without_lim") for i in (3, 4)}
    expected -= {f"{key}_{i}" for key in ("stage_end", "stage_end_without_lim") for i in (3, 4)}
    optional = {"deletion", "insertion", "deletion_by_chance", "insertion_by_chance"}
    assert expected - optional <= set(found)
    assert found["energy_by_chance"].value == pytest.approx(64 / 64**2)
    assert all(0 <= found[f"distance_{i}"].value <= 1 for i in (1, 2, 3, 4))
    assert found["attention_1"].value > 0 == found["attention_without_lim_1"].value
    assert 0 < found["field_side_20%"].value <= found["field_side_99%"].value <= 1
    assert other.summary()["attention_1"].value == 0
    change = differences(study, other)
    assert change["attention_1"].value == pytest.approx(-found["attention_1"].value)
    assert change["attention_1"].high < 0
    assert differences(study, study)["energy_inside"].value == 0

    rows = table([study, other])
    assert rows[0] == ("figure", "with", "without", "without - first")
    assert all(len(row) == 4 for row in rows)
    assert any(row[0].startswith("Layer-CAM's energy inside the object") for row in rows)
    content = json.loads(json.dumps(study.to_dict(), allow_nan=False))
    assert len(content["by_image"]) == 3
    assert set(content["attention_by_block"]) == {f"stages.{i}.blocks.1" for i in range(4)}
    shallow = tiny_study("shallow", depths=(2, 2, 2, 2), pattern=("ssa", "iwsa"))  # blocks of other names
    figure = draw_studies([study, other, shallow])
    assert figure.mode == "RGB"
    assert min(figure.size) > 400
