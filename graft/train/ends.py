"""What a run leaves at its end: the weights that its phases came to, or an average of several. Heavy: torch.

Running averages of batch normalisation are averaged as weights are, as in the code of both papers; counts are the last ones.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from graft.records import End

Weights = dict[str, torch.Tensor]

_SHARES = tuple(tenth / 10 for tenth in range(11))
_DEFAULT_SHARE = 0.5  # Wortsman et al. 2022, arXiv:2109.01903, where nothing is known of the task


class Reached(NamedTuple):
    """What weights do on the validation part. Of equal scores the lower loss is better: few items score in large steps."""

    score: float
    minus_loss: float


class Best(NamedTuple):
    """The best weights so far. reached: None without a validation part, or where they are not scored yet."""

    reached: Reached | None
    weights: Weights


class Ending:
    """Follows a run's phases and says what each starts from, and what is left at the end. end: the plan's."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.start: Weights | None = None
        self.tunings: list[Best] = []

    def begin(self, best: Best) -> Best:
        """What a phase in which a layer group learns starts from, where the phases before it came to `best`."""
        if self.start is None:
            self.start = best.weights
        elif self.end == "soup":
            self.tunings.append(best)
            return Best(None, self.start)
        return best

    def finish(self, last: Best, score: Callable[[Weights], float] | None) -> Weights:
        """What is left of a plan that averages, when all phases are played.

        last: what the last one came to. score: on the validation part; None without one.
        """
        assert self.start is not None, "check_plan has refused a plan in which no layer group learns"
        left = interpolated(self.start, last.weights, score) if self.end == "interpolate" else souped([*self.tunings, last], score)
        self.tunings = []
        return left

    def state(self, kept: Weights) -> dict[str, Any]:
        """What `take_up` needs, as plain values and tensors. kept: the best weights so far."""
        at_start = kept is self.start
        return {"start": None if at_start else self.start, "at_start": at_start, "tunings": [list(best) for best in self.tunings]}

    def take_up(self, state: dict[str, Any], kept: Weights) -> Weights:
        """Go on from a `state`; returns the weights that were kept, which are the start itself where they were."""
        self.start = kept if state["at_start"] else state["start"]
        self.tunings = [Best(reached and Reached(*reached), weights) for reached, weights in state["tunings"]]
        return kept

    def interrupted(self, last: Best) -> Weights:
        """What is left of a run that did not get to its end: the best fine-tuning, or the latest where there are no scores."""
        begun = self.tunings if last.weights is self.start else [*self.tunings, last]
        if not self.tunings or not begun:
            return last.weights
        return max(reversed(begun), key=lambda best: best.reached or Reached(-torch.inf, -torch.inf)).weights


def interpolated(start: Weights, end: Weights, score: Callable[[Weights], float] | None) -> Weights:
    """(1 - share) * start + share * end, with the share that scores best, of equals the nearest to a half; a half without a score.

    Source: Wortsman et al. 2022, arXiv:2109.01903, equation 1.
    """

    def mixed(share: float) -> Weights:
        return mix([(1 - share, start), (share, end)])

    if score is None:
        return mixed(_DEFAULT_SHARE)
    return mixed(max(_SHARES, key=lambda share: (score(mixed(share)), -abs(share - _DEFAULT_SHARE))))


def souped(tunings: Sequence[Best], score: Callable[[Weights], float] | None) -> Weights:
    """The average of fine-tunings: of those that do not make it worse, taken in from the best on, or of all without a score.

    Source: Wortsman et al. 2022, arXiv:2203.05482, recipe 1 (greedy) and equation 1 (uniform).
    """
    if score is None:
        return mean([best.weights for best in tunings])
    # Scored again, all with the same precision and batches.
    scored = sorted(((score(best.weights), best.weights) for best in tunings), key=lambda pair: pair[0], reverse=True)
    (reached, first), *others = scored
    taken, left = [first], first
    for _, weights in others:
        wider = mean([*taken, weights])
        if (value := score(wider)) >= reached:
            taken, left, reached = [*taken, weights], wider, value
    return left


def mean(parts: Sequence[Weights]) -> Weights:
    """The average of weights, each the same share."""
    return mix([(1 / len(parts), part) for part in parts])


def mix(parts: Sequence[tuple[float, Weights]]) -> Weights:
    """The sum of weights, each times its share; of whole numbers, which cannot be mixed, the last."""
    last = parts[-1][1]
    return {
        name: torch.stack([share * part[name] for share, part in parts]).sum(0) if tensor.is_floating_point() else tensor
        for name, tensor in last.items()
    }
