"""Precision over recall, class by class, as an image."""

from pathlib import Path

from scalablevit.detection.matching import MATCHING_IOU, MatchedFigures
from scalablevit.printable import plot_text
from scalablevit.safe_write import write_atomically
from scalablevit.visualization.fonts import label_fonts
from scalablevit.visualization.palette import class_colours

_MOST_NAMED = 12  # classes with a line of the legend
_LONGEST_NAME = 30  # characters


def draw_pr_curves(figures: MatchedFigures, path: Path) -> None:
    """Draw precision over recall of each class, with a dot at the threshold; classes without objects are left out.

    Args:
        figures: of the validation images.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = {name: found for name, found in figures.per_class.items() if found.objects and len(found.curve)}
    # The most frequent classes have a name; hundreds would hide the curves.
    named = sorted(shown, key=lambda name: -shown[name].objects)[:_MOST_NAMED]
    colours = class_colours(max(len(figures.per_class), 1))
    for k, (name, found) in enumerate(figures.per_class.items()):
        if name not in shown:
            continue
        colour = tuple(value / 255 for value in colours[k])
        label = plot_text(name[:_LONGEST_NAME]) if name in named else None
        axes.plot(found.curve[:, 0], found.curve[:, 1], color=colour, linewidth=1.5 if label else 0.7, label=label)
        if found.precision is not None and found.recall is not None:
            axes.plot([found.recall], [found.precision], "o", color=colour, markersize=4)
    axes.set(xlim=(0, 1.01), ylim=(0, 1.03), xlabel="recall", ylabel="precision")
    axes.set_title(f"Boxes at IoU {MATCHING_IOU:g}; dots: score {figures.threshold:g}", fontsize="medium")
    axes.grid(alpha=0.3)
    if named:
        left_out = len(shown) - len(named)
        title = f"and {left_out:,} more classes" if left_out else None
        with label_fonts(named):
            axes.legend(
                loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small", title=title, title_fontsize="small"
            )
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=120))
