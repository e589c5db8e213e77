"""What the command line knows of pretraining."""

from scalablevit.tasks import PretrainingEntry

_DATA = "scalablevit.pretraining.data:UnlabelledImageData"
_OUT_OF_MEMORY = {
    "fit": "lower data.batch_size (model.global_batch keeps the images per step), or set "
    "--model.grad_checkpointing true",
    "validate": "lower data.batch_size",
}

MASKED = PretrainingEntry(
    name="pretraining",
    task="scalablevit.pretraining.masked:MaskedPretraining",
    data=_DATA,
    settings=("scalablevit.data.image_transforms:Augmentation",),
    out_of_memory=_OUT_OF_MEMORY,
)

DISTILLED = PretrainingEntry(
    name="pretraining",
    task="scalablevit.pretraining.distilled:DistilledPretraining",
    data=_DATA,
    settings=(
        "scalablevit.data.image_transforms:Augmentation",
        "scalablevit.pretraining.distilled:FeatureTeacherSettings",
    ),
    out_of_memory=_OUT_OF_MEMORY,
    needs_teacher=True,
)
