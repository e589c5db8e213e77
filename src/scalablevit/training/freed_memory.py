"""Memory of freed tensors, kept for the next ones on a CPU."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
_LARGEST_TENSOR = 2**30
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have the C library keep freed memory of up to 1 GiB a block, so that the next step finds its pages there.

    By default glibc hands large blocks back to the system when they are freed, and the system clears every page
    anew when the next step asks for them. A training step of ScalableViT frees and asks for the same blocks each
    time. The peak stays what it was (docs/log.md has both measured).

    Returns:
        whether this C library has such a setting; it is glibc's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_TENSOR) and mallopt(_M_TRIM_THRESHOLD, _NEVER))
