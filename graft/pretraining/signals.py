"""Signals as they come: an array (n, channels, time) of numbers, or a .npy or .npz file of one. numpy only."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from graft.data import encode_target
from graft.errors import GraftError
from graft.records import Finding, Task

_ENDINGS = (".npy", ".npz")
_NAMES = ("x", "signals", "data")
_LABELS = ("y", "labels")

Read = tuple[list[np.ndarray], np.ndarray | None, Task | None, tuple[str, ...], list[str], list[Finding]]


def are(data: Any) -> bool:
    """Whether the data are signals: a file of arrays, or an array of other numbers than an image's."""
    if isinstance(data, str | Path):
        return Path(data).suffix.lower() in _ENDINGS
    return isinstance(data, np.ndarray) and data.ndim >= 2 and data.dtype.kind in "fiu" and data.dtype != np.uint8


def name_of(data: Any) -> str:
    return str(data) if isinstance(data, str | Path) else f"array of {len(data)} signals"


def read(data: Any) -> Read:
    """(n items (c, t) float32, target, task, classes, notes, findings). target: of the `y` or `labels` beside them in an .npz, float64.

    Signals that hold what is no number are set aside, with a finding. Raises GraftError where there is no such file or array.
    """
    name, labels = name_of(data), None
    if isinstance(data, str | Path):
        array, labels = _from_file(Path(data).expanduser())
    else:
        array = data
    if array.ndim != 3 or array.dtype.kind not in "fiu" or not array.size:
        raise GraftError(f"{name}: holds {array.dtype} of shape {array.shape}, expected numbers (n, channels, time), e.g. (500, 3, 128).")
    if labels is not None and len(labels) != len(array):
        raise GraftError(f"{name}: holds {len(array)} signals and {len(labels)} labels, expected one label a signal.")
    array = array.astype(np.float32)
    whole = np.isfinite(array).all((1, 2))
    findings, notes = [], [f"signals: {array.shape[1]} channels of {array.shape[2]} steps"]
    if not whole.any():
        raise GraftError(f"{name}: every one of its {len(array)} signals holds what is no number. Fill the gaps first.")
    if not whole.all():
        names = tuple(f"signal {place}" for place in np.flatnonzero(~whole))
        text = f"{len(names)} signal{'s' * (len(names) > 1)} with what is no number, set aside: {', '.join(names[:5])}"
        findings.append(Finding("unreadable", "problem", text, names))
    if copies := len(array) - len(np.unique(array.reshape(len(array), -1), axis=0)):
        findings.append(Finding("duplicates", "note", f"{copies} signals are exact copies of another"))
    target: np.ndarray | None = None
    task: Task | None = None
    classes: tuple[str, ...] = ()
    if labels is not None:
        encoded = encode_target(list(labels), None, name, [f"signal {place}" for place in range(len(labels))])
        target, task, classes = encoded.y.astype(np.float64)[whole], encoded.task, encoded.classes
    return list(array[whole]), target, task, classes, notes, findings


def _from_file(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    if not path.is_file():
        raise GraftError(f"{path}: there is no such file, expected an .npy or .npz with signals (n, channels, time).")
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            return held, None
        with held:
            arrays = {name: held[name] for name in held.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise GraftError(f"{path}: cannot be read ({error}). Write it with np.save(path, array) or np.savez(path, x=array).") from error
    labels = next((arrays.pop(name) for name in _LABELS if name in arrays), None)
    name = next((name for name in _NAMES if name in arrays), next(iter(arrays)) if len(arrays) == 1 else None)
    if name is None:
        raise GraftError(f"{path}: holds {', '.join(arrays) or 'nothing'}, expected the signals as {_NAMES[0]}: np.savez(path, x=array).")
    return arrays[name], labels
