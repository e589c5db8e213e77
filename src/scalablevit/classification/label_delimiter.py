"""What stands between the labels of an image, in the cells of a table."""

from collections.abc import Sequence

_MARKS = ("|", ";", ",", "\t")


def find_delimiter(cells: Sequence[str], given: str, *, column: str, like: str | None = None) -> str:
    """Find what stands between the labels of a cell.

    Args:
        cells: of the column of labels.
        given: by the user; "auto": it is found.
        column: its name, for errors.
        like: what stands between the labels in another table of the same data; None: there is no other.

    Returns:
        "" where each cell holds one label.

    Raises:
        ValueError: what the user gave stands nowhere, and another mark does; several marks stand there, or others than
            in the other table; or cells are lists of a program.
    """
    if (listed := next((cell for cell in cells if cell[:1] == "[" and cell[-1:] == "]"), None)) is not None:
        raise ValueError(
            f"the column {column!r} holds lists of a program, such as {listed[:60]!r}; write the labels of an image as "
            "one text, such as cat|dog"
        )
    counts = {mark: count for mark in _MARKS if (count := sum(mark in cell for cell in cells))}
    found = next(iter(counts), "")
    if given != "auto":
        # another table may have told already that it stands there
        if found and like is None and not any(given in cell for cell in cells):
            raise ValueError(
                f"data.label_delimiter {given!r} stands nowhere in the column {column!r}, while {found!r} stands in "
                f"{counts[found]:,} of its cells; set it to {found!r}, or to auto"
            )
        return given
    if like and (others := [mark for mark in counts if mark != like]):
        raise ValueError(
            f"the column {column!r} has {others[0]!r} in {counts[others[0]]:,} cells, and in the table of training "
            f"labels stand between {like!r}; write both tables alike, or set data.label_delimiter"
        )
    if like:
        return like
    if len(counts) > 1:
        listed = " and ".join(f"{mark!r} (in {count:,} cells)" for mark, count in counts.items())
        raise ValueError(
            f"the column {column!r} has several marks that may stand between labels: {listed}; set "
            "data.label_delimiter to the one that does, or correct the cells"
        )
    if found or like == "":
        return found
    # Spaces separate labels where the same words come back in ever new company; else they belong to a name.
    distinct = set(cells) - {""}
    words = {word for cell in distinct for word in cell.split()}
    return " " if any(" " in cell for cell in distinct) and len(words) < len(distinct) else ""


def described(delimiter: str, column: str) -> str:
    """Where labels stand and what separates them, for people."""
    how = f"separated by {'spaces' if delimiter == ' ' else repr(delimiter)}" if delimiter else "one an image"
    return f"in the column {column!r}, {how}"
