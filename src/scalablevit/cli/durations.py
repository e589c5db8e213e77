"""A length of time as a flag gives it."""

import re
from datetime import timedelta

from scalablevit.cli.errors import UsageError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
_LONGEST = 7 * 24 * 3600.0


def duration(text: str, *, flag: str) -> timedelta:
    """Read such as 90s, 10m or 1.5h.

    Raises:
        UsageError: it has no unit or another one, or lies outside of a second to a week; names the flag.
    """
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(s|m|h)", text.strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 1 <= seconds <= _LONGEST:
        raise UsageError(f"{flag} {text}: give a time from 1s to 168h with its unit, such as 90s, 10m or 1h")
    return timedelta(seconds=seconds)
