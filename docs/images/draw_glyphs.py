"""Draw docs/images/glyphs.png: characters of ten typefaces of the glyphs' test part.

python docs/images/draw_glyphs.py data/glyphs
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

FOLDERS = [f"capital-{c}" for c in "ABGKMQRSXZ"] + [f"digit-{c}" for c in "2345"] + [f"small-{c}" for c in "abefghqrt"]
ROWS = 10


def main() -> None:
    """Write the image beside this file."""
    test = Path(sys.argv[1]) / "test"
    faces = sorted(path.name for path in (test / FOLDERS[0]).iterdir())
    faces = faces[:: max(len(faces) // ROWS, 1)][:ROWS]
    rows = [np.concatenate([np.asarray(Image.open(test / folder / face)) for folder in FOLDERS], 1) for face in faces]
    sheet = Image.fromarray(np.concatenate(rows))
    sheet.resize((sheet.width // 2, sheet.height // 2), Image.Resampling.LANCZOS).save(
        Path(__file__).with_name("glyphs.png"), optimize=True
    )


if __name__ == "__main__":
    main()
