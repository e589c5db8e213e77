"""The places within an epoch from which a saved run resumes bit-exactly."""

from typing import Any

from lightning.pytorch import Trainer

from scalablevit.training.module import max_steps_reached


def is_between_steps(trainer: Trainer) -> bool:
    """Whether a checkpoint may be written at this batch's end: a whole optimizer step is made, and training continues.

    Behind an epoch's last batch, and where a validation is due, Lightning would resume behind what is still to come.
    """
    loop = trainer.fit_loop.epoch_loop
    is_last = loop.batch_progress.is_last_batch or loop.batch_progress.current.ready == trainer.num_training_batches
    if is_last or max_steps_reached(trainer) or loop._should_accumulate():
        return False
    if getattr(trainer, "_val_check_time_interval", None) is not None:  # by each rank's own clock: ranks could disagree
        return True
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is None or not loop._should_check_val_fx(fetcher)


def is_before_validation(trainer: Trainer) -> bool:
    """Whether a checkpoint may be written before or within a validation, which is then run again on resume.

    Gradients that a step gathers over several batches are in no checkpoint. Behind the last of `max_steps`, Lightning
    would not come back to the validation.
    """
    return not max_steps_reached(trainer) and not trainer.fit_loop.epoch_loop._should_accumulate()


def mark_validation_due(checkpoint: dict[str, Any]) -> None:
    """Say in Lightning's words that the validation has still to run, in a checkpoint that is about to be written."""
    # a first batch begun and not ended: on resume Lightning goes back to the validation, which starts afresh. Without
    # it, Lightning takes a checkpoint behind an epoch's last step for one that was saved after it
    begun = {"ready": 1, "started": 1, "processed": 0, "completed": 0}
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
    progress.update(total=dict(begun), current=dict(begun), is_last_batch=False)
