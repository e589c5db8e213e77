"""Write characters of hundreds of typefaces as a folder of PNG files per class, ready for `scalablevit fit`.

    apt-get install $(python examples/glyphs_folder.py --packages)
    python examples/glyphs_folder.py data/glyphs

Reads the TrueType and OpenType files of Debian's font packages, and draws 45 characters of each face, black on white,
64 x 64 pixels: A to Z, 2 to 9, and the small letters a b d e f g h n q r t. Left out is what cannot be told apart: the
other small letters are drawn like their capitals in many faces (c, o, s, ...), and 0, 1 and l like O and I.

Writes OUT/{train,val,test}/{class}/{face}.png, and OUT/faces.csv with family, group, part and file of each face.
Validation and test have typefaces that training has not: faces whose families share their first word (Nimbus Sans,
Nimbus Roman), or that look alike under different names (Arimo, Liberation Sans), are one group, in one part.
"""

import argparse
import csv
import hashlib
import os
import re
import shlex
import shutil
import string
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PACKAGES = (
    "3270 adf-accanthis adf-baskervald adf-berenis adf-gillius adf-ikarius adf-irianis adf-libris adf-mekanus "
    "adf-oldania adf-romande adf-solothurn adf-switzera adf-tribun adf-universalis adf-verana aenigma agave "
    "allerta anonymous-pro apropal arapey averia-gwf averia-sans-gwf averia-serif-gwf b612 bajaderka beteckna "
    "blankenburg breip bwht cabin cabinsketch cantarell cardo century-catalogue cherrybomb clear-sans cmu "
    "comfortaa comic-neue compagnon courier-prime crosextra-caladea crosextra-carlito croscore dancingscript "
    "dejavu-core dejavu-extra dkg-handwriting dosis dustin ebgaramond ecolier-court elstob engadget essays1743 "
    "eurofurence f500 fantasma fantasque-sans fanwood femkeklaver firacode freefont-otf gamaliel "
    "georgewilliams gfs-artemisia gfs-didot gfs-neohellenic gnutypewriter go gotico-antiqua goudybookletter "
    "hack havana hermit humor-sans inconsolata inter isabella jetbrains-mono johnsmith-induni joscelyn "
    "junction junicode jura karla kaushanscript klaudia-berenika kristi lato le-murmure league-mono "
    "league-spartan leckerli-one levien-museum levien-typoscript liberation2 lindenhill linuxlibertine lmodern "
    "lobster lobstertwo manrope millimetre monofur mononoki national-park noto-mono ocr-a ocr-b okolaks "
    "open-sans opendin opendyslexic osifont oxygen paratype play povray prociono quattrocento quicksand "
    "radisnoir roadgeek roboto-unhinted routed-gothic rufscript sil-andika sil-charis sil-doulos sil-gentium "
    "sil-gentium-basic sjfonts solide-mirage sora staypuft stix summersby texgyre tiresias tomsontalks "
    "triod-postnaja tuffy ubuntu-title urw-base35 vollkorn yanone-kaffeesatz"
)
CHARACTERS = string.ascii_uppercase + "23456789" + "abdefghnqrt"
FACES_PER_FAMILY = 1  # weights of one design tell little that is new
SHARES = {"val": 0.1, "test": 0.2}  # of the faces; the rest trains
FIT_COMMAND = ["scalablevit", "fit", "--config", "glyphs"]
RECIPE_ROOT = Path("data/glyphs")  # where the recipe looks for the images

_SIDE = 64
_CAP_HEIGHT, _BASELINE, _MARGIN = 36, 47, 2  # pixels
_SMALL = 16  # side of the reduced glyphs by which faces are compared
_UNASSIGNED = "\uffff"
_LARGEST_GROUP = 0.02  # share of the faces; larger ones train
_SAME, _ALIKE = 0.001, 0.12  # root mean square of the difference of two faces' reduced glyphs


@dataclass
class Face:
    """A typeface's file and its characters.

    Attributes:
        file: that was read.
        family: its name, as the file gives it.
        style: likewise, such as "Bold Italic".
        glyphs: (45, 64, 64) uint8, in the order of `CHARACTERS`, 0 is ink.
        shapes: (45, 16 * 16) float32, the glyphs cut to their ink and reduced, 1 is ink.
    """

    file: Path
    family: str
    style: str
    glyphs: np.ndarray
    shapes: np.ndarray


def class_folder(character: str) -> str:
    """Folder of a class; not the letter alone, as some disks do not tell A from a."""
    kind = "digit" if character.isdigit() else "capital" if character.isupper() else "small"
    return f"{kind}-{character}"


