"""Texts and colour profiles of PNG files that unpack to more than Pillow takes, left out so that the image is read."""

import io
import struct
import zlib
from collections.abc import Mapping
from typing import IO, BinaryIO

from PIL import PngImagePlugin

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_Chunk = tuple[bytes, int, int]  # type, start of the content, its length
_METADATA = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
# DEFLATE unpacks to 1,032 times as much at most.
_LARGEST_RATIO = 1032


def without_large_metadata(file: BinaryIO) -> BinaryIO:
    """Leave out those texts and that colour profile of a PNG file for whose size Pillow would refuse the image.

    Images are read as their numbers are. Pillow's limits keep small files from filling the memory, and an image
    editor's history or a printer's profile exceeds them. Small texts stay: they may say which side is up.

    Args:
        file: open for reading, at its start; of any format.

    Returns:
        `file` at its start, or the content without its large metadata.
    """
    chunks = _chunks(file)
    found = [chunk for chunk in chunks if chunk[0] in _METADATA]
    sizes = [_unpacked_size(file, *chunk) for chunk in found]
    left_out = _too_large(dict(zip(found, sizes, strict=True)))
    if not left_out:
        file.seek(0)
        return file
    kept = io.BytesIO(_SIGNATURE)
    kept.seek(0, io.SEEK_END)
    for kind, start, length in chunks:
        if (kind, start, length) not in left_out:
            file.seek(start - 8)
            kept.write(file.read(length + 12))
    kept.seek(0)
    return kept


def has_metadata_behind_pixels(file: IO[bytes]) -> bool:
    """Whether a PNG file has EXIF or texts behind its pixels, which are read with them; the position is kept."""
    position = file.tell()
    kinds = [kind for kind, _, _ in _chunks(file)]
    file.seek(position)
    behind = kinds[kinds.index(b"IDAT") :] if b"IDAT" in kinds else kinds
    return any(kind in (b"eXIf", *_METADATA) for kind in behind)


def _too_large(sizes: Mapping[_Chunk, int]) -> set[_Chunk]:
    """The largest chunks of metadata, until Pillow takes the rest."""
    left_out: set[_Chunk] = set()
    total = sum(sizes.values())
    for chunk in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if sizes[chunk] <= PngImagePlugin.MAX_TEXT_CHUNK and total <= PngImagePlugin.MAX_TEXT_MEMORY:
            break
        left_out.add(chunk)
        total -= sizes[chunk]
    return left_out


def _chunks(file: IO[bytes]) -> list[_Chunk]:
    """List (type, start of the content, length of the content); empty where the file is no PNG."""
    chunks: list[_Chunk] = []
    file.seek(0)
    if file.read(8) != _SIGNATURE:
        return chunks
    while len(head := file.read(8)) == 8:
        (length,), kind = struct.unpack(">I", head[:4]), head[4:]
        chunks.append((kind, file.tell(), length))
        if kind == b"IEND":
            break
        file.seek(length + 4, io.SEEK_CUR)
    return chunks


def _unpacked_size(file: BinaryIO, kind: bytes, start: int, length: int) -> int:
    """Size in bytes of a chunk of metadata, as Pillow counts it: unpacked, at most one more than it takes."""
    if kind == b"tEXt":
        return length
    if length * _LARGEST_RATIO <= PngImagePlugin.MAX_TEXT_CHUNK:
        return length * _LARGEST_RATIO
    file.seek(start)
    _, _, rest = file.read(length).partition(b"\0")  # behind the keyword
    if kind == b"iTXt":
        if rest[:1] != b"\1":  # not compressed
            return length
        rest = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind language and translated keyword
    else:
        rest = rest[1:]  # behind the method
    try:
        return len(zlib.decompressobj().decompress(rest, PngImagePlugin.MAX_TEXT_CHUNK + 1))
    except zlib.error:
        return 0  # Pillow drops it by itself, or says what is wrong
