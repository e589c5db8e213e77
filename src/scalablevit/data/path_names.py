"""Paths as other tools and machines write them, in parts that can be compared.

Imports neither torch nor lightning, so that checking data starts at once.
"""

import re
import unicodedata


def path_parts(name: str) -> list[str]:
    """Parts of a path of any system, without those that lead upwards or nowhere."""
    return [part for part in re.split(r"[\\/]+", name) if part not in ("", ".", "..") and not part.endswith(":")]


def is_absolute(name: str) -> bool:
    """Whether a path starts from the root of some system, or is an address."""
    return name.startswith(("/", "\\")) or re.match(r"[A-Za-z][A-Za-z0-9+.-]*:[\\/]", name) is not None


def folded(name: str) -> str:
    """Equal for names that differ in case or in the form of accents only."""
    return unicodedata.normalize("NFC", name).casefold()


def with_slashes(name: str) -> str:
    """Return a path of Windows as one of this system, without its drive; others as they are."""
    return re.sub(r"^[A-Za-z]:", "", name).replace("\\", "/") if "\\" in name else name
