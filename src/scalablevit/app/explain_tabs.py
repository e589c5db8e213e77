"""The page's tabs that explain: heatmaps of classes and objects, and where a pixel looks."""

import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Protocol

import gradio as gr
from PIL import Image

from scalablevit.app.explaining import Explained, Wish, possible, refusal
from scalablevit.app.models import Model
from scalablevit.app.results import Row, error_html, note_html, status_html, table_html
from scalablevit.app.training_report import metrics_table
from scalablevit.printable import printable
from scalablevit.safe_write import write_json

_FOUND = -1
"""Value of the choice of classes that stands for what the network finds."""
_METHODS = {"cam": "Layer-CAM: regions that raise the score", "occlusion": "Occlusion: hide and see (slow)"}
"""Of the tab of heatmaps, the one that is preselected first."""
_PANELS = [("each stage, mean", "stage"), ("each block", "block"), ("each head", "head")]
_DROP = "Drop an image first."
_CLICK = "Click a pixel of the image, or write its place and press Enter."


class Explains(Protocol):
    """What the tabs need of the page."""

    folder: Path

    def model(self, label: str) -> Model:
        """The model of a label."""

    def explained(self, path: str, model: Model, wish: Wish) -> Explained:
        """Explain a file with a model."""

    def preview(self, path: str, model: Model) -> tuple[Image.Image, tuple[int, int]]:
        """The upright image at a size to click on, and the size of the file's own."""

    def message(self, error: Exception) -> str:
        """What the page says of an error."""


