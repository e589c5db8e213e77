"""Files that cannot be read: samples that take their place, and the account kept in the training process."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")


class Explained(str):
    """Says all of a file that cannot be read: path, reason, remedy."""


class OutOfRoom(Explained):
    """Says why no file at all can be read any more, so that training stops at once."""


CHECK_DATA = "`scalablevit check-data` lists every bad file; remove or replace them"


def in_words(error: Exception) -> Explained:
    """What is told of a file: all that its error says."""
    return (OutOfRoom if getattr(error, "kind", None) == "cache" else Explained)(error)


def read_or_substitute(
    read: Callable[[int], T],
    index: int,
    *,
    count: int,
    max_substitutes: int,
    errors: tuple[type[Exception], ...],
    describe: Callable[[Any], str] = in_words,
) -> tuple[T | None, tuple[str, ...]]:
    """Read a sample, or the next one that can be read.

    Nothing is raised for a file that cannot be read: in a loading process it would end in a stack trace.
    `UnreadableFiles` raises.

    Args:
        read: from a sample's index to its content.
        index: which sample.
        count: how many samples there are; the first one follows the last.
        max_substitutes: how many of the next samples to try.
        errors: what `read` raises for a sample that cannot be read.
        describe: from such an error to what `UnreadableFiles.collect` takes.

    Returns:
        content: of the first sample that could be read; None: none of those tried.
        unreadable: what failed on the way to it.
    """
    failed: list[str] = []
    for offset in range(min(1 + max_substitutes, count)):
        try:
            return read((index + offset) % count), tuple(failed)
        except errors as error:
            failed.append(describe(error))
            if isinstance(failed[-1], OutOfRoom):
                break
    return None, tuple(failed)


class UnreadableFiles:
    """Keeps account of files that could not be read; logs each once.

    Of several training processes each keeps its own account, of the files that it met itself, as ranks may
    differ in validation batches and so cannot add up. One that raises ends with an exit code that is not 0; then
    its launcher ends the others.

    Args:
        max_files: how many distinct files may fail in this process.
        explain: from what a batch says of a file to what a user reads: path, reason, remedy.
    """

    def __init__(self, max_files: int, *, explain: Callable[[str], str] = str) -> None:
        self.max_files = max_files
        self.explain = explain
        self.files: list[str] = []

    def collect(self, unreadable: Sequence[str], *, nothing_left: bool = False, has_gap: bool = False) -> None:
        """Note a batch's unreadable files; call it before anything else is done with the batch.

        Args:
            unreadable: of the batch; what `explain` takes.
            nothing_left: not one training file could be read.
            has_gap: a training sample found no substitute: it tried as many others as the cap allows, or all there are.
                Where they are fewer files than that, such as shards, there is nothing to train on either.

        Raises:
            ValueError: more than `max_files` distinct files failed by now, or all there are to train on.
        """
        if (stop := next((file for file in unreadable if isinstance(file, OutOfRoom)), None)) is not None:
            raise ValueError(str(stop))
        new = [file for file in dict.fromkeys(unreadable) if file not in self.files]
        self.files += new
        if nothing_left or (has_gap and len(set(unreadable)) <= self.max_files):
            raise ValueError(
                f"none of the training images can be read. The first: {self.explain(unreadable[0])}\n{CHECK_DATA}"
            )
        for file in new:
            log.warning("skipped an image: %s", self.explain(file))
        if len(self.files) > self.max_files:
            listed = "\n".join(f"  - {file}" for file in self.files[:5])
            more = f"\n  ... and {len(self.files) - 5} more" if len(self.files) > 5 else ""
            raise ValueError(
                f"{len(self.files)} images could not be read, more than max_unreadable={self.max_files} "
                f"allows:\n{listed}{more}\n"
                f"{CHECK_DATA}, or raise data.max_unreadable"
            )
