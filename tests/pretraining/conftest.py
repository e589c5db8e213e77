"""The tiny runs of the command's tests serve pretraining too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "cli"))