class ExplainTabs:
    """Two tabs beside the result.

    Args:
        page: that they are part of.
    """

    def __init__(self, page: Explains) -> None:
        self.page = page

    def build(self, first: Model) -> None:
        """Lay out the tabs, inside of `gr.Tabs`."""
        with gr.Tab("Heatmap", elem_id="sv-heatmap-tab"):
            with gr.Row():
                self.method = gr.Dropdown(**method_choices(first), label="Method", filterable=False)
                self.name = gr.Dropdown(
                    class_choices(first), value=_FOUND, label="Class to explain", elem_id="sv-class",
                    filterable=len(class_choices(first)) > 8,
                )  # fmt: skip
            self.explain_button = gr.Button("Show heatmap", variant="primary", size="sm", elem_id="sv-explain")
            self.heatmap = _Output("sv-heatmap", heatmap_remark(first))
        with gr.Tab("Attention", elem_id="sv-attention-tab") as self.attention_tab:
            self.hint = gr.HTML(note_html(refusal(first, "attention") or _DROP), elem_id="sv-attention-hint")
            self.preview = gr.Image(
                label="Image: click a pixel", interactive=False, format="png", buttons=[], visible=False,
                elem_id="sv-click",
            )  # fmt: skip
            with gr.Row():
                self.x = gr.Number(0, label="x, pixels from the left", minimum=0, precision=0, elem_id="sv-x")
                self.y = gr.Number(0, label="y, pixels from the top", minimum=0, precision=0, elem_id="sv-y")
                self.per = gr.Dropdown(_PANELS, value="stage", label="Panels", filterable=False)
            self.look_button = gr.Button("Show where it looks", variant="primary", size="sm", elem_id="sv-look")
            self.attention = _Output("sv-attention", "")

    def connect(self, file: gr.File, choice: gr.Dropdown, threshold: gr.Slider) -> None:
        """Connect the tabs to the page's image, model and lowest score."""
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        slow: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
        point = [self.x, self.y]
        cleared = [*self.heatmap.parts, self.hint, self.preview, *point, *self.attention.parts]
        file.change(self.clear, [file, choice], cleared, **quiet)
        offered = [self.method, self.name]
        choice.change(self.offer, [choice, self.method], offered, **quiet).then(
            self.clear, [file, choice], cleared, **quiet
        )
        gr.on(
            [self.explain_button.click, self.name.input, self.method.input],
            self.show_heatmap, [file, choice, self.method, self.name, threshold], self.heatmap.parts, **slow,
        )  # fmt: skip
        look = (self.show_attention, [file, choice, *point, self.per], self.attention.parts)
        self.preview.select(self.take_point, [file, choice], point, **quiet).then(*look, **slow)
        gr.on([self.look_button.click, self.x.submit, self.y.submit, self.per.input], *look, **slow)

    def offer(self, label: str, method: str | None) -> tuple[Any, Any]:
        """Offer the methods and classes of another model; the method stays chosen where the model has it."""
        model = self.page.model(label)
        choices = class_choices(model)
        return (
            gr.update(**method_choices(model, method)),
            gr.update(choices=choices, value=_FOUND, filterable=len(choices) > 8),
        )

    def clear(self, path: str | None, label: str) -> list[Any]:
        """Take away what was shown of another image or model, and show the image to click on."""
        model = self.page.model(label)
        said = refusal(model, "attention")
        shown: list[Any] = [note_html(said or _DROP), gr.update(value=None, visible=False), 0, 0]
        if path is not None and not said:
            try:
                image, (width, height) = self.page.preview(path, model)
                file = Path(tempfile.mkdtemp(dir=self.page.folder)) / "image.png"
                image.save(file)
                shown = [note_html(_CLICK), gr.update(value=str(file), visible=True), width // 2, height // 2]
            except Exception as error:
                shown[0] = error_html(self.page.message(error))
        return [*_Output.empty(heatmap_remark(model)), *shown, *_Output.empty("")]

    def show_heatmap(self, path: str | None, label: str, method: str, name: int, threshold: float) -> list[Any]:
        """Show a heatmap for each object, or for a class."""
        names = class_names(self.page.model(label))
        class_name = names[int(name)] if 0 <= int(name) < len(names) else None
        return self._shown(path, label, lambda: Wish(method, class_name=class_name, threshold=threshold), heatmap_table)

    def take_point(self, path: str | None, label: str, event: gr.SelectData) -> tuple[Any, Any]:
        """Take the pixel that was clicked on, as one of the file's own image."""
        if path is None:
            return gr.skip(), gr.skip()
        image, (width, height) = self.page.preview(path, self.page.model(label))
        x, y = event.index
        return (
            min(int((x + 0.5) * width / image.width), width - 1),
            min(int((y + 0.5) * height / image.height), height - 1),
        )

    def show_attention(self, path: str | None, label: str, x: float | None, y: float | None, per: str) -> list[Any]:
        """Show where a pixel looks."""

        def wish() -> Wish:
            if x is None or y is None:
                raise ValueError("x and y must be numbers: the place of a pixel")
            return Wish("attention", at=(x, y), per=per)

        return self._shown(path, label, wish, attention_table)

    def _shown(
        self, path: str | None, label: str, wish: Callable[[], Wish], table: Callable[[Explained], str]
    ) -> list[Any]:
        if path is None:
            return _Output.empty(_DROP)
        try:
            found = self.page.explained(path, self.page.model(label), wish())
            if found.explanation is None:
                said = "There is nothing to explain: the network finds no object, or nothing of this class."
                return _Output.empty(f"{said} {found.remark}")
            files = self._write(found)
        except Exception as error:
            return _Output.failed(self.page.message(error))
        name = Path(found.row["path"])
        status = status_html(name.name, f"{1000 * found.seconds:,.0f} ms") + note_html(found.remark)
        return [status, gr.update(value=str(files["png"]), visible=True), table(found), *_downloads(files)]

    def _write(self, found: Explained) -> dict[str, Path]:
        """Write what can be downloaded, named as `scalablevit explain --save` names it."""
        assert found.explanation is not None
        folder = Path(tempfile.mkdtemp(dir=self.page.folder))
        stem = f"{Path(found.row['path']).stem[:100]}-{found.explanation.method}"
        files = {"json": folder / f"{stem}.json", "png": folder / f"{stem}.png"}
        write_json(files["json"], dict(found.row))
        found.explanation.draw().save(files["png"], format="PNG")
        return files


class _Output:
    """Where an explanation is shown: a line of text, the picture, a table and the downloads.

    Args:
        elem_id: of the picture; those of the others begin with it.
        remark: text at first.
    """

    def __init__(self, elem_id: str, remark: str) -> None:
        self.parts: list[Any] = [
            gr.HTML(note_html(remark), elem_id=f"{elem_id}-status"),
            gr.Image(
                show_label=False, interactive=False, format="png", buttons=["fullscreen"], visible=False,
                elem_id=elem_id,
            ),
            gr.HTML("", elem_id=f"{elem_id}-table"),
        ]  # fmt: skip
        with gr.Row():
            self.parts += [
                gr.DownloadButton(f"Download {what}", visible=False, size="sm", elem_id=f"{elem_id}-{key}")
                for key, what in _FILES.items()
            ]

    @staticmethod
    def empty(remark: str) -> list[Any]:
        """Show nothing but a remark."""
        return [note_html(remark), gr.update(value=None, visible=False), "", *_downloads({})]

    @staticmethod
    def failed(message: str) -> list[Any]:
        """Show what is wrong."""
        return [error_html(message), *_Output.empty("")[1:]]


_FILES = {"json": "JSON", "png": "picture"}


def _downloads(files: dict[str, Path]) -> list[Any]:
    return [gr.update(value=str(files[key]) if key in files else None, visible=key in files) for key in _FILES]


def method_choices(model: Model, chosen: str | None = None) -> dict[str, Any]:
    """The heatmaps that a model can have, as `choices`, and as `value` the chosen one, or else the first of them."""
    methods = possible(model, list(_METHODS))
    value = chosen if chosen in methods else next(iter(methods), None)
    return {"choices": [(_METHODS[method], method) for method in methods], "value": value}


def heatmap_remark(model: Model) -> str:
    """What is lacking among a model's heatmaps; empty where nothing is."""
    if possible(model, list(_METHODS)) == ["occlusion"]:
        return (
            f"{model.label} is an exported file: occlusion explains it; for Layer-CAM choose the run it was made from"
        )
    return refusal(model, "cam")


def class_names(model: Model) -> Sequence[str]:
    """Names of a model's classes, in their order."""
    return [str(name) for name in model.weights.metadata.get("class_names") or ()]


def class_choices(model: Model) -> list[tuple[str, int]]:
    """What can be chosen to be explained: what the network finds, or a class."""
    return [("what the network finds", _FOUND), *((printable(name), k) for k, name in enumerate(class_names(model)))]


def heatmap_table(found: Explained) -> str:
    """The scores that were explained, as HTML."""
    lines = []
    for target in found.row["targets"]:
        note = "nothing raises the score" if target["is_empty"] else ""
        if "energy_inside" in target and not target["is_empty"]:
            note = f"{target['energy_inside']:.0%} inside ({target['chance']:.0%} by chance)"
        lines.append(Row(target["class"], f"{target['score']:.1%}", target["score"], note=note))
    return table_html(lines, "nothing to explain")


def attention_table(found: Explained) -> str:
    """The numbers of each block, as HTML."""
    lines = [
        {
            "block": block["block"].replace("stages.", "").replace(".blocks.", "."),
            "attention": block["attention"],
            "keys": " × ".join(str(count) for count in block["keys"]),
            "distance": f"{block['distance']:.0f} px",
            "entropy": block["entropy"],
            "largest weight": block["largest"],
        }
        for block in found.row["blocks"]
    ]
    words = (
        "block: of stage and number, from 0; distance: of the keys, mean, in pixels of the network's input; entropy: "
        "over its maximum (1: all keys weigh alike)"
    )
    return metrics_table("", lines) + f'<p class="sv-note">{escape(words)}</p>'
