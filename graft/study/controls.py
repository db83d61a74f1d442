"""The controls beside every result: the same network from random weights, and the classical baseline of the modality."""

import math
import time
from dataclasses import dataclass, field

import numpy as np

from graft import interrupt, processes
from graft.baselines import NAMES, baseline_features, fit_baseline, take
from graft.records import Epoch
from graft.study.material import Material
from graft.study.times import SCRATCH_RATES, Clock, ScratchPlan
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
            take(self.inputs, index),
            material.target[index],
            seed=material.seed,
            n_classes=len(material.dataset.classes) or None,
            blocks=material.blocks_of(index),
        )
        outputs = fitted.outputs(take(self.inputs, judged))
        self.seconds += time.perf_counter() - begun
        return outputs


@dataclass
class Scratch:
    """The chosen backbone's architecture with random weights, trained with early stopping, the best of several rates on the
    validation part, for at least as long as the plan says.

    Within a budget it begins no rate when its time is up, so that where training is slower than planned the first one may be all;
    without one every rate of the plan is tried.
    """

    clock: Clock
    backbone: str
    plan: ScratchPlan
    seconds: float = 0.0
    # For each fold: rates tried, the best of them, epochs that ran.
    rates: list[int] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)

    def fit_and_predict(self, index: np.ndarray, judged: np.ndarray) -> np.ndarray:
        """Outputs for the judged items of the best attempt on the items in index. Ctrl-C leaves at least one that was played whole."""
        now = self.clock.material.now
        begun = now()
        attempts: list[Transfer] = []

        def attempt() -> None:
            before = interrupt.asked()
            fitted = self._fit(len(attempts), index, self.plan.epochs)
            # One that was cut short would make a weak control: it is dropped, and played again where it is the only one.
            if before or not interrupt.asked():
                attempts.append(fitted)

        def ended() -> bool:
            return bool(attempts) and interrupt.asked()

        def until_time_is_up() -> float:
            # Fewer rates make a weaker control: only who set a limit to the time has it so.
            least = self.plan.rates if self.clock.budget is None else 1
            while not ended() and (len(attempts) < least or processes.from_first(now() - begun < self.plan.seconds)):
                attempt()
            return len(attempts)

        # How many fit into the time is decided once, so that the same call gives the same numbers.
        number = int(self.clock.decided(f"attempts from scratch in fold {len(self.rates)}", until_time_is_up))
        while not ended() and len(attempts) < number:
            attempt()
        model = max(attempts, key=_validated)
        self.rates.append(len(attempts))
        self.best.append(model.lr_)
        self.epochs.append(sum(isinstance(event, Epoch) for attempt in attempts for event in attempt.history_))
        outputs = model.predict_outputs(self.clock.material.items(judged))
        self.seconds += now() - begun
        return outputs

    def with_fewer(self, index: np.ndarray, judged: np.ndarray, share: float) -> np.ndarray:
        """Outputs of a fit on fewer labels, with the first fold's best rate and so much of the plan's epochs."""
        place = SCRATCH_RATES.index(self.best[0])
        return self._fit(place, index, max(1, round(self.plan.epochs * share))).predict_outputs(self.clock.material.items(judged))

    def _fit(self, attempt: int, index: np.ndarray, epochs: int) -> Transfer:
        material = self.clock.material
        round_, place = divmod(attempt, len(SCRATCH_RATES))
        # Once every rate was tried, they are tried again from other random weights.
        seed = material.seed + round_
        rate, recipe = SCRATCH_RATES[place], material.recipe
        model = Transfer(material.backbones[self.backbone], "scratch", epochs=epochs, lr=rate, recipe=recipe, random_state=seed)
        return material.fit_model(model, index, items_per_epoch=self.plan.items_per_epoch)

    def note(self) -> str:
        """What it got, in words."""
        folds = f"{self.plan.folds} folds" if self.plan.folds > 1 else "one fold"
        rates = ", ".join(f"{rate:g}" for rate in SCRATCH_RATES[: max(self.rates)])
        tries = f"the best of {max(self.rates)} tries at rates {rates}" if max(self.rates) > 1 else f"one try at rate {rates}"
        return (
            f"{folds}, at least {self.plan.seconds:.0f} s each: {tries}, "
            f"at most {self.plan.epochs} epochs of {self.plan.items_per_epoch} items with early stopping, {sum(self.epochs)} epochs in all"
        )


def _validated(model: Transfer) -> float:
    """The best score on the validation part; the last finite loss where none was held out."""
    scores = [event.score for event in model.history_ if event.score is not None]
    return max(scores) if scores else -[event.loss for event in model.history_ if math.isfinite(event.loss)][-1]
