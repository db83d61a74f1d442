"""Freed memory: kept by the process for the next batch, where the C library would hand it back each time. Standard library only."""

import ctypes
import sys
from functools import cache

# malloc.h of glibc.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


@cache
def keep_freed() -> bool:
    """Let this process keep the memory that it frees; returns whether it does now.

    By default glibc maps every large block anew and unmaps it when it is freed, so that each batch begins with page faults
    on all of its tensors; on virtual machines they took longer than the arithmetic of a small network (benchmarks/README.md).
    The process then holds a few times what a batch needs (1.8 instead of 0.5 GB for MobileNetV2 on 64 images, 3.7 instead of 2.1 in
    training), until it ends. Elsewhere than on Linux with glibc nothing is done.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
