"""The controls beside every result: the same network from random weights, and the classical baseline of the modality."""

import time
from dataclasses import dataclass, field

import numpy as np

from graft.baselines import NAMES, baseline_features, fit_baseline
from graft.records import Epoch
from graft.study.material import Material
from graft.study.times import ScratchPlan
from graft.transfer import Transfer

SCRATCH = "from scratch"


@dataclass
class Classical:
    """The classical baseline of a modality. What does not depend on labels is computed once."""

    material: Material
    inputs: object = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.name = NAMES[self.material.dataset.modality]

    def fit_and_predict(self, index: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """Outputs for the judged items of the baseline fitted on the items in index."""
        begun = time.perf_counter()
        material = self.material
        if self.inputs is None:
            table = material.dataset.modality == "table"
            self.inputs = baseline_features(material.dataset.modality, material.dataset.table() if table else material.dataset.items)
        fitted = fit_baseline(
            material.dataset.modality,
            material.task,
            _take(self.inputs, index),
            material.target[index],
            seed=material.seed,
            n_classes=len(material.dataset.classes) or None,
            blocks=material.blocks_of(index),
        )
        outputs = fitted.outputs(_take(self.inputs, judged))
        self.seconds += time.perf_counter() - begun
        return outputs


@dataclass
class Scratch:
    """The chosen backbone's architecture with random weights, trained with early stopping for as long as the plan says."""

    material: Material
    backbone: str
    plan: ScratchPlan
    seconds: float = 0.0
    epochs: list[int] = field(default_factory=list)

    def fit_and_predict(self, index: np.ndarray, judged: np.ndarray, share: float = 1.0) -> np.ndarray:
        """Outputs for the judged items. share: of the plan's epochs."""
        begun = time.perf_counter()
        material = self.material
        model = Transfer(
            material.backbones[self.backbone],
            "scratch",
            epochs=max(1, round(self.plan.epochs * share)),
            random_state=material.seed,
        )
        model.fit_encoded(
            material.items(index),
            material.target[index],
            material.task,
            material.dataset.classes,
            blocks=material.blocks_of(index),
            metric=material.metric,
            items_per_epoch=self.plan.items_per_epoch,
            progress=material.progress,
        )
        outputs = model.predict_outputs(material.items(judged))
        self.seconds += time.perf_counter() - begun
        self.epochs.append(sum(isinstance(event, Epoch) for event in model.history_))
        return outputs

    def note(self) -> str:
        """What it got, in words."""
        folds = f"{self.plan.folds} folds" if self.plan.folds > 1 else "one fold"
        ran = sorted({min(self.epochs), max(self.epochs)})
        epochs = "1 epoch" if self.plan.epochs == 1 else f"{self.plan.epochs} epochs"
        return (
            f"{folds}, at most {epochs} of {self.plan.items_per_epoch} items with early stopping, of which {' to '.join(map(str, ran))} ran"
        )


def _take(inputs: object, index: np.ndarray) -> object:
    if hasattr(inputs, "iloc"):
        return inputs.iloc[index]
    return inputs[index] if isinstance(inputs, np.ndarray) else [inputs[i] for i in index]  # type: ignore[index]
