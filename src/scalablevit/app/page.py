"""The page: what is on it, and what happens when it is used."""

import contextlib
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from scalablevit.app import explaining
from scalablevit.app.examples import examples_of
from scalablevit.app.explain_tabs import ExplainTabs
from scalablevit.app.models import Loaded, Model
from scalablevit.app.results import (
    LOWEST_THRESHOLD,
    View,
    error_html,
    note_html,
    output_images,
    rows,
    run_predictor,
    seen,
    status_html,
    table_html,
)
from scalablevit.app.training_report import training_report
from scalablevit.data.image_file import ImageError, pixel_limit
from scalablevit.data.images import read_image
from scalablevit.safe_write import write_atomically

TITLE = "ScalableViT"
_SYSTEM_FONTS = ("system-ui", "Segoe UI", "Helvetica Neue", "Arial", "sans-serif")
_MONO_FONTS = ("ui-monospace", "Consolas", "Liberation Mono", "monospace")
_HINTS = {
    "classification": "Drop an image to see its classes.",
    "detection": "Drop an image to find the objects in it.",
    "segmentation": "Drop an image to label its pixels.",
}


@dataclass(frozen=True)
class Wording:
    """How results and errors become text, as the command line does it.

    Args:
        json_text: a row as `scalablevit predict --json` prints it.
        error_text: message of an error that the user can correct; None: it is a defect of ours.
    """

    json_text: Callable[[Any], str]
    error_text: Callable[[Exception], str | None]


@dataclass(frozen=True)
class Shown:
    """A prediction that views are drawn from.

    Attributes:
        model: that made it.
        prediction: everything that views may show.
        seconds: that reading and predicting took.
    """

    model: Model
    prediction: Any
    seconds: float


