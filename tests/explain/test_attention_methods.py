"""The methods `attention` and `receptive-field`: points, numbers, figures."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from scalablevit.backbone import ScalableViT
from scalablevit.explain import attention_method, receptive_field_method
from scalablevit.explain.attention import BlockAttention, attention_maps
from scalablevit.explain.attention_method import distances, entropies
from scalablevit.explain.subject import Frame, Subject


def tiny():
    torch.manual_seed(0)
    return ScalableViT(
        num_classes=3, embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), depths=(2, 2, 2, 2), head="plain"
    ).eval()


def subject_of(network, *, image=(60, 80), seen=(96, 64), box=(10.0, 0.0, 70.0, 60.0)):
    """An image of which the network sees a part, resized, with padding to the right."""
    pixels = torch.randn(1, 3, seen[0], seen[1] + 32, generator=torch.Generator().manual_seed(0))
    return Subject(
        Path("a.png"),
        Image.new("RGB", image[::-1], (90, 120, 40)),
        network,
        inputs=pixels,
        frame=Frame(image, seen, box),
        pixels=pixels,
        pixels_frame=Frame(image, seen, box),
        find_targets=lambda name: [],
        class_names=["a"],
        compute=lambda model, x: model(x),
        mean=[0.0] * 3,
    )


def test_points_of_the_image_are_those_that_the_network_sees():
    network = tiny()
    subject = subject_of(network)
    (found,) = attention_method.explain(subject, at=[(40, 30)])
    x, y = (40.5 - 10) / 60 * 64 - 0.5, 30.5 / 60 * 96 - 0.5
    expected = attention_maps(network, subject.pixels, [(x, y)])
    assert [row["block"] for row in found.numbers["blocks"]] == [block.name for block in expected]
    for row, block in zip(found.numbers["blocks"], expected, strict=True):
        assert row["attention"] == block.kind.upper()
        assert row["distance"] == pytest.approx(float(distances(block).mean()), abs=1e-3)
        assert row["largest"] == pytest.approx(float(block.weights.mean(2).max()), abs=1e-5)
    with pytest.raises(ValueError, match=r"point 5,5 is not seen by the network, which cuts out x 10..69 and y 0..59"):
        attention_method.explain(subject, at=[(5, 5)])
    with pytest.raises(ValueError, match=r"point 80,5 lies outside the image of 80 x 60 pixels"):
        attention_method.explain(subject, at=[(80, 5)])


def test_entropy_and_distance_of_weights_that_are_known():
    weights = torch.tensor([[1.0, 0, 0, 0], [0.25] * 4]).view(1, 2, 1, 2, 2)  # the first key alone, and all alike
    queries = torch.tensor([[0, 0], [0, 0]])
    block = BlockAttention(0, 1, "ssa", weights, queries, torch.zeros(2, 2, dtype=torch.int64), 4, 8, (8, 8))
    assert entropies(block)[0, :, 0].tolist() == pytest.approx([0, 1])
    centres = [8 * (4 * k + 1.5) for k in (0, 1)]  # of keys, in pixels from the first token
    lengths = [math.hypot(y, x) for y in centres for x in centres]
    assert distances(block)[0, :, 0].tolist() == pytest.approx([lengths[0], sum(lengths) / 4])
    assert distances(block, uniform=True)[0, :, 0].tolist() == pytest.approx([sum(lengths) / 4] * 2)


@pytest.mark.parametrize(("per", "panels"), [("stage", 8), ("block", 8), ("head", 12)])
def test_figures_show_every_panel(per, panels, monkeypatch):
    from scalablevit.explain import draw_attention

    shown = []
    monkeypatch.setattr(draw_attention, "draw_rows", lambda image, rows: shown.extend(rows.values()) or image)
    for found in attention_method.explain(subject_of(tiny()), at=[(40, 30), (12, 2)], per=per):
        shown.clear()
        found.draw()
        flat = [panel for row in shown for panel in row]
        assert len(flat) == panels
        assert all(panel.heat.shape == (60, 80) for panel in flat)
        assert all((panel.heat[:, :8] == 0).all() for panel in flat)  # what the network does not see
        assert all(panel.heat.max() > 0 for panel in flat)


def test_figures_aredrawn():
    subject = subject_of(tiny())
    (one,) = attention_method.explain(subject)
    (grid,) = attention_method.explain(subject, grid=2)
    for found in (one, grid):
        figure = np.asarray(found.draw())
        assert figure.ndim == 3
        assert len(np.unique(figure.reshape(-1, 3), axis=0)) > 50
    assert len(grid.numbers["points"]) == 4
    assert len(attention_method.explain(subject, at=[(40, 30)], grid=2)) == 2
    for wrong in ({"grid": 0}, {"grid": 9}, {"per": "window"}, {"grid": 2, "per": "head"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            attention_method.explain(subject, **wrong)


def test_the_receptive_field_is_measured_over_images_of_mixed_sizes():
    network = tiny()
    subjects = [subject_of(network), subject_of(network, image=(33, 47), seen=(64, 64), box=(0.0, 0.0, 47.0, 33.0))]
    (found,) = receptive_field_method.explain(iter(subjects), size=64)
    numbers = found.numbers["networks"]["this network"]
    assert numbers["images"] == 2
    assert numbers["size"] == [64, 64]
    assert 0 < numbers["squares"]["20%"]["side"] <= numbers["squares"]["99%"]["side"]
    assert np.asarray(found.draw()).std() > 5
    (first,) = receptive_field_method.explain(subjects, size=64, stage=1)
    assert first.numbers["networks"]["this network"]["stride"] == 4
    assert receptive_field_method.explain([]) == []
    for wrong, message in (({"size": 8}, "size must be"), ({"stage": 0}, "stage must"), ({"stage": 7}, "stage must")):
        with pytest.raises(ValueError, match=message):
            receptive_field_method.explain(subjects, **{"size": 64, **wrong})


@pytest.mark.parametrize(
    ("image", "box", "seen"),
    [
        ((1, 500), (249.5, 0.0, 250.5, 1.0), "x 249..249 and y 0..0"),
        ((1, 500), (249.56, 0.06, 250.44, 0.94), "x 250..250 and y 0..0"),
        ((1, 1), (0.06, 0.06, 0.94, 0.94), ""),
        ((33, 57), (12.0, 0.0, 45.0, 33.0), "x 12..44 and y 0..32"),
    ],
)
def test_the_middle_of_any_image_looks_and_what_is_said_to_be_seen_is(image, box, seen):
    subject = subject_of(tiny(), image=image, box=box)
    attention_method.explain(subject)
    attention_method.explain(subject, grid=2)
    if seen:
        with pytest.raises(ValueError, match=f"which cuts out {seen} of the image"):
            attention_method.explain(subject, at=[(0, 0)])
        x, y = (text.partition("..")[0] for text in seen.replace("x ", "").replace("y ", "").split(" and "))
        attention_method.explain(subject, at=[(int(x), int(y))])


def test_figures_of_large_images_are_drawn_from_fewer_pixels():
    from scalablevit.explain.draw import Panel, draw_heatmaps, drawn

    heat = np.zeros((100, 4000), np.float32)
    heat[:, 2000:] = 1
    assert drawn(heat).shape == (33, 1333)
    figure = np.asarray(draw_heatmaps(Image.new("RGB", (4000, 100)), [Panel("a", heat)], scale="x").convert("L"))
    small = np.asarray(
        draw_heatmaps(Image.new("RGB", (400, 10)), [Panel("a", heat[:10, ::10])], scale="x").convert("L")
    )
    assert figure.shape == small.shape
    assert np.abs(figure.astype(int) - small).mean() < 3
