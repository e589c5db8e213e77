"""Read small text files, such as lists of class names, whatever encoding they were saved in."""

import codecs
import os
import stat
import unicodedata
from pathlib import Path

MOST_BYTES = 4 * 2**20
"""Larger files are no lists of names: reading them would only fill the memory."""

# UTF-32 before UTF-16, whose mark is the beginning of the other's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_text(path: str | Path, *, what: str, most_bytes: int = MOST_BYTES) -> str:
    """Read a text file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Accents that follow their letters (NFD, as macOS writes them) are joined to them (NFC), and line ends become "\\n".

    Args:
        path: of the file.
        what: the argument that names it, for the error.
        most_bytes: larger files are refused.

    Raises:
        ValueError: the file is missing, no regular file, too large or not text.
    """
    path = Path(path).expanduser()
    try:
        data = _read_bytes(path, what, most_bytes)
    except OSError as error:
        raise ValueError(f"{path}: {what} cannot be read ({error.strerror or error}); check the path") from error
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), _guess(data))
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: {what} cannot be read as text (byte {error.start} is not {encoding}); save it as UTF-8"
        ) from error
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n")


def _read_bytes(path: Path, what: str, most_bytes: int) -> bytes:
    """Read a regular file of bounded size; a pipe of the same name would block."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path}: {what} is not a regular file; name a text file")
    if status.st_size > most_bytes:
        raise ValueError(
            f"{path}: {what} has {status.st_size:,} bytes, more than {most_bytes:,}; name "
            + ("a file of class names" if most_bytes == MOST_BYTES else "a smaller file")
        )
    with path.open("rb") as file:
        return file.read(most_bytes)


def _guess(data: bytes) -> str:
    """UTF-16 without a mark has a zero byte beside each ASCII letter."""
    head = data[:400]
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if len(data) % 2 == 0 and max(even, odd) > len(head) // 5:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


def normalised(name: str) -> str:
    """Give names that look the same one form: macOS writes accents apart from their letters, others do not.

    Bytes of a file name that are no UTF-8 are written as `\\xNN`, so that the name can be stored and printed.
    """
    try:
        # not os.fsencode, which fails on letters where the locale is not UTF-8
        text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that stands for no byte, as JSON may hold
        text = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return unicodedata.normalize("NFC", text).strip()