class Page:
    """The page for some models.

    Args:
        models: that can be chosen; at least one.
        folder: private folder for what is uploaded and produced.
        wording: how results and errors become text.
        device: where to compute; None: a GPU if there is one.
        num_examples: example images for each model; 0: none.
        max_upload: largest file in bytes.
        max_pixels: images of up to so many pixels are read; None: Pillow's limit, 179 million.
    """

    def __init__(
        self,
        models: Sequence[Model],
        *,
        folder: Path,
        wording: Wording,
        device: str | None = None,
        num_examples: int = 8,
        max_upload: int = 20 * 2**20,
        max_pixels: int | None = None,
    ) -> None:
        self.models = {model.label: model for model in models}
        self.folder, self.wording, self.num_examples, self.max_upload = folder, wording, num_examples, max_upload
        self._pixel_limit = contextlib.nullcontext if max_pixels is None else partial(pixel_limit, max_pixels)
        self.loaded = Loaded(device)
        self._examples: dict[str, tuple[list[tuple[str, str]], str]] = {}

    def build(self) -> gr.Blocks:
        """Lay out the page and connect its parts."""
        first = next(iter(self.models.values()))
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 6 * 3600)) as blocks:
            gr.HTML(f'<header class="sv-head"><b>{TITLE}</b><span>{self._subtitle()}</span></header>')
            shown = gr.State(None, time_to_live=3600)
            with gr.Tab("Predict"), gr.Row():
                with gr.Column(scale=4, min_width=300):
                    choice = gr.Dropdown(
                        [(f"{model.label}  ·  {model.entry.name}", model.label) for model in self.models.values()],
                        value=first.label,
                        label="Model",
                        filterable=len(self.models) > 8,
                    )
                    file = gr.File(label=f"Image, up to {self.max_upload / 2**20:g} MB", height=150, type="filepath")
                    sliders = self._sliders(first)
                    gallery, remark = self._gallery(first)
                with gr.Column(scale=7, min_width=400), gr.Tabs():
                    with gr.Tab("Result"):
                        status = gr.HTML(note_html(_HINTS[first.entry.name]), elem_id="sv-status")
                        image = gr.Image(
                            show_label=False,
                            interactive=False,
                            format="png",
                            buttons=["fullscreen"],
                            elem_id="sv-image",
                        )
                        table = gr.HTML("", elem_id="sv-result")
                        with gr.Row():
                            downloads = [
                                gr.DownloadButton(label, visible=False, size="sm", elem_id=f"sv-{key}")
                                for key, label in zip(
                                    _DOWNLOADS, ("Download JSON", "Download image", "Download mask"), strict=True
                                )
                            ]
                    explain_tabs = ExplainTabs(self)
                    explain_tabs.build(first)
            with gr.Tab("Training") as training:
                report = self._report_parts()
            outputs = [shown, status, image, table, *downloads]
            inputs = [file, choice, *sliders]
            self._connect(file, choice, sliders, shown, gallery, remark, inputs=inputs, outputs=outputs)
            explain_tabs.connect(file, choice, sliders[1])
            training.select(self.report, choice, report, api_visibility="private", show_progress="minimal")
            choice.change(self.report, choice, report, api_visibility="private", show_progress="hidden")
        blocks.queue(default_concurrency_limit=1, max_size=64)
        return blocks

    def _connect(
        self,
        file: gr.File,
        choice: gr.Dropdown,
        sliders: list[gr.Slider],
        shown: gr.State,
        gallery: gr.Gallery,
        remark: gr.HTML,
        *,
        inputs: list[Any],
        outputs: list[Any],
    ) -> None:
        file.change(self.predict, inputs, outputs, api_visibility="private", show_progress="minimal")
        choice.change(
            self.choose, choice, [*sliders, gallery, remark], api_visibility="private", show_progress="hidden"
        ).then(self.predict, inputs, outputs, api_visibility="private", show_progress="minimal")
        for slider in sliders:
            slider.input(
                self.redraw, [shown, *sliders], outputs, api_visibility="private", show_progress="hidden",
                trigger_mode="always_last",
            )  # fmt: skip
        gallery.select(self.take_example, choice, file, api_visibility="private", show_progress="hidden")

    def _subtitle(self) -> str:
        count = len(self.models)
        return "one trained model" if count == 1 else f"{count} trained models"

    def _sliders(self, model: Model) -> list[gr.Slider]:
        task, view = model.entry.name, View()
        return [
            gr.Slider(
                1, 20, value=view.top, step=1, label="Classes to show", visible=model.shows_top,
                elem_id="sv-top",
            ),
            gr.Slider(
                LOWEST_THRESHOLD, 1, value=view.threshold, step=0.05, label="Lowest score",
                visible=model.shows_threshold, elem_id="sv-threshold",
            ),
            gr.Slider(
                0, 1, value=view.opacity, step=0.05, label="Opacity of the labels", visible=task == "segmentation",
                elem_id="sv-opacity",
            ),
        ]  # fmt: skip

    def _gallery(self, model: Model) -> tuple[gr.Gallery, gr.HTML]:
        examples, remark = self._examples_of(model)
        note = gr.HTML(note_html(remark))
        gallery = gr.Gallery(
            [thumbnail for thumbnail, _ in examples], show_label=False, columns=4,  allow_preview=False,
            interactive=False, buttons=[],
            visible=bool(examples), object_fit="contain", elem_id="sv-examples",
        )  # fmt: skip
        return gallery, note

    def _report_parts(self) -> list[Any]:
        head, table = gr.HTML(""), gr.HTML("")
        table.unrender()
        figures = [
            gr.Image(
                visible=False, interactive=False, format="png", buttons=["fullscreen"], elem_classes=["sv-figure"],
            )
            for _ in range(_MOST_FIGURES)
        ]  # fmt: skip
        table.render()
        return [head, *figures, table]

    def choose(self, label: str) -> list[Any]:
        """Show the sliders and examples of another model."""
        model = self.model(label)
        task = model.entry.name
        examples, remark = self._examples_of(model)
        return [
            gr.update(visible=model.shows_top),
            gr.update(visible=model.shows_threshold),
            gr.update(visible=task == "segmentation"),
            gr.update(value=[thumbnail for thumbnail, _ in examples], visible=bool(examples)),
            note_html(remark),
        ]

    def take_example(self, label: str, event: gr.SelectData) -> str:
        """Take an example image in place of an uploaded one."""
        return self._examples_of(self.model(label))[0][event.index][1]

    def predict(self, path: str | None, label: str, top: float, threshold: float, opacity: float) -> list[Any]:
        """Predict for a file, and show the result or what is wrong with the file."""
        model = self.model(label)
        if path is None:
            return [None, note_html(_HINTS[model.entry.name]), *_NOTHING]
        try:
            shown = self.predicted(path, model)
        except Exception as error:
            return [None, error_html(self.message(error)), *_NOTHING]
        if shown.prediction.error is not None:
            return [None, error_html(shown.prediction.error), *_NOTHING]
        return self._outputs(shown, top, threshold, opacity)

    def redraw(self, shown: Shown | None, top: float, threshold: float, opacity: float) -> list[Any]:
        """Show the same prediction under other settings."""
        if shown is None:
            return [gr.skip()] * 7
        return self._outputs(shown, top, threshold, opacity)

    def predicted(self, path: str, model: Model) -> Shown:
        """Predict for a file with a model, one at a time.

        Raises:
            ValueError, OSError: the model cannot be loaded.
        """
        with self.loaded.lock, self._pixel_limit():
            predictor = self.loaded.predictor(model)
            begin = time.perf_counter()
            prediction = run_predictor(predictor, model.entry.name, Path(path))
            return Shown(model, prediction, time.perf_counter() - begin)

    def explained(self, path: str, model: Model, wish: explaining.Wish) -> explaining.Explained:
        """Explain a file with a model, one at a time.

        Raises:
            ValueError, OSError: as `explaining.explain`, and as loading the model.
        """
        with self.loaded.lock, self._pixel_limit():
            said = explaining.refusal(model, wish.method)
            if said:
                raise ValueError(said)
            return explaining.explain(model, self.loaded.predictor(model), Path(path), wish)

    def preview(self, path: str, model: Model) -> tuple[Image.Image, tuple[int, int]]:
        """The upright image of a file at a size to click on, and the size of the file's own.

        Raises:
            ValueError, OSError: as `explained`.
        """
        with self.loaded.lock, self._pixel_limit():
            image = explaining.upright(Path(path), self.loaded.predictor(model))
        return _enlarged(explaining.to_look_at(image), _CLICKABLE), explaining.size_of(image)

    def message(self, error: Exception) -> str:
        """What the page says of an error; of a defect of ours, the terminal has the trace."""
        message = self.wording.error_text(error)
        if message is None:
            traceback.print_exception(error)
            return "something went wrong in the program; its terminal shows more"
        return message

    def model(self, label: str) -> Model:
        """The model of a label.

        Raises:
            ValueError: there is none.
        """
        if label not in self.models:
            raise ValueError(f"there is no model {label!r}; choose from {', '.join(self.models)}")
        return self.models[label]

    def report(self, label: str) -> list[Any]:
        """Show how a model was trained."""
        model = self.model(label)
        found = training_report(model.run, Path(tempfile.mkdtemp(dir=self.folder)))
        shown = found.figures[:_MOST_FIGURES]
        figures: list[Any] = [gr.update(value=str(path), label=title, visible=True) for path, title in shown]
        figures += [gr.update(value=None, visible=False)] * (_MOST_FIGURES - len(figures))
        return [note_html(self._described(model)) + note_html(found.remark), *figures, found.table]

    def _outputs(self, shown: Shown, top: float, threshold: float, opacity: float) -> list[Any]:
        task = shown.model.entry.name
        view = View(top=int(top), threshold=threshold, opacity=opacity)
        prediction = seen(shown.prediction, task, view)
        width, height = prediction.image.size
        files = self._write(prediction, task, view)
        lines = rows(prediction, task)
        return [
            shown,
            status_html(shown.prediction.path.name, f"{width} × {height} px", f"{1000 * shown.seconds:,.0f} ms"),
            str(files["png"]),
            table_html(lines, "" if lines else next((name for name, _ in prediction.table_rows()), "nothing")),
            *(gr.update(value=str(files[key]) if key in files else None, visible=key in files) for key in _DOWNLOADS),
        ]

    def _write(self, prediction: Any, task: str, view: View) -> dict[str, Path]:
        """Write what can be downloaded; names are those of the image."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        stem = folder / prediction.path.stem[:100]
        text = self.wording.json_text(prediction.to_dict())
        files = {"json": stem.with_name(stem.name + ".json")}
        write_atomically(files["json"], text.encode("utf-8", "surrogateescape"))
        for ending, image in output_images(prediction, task, view).items():
            path = stem.with_name(f"{stem.name}{ending}.png")
            image.save(path, format="PNG")
            files[ending.lstrip("-") or "png"] = path
        return files

    def _examples_of(self, model: Model) -> tuple[list[tuple[str, str]], str]:
        """(thumbnail, copy) of each example image in the page's own folder, and where they are from."""
        if model.label not in self._examples:
            found = examples_of(model, self.num_examples)
            examples = [self._copied(path) for path in found.paths]
            self._examples[model.label] = [pair for pair in examples if pair is not None], found.remark
        return self._examples[model.label]

    def _copied(self, path: Path) -> tuple[str, str] | None:
        """A thumbnail and a copy of an image in the page's own folder; None: it cannot be read or is too large."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        thumbnail, copy = folder / "thumbnail.png", folder / path.name
        if copy == thumbnail:
            thumbnail = folder / "small.png"
        try:
            if path.stat().st_size > self.max_upload:
                return None
            image = read_image(path)
            image = _enlarged(image, _THUMBNAIL // 2)
            image.thumbnail((_THUMBNAIL, _THUMBNAIL))
            image.save(thumbnail)
            shutil.copyfile(path, copy)
        except (ImageError, OSError):
            return None
        return str(thumbnail), str(copy)

    def _described(self, model: Model) -> str:
        metadata = model.weights.metadata
        variant = metadata.get("variant") or metadata.get("architecture") or "network"
        network = metadata.get(model.entry.model_key) if model.entry.model_key else None
        named = f"{network} on {variant}" if network else variant
        return f"{model.label} · {model.entry.name} · {named} · {self._num_classes(model)} classes"

    def _num_classes(self, model: Model) -> int:
        return len(model.weights.metadata.get("class_names") or [""])


def _enlarged(image: Image.Image, side: int) -> Image.Image:
    """A small image with its pixels as squares, its longer side at most `side`; others as they are."""
    factor = max(1, side // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


_MOST_FIGURES = 5
_THUMBNAIL = 256
_CLICKABLE = 512
_DOWNLOADS = ("json", "png", "mask")
_NOTHING: tuple[Any, ...] = (None, "", *(gr.update(value=None, visible=False) for _ in _DOWNLOADS))


def theme() -> gr.themes.Base:
    """Colours and fonts; all fonts are those of the reader's system."""
    return gr.themes.Base(primary_hue="blue", neutral_hue="slate", font=_SYSTEM_FONTS, font_mono=_MONO_FONTS)


def stylesheet() -> str:
    """CSS of the parts that are ours."""
    return (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
