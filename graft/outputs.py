"""What an output means: a class, the labels that hold, or a number; as indices, in words, as cells. Imports nothing heavy.

outputs, as everywhere (n items, c classes): classification and multilabel (n, c) probabilities, regression (n,) values.
task: one of `records.TASKS`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# What is answered in place of a class that is not probable enough.
UNKNOWN = "unknown"


def decision(outputs: "np.ndarray", task: str) -> "np.ndarray":
    """Class index of each item (n,), ties to the first class; 0/1 of each label (n, c), 1 from a probability of 0.5 on; or the values.

    outputs: of n items, or of one without the first axis.
    """
    if task == "classification":
        return outputs.argmax(-1)
    return (outputs >= 0.5).astype(int) if task == "multilabel" else outputs


def words(target: Any, task: str, classes: Sequence[str]) -> str:
    """One target or decision as the user would write it: the class, the labels joined by "|", or the number in six digits."""
    if task == "regression":
        return f"{float(target):.6g}"
    if task == "classification":
        return classes[int(target)]
    return "|".join(name for name, holds in zip(classes, target, strict=True) if holds)


def cells(output: Any, task: str, classes: Sequence[str], unknown: float = 0.0) -> list[str]:
    """One output as cells of a table: the decision in words, then the probability of each class, none for a regression.

    unknown: of a classification, "unknown" is the decision where no class has this probability, in [0, 1).
    """
    probabilities = () if task == "regression" else output
    is_unknown = task == "classification" and output.max() < unknown
    decided = UNKNOWN if is_unknown else words(decision(output, task), task, classes)
    return [decided, *(f"{probability:.6f}" for probability in probabilities)]
