"""What a run depends on besides its recipe: versions, commit, command line, accelerators."""

import os
import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("torch", "torchvision", "timm", "lightning", "scalablevit")


def environment(*, seed: int) -> dict[str, Any]:
    """Collect what a run depends on besides its recipe: versions, commit, seed, command line, accelerators, time."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.argv[0]).name.replace("__main__.py", "scalablevit"), *sys.argv[1:]]),
        "seed": seed,
        "git": git_state(),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "platform": platform.platform(),
        "accelerators": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_state(folder: str | os.PathLike[str] = ".") -> dict[str, Any] | None:
    """{"commit": hash, "dirty": whether tracked files differ} of the repository around `folder`, or None."""

    commit = git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    return {"commit": commit, "dirty": bool(git(folder, "status", "--porcelain", "--untracked-files=no"))}


def git(folder: str | os.PathLike[str], *words: str) -> str:
    """Ask git about a folder.

    Returns:
        its answer; nothing where there is no git, no repository or no commit yet.
    """
    try:
        asked = subprocess.run(["git", "-C", os.fspath(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return asked.stdout.strip() if asked.returncode == 0 else ""
