"""Built-in data sets by name, written where they are missing."""

from pathlib import Path
from typing import Literal

from scalablevit.data.builtin import digits, scene_folders
from scalablevit.data.stream.index import is_remote

Form = Literal["class folders", "coco", "ade20k"]


def data_root(root: str | Path, builtin: str | None, *, form: Form) -> str | Path:
    """Find a data folder, and write a built-in data set into it where that is wished; see `write_builtin`.

    Args:
        root: the data folder; a leading ~ is the home folder. A remote address stays as it is.
        builtin: name of the built-in data set; None: none.
        form: how it is laid out.

    Raises:
        ValueError: there is no such data set in this form.
    """
    if is_remote(root):
        if builtin is not None:
            raise ValueError(
                f"builtin {builtin!r} is written into a folder, and {root} is an address: to train from the address, "
                "set --data.builtin null"
            )
        return root
    root = Path(root).expanduser()
    if builtin is not None:
        write_builtin(builtin, root, form=form)
    return root


def write_builtin(name: str, root: Path, *, form: Form) -> None:
    """Write a built-in data set into `root` if that is missing or an empty folder.

    Args:
        name: "digits" as class folders, "digit_scenes" in the other forms.
        root: the data folder.
        form: how the data are laid out, which is for classification, detection and segmentation.

    Raises:
        ValueError: there is no such data set in this form.
    """
    known, write = {
        "class folders": ("digits", digits.write_digits_folder),
        "coco": ("digit_scenes", scene_folders.write_coco),
        "ade20k": ("digit_scenes", scene_folders.write_ade20k),
    }[form]
    if name != known:
        raise ValueError(f"builtin must be {known!r} or null, got {name!r}")
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        write(root)
