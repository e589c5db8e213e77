"""Checksums of checkpoints: torch writes them and does not look at them when it reads."""

import os
import zipfile
import zlib


def damaged_part(path: str | os.PathLike[str]) -> str | None:
    """Find a part of a checkpoint that is not as it was written, such as a tensor with a bit turned over.

    Args:
        path: of a file that `torch.save` wrote; formats without checksums pass.

    Returns:
        name of the first part whose checksum does not fit; None: all fit, or there are none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip()
    except zipfile.BadZipFile:
        return None if not zipfile.is_zipfile(path) else "the list of its parts"
    except (zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError):
        return "the list of its parts"  # compressed or encrypted, which torch writes neither
