"""Show text of users as it is: names of files and classes, never read as markup or terminal codes."""

import os
import re
from collections.abc import Sequence

# C0 and C1 controls, line and paragraph separators, and the characters that reverse the direction of what follows.
# Joiners (U+200C, U+200D) stay: emoji and Indic scripts need them.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object, *, multiline: bool = False) -> str:
    """Escape what a terminal would obey: control characters, direction overrides, bytes that are no text.

    Everything else stays: brackets, colons, dollar signs, letters of any script.

    Args:
        text: a name, a path, a message.
        multiline: whether line breaks stay, for messages of several lines; names lie on one line.

    Returns:
        text in which an escape character reads `\\x1b` and a byte that is not UTF-8 reads `\\xff`.
    """
    shown = real_name(text)
    if _UNPRINTABLE.search(shown) is None:
        return shown
    return _UNPRINTABLE.sub(lambda found: found[0] if multiline and found[0] == "\n" else _escaped(found[0]), shown)


def short_name(name: str, most: int) -> str:
    """Printable text of at most `most` characters; what is cut off becomes an ellipsis."""
    shown = printable(name)
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def plot_text(text: object) -> str:
    """Text for matplotlib, which reads formulas between dollar signs: printable, with every dollar sign escaped."""
    return printable(text).replace("$", r"\$")


def real_name(text: object) -> str:
    """The name that UTF-8 gives the bytes of a file name, whatever the locale; other bytes stay surrogates.

    Under an ASCII locale Python reads `grün` as `gr` and two surrogates; a JSON file should hold the letter.
    """
    name = os.fspath(text) if isinstance(text, os.PathLike) else text
    name = str(name)
    if name.isascii():
        return name
    try:
        return name.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return name


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00  # the byte that the surrogate stands for
    known = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(character)
    return known or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table, the headings first."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines) + "\n"
