"""How a file is written so that it is whole or not there at all. Standard library only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[str]]:
    """A text file (UTF-8, newlines as they are written) that takes its final name only when the block ends well.

    path: of the file, in a folder that exists; a file already there is replaced, or kept as it was where the block fails.
    """
    path = Path(path)
    # Beside the final name, so that renaming stays on one disk; with the process in it, so that two commands cannot mix.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(unfinished, "w", encoding="utf-8", newline="") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
