"""What the page explains: heatmaps, where a pixel looks, what is refused, and how long it may take."""

import json
import re
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from untrained_models import MAX_UPLOAD, NAMES

from command_line import output_of

if find_spec("gradio") is None:
    pytest.skip("needs the extra app", allow_module_level=True)

import httpx

from scalablevit.app.models import find_models
from scalablevit.cli.app import error_text, json_text
from scalablevit.tasks import load

if TYPE_CHECKING:
    from scalablevit.app.page import Page


@pytest.mark.parametrize(
    ("model", "query", "flags"),
    [
        ("pets", {"class": "dog"}, ("--class", "dog")),
        ("boxes", {"threshold": "0.2"}, ("--threshold", "0.2")),
        ("pixels", {}, ()),
        *((name, {"method": "attention", "at": "20,70", "per": "head"}, ("--at", "20,70", "--per", "head"))
          for name in ("pets", "boxes", "pixels")),
    ],
)  # fmt: skip
def test_api_answers_what_explain_prints(
    model: str, query: dict[str, str], flags: tuple[str, ...], served: "tuple[str, Page]", photo: Path
) -> None:
    url, page = served
    named = {"name": photo.name, "model": model, **query}
    answer = httpx.post(f"{url}/explain", params=named, content=photo.read_bytes(), timeout=60)
    assert answer.status_code == 200, answer.text
    method = ("--method", query.get("method", "cam"))
    source = page.model(model).source
    out, _ = output_of("explain", photo, "--weights", source, "--json", "--device", "cpu", *method, *flags)
    assert answer.json() == {**json.loads(out), "path": photo.name}


def test_api_says_why_nothing_is_explained(served: "tuple[str, Page]", photo: Path) -> None:
    url, _ = served

    def error(status: int, content: bytes = photo.read_bytes(), **query: str) -> str:
        answer = httpx.post(f"{url}/explain", params={"name": "a.png", **query}, content=content, timeout=60)
        assert answer.status_code == status, answer.text
        return str(answer.json()["error"])

    assert error(400, b"junk").startswith("a.png: this is not an image")
    assert "there is no class 'cow'; classes are <b>cat</b>, grün, dog" in error(400, **{"class": "cow"})
    assert "point 60,10 lies outside the image of 60 x 90 pixels" in error(400, method="attention", at="60,10")
    assert "outside the image" in error(400, method="attention", at="nan,10")
    assert "at must be X,Y" in error(400, method="attention", at="7")
    assert "is not seen by the network, which cuts out x" in error(400, model="pets", method="attention", at="0,0")
    assert "method must be one of cam, occlusion, attention, got 'x'" in error(400, method="x")
    assert "per must be one of stage, block, head, got 'x'" in error(400, method="attention", per="x")
    assert "threshold must lie in [0, 1], got 7" in error(400, threshold="7")
    assert "threshold must be a number, got 'inf'" in error(400, threshold="inf")
    assert "larger than 1 MB" in error(413, b"x" * (MAX_UPLOAD + 1))


