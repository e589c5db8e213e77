"""Annotation files of tools whose formats are not read are recognised by their content, with the way out."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from scalablevit.data.foreign_annotations import foreign_format
from scalablevit.data.layout import explain_layout
from scalablevit.detection.coco import AnnotationSource, CocoError
from scalablevit.detection.split import read_split

SHAPE = {"shape_attributes": {"name": "rect", "x": 1, "y": 1, "width": 5, "height": 5}, "region_attributes": {}}
BOX = {"x": 10, "y": 10, "width": 20, "height": 20, "rectanglelabels": ["cat"]}
RESULT = {"type": "rectanglelabels", "from_name": "label", "original_width": 90, "original_height": 60, "value": BOX}
FILES: dict[str, tuple[str, Any]] = {
    "labelme": ("0.json", {"version": "5", "shapes": [], "imagePath": "0.png", "imageData": None}),
    "Label Studio": ("project.json", [{"id": 1, "annotations": [{"result": [RESULT]}]}]),
    "VGG Image Annotator": ("via.json", {"0.png9": {"filename": "0.png", "regions": [SHAPE]}}),
    "CreateML": ("c.json", [{"image": "0.png", "annotations": [{"label": "cat", "coordinates": {"x": 1}}]}]),
    "BDD100K": ("b.json", [{"name": "0.png", "labels": [{"category": "cat", "box2d": {"x1": 1}}]}]),
    "Supervisely": ("0.json", {"objects": [{"classTitle": "cat", "points": {"exterior": [[1, 2]]}}]}),
    "Labelbox": ("l.json", [{"data_row": {"id": "1"}, "projects": {}}]),
    "CVAT": ("annotations.xml", '<?xml version="1.0"?><annotations><image id="0" name="0.png"></image></annotations>'),
}


def write(tool: str, folder: Path) -> Path:
    name, content = FILES[tool]
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    Image.new("RGB", (90, 60)).save(folder / "0.png")
    return file


@pytest.mark.parametrize("tool", FILES)
def test_detection_names_the_tool(tmp_path: Path, tool: str) -> None:
    file = write(tool, tmp_path)
    form = foreign_format(file)
    assert form is not None
    with pytest.raises(CocoError) as caught:
        read_split(tmp_path, AnnotationSource())
    assert form.name.startswith(tool)
    assert f"looks like {form.name}" in str(caught.value)
    assert form.remedy in str(caught.value)


@pytest.mark.parametrize("tool", FILES)
@pytest.mark.parametrize("expected", ["classes", "masks"])
def test_other_tasks_name_it_too(tmp_path: Path, tool: str, expected: Any) -> None:
    write(tool, tmp_path / "images")
    explained = explain_layout(tmp_path, expected=expected)
    assert explained is not None
    assert tool in explained


def test_a_file_for_each_image_is_no_choice(tmp_path: Path) -> None:
    """Naming one of them, as was advised, cannot help."""
    for i in range(5):
        write("labelme", tmp_path).rename(tmp_path / f"image{i}.json")
    with pytest.raises(CocoError, match=r"5 files look like labelme, such as .*convert its polygons to COCO"):
        read_split(tmp_path, AnnotationSource())


def test_coco_with_odd_words_is_coco(tmp_path: Path) -> None:
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "box2d"}], "shape_attributes": {}}
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content))
    with pytest.raises(CocoError, match="its list 'images' is empty"):
        read_split(tmp_path, AnnotationSource())
