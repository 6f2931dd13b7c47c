"""glibc's allocator, told to keep freed memory: tensors of the same sizes come and go all the time on CPU."""

import ctypes
import sys

# Of malloc.h; mallopt(3)
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3


def keep_freed_memory() -> None:
    """Reuse the memory of freed tensors instead of giving it back to the kernel, which clears each page again.

    By default glibc returns the free top of the heap, and large blocks at once. A third of a small network's
    forward pass on CPU went there (docs/performance.md). Does nothing where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 32 << 20)  # the largest that glibc takes
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
