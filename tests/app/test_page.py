"""The page as it is served: predictions, files, errors, what is refused, and how it looks in a browser."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from untrained_models import MAX_UPLOAD

from command_line import output_of, scalablevit

if find_spec("gradio") is None:
    pytest.skip("needs the extra app", allow_module_level=True)

import httpx

from scalablevit.app.models import find_models
from scalablevit.cli.app import error_text, json_text

if TYPE_CHECKING:
    from scalablevit.app.page import Page


@pytest.mark.parametrize(
    ("model", "flags"),
    [("pets", ("--top", "2")), ("boxes", ("--threshold", "0.2")), ("pixels", ())],
)
def test_api_answers_what_predict_prints(
    model: str, flags: tuple[str, ...], served: "tuple[str, Page]", photo: Path
) -> None:
    url, page = served
    query = {"name": photo.name, "model": model, **{flags[i][2:]: flags[i + 1] for i in range(0, len(flags), 2)}}
    answer = httpx.post(f"{url}/predict", params=query, content=photo.read_bytes(), timeout=60)
    assert answer.status_code == 200
    source = page.model(model).source
    out, _ = output_of("predict", photo, "--weights", source, "--json", "--device", "cpu", *flags)
    assert answer.json() == {**json.loads(out), "path": photo.name}


def test_api_says_what_is_wrong(served: "tuple[str, Page]", photo: Path) -> None:
    url, _ = served

    def error(status: int, content: bytes, **query: str) -> str:
        answer = httpx.post(f"{url}/predict", params=query, content=content, timeout=60)
        assert answer.status_code == status, answer.text
        return str(answer.json()["error"])

    image = photo.read_bytes()
    assert error(400, b"junk", name="junk.png").startswith("junk.png: this is not an image")
    assert error(400, image[:300], name="../cut.jpg").startswith("cut.jpg: ")
    assert error(400, b"", name="empty.png").startswith("empty.png: the file is empty")
    for name in ("..", "a/..", "\0", ""):
        assert error(400, b"junk", name=name).startswith("image: this is not an image")
    assert error(400, b"junk", name=f"{'é' * 200}.png").startswith("éééé")
    assert "there is no model 'x'; choose from pets" in error(400, image, model="x")
    assert "top must be at least 1, got 0" in error(400, image, top="0")
    assert "threshold must be a number, got 'x'" in error(400, image, threshold="x")
    assert error(413, b"x" * (MAX_UPLOAD + 1), name="big.png") == "big.png: it is larger than 1 MB"


def test_page_shows_the_files_and_errors_of_predict(served: "tuple[str, Page]", photo: Path, tmp_path: Path) -> None:
    _, page = served
    for label in page.models:
        shown, status, image, table, json_file, png_file, mask_file = page.predict(str(photo), label, 2, 0.2, 0.5)
        assert photo.name in status
        assert "60 × 90 px" in status  # upright
        assert " ms" in status
        assert table
        folder = tmp_path / label
        out, _ = output_of(
            "predict", photo, "--weights", page.model(label).source, "--json", "--save", folder, "--device", "cpu",
            *{"pets": ("--top", "2"), "boxes": ("--threshold", "0.2"), "pixels": ()}[label],
        )  # fmt: skip
        row = json.loads(out)
        del row["saved"]
        assert json.loads(Path(json_file["value"]).read_text()) == {**row, "path": photo.name}
        assert Path(png_file["value"]).read_bytes() == (folder / "a photo.png").read_bytes()
        assert image == png_file["value"]
        assert mask_file["visible"] == (label == "pixels")
        if label == "pixels":
            assert Path(mask_file["value"]).read_bytes() == (folder / "a photo-mask.png").read_bytes()
            redrawn = page.redraw(shown, 2, 0.2, 0.0)
            assert Path(redrawn[2]).read_bytes() != Path(image).read_bytes()
    bad = tmp_path / "<i>bad.png"
    bad.write_bytes(b"junk")
    _, status, image, table, json_file, *_ = page.predict(str(bad), "pets", 5, 0.5, 0.5)
    assert 'role="alert">&lt;i&gt;bad.png: this is not an image' in status
    assert str(tmp_path) not in status
    assert (image, table, json_file["visible"]) == (None, "", False)
    assert "Drop an image" in page.predict(None, "pets", 5, 0.5, 0.5)[1]


def test_the_limit_of_pixels_is_the_pages_own(runs: Path, photo: Path, tmp_path: Path) -> None:
    from scalablevit.app.page import Page, Wording

    models = find_models([str(runs / "pets")], on_skipped=pytest.fail)
    wording = Wording(json_text, error_text)
    for most, said in ((5398, "too many pixels"), (5400, "60 × 90 px"), (None, "60 × 90 px")):
        page = Page(models, folder=tmp_path, wording=wording, device="cpu", max_pixels=most)
        assert said in page.predict(str(photo), "pets", 5, 0.5, 0.5)[1]


def test_defects_are_no_trace_on_the_page(
    served: "tuple[str, Page]", photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, page = served

    def fail(*_: Any) -> None:
        raise KeyError("a defect")

    monkeypatch.setattr(page, "predicted", fail)
    status = page.predict(str(photo), "pets", 5, 0.5, 0.5)[1]
    assert "something went wrong in the program; its terminal shows more" in status
    assert "a defect" in capsys.readouterr().err


def test_examples_and_training_are_shown(served: "tuple[str, Page]") -> None:
    url, page = served
    config = httpx.get(f"{url}/config").json()
    gallery = next(part for part in config["components"] if part["props"].get("elem_id") == "sv-examples")
    assert len(gallery["props"]["value"]) == 6
    *_, examples, remark = page.choose("boxes")
    assert examples["visible"] is False
    assert "No examples: the weights do not lie in a run folder" in remark
    head, *figures, table = page.report("pets")
    assert "pets · classification · scalablevit_atto · 3 classes" in head
    assert [figure.get("label") for figure in figures if figure["visible"]] == ["Curves", "Confusion matrix"]
    assert "recall" in table


def test_other_files_hosts_and_pages_are_refused(served: "tuple[str, Page]", runs: Path) -> None:
    url, page = served
    secret = runs / "pets" / "recipe.yaml"
    for path in (secret, "/etc/passwd", f"{page.folder}/../../../../../../etc/passwd", "pyproject.toml"):
        assert httpx.get(f"{url}/gradio_api/file={path}").status_code in (403, 404), path
    outside = ("/gradio_api/file=http://127.0.0.1:9/x", "/gradio_api/proxy=http://127.0.0.1:9/", "/gradio_api/runs")
    for path in (*outside, "/gradio_api/vibe-code", "/docs", "/openapi.json", "/monitoring"):
        assert httpx.get(f"{url}{path}").status_code == 404, path
    for named in (
        {"path": str(secret)},
        {"path": "http://127.0.0.1:9/x.png"},
        {"path": "a", "url": "http://10.0.0.1/x"},
    ):
        answer = httpx.post(
            f"{url}/gradio_api/queue/join",
            json={"data": [{**named, "meta": {"_type": "gradio.FileData"}}], "fn_index": 0},
        )
        assert answer.status_code == 403, named
        assert "error" in answer.json()
    assert httpx.post(f"{url}/gradio_api/queue/join", content=b"junk").status_code == 403
    too_large = {"files": ("big.png", b"x" * (MAX_UPLOAD + 1))}
    assert httpx.post(f"{url}/gradio_api/upload", files=too_large).status_code == 413
    assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 400


def test_html_names_no_other_host(served: "tuple[str, Page]") -> None:
    url, _ = served
    answer = httpx.get(url)
    assert answer.status_code == 200
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    tags = re.findall(r"<(?:link|script|img|iframe|meta)\b[^>]*>", answer.text)
    assert [tag for tag in tags if re.search(r"(?:href|src|content)=\"(?:https?:)?//(?!127\.0\.0\.1)", tag)] == []
    theme = httpx.get(f"{url}/theme.css").text
    assert re.findall(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^\s"')]+""", theme) == []


