"""Draw docs/images/architecture.png: the network from image to logits, and its two attentions.

python docs/images/draw_architecture.py [FILE]
"""

import io
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle
from PIL import Image

INK, MUTED, PAPER = "#1f2937", "#6b7280", "#ffffff"
# Edge and fill of each kind of box.
EMBED = ("#64748b", "#eef1f5")
IWSA = ("#0f766e", "#d5f0ec")
SSA = ("#b45309", "#fdecd2")
PEG = ("#7c3aed", "#ebe3fd")
PLAIN = ("#94a3b8", "#f8fafc")
FRAME = ("#d7dce3", "#ffffff")
WINDOWS = ("#99d8cf", "#b9e3dc", "#d5f0ec", "#e6f6f3")


class Sheet:
    """A blank page on which 1 unit is a hundredth of an inch, with the origin at the lower left."""

    def __init__(self, width: float, height: float) -> None:
        self.figure = Figure(figsize=(width / 100, height / 100), facecolor=PAPER)
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set_xlim(0, width)
        self.axes.set_ylim(0, height)
        self.axes.set_axis_off()

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        text: str = "",
        *,
        kind: tuple[str, str],
        size: float = 9,
    ) -> None:
        """A rounded box with its lower left corner at (x, y)."""
        edge, fill = kind
        shape = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=6",
            edgecolor=edge,
            facecolor=fill,
            linewidth=1.2,
        )
        self.axes.add_patch(shape)
        if text:
            self.text(x + width / 2, y + height / 2, text, size=size)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float = 9,
        color: str = INK,
        weight: str = "normal",
        ha: str = "center",
    ) -> None:
        """Text centred on height y."""
        self.axes.text(x, y, text, fontsize=size, color=color, fontweight=weight, ha=ha, va="center", linespacing=1.35)

    def arrow(self, *points: tuple[float, float], color: str = INK) -> None:
        """A line through the points, with a head at the last one."""
        xs, ys = zip(*points, strict=True)
        self.axes.plot(xs[:-1], ys[:-1], color=color, linewidth=1.2, solid_capstyle="round", solid_joinstyle="round")
        head = FancyArrowPatch(
            points[-2],
            points[-1],
            arrowstyle="-|>",
            mutation_scale=9,
            color=color,
            linewidth=1.2,
            shrinkA=0,
            shrinkB=0,
        )
        self.axes.add_patch(head)

    def plus(self, x: float, y: float) -> None:
        """A circled plus."""
        self.axes.add_patch(Circle((x, y), 10, facecolor=PAPER, edgecolor=INK, linewidth=1.2))
        self.text(x, y, "+", size=12)

    def grid(
        self,
        x: float,
        y: float,
        side: float,
        cells: int,
        *,
        colors: tuple[str, ...],
        edge: str,
        every: int = 1,
    ) -> None:
        """A feature map as `cells` by `cells` tokens, coloured by windows of `every` by `every` of them."""
        step = side / cells
        across = cells // every
        for row in range(cells):
            for column in range(cells):
                window = (row // every) * across + column // every
                color = colors[window % len(colors)]
                cell = Rectangle(
                    (x + column * step, y + row * step),
                    step,
                    step,
                    facecolor=color,
                    edgecolor=PAPER,
                    linewidth=0.7,
                )
                self.axes.add_patch(cell)
        self.axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor=edge, linewidth=1.2))