def draw_glyph(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """Draw a character on its baseline, centred sideways, reduced where it is too large; 64 x 64 pixels, gray.

    Raises:
        ValueError: it has no ink.
    """
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    room = _SIDE - 2 * _MARGIN
    ratio = min(room / max(right - left, bottom - top, 1), 1.0)
    if ratio < 1:
        font = font.font_variant(size=max(int(font.size * ratio), 1))
        left, top, right, bottom = font.getbbox(character, anchor="ls")
    baseline = min(max(_BASELINE, _MARGIN - top), _SIDE - _MARGIN - bottom)
    image = Image.new("L", (_SIDE, _SIDE), 255)
    ImageDraw.Draw(image).text(((_SIDE - left - right) / 2, baseline), character, font=font, fill=0, anchor="ls")
    if image.getextrema() == (255, 255):
        raise ValueError(f"{character} has no ink")
    return image


def shape_of(image: Image.Image) -> np.ndarray:
    """Cut a glyph to its ink and reduce it; (16 * 16,) float32 in 0..1, 1 is ink."""
    ink = Image.eval(image, lambda value: 255 - value)
    ink = ink.crop(ink.getbbox()).resize((_SMALL, _SMALL), Image.Resampling.BOX)
    return (np.asarray(ink, dtype=np.float32) / 255).reshape(-1)


def read_face(file: Path) -> Face:
    """Draw the characters of a font file.

    Raises:
        ValueError: a character is missing or without ink, or the file is no font; says which.
        OSError: FreeType cannot read it.
    """
    font = ImageFont.truetype(str(file), 100, layout_engine=ImageFont.Layout.BASIC)
    _, top, _, bottom = font.getbbox("H", anchor="ls")
    font = font.font_variant(size=max(round(100 * _CAP_HEIGHT / max(bottom - top, 1)), 1))
    if font.size > 1000:
        raise ValueError("H is a speck")
    missing = bytes(font.getmask(_UNASSIGNED))
    for character in CHARACTERS:
        if bytes(font.getmask(character)) == missing:
            raise ValueError("characters are missing")
    images = [draw_glyph(font, character) for character in CHARACTERS]
    family, style = font.getname()
    glyphs = np.stack([np.asarray(image) for image in images])
    return Face(file, family or file.stem, style or "", glyphs, np.stack([shape_of(image) for image in images]))


def has_capitals_only(face: Face) -> bool:
    """Whether most small letters are drawn as their capitals."""
    small = [character for character in CHARACTERS if character.islower()]
    gaps = [np.abs(face.shapes[CHARACTERS.index(c)] - face.shapes[CHARACTERS.index(c.upper())]).mean() for c in small]
    return float(np.median(gaps)) < 0.12


def are_letters(faces: Sequence[Face]) -> np.ndarray:
    """Tell typefaces from symbols: the mean of all other faces recognises a tenth of a face's characters at least.

    Returns:
        (faces,) bool.
    """
    shapes = np.stack([face.shapes for face in faces])  # (F, 45, 256)
    shapes = shapes - shapes.mean(2, keepdims=True)
    shapes = shapes / (np.linalg.norm(shapes, axis=2, keepdims=True) + 1e-6)
    likeness = shapes @ shapes.sum(0).T - shapes @ shapes.transpose(0, 2, 1)  # (F, 45, 45), to the other faces' sum
    found = likeness.argmax(2)
    return (found == np.arange(len(CHARACTERS))).mean(1) >= 0.1


def distances(faces: Sequence[Face]) -> np.ndarray:
    """Root mean square of the difference of every two faces' reduced glyphs; (faces, faces), 0 to 1."""
    shapes = np.stack([face.shapes.reshape(-1) for face in faces]).astype(np.float64)
    squares = (shapes**2).sum(1)
    gaps = squares[:, None] + squares[None] - 2 * shapes @ shapes.T
    return np.sqrt(np.maximum(gaps, 0) / shapes.shape[1])


def find_faces(folder: Path) -> tuple[list[Face], Counter[str]]:
    """Read all font files below a folder, and choose.

    Returns:
        faces: at most `FACES_PER_FAMILY` of each family, no two the same, ordered by file.
        left_out: why -> files.

    Raises:
        ValueError: there is no font file.
    """
    endings = (".ttf", ".otf", ".ttc")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in endings and file.is_file())
    if not files:
        raise ValueError(
            f"{folder}: holds no .ttf, .otf or .ttc file; install fonts, or name their folder with --source"
        )
    faces, left_out = [], Counter[str]()
    for file in files:
        try:
            face = read_face(file)
        except (OSError, ValueError) as error:
            left_out[str(error) if isinstance(error, ValueError) else "cannot be read"] += 1
            continue
        if has_capitals_only(face):
            left_out["small letters are capitals"] += 1
        else:
            faces.append(face)
    if not faces:
        raise ValueError(f"{folder}: none of {len(files)} font files has all of {CHARACTERS}; install text fonts")
    letters = are_letters(faces)
    left_out["symbols"] += int((~letters).sum())
    faces = [face for face, chosen in zip(faces, letters, strict=True) if chosen]
    is_same = np.tril(distances(faces) < _SAME, -1).any(1)
    left_out["drawn as another file"] += int(is_same.sum())
    by_family = defaultdict(list)
    for face, same in zip(faces, is_same, strict=True):
        if not same:
            by_family[face.family].append(face)
    chosen = []
    for members in by_family.values():
        members.sort(key=lambda face: digest(f"{face.family} {face.style} {face.file.name}"))
        chosen += members[:FACES_PER_FAMILY]
        left_out["more faces of a family"] += len(members[FACES_PER_FAMILY:])
    return sorted(chosen, key=lambda face: face.file), left_out


