"""Names of files and classes are shown as they are, and never obeyed."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalablevit.printable import plot_text, printable, real_name
from scalablevit.safe_write import write_json


@pytest.mark.parametrize(
    "text", ["photo [copy].png", "x[/red].png", "x :smile: y", "$a_b$", "grün", "狗", "👩‍🚀", "नमस्ते", r"C:\new", ""]
)
def test_ordinary_text_stays(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("bell\x07", r"bell\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("line\u2028break", r"line\u2028break"),
        ("caf\udce9", r"caf\xe9"),
        ("gr\udcc3\udcbcn", "grün"),
        ("half\ud83d", r"half\ud83d"),
    ],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_messages_keep_their_line_breaks_if_asked() -> None:
    assert printable("one\ntwo\x1b", multiline=True) == "one\ntwo\\x1b"


@given(st.text(st.characters(exclude_categories=())))
def test_nothing_is_left_that_moves_a_cursor_or_cannot_be_encoded(text: str) -> None:
    shown = printable(text)
    assert [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")] == []
    shown.encode("utf-8")


def test_a_path_that_is_not_utf8_keeps_its_bytes_in_json() -> None:
    assert real_name(Path("caf\udce9.png")) == "caf\udce9.png"
    assert real_name(Path("gr\udcc3\udcbcn")) == "grün"


@pytest.mark.parametrize("text", ["$x$", "a$b", r"\$x$", "$\\frac", "$$", "[b]"])
def test_matplotlib_draws_dollar_signs(text: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure()
    drawn = figure.text(0, 0, plot_text(text))
    shown, is_math = drawn._preprocess_math(drawn.get_text())  # type: ignore[attr-defined]
    assert (shown, is_math) == (text, False)


def test_json_files_take_names_that_are_not_utf8(tmp_path: Path) -> None:
    for content in ({"name": "grün"}, {"name": "caf\udce9"}):
        write_json(tmp_path / "a.json", content)
        assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == content


def test_json_files_have_null_for_what_is_no_number(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"loss": float("nan"), "rows": [(1.5, float("-inf")), {"ap": float("inf")}]})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "loss": None,
        "rows": [[1.5, None], {"ap": None}],
    }
