"""log.txt of a study: written as it goes, while events are passed on."""

import time
from collections.abc import Callable
from pathlib import Path

from graft.records import Epoch, Event, Note


class Log:
    """Passes events on, and writes what is worth keeping to log.txt."""

    def __init__(self, path: Path | None, progress: Callable[[Event], None] | None) -> None:
        self.path, self.progress, self.begun = path, progress, time.perf_counter()
        if path:
            path.write_text("", encoding="utf-8")

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
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(f"{time.perf_counter() - self.begun:8.1f} s  {text}\n")
