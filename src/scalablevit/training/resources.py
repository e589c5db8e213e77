"""What a machine runs out of in a run: memory, open files, processes, data workers. Each ends in one message."""

import contextlib
import errno
import re
from collections.abc import Iterator

import torch

from scalablevit.data.workers import explained_workers


@contextlib.contextmanager
def explained_resources() -> Iterator[None]:
    """Turn what libraries raise where the machine runs out of something into a message for the user.

    Raises:
        torch.OutOfMemoryError: memory of the CPU; the command line knows what to lower.
        DataWorkerError: a data worker ended or hangs.
        ValueError: too many open files, or processes and threads.
    """
    try:
        with explained_workers():
            yield
    except MemoryError as error:
        raise torch.OutOfMemoryError(f"the machine is out of memory ({str(error) or 'MemoryError'})") from error
    except (RuntimeError, OSError) as error:
        said = str(error)
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE) or "Too many open files" in said:
            raise ValueError(
                f"too many open files{_open_files_limit()}: raise the limit, such as with ulimit -n 4096, or lower "
                "data.num_workers"
            ) from error
        if isinstance(error, BlockingIOError) or "can't start new thread" in said:
            raise ValueError(
                "no more processes or threads can be started: raise the limit, such as with ulimit -u or docker run "
                "--pids-limit, or lower data.num_workers"
            ) from error
        wanted = re.search(r"tried to allocate ([0-9]+ ?[A-Za-z]*)", said)
        if isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in said or "can't allocate memory" in said):
            amount = f", asked for {wanted[1]}" if wanted else ""
            raise torch.OutOfMemoryError(f"the machine is out of memory{amount}") from error
        if getattr(error, "errno", None) == errno.ENOMEM:
            raise torch.OutOfMemoryError("the machine is out of memory") from error
        raise


def _open_files_limit() -> str:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        return f" (this process may have {resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"
    return ""
