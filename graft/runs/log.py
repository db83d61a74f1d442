"""log.txt of a study: written as it goes, while events are passed on."""

import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from graft.records import Epoch, Event, Note


class Log:
    """Passes events on, and writes what is worth keeping to log.txt, once it is known where that is."""

    def __init__(self, progress: Callable[[Event], None] | None) -> None:
        self.path: Path | None = None
        self.progress, self.begun = progress, time.perf_counter()
        self.waiting: list[str] = []

    def open(self, path: Path, goes_on: bool) -> float:
        """Write to this file from here on. goes_on: behind what an interrupted run wrote. Returns the seconds which that one spent."""
        stamps = re.findall(r"^ *(\d+\.\d) s  ", path.read_text("utf-8", "replace"), re.MULTILINE) if goes_on and path.exists() else []
        earlier = float(stamps[-1]) if stamps else 0.0
        self.begun -= earlier
        self.path = path
        self._write("\n" if goes_on else "", "a" if goes_on else "w")
        for text in self.waiting:
            self.note(text)
        return earlier

    def __call__(self, event: Event) -> None:
        if isinstance(event, Epoch):
            score = "" if event.score is None else f", score {event.score:.4f}"
            self.note(f"phase {event.phase + 1}, epoch {event.epoch + 1}: loss {event.loss:.4f}{score}, {event.seconds:.1f} s")
        if self.progress:
            self.progress(event)

    def say(self, text: str) -> None:
        """Something to read before time is spent."""
        self.note(text)
        if self.progress:
            self.progress(Note(text))

    def note(self, text: str) -> None:
        if self.path:
            self._write(f"{time.perf_counter() - self.begun:8.1f} s  {text}\n", "a")
        else:
            self.waiting.append(text)

    def _write(self, text: str, mode: str) -> None:
        assert self.path is not None
        try:
            with open(self.path, mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            warnings.warn(f"{self.path}: cannot be written ({error.strerror}); the run goes on. Free some space there.", stacklevel=3)
