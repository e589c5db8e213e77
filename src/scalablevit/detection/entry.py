"""What the command line knows of detection."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalablevit.tasks import VALUE_RANGE, DataCheck, Flag, Model, TaskEntry, frame_flag


def recognizes(folder: Path, given: Mapping[str, Any]) -> bool:
    """Whether a data folder, or a file, holds annotations of boxes in a format that we read."""
    from scalablevit.data.layout import coco_lists
    from scalablevit.detection.coco import AnnotationSource, CocoError
    from scalablevit.detection.formats import detect_format, find_parts

    source = AnnotationSource()
    try:
        if detect_format(folder, source) != "coco":
            return True
        elsewhere = any(any(folder.glob(pattern)) for pattern in ("annotations/*.json", "*/_annotations.coco.json"))
        # A label map or settings in JSON may lie beside images of any task.
        if not folder.is_file() and not elsewhere and not any(map(coco_lists, folder.glob("*.json"))):
            return False
        find_parts(folder, source)
    except CocoError as error:
        # a folder of images may hold some other JSON file beside them
        return folder.is_file() or error.kind != "no-annotation-file" or any(folder.glob("annotations/*.json"))
    return True


ENTRY = TaskEntry(
    name="detection",
    task="scalablevit.detection.task:DetectionTask",
    data="scalablevit.detection.data:CocoData",
    settings=("scalablevit.detection.transforms:Augmentation", "scalablevit.data.stream.settings:StreamSettings"),
    predictor="scalablevit.detection.predict:Detector",
    validation_images="scalablevit.detection.validation_images:validation_images",
    columns=("object", "score"),
    csv_columns=("class", "score", "x_min", "y_min", "x_max", "y_max"),
    exports=True,
    int8_metric="box AP",
    explained="scalablevit.detection.explained:subject_of",
    annotated="scalablevit.detection.annotated:annotated_images",
    found="scalablevit.detection.found:found_in",
    predict_flags=(
        Flag("--threshold", "lowest score of a detection (default: 0.5)", metavar="X", type=float),
        Flag("--min-size", "resize the shorter side to N pixels (default: as in training)", metavar="N", type=int),
        Flag("--max-size", "limit the longer side to N pixels (default: as in training)", metavar="N", type=int),
        Flag("--nms-iou", "highest IoU of two detections of a class (default: as trained)", metavar="X", type=float),
        Flag("--class-agnostic", "suppress overlapping detections of different classes too", switch=True),
        Flag("--tile", "predict in overlapping tiles of N pixels, for small objects", metavar="N", type=int),
        Flag("--overlap", "share of a tile in common with the next (default: 0.25)", metavar="X", type=float),
    ),
    check=DataCheck(
        kind="coco",
        title="COCO annotations",
        function="scalablevit.detection.check:check_coco",
        recognizes="scalablevit.detection.entry:recognizes",
        flags=(
            Flag("--train-annotations", "training annotations", metavar="FILE"),
            Flag("--val-annotations", "validation annotations", metavar="FILE"),
            Flag("--train-images", "training images", metavar="FOLDER"),
            Flag("--val-images", "validation images", metavar="FOLDER"),
            frame_flag("--annotation-frame", "boxes"),
            Flag(
                "--format",
                "format of the annotations (default: auto, by the files in the folder)",
                choices=("auto", "coco", "yolo", "voc", "csv"),
            ),
            VALUE_RANGE,
            Flag("--no-masks", "check boxes only", switch=False, fills="masks"),
        ),
        shards="scalablevit.detection.sharded:shard_source",
        shard_flags=("--train-annotations", "--val-annotations", "--train-images", "--val-images"),
    ),
    cost="scalablevit.detection.cost:parts",
    run_cost="scalablevit.detection.cost:run_cost",
    untrained="scalablevit.detection.cost:untrained",
    model_key="detector",
    models=(
        Model("retinanet", (800, 1280), 80),
        Model("mask_rcnn", (800, 1280), 80, "counted with 1000 regions of interest for boxes and 100 for masks"),
    ),
    out_of_memory={
        "fit": "lower data.batch_size (model.global_batch keeps the images per step), or set "
        "--model.grad_checkpointing true",
        "validate": "lower data.val_batch_size",
        "predict": "lower --batch-size, or --min-size and --max-size, or set --device cpu",
    },
)
