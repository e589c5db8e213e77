"""The checkpoints of a run folder: the best by the task's metric, and the last."""

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


class MovableCheckpoint(ModelCheckpoint):
    """Knows the best score of a run folder that was moved; Lightning's forgets it, and a worse one wins."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the files of this folder."""
        here = Path(str(self.dirpath))

        def moved(path: str) -> str:
            return str(here / Path(path).name) if path else path

        paths = {name: moved(state_dict[name]) for name in ("best_model_path", "kth_best_model_path")}
        best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})
