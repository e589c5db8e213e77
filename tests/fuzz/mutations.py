"""Seeded mutations of bytes, of text and of nested data, in which fuzzers have found most faults elsewhere."""

import random
import struct
from collections.abc import Sequence
from typing import Any

_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_TOKENS = (b"\x00", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"99999999", b"-1", b"NaN", b"{", b"[", b'"', b"\\u0000", b"'")
ODD_VALUES: tuple[Any, ...] = (
    *(None, True, "", "x", "é", "\x1b[31m", "[bold]", "../../x", "\x00", "a" * 5000, "\ud800"),
    *(-1, 0, 3, 2**31, 2**53 + 1, 10**400, 0.5, float("nan"), float("inf"), 1e308, -0.0),
    *([], {}, [[]], [None], {"x": 1}, {"size": [1, 1]}, ["a", 1, None], {"": {}}),
)
"""Values that stand where others are expected."""


_DEPTHS = (2, 50, 3000, 100_000)


def with_depth(text: str) -> str:
    """Replace the marks that `mutate_data` leaves by lists inside lists, which encoders cannot write so deep."""
    for depth in _DEPTHS:
        text = text.replace(f'"deep {depth}"', "[" * depth + "]" * depth).replace(f"deep {depth}", "[" * depth)
    return text


def mutate_bytes(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change bytes, blocks, lengths or the end of a file; `other` is one to splice with."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        where = rng.randrange(len(out) + 1)
        # Most formats keep what matters in the first bytes.
        if rng.random() < 0.5:
            where = min(where, rng.randrange(256))
        match rng.randrange(8):
            case 0 if out:
                out[min(where, len(out) - 1)] ^= 1 << rng.randrange(8)
            case 1:
                size = rng.choice("BHIQ")
                number = rng.choice(_INTERESTING) & (2 ** (8 * struct.calcsize(size)) - 1)
                raw = struct.pack(rng.choice("<>") + size, number)
                out[where : where + len(raw)] = raw
            case 2:
                del out[where : where + rng.choice((1, 2, 16, 256))]
            case 3:
                out[where:where] = rng.choice(_TOKENS)
            case 4:
                del out[where:]
            case 5:
                block = bytes(out[where : where + rng.randrange(1, 64)])
                out[where:where] = block * rng.randrange(1, 4)
            case 6:
                start = rng.randrange(len(other) + 1)
                out[where : where + 32] = other[start : start + 32]
            case 7:
                out[where : where + 8] = rng.randbytes(8)
    return bytes(out)


def mutate_data(value: Any, rng: random.Random) -> Any:
    """Copy nested dicts and lists with a few entries replaced, removed, doubled or renamed."""
    out = _copy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        holders = [found for found in _containers(out) if len(found)]
        if not holders:
            return rng.choice(ODD_VALUES)
        holder = rng.choice(holders)
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        match rng.randrange(6):
            case 0 | 1:
                holder[key] = _copy(rng.choice(ODD_VALUES))
            case 2:
                del holder[key]
            case 3:
                holder[key] = _copy(rng.choice(list(_containers(value)) or [0]))
            case 4 if isinstance(holder, list):
                holder += [_copy(holder[key])] * rng.randrange(1, 4)
            case 4:
                holder[rng.choice(("x", "", "id", str(key).upper()))] = holder.pop(key)
            case 5:
                holder[key] = f"deep {rng.choice(_DEPTHS)}"
    return out


def _copy(value: Any) -> Any:
    """Copy dicts and lists."""
    if isinstance(value, dict):
        return {key: _copy(x) for key, x in value.items()}
    return [_copy(x) for x in value] if isinstance(value, list) else value


def _containers(value: Any) -> Sequence[Any]:
    found, waiting = [], [value]
    while waiting and len(found) < 500:
        current = waiting.pop()
        if isinstance(current, dict | list):
            found.append(current)
            waiting += current.values() if isinstance(current, dict) else current
    return found