def group_faces(faces: Sequence[Face]) -> list[str]:
    """Name the group of each face: one word of a family's name, the same for all that are related or look alike."""
    words = [re.split(r"[\s_-]+", face.family.strip())[0].lower() for face in faces]
    group = {word: word for word in words}

    def root(word: str) -> str:
        while group[word] != word:
            word = group[word]
        return word

    for i, k in zip(*np.nonzero(np.triu(distances(faces) < _ALIKE, 1)), strict=True):
        first, second = sorted((root(words[i]), root(words[k])))
        group[second] = first
    return [root(word) for word in words]


def split_groups(groups: Sequence[str]) -> dict[str, str]:
    """Group -> "train", "val" or "test", drawn by a hash of its name; the largest groups train."""
    sizes = Counter(groups)
    part_of, have = {}, Counter[str]()
    for name in sorted(sizes, key=digest):
        small = sizes[name] <= max(_LARGEST_GROUP * len(groups), 1)
        wanting = [part for part, share in SHARES.items() if small and have[part] < share * len(groups)]
        part_of[name] = wanting[0] if wanting else "train"
        have[part_of[name]] += sizes[name]
    return part_of


def digest(text: str) -> str:
    """A hash that is the same on every machine."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_folder(source: Path, out: Path) -> tuple[Counter[str], Counter[str]]:
    """Write all images to a temporary folder beside `out`, then give it its name.

    Returns:
        faces of each part, and what was left out: why -> files.

    Raises:
        ValueError: `source` holds no typefaces, or `out` holds something already.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: is no empty folder; name a new one, or remove it")
    faces, left_out = find_faces(source)
    groups = group_faces(faces)
    part_of = split_groups(groups)
    counts = Counter(part_of[group] for group in groups)
    if len(counts) < 3:
        raise ValueError(f"{source}: {len(faces)} faces are too few for three parts; install more fonts")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        for part in counts:
            for character in CHARACTERS:
                (partial / part / class_folder(character)).mkdir(parents=True)
        with (partial / "faces.csv").open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["face", "part", "group", "family", "style", "file"])
            for i, (face, group) in enumerate(zip(faces, groups, strict=True)):
                part, name = part_of[group], f"{i:04d}"
                table.writerow([name, part, group, face.family, face.style, face.file.relative_to(source).as_posix()])
                for character, glyph in zip(CHARACTERS, face.glyphs, strict=True):
                    Image.fromarray(glyph).save(partial / part / class_folder(character) / f"{name}.png")
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return counts, left_out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("out", type=Path, nargs="?", help="folder to write, new or empty")
    parser.add_argument(
        "--source",
        type=Path,
        default=Path("/usr/share/fonts"),
        help="folder of the font files, searched with those below (default: %(default)s)",
    )
    parser.add_argument("--packages", action="store_true", help="print the names of Debian's packages, and stop")
    arguments = parser.parse_args()
    if arguments.packages:
        print(" ".join(f"fonts-{name}" for name in PACKAGES.split()))
        return
    if arguments.out is None:
        parser.error("name the folder to write")
    try:
        counts, left_out = write_folder(arguments.source, arguments.out)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    for why, count in left_out.most_common():
        print(f"left out: {count:,} files: {why}")
    parts = ", ".join(f"{part} {counts[part]:,}" for part in ("train", *SHARES))
    print(f"{arguments.out}: {len(CHARACTERS)} characters of each face; faces: {parts}")
    is_default = arguments.out.resolve() == RECIPE_ROOT.resolve()
    print(f"Try: {shlex.join(FIT_COMMAND + ([] if is_default else ['--data.root', str(arguments.out)]))}")


if __name__ == "__main__":
    main()
