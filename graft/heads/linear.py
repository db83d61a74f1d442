"""A fitted linear head: features in, outputs out; how it is stored. numpy and SciPy only."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import expit, softmax

from graft.errors import GraftError
from graft.records import Task

Link = Literal["softmax", "sigmoid", "identity"]

LINKS: dict[Task, Link] = {"classification": "softmax", "multilabel": "sigmoid", "regression": "identity"}


@dataclass(frozen=True)
class LinearHead:
    """A fitted head: link(((features - mean) / scale) @ weight + bias).

    mean, scale: (d,). weight: (d, c). bias: (c,). c is 1 for regression.
    kind: its name in HEADS. strength: of its regularisation, in the kind's own unit.
    """

    mean: np.ndarray
    scale: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    link: Link
    kind: str
    strength: float

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> (n, c) float32, before the link."""
        if np.ndim(features) != 2 or features.shape[1] != len(self.mean):
            raise GraftError(
                f"features have shape {np.shape(features)}, this head expects (n, {len(self.mean)}). Use the backbone it was fitted on"
            )
        return ((features - self.mean) / self.scale).astype(np.float32) @ self.weight + self.bias

    def outputs(self, features: np.ndarray) -> np.ndarray:
        """(n, d) -> probabilities (n, c), or values (n,) for regression; float64."""
        return apply_link(self.logits(features), self.link)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Everything as arrays, fit for safetensors; `from_arrays` reads them back to an equal head."""
        words = {name: np.frombuffer(getattr(self, name).encode(), np.uint8) for name in ("link", "kind")}
        numbers = {name: getattr(self, name) for name in ("mean", "scale", "weight", "bias")}
        return {**numbers, **words, "strength": np.array([self.strength])}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> "LinearHead":
        """The head that `to_arrays` wrote. Raises GraftError when an array is missing."""
        names = ("mean", "scale", "weight", "bias", "link", "kind", "strength")
        if missing := [name for name in names if name not in arrays]:
            raise GraftError(f"the head's file lacks {', '.join(missing)}, expected {', '.join(names)}. Was it written by graft?")
        mean, scale, weight, bias = (arrays[name] for name in names[:4])
        link: Any = arrays["link"].tobytes().decode()
        return cls(mean, scale, weight, bias, link, arrays["kind"].tobytes().decode(), float(arrays["strength"][0]))


def apply_link(logits: np.ndarray, link: Link) -> np.ndarray:
    """Logits (n, c) -> probabilities (n, c), or values (n,); float64."""
    wide = logits.astype(np.float64)
    if link == "identity":
        return wide[:, 0]
    return softmax(wide, axis=1) if link == "softmax" else expit(wide)
