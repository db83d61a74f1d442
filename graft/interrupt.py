"""Ctrl-C as a request: whoever is at work asks whether it came, and ends what is under way in good order. Standard library only."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_WORDS = (
    "\nCtrl-C: ending what is under way, then the report of what is finished. "
    "Press it again to stop at once. The same command goes on from here.\n"
)

_heard = threading.Event()


class Interrupted(Exception):
    """Given up half way, since Ctrl-C was pressed and a part would tell nothing."""


def asked() -> bool:
    """Whether Ctrl-C (SIGINT) was pressed since `listening` began."""
    return _heard.is_set()


@contextmanager
def listening() -> Iterator[None]:
    """Within, the first Ctrl-C is a request that `asked` tells of, and says so on stderr; the second raises KeyboardInterrupt.

    Signals reach the main thread only: in another one, and in a process told to ignore SIGINT (`nohup`, `&` in a script), or whose
    owner has a handler of its own, nothing changes.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is not signal.default_int_handler:
        yield
        return
    _heard.clear()
    signal.signal(signal.SIGINT, _note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        _heard.clear()


def _note(number: int, frame: FrameType | None) -> None:
    if _heard.is_set():
        raise KeyboardInterrupt
    _heard.set()
    # Not print: the signal may have come in the middle of one.
    os.write(2, _WORDS.encode())
