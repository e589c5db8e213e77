"""What the command line knows of segmentation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalablevit.tasks import VALUE_RANGE, DataCheck, Flag, Model, TaskEntry, frame_flag


def recognizes(folder: Path, given: Mapping[str, Any]) -> bool:
    """Whether a data folder holds images and masks; `given` may name its folders."""
    from scalablevit.segmentation.mask_settings import MaskSettings
    from scalablevit.segmentation.pairs import scan_pairs

    keys = ("train", "val", "images", "masks", "image_pattern", "mask_pattern", "train_list", "val_list")
    names = {name: given[name] for name in keys if given.get(name) is not None}
    return bool(scan_pairs(folder, MaskSettings(**names)).train)


ENTRY = TaskEntry(
    name="segmentation",
    task="scalablevit.segmentation.task:SegmentationTask",
    data="scalablevit.segmentation.data:MaskFolderData",
    settings=(
        "scalablevit.segmentation.transforms:Augmentation",
        "scalablevit.segmentation.inference:InferenceSettings",
        "scalablevit.data.stream.settings:StreamSettings",
    ),
    predictor="scalablevit.segmentation.predict:Segmenter",
    validation_images="scalablevit.segmentation.validation_images:validation_images",
    columns=("class", "share"),
    csv_columns=("class", "pixels", "share"),
    found="scalablevit.segmentation.found:found_in",
    exports=True,
    explained="scalablevit.segmentation.explained:subject_of",
    annotated="scalablevit.segmentation.annotated:annotated_images",
    int8_metric="mIoU",
    predict_flags=(
        Flag("--tile", "predict in tiles of N pixels, for images of any size", metavar="N", type=int),
        Flag(
            "--short-side",
            "resize the shorter side to N pixels first (default: as in training; with --tile 0, no resizing)",
            metavar="N",
            type=int,
        ),
        Flag("--scales", "average over these relative sizes", metavar="X", type=float, nargs="+"),
        Flag("--flip", "average over the mirrored image as well", switch=True),
    ),
    check=DataCheck(
        kind="masks",
        title="images and masks",
        function="scalablevit.segmentation.check:check_masks",
        recognizes="scalablevit.segmentation.entry:recognizes",
        shards="scalablevit.segmentation.sharded:shard_source",
        shard_flags=(
            "--train",
            "--val",
            "--images",
            "--masks",
            "--image-pattern",
            "--mask-pattern",
            "--train-list",
            "--val-list",
        ),
        flags=(
            Flag("--train", "name of the training folder", metavar="NAME"),
            Flag("--val", "name of the validation folder", metavar="NAME"),
            Flag("--images", "name of the folder of images", metavar="NAME"),
            Flag("--masks", "name of the folder of masks", metavar="NAME"),
            Flag("--image-pattern", "file names of images, such as {name}_leftImg8bit.png", metavar="P"),
            Flag("--mask-pattern", "file names of masks, such as {name}_mask.png", metavar="P"),
            Flag("--train-list", "file that names the training images", metavar="FILE"),
            Flag("--val-list", "file that names the validation images", metavar="FILE"),
            Flag("--reduce-zero-label", "label 0 is ignored; label 1 is the first class", switch=True),
            Flag(
                "--ignore-labels", "labels to ignore (default: 255; without N, none)", metavar="N", type=int, nargs="*"
            ),
            Flag("--class-names-file", "file with the names of the classes", metavar="FILE"),
            Flag(
                "--label-map",
                "file that maps colours or numbers of masks to classes (default: CVAT's labelmap.txt)",
                metavar="FILE",
            ),
            VALUE_RANGE,
            Flag(
                "--in-chans", "bands of the images, where they are TIFF files of more than RGB", metavar="N", type=int
            ),
            frame_flag("--mask-frame", "masks"),
        ),
    ),
    cost="scalablevit.segmentation.cost:parts",
    run_cost="scalablevit.segmentation.cost:run_cost",
    untrained="scalablevit.segmentation.cost:untrained",
    model_key="segmenter",
    models=(
        Model("semantic_fpn", (512, 2048), 150),
        Model(
            "upernet",
            (512, 2048),
            150,
            "the auxiliary head counts among the parameters, not among the operations: it serves training only",
        ),
    ),
    out_of_memory={
        "fit": "lower data.batch_size (model.global_batch keeps the images per step), or set "
        "--model.grad_checkpointing true",
        "validate": "set --model.inference.mode slide",
        "predict": "set --tile, lower --batch-size, or set --device cpu",
    },
)
