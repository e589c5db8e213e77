"""The plots of a comparison: what is drawn, and what is left out."""

from pathlib import Path

import pytest
from PIL import Image

from scalablevit.visualization import comparison
from scalablevit.visualization.comparison import Line, plot_comparison_costs, plot_comparison_curves


@pytest.mark.parametrize("count", [1, 9], ids=["one", "more than there are colours"])
def test_every_combination_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    legends = []
    finish = comparison._finish

    def and_look(figure, metric, count):
        finish(figure, metric, count)
        legends.append([text.get_text() for text in figure.axes[0].get_legend().get_texts()])

    monkeypatch.setattr(comparison, "_finish", and_look)
    lines = [
        Line(f"lr={i} $x_{{{i}}}$", [{1: 0.1, 2: 0.5 + i / 100}, {1: 0.2, 2: 0.6}], 10**9 + i, [0.5 + i / 100, 0.6])
        for i in range(count)
    ]
    lines += [Line("not trained", [], None, [])]
    for plot in (plot_comparison_curves, plot_comparison_costs):
        file = tmp_path / f"{plot.__name__}.png"
        plot(lines, "val/top1", file)
        with Image.open(file) as image:
            assert min(image.size) > 300
    assert [len(labels) for labels in legends] == [count, count]
    assert not any("not trained" in label for labels in legends for label in labels)


def test_a_comparison_without_results_is_an_empty_plot(tmp_path: Path) -> None:
    plot_comparison_curves([Line("a", [], None, [])], "val/top1", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert min(image.size) > 300
