"""How the worker's memory comes from the system."""

import ctypes

# Parameters of glibc's mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES = 1 << 30
_PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Have glibc keep up to a gigabyte of freed memory for the next pass; whether it could be asked to.

    By default it returns a pass's tensors to the system and gets them back page by page, zeroed, in the next.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    wanted = ((_MMAP_THRESHOLD, _KEPT_BYTES), (_TRIM_THRESHOLD, _KEPT_BYTES), (_TOP_PAD, _PAD_BYTES))
    taken = [mallopt(name, value) == 1 for name, value in wanted]
    return all(taken)