def draw_overview(sheet: Sheet) -> None:
    """The upper half: image, four stages, head, pyramid. Numbers are ScalableViT-S's."""
    sheet.text(30, 690, "ScalableViT", size=18, weight="bold", ha="left")
    caption = "four stages; attention inside windows (IWSA) and global attention (SSA) take turns (sizes of S)"
    sheet.text(206, 687, caption, size=11, color=MUTED, ha="left")
    tokens, channels, blocks = ("56 × 56", "28 × 28", "14 × 14", "7 × 7"), (64, 128, 256, 512), (2, 2, 20, 2)
    strides, reductions, sides = (4, 8, 16, 32), (8, 4, 2, 1), (58, 44, 32, 22)
    base, height, middle = 490, 166, 573

    sheet.box(30, base, 92, height, kind=PLAIN)
    mountains = [(42, 552), (66, 604), (82, 574), (91, 588), (110, 552)]
    sheet.axes.add_patch(Polygon(mountains, color="#c3ccd8", linewidth=0))
    sheet.axes.add_patch(Rectangle((42, 552), 68, 78, fill=False, edgecolor="#94a3b8", linewidth=1))
    sheet.axes.scatter([96], [613], s=46, color="#f5c451", linewidths=0)
    sheet.text(76, 534, "image", size=10, weight="bold")
    sheet.text(76, 510, "224 × 224 × 3\n(any size works)", size=7.5, color=MUTED)

    for i in range(4):
        x = 150 + 216 * i
        sheet.arrow((x - 28, middle), (x - 2, middle))
        sheet.box(x, base, 188, height, kind=FRAME)
        sheet.text(x + 94, base + height - 15, f"Stage {i + 1}", size=10, weight="bold")
        kernel = "7×7 convolution, stride 4" if i == 0 else "3×3 convolution, stride 2"
        sheet.box(x + 10, base + 105, 168, 32, f"patch embedding\n{kernel}", kind=EMBED, size=7.5)
        sheet.box(x + 10, base + 62, 50, 32, "IWSA", kind=IWSA)
        sheet.box(x + 69, base + 62, 50, 32, "PEG", kind=PEG)
        sheet.box(x + 128, base + 62, 50, 32, "SSA", kind=SSA)
        sheet.arrow((x + 35, base + 105), (x + 35, base + 95))
        sheet.arrow((x + 60, base + 78), (x + 69, base + 78))
        sheet.arrow((x + 119, base + 78), (x + 128, base + 78))
        pairs = "one IWSA block, one SSA block"
        if blocks[i] > 2:
            pairs = f"{blocks[i] // 2} of each, alternating; one PEG"
        sheet.text(x + 94, base + 48, pairs, size=7.5, color=MUTED)
        where = f"stride {strides[i]}   ·   SSA with R = {reductions[i]}"
        sheet.text(x + 94, base + 22, f"{tokens[i]} tokens of {channels[i]} channels\n{where}", size=7.5)
        sheet.arrow((x + 94, base), (x + 94, base - 22), color=MUTED)
        for depth in range(i + 1, -1, -1):
            corner = (x + 94 - sides[i] / 2 + 3 * depth, base - 28 - sides[i] - 2 * depth)
            look = {"facecolor": "#e8edf4", "edgecolor": "#8aa0bb", "linewidth": 0.8}
            sheet.axes.add_patch(Rectangle(corner, sides[i], sides[i], **look))
        sheet.text(x + 140, base - 40, f"1/{strides[i]}", size=9, color=MUTED, ha="left")
    sheet.arrow((986, middle), (1012, middle))
    sheet.box(1014, base, 86, height, kind=PLAIN)
    sheet.text(1057, base + height - 15, "head", size=10, weight="bold")
    for i, layer in enumerate(("LayerNorm", "mean", "Linear", "LayerNorm", "GELU", "Linear")):
        sheet.text(1057, base + 127 - 17 * i, layer, size=8)
    sheet.text(1057, base + 15, "logits", size=9, weight="bold")
    sheet.text(30, base - 40, "pyramid for\ndense tasks", size=9, color=MUTED, ha="left")
    sheet.text(30, base - 72, "one LayerNorm each", size=7.5, color=MUTED, ha="left")


