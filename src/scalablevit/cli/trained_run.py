"""Read what a finished run says of itself."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scalablevit.weights import TrainedWeights


def is_run(word: str) -> bool:
    """Whether a word of the command line names the folder, or the weights, of a run."""
    path = Path(word)
    return (path / "recipe.yaml").is_file() or (path / "model.safetensors").is_file() or path.suffix == ".safetensors"


def is_exported_file(word: str) -> bool:
    """Whether a word of the command line names a file of `scalablevit export`, by its ending."""
    return Path(word).suffix.lower() in (".onnx", ".xml", ".pt2")


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
