"""Long lists of names, cut short for messages."""

from collections.abc import Iterable

from scalablevit.printable import printable


def abridged(names: Iterable[object], most: int = 5) -> str:
    """The first names and how many more there are: "ant, bee and 3 more".

    Args:
        names: of classes, files, ...; `map(repr, names)` puts each in quotes.
        most: how many to name.
    """
    words = [printable(name) for name in names]
    more = f" and {len(words) - most:,} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