def draw_iwsa(sheet: Sheet, x: float, y: float) -> None:
    """Attention inside windows, and LIM over the whole map."""
    sheet.box(x, y, 522, 318, kind=FRAME)
    sheet.text(x + 18, y + 298, "IWSA", size=13, weight="bold", color=IWSA[0], ha="left")
    sheet.text(x + 76, y + 297, "Interactive Window-based Self-Attention", size=9.5, color=MUTED, ha="left")
    middle = y + 165
    sheet.grid(x + 20, middle - 42, 84, 14, colors=WINDOWS, edge=IWSA[0], every=7)
    sheet.text(x + 62, middle + 57, "normalised map", size=8)
    sheet.text(x + 62, middle - 62, "zero-padded to whole\n7 × 7 windows", size=7.5, color=MUTED)
    sheet.arrow((x + 106, middle), (x + 132, middle))
    sheet.box(x + 134, middle - 32, 50, 64, "qkv\nLinear\nC→3C", kind=PLAIN, size=8)

    sheet.arrow((x + 159, middle + 32), (x + 159, y + 246), (x + 210, y + 246))
    sheet.text(x + 152, y + 246, "q, k, v", size=8, color=MUTED, ha="right")
    for i, color in enumerate(WINDOWS):
        sheet.grid(x + 214 + 36 * (i % 2), y + 212 + 36 * (i // 2), 32, 7, colors=(color,), edge=IWSA[0])
    sheet.arrow((x + 286, y + 246), (x + 304, y + 246))
    sheet.box(x + 306, y + 222, 96, 48, "softmax(q kᵀ) v\nin each window", kind=IWSA, size=8)

    sheet.arrow((x + 159, middle - 32), (x + 159, y + 84), (x + 210, y + 84))
    sheet.text(x + 152, y + 84, "v, uncut", size=8, color=MUTED, ha="right")
    sheet.grid(x + 214, y + 50, 68, 14, colors=("#d5f0ec",), edge=IWSA[0])
    kernel = Rectangle((x + 214 + 68 * 5 / 14, y + 50 + 68 * 5 / 14), 68 * 3 / 14, 68 * 3 / 14)
    kernel.set(facecolor="#0f766e", alpha=0.55, edgecolor=IWSA[0])
    sheet.axes.add_patch(kernel)
    sheet.arrow((x + 286, y + 84), (x + 304, y + 84))
    sheet.box(x + 306, y + 60, 96, 48, "LIM\n3×3 depthwise", kind=IWSA, size=8)
    sheet.text(x + 306, y + 40, "carries values over the windows' borders", size=7.5, color=MUTED)

    sheet.plus(x + 354, middle)
    sheet.arrow((x + 354, y + 222), (x + 354, middle + 11))
    sheet.arrow((x + 354, y + 108), (x + 354, middle - 11))
    sheet.arrow((x + 365, middle), (x + 386, middle))
    sheet.box(x + 388, middle - 24, 44, 48, "crop\nproj", kind=PLAIN, size=8)
    sheet.arrow((x + 432, middle), (x + 452, middle))
    sheet.grid(x + 454, middle - 25, 50, 10, colors=("#d5f0ec",), edge=IWSA[0])


def draw_ssa(sheet: Sheet, x: float, y: float) -> None:
    """All queries, few keys."""
    sheet.box(x, y, 522, 318, kind=FRAME)
    sheet.text(x + 18, y + 298, "SSA", size=13, weight="bold", color=SSA[0], ha="left")
    sheet.text(x + 64, y + 297, "Scalable Self-Attention", size=9.5, color=MUTED, ha="left")
    middle, amber = y + 165, ("#fdecd2",)
    sheet.grid(x + 20, middle - 42, 84, 14, colors=amber, edge=SSA[0])
    sheet.text(x + 62, middle + 57, "normalised map", size=8)
    sheet.text(x + 62, middle - 57, "N tokens", size=7.5, color=MUTED)

    sheet.arrow((x + 62, middle + 68), (x + 62, y + 246), (x + 130, y + 246))
    sheet.box(x + 132, y + 222, 78, 48, "q  Linear\nC→C·r_c", kind=SSA, size=8)
    sheet.arrow((x + 210, y + 246), (x + 390, y + 246), (x + 390, middle + 34))
    sheet.text(x + 304, y + 256, "every token asks", size=8, color=MUTED)

    sheet.arrow((x + 62, middle - 68), (x + 62, y + 84), (x + 130, y + 84))
    sheet.box(x + 132, y + 50, 98, 68, "R×R depthwise,\nstride R\n1×1, C→C·r_c\nLayerNorm, GELU", kind=SSA, size=7.5)
    sheet.arrow((x + 230, y + 84), (x + 248, y + 84))
    sheet.grid(x + 251, y + 66, 36, 2, colors=("#f3c98b",), edge=SSA[0])
    sheet.text(x + 269, y + 46, "N / R² tokens", size=7.5, color=MUTED)
    sheet.arrow((x + 289, y + 84), (x + 306, y + 84))
    sheet.box(x + 308, y + 60, 52, 48, "k, v\nLinear", kind=SSA, size=8)
    sheet.arrow((x + 360, y + 84), (x + 390, y + 84), (x + 390, middle - 34))
    few = "few answer: at 224 pixels 49 keys, in every stage"
    sheet.text(x + 504, y + 26, few, size=7.5, color=MUTED, ha="right")

    sheet.box(x + 338, middle - 32, 104, 64, "softmax(q kᵀ) v\nN queries\non N / R² keys", kind=SSA, size=8)
    sheet.arrow((x + 442, middle), (x + 452, middle))
    sheet.box(x + 454, middle - 24, 50, 48, "proj\nLinear", kind=PLAIN, size=8)


def draw_block(sheet: Sheet, y: float) -> None:
    """The residual block, in a line."""
    sheet.text(30, y, "A block", size=10, weight="bold", ha="left")
    line = "x ← x + drop_path(attention(LayerNorm(x)))      x ← x + drop_path(MLP(LayerNorm(x)))"
    sheet.text(96, y, line, size=9.5, ha="left")
    sheet.text(1100, y, "PEG:  x + depthwise3×3(x), once a stage", size=9.5, color=PEG[0], ha="right")


def main() -> None:
    """Write the figure."""
    sheet = Sheet(1130, 720)
    draw_overview(sheet)
    draw_iwsa(sheet, 30, 62)
    draw_ssa(sheet, 578, 62)
    draw_block(sheet, 30)
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("architecture.png")
    rendered = io.BytesIO()
    sheet.figure.savefig(rendered, dpi=150)
    # Few colours make a small file.
    Image.open(rendered).convert("RGB").quantize(96, dither=Image.Dither.NONE).save(out, optimize=True)


if __name__ == "__main__":
    main()