def test_command_line_is_checked_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "scalablevit fit --config digits" in scalablevit("app").err
    for words, code, message in (
        (("--port", "70000"), 2, "--port must lie in [0, 65535], got 70000"),
        (("--max-upload", "0"), 2, "--max-upload must lie in"),
        (("--max-pixels", "0"), 2, "--max-pixels must be at least 1 (million), got 0"),
        (("--examples", "-1"), 2, "--examples must be at least 0"),
        (("missing",), 1, "no weights at missing"),
    ):
        outcome = scalablevit("app", *words)
        assert outcome.code == code, words
        assert message in outcome.err


def test_port_or_address_that_cannot_be_used(runs: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        outcome = scalablevit("app", runs / "pets", "--port", str(port), "--device", "cpu")
    assert outcome.code == 1
    assert f"port {port} of 127.0.0.1 is taken" in outcome.err
    outcome = scalablevit("app", runs / "pets", "--host", "no.such.host.invalid", "--device", "cpu")
    assert outcome.code == 1
    assert "--host no.such.host.invalid: there is no such address" in outcome.err


@pytest.mark.slow
def test_ctrl_c_ends_it_and_nothing_heavy_is_imported(runs: Path, tmp_path: Path) -> None:
    code = (
        "import atexit, sys\n"
        "heavy = ('lightning', 'torchmetrics')\n"
        "atexit.register(lambda: print('heavy', [name for name in heavy if name in sys.modules]))\n"
        "from scalablevit.cli import run\n"
        f"sys.argv[1:] = ['app', {str(runs)!r}, '--port', '0', '--device', 'cpu']\n"
        "run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "in a browser" in line:
            break
    else:
        pytest.fail("".join(lines))
    url = re.search(r"http://[\w.:]+", line)
    assert url is not None
    assert httpx.get(url[0]).status_code == 200
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err == "scalablevit: error: stopped\n"
    assert out == "heavy []\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_page_in_a_browser_without_a_network(served: "tuple[str, Page]", photo: Path, tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    from browser import CHROMIUM, Browser

    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    url, _ = served
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"junk")
    with Browser() as browser:
        browser.open(url)
        browser.wait("document.querySelector('#sv-status')")
        browser.wait("document.querySelector('input[type=file]')")
        browser.upload("input[type=file]", photo)
        browser.wait(
            "document.querySelector('#sv-image img') && document.querySelectorAll('.sv-table li').length === 3"
        )
        assert "a photo.jpg · 60 × 90 px" in browser.text()
        assert "<b>cat</b>" in browser.text()
        browser.choose("Model", "pixels")
        browser.wait("document.body.innerText.includes('Opacity of the labels')")
        browser.wait("document.querySelector('#sv-mask')")
        browser.screenshot(tmp_path / "page.png")
        browser.click("document.querySelector('button[aria-label=\"Remove this file\"], button[aria-label=Clear]')")
        browser.wait("document.body.innerText.includes('Drop an image to label its pixels')")
        browser.wait("document.querySelector('input[type=file]')")
        browser.upload("input[type=file]", bad)
        browser.wait("document.querySelector('.sv-error')")
        assert "bad.png: this is not an image" in browser.text()
        elsewhere = [address for address in browser.requested if not address.startswith((url, "data:", "blob:"))]
        assert elsewhere == []
        assert browser.console == []
    with Image.open(tmp_path / "page.png") as image:
        assert image.width == 1280
        assert len(image.convert("RGB").resize((64, 48)).getcolors(64 * 48) or []) > 50, "the page is blank"
