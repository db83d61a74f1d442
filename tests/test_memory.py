"""Freed memory is there for the next batch without page faults."""

import platform
import subprocess
import sys

import pytest

from graft import memory

COUNT = """if True:
    import resource, sys, torch
    from graft.memory import keep_freed
    if sys.argv[1] == "keep":
        assert keep_freed()
    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(16 * 2**20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    # The first blocks still come from the system, until those that were freed lie side by side.
    print(min([faults() for _ in range(20)][-8:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what is freed")
def test_a_large_tensor_soon_takes_no_page_faults():
    """64 MiB are 16,384 pages of 4 KiB, or 32 of 2 MiB."""
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True).stdout) for how in ("keep", "")
    )
    assert kept == 0 < returned


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert memory.keep_freed.__wrapped__() is False
