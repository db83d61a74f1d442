"""Files that take their final name only when they are complete. Standard library only."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """The file open for writing under a temporary name beside `path`; renamed at the end, removed on an error.

    mode: "w" for text in UTF-8, line ends as written; "wb" for bytes. The folder must exist. Whatever ends the process, and be it a
    power cut, `path` is the old file or the new one, whole.
    """
    path = Path(path)
    # Beside the final name, so that renaming stays on one disk; with the process in it, so that two processes cannot mix.
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        text = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
        with open(unfinished, mode, **text) as file:  # type: ignore[call-overload]
            yield file
            file.flush()
            # A rename may reach the disk before the bytes do: after a power cut the name would stand for an empty file.
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def to_disk(folder: Path) -> None:
    """Wait until every file in a folder has reached the disk, so that the folder may get its final name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
