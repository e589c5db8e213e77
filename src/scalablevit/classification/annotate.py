"""An image with its likeliest classes written below it."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw

from scalablevit.printable import printable
from scalablevit.visualization.fonts import NameFont


def annotate(image: Image.Image, lines: Sequence[str]) -> Image.Image:
    """Put lines of text on a dark band below an image; small images are enlarged so that the text fits.

    Args:
        image: RGB image.
        lines: text, one line below the other.

    Returns:
        a new RGB image.
    """
    lines = [printable(line) for line in lines]
    scale = math.ceil(256 / max(image.size)) if max(image.size) < 256 else 1
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    size = max(14, max(image.size) // 40)
    fonts = [NameFont(size, line) for line in lines]
    text_width = math.ceil(max(font.getlength(line) for font, line in zip(fonts, lines, strict=True)))
    width = max(image.width, text_width + 2 * size)
    sheet = Image.new("RGB", (width, image.height + round(size * (1.4 * len(lines) + 0.8))), "#1f2328")
    sheet.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    for i, (font, line) in enumerate(zip(fonts, lines, strict=True)):
        font.draw(draw, (size, image.height + round(size * (0.4 + 1.4 * i))), line, fill="white")
    return sheet
