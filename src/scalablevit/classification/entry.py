"""What the command line knows of classification."""

from scalablevit.tasks import VALUE_RANGE, DataCheck, Flag, Model, TaskEntry

ENTRY = TaskEntry(
    name="classification",
    task="scalablevit.classification.task:ClassificationTask",
    data="scalablevit.classification.data:ImageFolderData",
    settings=(
        "scalablevit.data.image_transforms:Augmentation",
        "scalablevit.data.stream.settings:StreamSettings",
        "scalablevit.classification.task:MixupSettings",
        "scalablevit.training.mesa:MesaSettings",
        "scalablevit.training.teacher:TeacherSettings",
    ),
    predictor="scalablevit.classification.predict:Classifier",
    validation_images="scalablevit.classification.validation_images:validation_images",
    columns=("class", "probability"),
    csv_columns=("class", "probability"),
    exports=True,
    embeds=True,
    explained="scalablevit.classification.explained:subject_of",
    int8_metric="top-1",
    image_size_key="data.image_size",
    predict_flags=(
        Flag(
            "--top",
            "number of classes to print (default: 5; several labels an image: all above --threshold)",
            metavar="N",
            type=int,
        ),
        Flag(
            "--threshold",
            "lowest score of a detection, or of a label where images have several (default: 0.5)",
            metavar="X",
            type=float,
        ),
    ),
    check=DataCheck(
        kind="classes",
        title="a folder per class",
        function="scalablevit.classification.check:check_folder",
        flags=(
            Flag("--train", "name of the training folder", metavar="NAME"),
            Flag("--val", "name of the validation folder", metavar="NAME"),
            VALUE_RANGE,
        ),
        shards="scalablevit.classification.sharded:shard_source",
        shard_flags=("--train", "--val"),
    ),
    other_tasks=("scalablevit.classification.multi_label_task:MultiLabelTask",),
    other_data=("scalablevit.classification.table_data:ImageTableData",),
    other_checks=(
        DataCheck(
            kind="labels",
            title="a table of labels",
            function="scalablevit.classification.table_check:check_table",
            flags=(
                Flag("--labels", "table of the images and their labels, in the data folder", metavar="FILE"),
                Flag("--val-labels", "table of the validation images, in the data folder", metavar="FILE"),
                Flag("--images", "folder in the data folder that the names of images start from", metavar="FOLDER"),
                Flag("--file-column", "column of the names of images", metavar="NAME"),
                Flag("--label-column", "column of the labels", metavar="NAME"),
                Flag("--split-column", "column that says train, val or test", metavar="NAME"),
                Flag("--label-delimiter", "what stands between the labels of an image, such as '|'", metavar="TEXT"),
                Flag("--ignore-columns", "columns that are no classes", metavar="NAME", nargs="+"),
                VALUE_RANGE,
            ),
            recognizes="scalablevit.classification.table_check:recognizes",
        ),
    ),
    cost="scalablevit.classification.cost:parts",
    run_cost="scalablevit.classification.cost:run_cost",
    untrained="scalablevit.classification.cost:untrained",
    models=(Model("classifier", (224,), 1000),),
    out_of_memory={
        "fit": "lower data.batch_size (model.global_batch keeps the images per step), or set "
        "--model.grad_checkpointing true",
        "validate": "lower data.batch_size",
        "predict": "lower --batch-size, or set --device cpu",
    },
)
