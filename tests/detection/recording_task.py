"""A detection task that writes down which images its processes measure, for a test of several of them."""

import json
import os
from pathlib import Path

from scalablevit.detection import DetectionTask


class RecordingTask(DetectionTask):
    """Writes `RECORDS/RANK.json` after each validation: ids of its own images, and of those that were gathered."""

    def on_validation_epoch_end(self) -> None:
        """Write, then measure."""
        record = {"own": self.findings.image_ids, "gathered": self.findings.gathered().image_ids}
        (Path(os.environ["RECORDS"]) / f"{self.global_rank}.json").write_text(json.dumps(record))
        super().on_validation_epoch_end()