def test_tabs_show_the_files_and_errors_of_explain(served: "tuple[str, Page]", photo: Path, tmp_path: Path) -> None:
    from scalablevit.app.explain_tabs import ExplainTabs, class_choices

    _, page = served
    tabs = ExplainTabs(page)
    for label in page.models:
        assert [name for name, _ in class_choices(page.model(label))] == ["what the network finds", *NAMES]
    output_of(
        "explain", photo, "--weights", page.model("pets").source, "--save", tmp_path, "--device", "cpu",
        "--method", "cam", "attention", "--at", "20,50", "--class", "dog",
    )  # fmt: skip
    heatmap = tabs.show_heatmap(str(photo), "pets", "cam", NAMES.index("dog"), 0.5)
    attention = tabs.show_attention(str(photo), "pets", 20, 50, "stage")
    for method, (status, image, table, json_file, png_file) in (("cam", heatmap), ("attention", attention)):
        stem = tmp_path / f"a photo-{method}"
        assert photo.name in status
        assert Path(image["value"]).read_bytes() == stem.with_suffix(".png").read_bytes(), method
        assert png_file["value"] == image["value"]
        row = json.loads(stem.with_suffix(".json").read_text())
        assert json.loads(Path(json_file["value"]).read_text()) == {**row, "path": photo.name}
        assert ("dog" if method == "cam" else "IWSA") in table
    status = tabs.show_heatmap(str(photo), "boxes", "cam", -1, 0.05)[0]
    assert re.search(r"6 of \d+ objects are explained, the most important first", status)
    assert "nothing to explain" in tabs.show_heatmap(str(photo), "boxes", "cam", -1, 1.0)[0]
    offered, names = tabs.offer("boxes", "occlusion")
    assert ([value for _, value in offered["choices"]], offered["value"]) == (["cam", "occlusion"], "occlusion")
    assert len(names["choices"]) == 1 + len(NAMES)
    assert "Drop an image first" in tabs.show_heatmap(None, "pets", "cam", -1, 0.5)[0]
    assert "x and y must be numbers" in tabs.show_attention(str(photo), "pets", None, 3, "stage")[0]
    assert 'role="alert">point 99,3 lies outside' in tabs.show_attention(str(photo), "pets", 99, 3, "stage")[0]
    bad = tmp_path / "<i>bad.png"
    bad.write_bytes(b"junk")
    status, image, *_ = tabs.show_heatmap(str(bad), "pets", "cam", -1, 0.5)
    assert 'role="alert">&lt;i&gt;bad.png: this is not an image' in status
    assert image["visible"] is False


def test_exported_files_are_explained_by_occlusion_alone(runs: Path, photo: Path, tmp_path: Path) -> None:
    import gradio as gr

    from scalablevit.app.explain_tabs import ExplainTabs
    from scalablevit.app.page import Page, Wording
    from scalablevit.deploy.exported import ExportedNetwork

    pytest.importorskip("captum")
    (run,) = find_models([str(runs / "pets")], on_skipped=pytest.fail)
    predictor = load(run.entry.predictor).load(run.weights, device="cpu")
    exported = ExportedNetwork.__new__(ExportedNetwork)
    exported.__dict__.update(metadata=run.weights.metadata, task=run.weights.task)
    page = Page([replace(run, weights=exported)], folder=tmp_path, wording=Wording(json_text, error_text))
    page.loaded._predictors["pets"] = predictor
    tabs = ExplainTabs(page)
    assert "pets is an exported file: occlusion explains it" in tabs.clear(str(photo), "pets")[0]
    for chosen in (None, "cam", "occlusion"):
        offered, _ = tabs.offer("pets", chosen)
        assert (offered["choices"], offered["value"]) == (
            [("Occlusion: hide and see (slow)", "occlusion")],
            "occlusion",
        )
    with gr.Blocks(), gr.Tabs():
        tabs.build(page.model("pets"))
    assert tabs.method.value == "occlusion"
    for shown in (
        tabs.show_heatmap(str(photo), "pets", "cam", -1, 0.5),
        tabs.show_attention(str(photo), "pets", 9, 9, "stage"),
    ):
        assert re.search(
            r'role="alert">pets is an exported file.* choose the run .*or occlusion as the method', shown[0]
        )
    status, image, *_ = tabs.show_heatmap(str(photo), "pets", "occlusion", 1, 0.5)
    assert "8 windows along the shorter side were hidden in turn." in status
    assert image["visible"]


