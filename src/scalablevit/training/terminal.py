"""What a run prints besides its metrics: warnings of ours as a line, those of the engine filtered."""

import logging
import sys
import warnings

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only

from scalablevit.printable import printable
from scalablevit.training.launch import note_rank_of_node


def rank() -> int:
    """Rank of this process, known before the ranks have met."""
    return int(getattr(rank_zero_only, "rank", 0))


class _Terminal(logging.Handler):
    """Warnings of ours as a line on stderr, once a run rather than once a process."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line; of other ranks only what they alone know: which images they could not read."""
        alone = dist.is_available() and dist.is_initialized() and record.name.endswith(".unreadable")
        if rank() == 0 or alone:
            # looked up at each call: a live bar puts its own stream there
            sys.stderr.write(f"{record.levelname.lower()}: {printable(record.getMessage(), multiline=True)}\n")


def quiet_lightning() -> None:
    """Keep what a user can act on: hide Lightning's tips and torch's internal deprecations."""
    note_rank_of_node()
    for name in ("lightning.pytorch", "lightning.fabric", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ours = logging.getLogger("scalablevit")
    if not any(isinstance(handler, _Terminal) for handler in ours.handlers):
        ours.addHandler(_Terminal(logging.WARNING))
    if rank() != 0:
        warnings.simplefilter("ignore")
        return
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*number of training batches .* is smaller than the logging interval.*",
        ".*`isinstance.treespec, LeafSpec.` is deprecated.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*Detected call of `lr_scheduler.step.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*Glyph .* missing from font.*",
        ".*Detected pickle protocol.*",
        ".*It is recommended to use `self.log.*sync_dist=True.*",  # what is logged is the same on every rank
        ".*Grad strides do not match bucket view strides.*",
    ):
        warnings.filterwarnings("ignore", message)
