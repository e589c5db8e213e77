"""A data set's folder that appears complete or not at all."""

import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path


def write_whole_folder(root: str | Path, write: Callable[[Path], None], *, parts: Sequence[str]) -> Path:
    """Let `write(folder)` fill a folder beside `root`, then rename it to `root`; processes may race.

    Args:
        root: folder to make; it may exist if it is empty.
        write: fills the folder that it is given, which exists and is empty.
        parts: names of the subfolders that tell a complete folder, which a faster process made.

    Returns:
        `root`.

    Raises:
        ValueError: `root` holds something already, or is a file.
        OSError: `write` failed; nothing is left behind.
    """
    root = Path(root)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root}: cannot write the digits here, it is not an empty folder; name a new folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, so that it is on the same disk and the renaming is atomic. Process numbers alone are not
    # unique: containers that share a disk have their own.
    partial = root.with_name(f".{root.name}.partial-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        partial.mkdir()
        write(partial)
        try:
            partial.replace(root)
        except OSError:
            # Another process was faster; anything else in the folder's place is a fault.
            if not all((root / part).is_dir() for part in parts):
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root