def test_large_images_are_scaled_down_before_they_are_explained(
    served: "tuple[str, Page]", photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalablevit.app import explaining

    url, page = served
    monkeypatch.setattr(explaining, "_MOST_PIXELS", 1500)
    query = {"model": "pixels", "method": "attention", "at": "59,89"}
    row = httpx.post(f"{url}/explain", params=query, content=photo.read_bytes(), timeout=60).json()
    assert row["explained_size"] == [31, 47]
    assert row["at"] == [30.0, 46.0]
    found = page.explained(str(photo), page.model("pixels"), explaining.Wish("attention", at=(59, 89)))
    assert "scaled down from 60 × 90 to 31 × 47 px" in found.remark
    monkeypatch.setattr(explaining, "_MOST_SEEN", 2000)
    row = httpx.post(f"{url}/explain", params=query, content=photo.read_bytes(), timeout=60).json()
    assert "the network would see 64 x 64 pixels, more than 0.002 million" in row["error"]


def test_occlusion_hides_as_many_windows_as_there_is_time_for(
    served: "tuple[str, Page]", photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scalablevit.app import explaining
    from scalablevit.app.explaining import _windows_in_time

    _, page = served
    model = page.model("pets")
    subject = load(model.entry.explained)(page.loaded.predictor(model), photo, Image.open(photo).convert("RGB"), 0.5)
    assert _windows_in_time(subject, 1000.0, "") == (8, "8 windows along the shorter side were hidden in turn.")
    monkeypatch.setattr(explaining, "_MUCH_LONGER", 1e12)
    assert _windows_in_time(subject, 1e-9, "")[0] == 2
    assert "8 would take too long" in _windows_in_time(subject, 1e-9, "")[1]
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"occlusion would take about .* minutes for an image of 32 x 32 pixels: wait"):
        _windows_in_time(subject, 1e-9, "wait")
    monkeypatch.setattr(explaining, "_OCCLUSION_SECONDS", 1e-9)
    with pytest.raises(ValueError, match=r"pixels: choose Layer-CAM, or cut out a part of the image"):
        page.explained(str(photo), model, explaining.Wish("occlusion"))


def test_a_click_is_a_pixel_of_the_files_own_image(served: "tuple[str, Page]", photo: Path) -> None:
    import gradio as gr

    from scalablevit.app.explain_tabs import ExplainTabs

    _, page = served
    tabs = ExplainTabs(page)
    _, _, _, _, _, hint, preview, x, y, *_ = tabs.clear(str(photo), "boxes")
    assert "Click a pixel" in hint
    with Image.open(preview["value"]) as image:
        assert image.size == (300, 450)  # five times
    assert (x, y) == (30, 45)
    for click, pixel in (((0, 0), (0, 0)), ((4, 5), (0, 1)), ((299, 449), (59, 89))):
        event = gr.SelectData(None, {"index": click, "value": None})
        assert tabs.take_point(str(photo), "boxes", event) == pixel


@pytest.mark.slow
def test_explanations_in_a_browser(served: "tuple[str, Page]", photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    from browser import CHROMIUM, Browser

    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    url, _ = served
    with Browser() as browser:
        browser.open(url)
        browser.wait("document.querySelector('input[type=file]')")
        browser.choose("Model", "pixels")
        browser.upload("input[type=file]", photo)
        browser.wait("document.querySelector('#sv-image img')")
        browser.click(tab("Heatmap"))
        browser.click("document.querySelector('#sv-explain')")
        browser.wait("document.querySelector('#sv-heatmap img')")
        (found,) = browser.evaluate("[document.querySelectorAll('#sv-heatmap-table li').length]")
        assert found >= 1
        browser.click(tab("Attention"))
        browser.wait("document.querySelector('#sv-click img')?.naturalWidth === 300")
        browser.click("document.querySelector('#sv-click img')")  # in the middle
        browser.wait("document.querySelector('#sv-attention img')")
        place = "['x', 'y'].map(axis => Number(document.querySelector(`#sv-${axis} input`).value))"
        assert browser.evaluate(place) in ([29, 44], [30, 45], [29, 45], [30, 44])
        # without a mouse: the fields have labels, and Enter shows
        shown = browser.evaluate("document.querySelector('#sv-attention img').src")
        label = "document.querySelector('#sv-x input').labels[0] || document.querySelector('#sv-x label')"
        assert "x, pixels from the left" in browser.evaluate(f"({label}).innerText")
        browser.evaluate("(e => { e.focus(); e.select() })(document.querySelector('#sv-x input'))")
        browser.send("Input.insertText", text="3")
        for kind in ("keyDown", "keyUp"):
            browser.send(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r", windowsVirtualKeyCode=13
            )
        browser.wait(f"document.querySelector('#sv-attention img').src !== {json.dumps(shown)}")
        elsewhere = [address for address in browser.requested if not address.startswith((url, "data:", "blob:"))]
        assert elsewhere == []
        assert browser.console == []


def tab(name: str) -> str:
    """JavaScript expression of a tab's button."""
    return f"[...document.querySelectorAll('button[role=tab]')].find(e => e.innerText.startsWith('{name}'))"
