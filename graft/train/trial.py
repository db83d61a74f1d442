"""Whether changed items help here: one short comparison on the validation part, with and without. Heavy: torch."""

import math
import time
from collections.abc import Callable, Generator
from dataclasses import replace

from graft.records import Epoch, Note, Plan, Recipe
from graft.train import augment
from graft.train.feeds import Lessons
from graft.train.loop import Run

_SHARE = 3  # a third of the epochs of the first phase in which a layer group learns


def measured(
    make: Callable[[Plan, Recipe], Run],
    plan: Plan,
    recipe: Recipe,
    modality: str,
    lessons: Lessons,
) -> Generator[Note, None, Recipe]:
    """The recipe with `augment` decided; tells what was measured.

    make: a run from the starting weights, on copies. The plan is played up to a third of its first phase in which a layer group learns,
    with and without; the better of the best scores of that phase's epochs decides, and a tie is for augmentation. Both are short, which
    favours doing without. Nothing is played where there is nothing to change.
    """
    recipe = replace(recipe, augment=True)
    learning = next((number for number, phase in enumerate(plan.phases) if any(phase.lr)), None)
    if learning is None or not augment.draws(recipe, modality):
        return recipe
    phase = plan.phases[learning]
    short = replace(plan, phases=(*plan.phases[:learning], replace(phase, epochs=math.ceil(phase.epochs / _SHARE))))
    assert lessons.validation is not None  # checked
    begun, epochs, scores = time.perf_counter(), 0, {}
    for augmented in (True, False):
        events = list(make(short, replace(recipe, augment=augmented)).play(lessons))
        epochs += len(events)
        scores[augmented] = max(_score(event) for event in events if event.phase == learning)
    better = scores[True] >= scores[False]
    yield Note(
        f"augmentation: score {scores[True]:.4f} with, {scores[False]:.4f} without, on {len(lessons.validation[1])} validation items after "
        f"{epochs} epochs in all, {time.perf_counter() - begun:.1f} s; training goes on {'with' if better else 'without'} it."
    )
    return replace(recipe, augment=better)


def _score(event: Epoch) -> float:
    assert event.score is not None, "a trial has a validation part"
    return event.score
