"""Read what a finished run says of itself."""

from pathlib import Path
from typing import TYPE_CHECKING

from scalablevit.model_files import EXPORTED, WEIGHTS_FILE

if TYPE_CHECKING:
    from scalablevit.weights import TrainedWeights


def is_run(word: str) -> bool:
    """Whether a word of the command line names the folder, or the weights, of a run."""
    path = Path(word)
    return (path / "recipe.yaml").is_file() or (path / WEIGHTS_FILE).is_file() or path.suffix == ".safetensors"


def run_of_part(word: str) -> Path | None:
    """The run folder that a word names a part of, such as RUN/checkpoints or a checkpoint in it; None: of none."""
    path = Path(word)
    above = (path.parent, path.parent.parent) if path.exists() else ()
    return next((folder for folder in above if (folder / "recipe.yaml").is_file()), None)


def not_a_run(word: str) -> str:
    """Say of a file or folder that is no run what to name in its place."""
    if (run := run_of_part(word)) is not None:
        return f"{word} is a part of a run; name the run: {run}"
    return f"{word} is neither a run folder nor its {WEIGHTS_FILE}; name one of them"


def is_exported_file(word: str) -> bool:
    """Whether a word of the command line names a file of `scalablevit export`, by its ending."""
    return Path(word).suffix.lower() in EXPORTED.values()


def run_metadata(run: str) -> "TrainedWeights":
    """The metadata of a run's weights.

    Raises:
        WeightsError: not weights of a run.
        FileNotFoundError: there are no weights yet.
    """
    from scalablevit.weights import open_trained

    return open_trained(run)


def variant_of(trained: "TrainedWeights") -> str:
    """Name of the backbone's variant."""
    return str(trained.metadata.get("variant") or trained.metadata.get("architecture"))
