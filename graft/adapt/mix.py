"""Another mix of classes alone: whether it explains how far the domains lie apart, and what a moved bias is worth then. numpy only."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graft.adapt.candidates import Made
from graft.adapt.predict import Outlook
from graft.adapt.sides import Sides
from graft.shift import bbse_shares

# Proxy A-distance: what sampling alone made of classes that kept their shares stayed below it on recorded pairs.
LEAST_EXPLAINED = 0.3
_TINY = 1e-12
_Z = 1.645  # of the 90 % interval of a normal gain


@dataclass(frozen=True)
class Mix:
    """What would hold if the classes had other shares in the target, and looked as they do in the source.

    explained: the proxy A-distance that this alone makes, 0 to 2; nan without the source. gains: place of each candidate that does no more
    than move source-only's bias -> its gain in accuracy on source items weighed to the target's shares, and the gain's standard deviation.
    """

    explained: float
    gains: Mapping[int, tuple[float, float]]

    def suffices(self, apart: float) -> bool:
        """Whether nothing but the mix need have moved. apart: the proxy A-distance that was measured."""
        return self.explained >= max(apart, LEAST_EXPLAINED)

    def revised(self, outlooks: Sequence[Outlook | None]) -> list[Outlook | None]:
        """The same outlooks, source-only's first, with the gains that hold if the mix alone moved; intervals move along."""
        found, base = list(outlooks), outlooks[0]
        assert base is not None
        for place, (gain, spread) in self.gains.items():
            low, high = (min(1.0, max(0.0, end + gain)) for end in base.interval) if base.is_told else base.interval
            score, half = min(1.0, max(0.0, base.score + gain)), _Z * spread
            found[place] = Outlook(score, (low, high), gain, spread, (gain - half, gain + half))
        return found


def class_mix(sides: Sides, everyone: Sequence[Made]) -> Mix:
    """The target's shares by black-box shift estimation, and what follows from them. everyone: the candidates, source-only first.

    With ratio the target's share of each class over the source's, p(x | target) / p(x | source) is the sum over classes of ratio times
    p(class | x), so that no classifier of the two sides does better than a proxy A-distance of mean |that sum - 1| over the source. Source:
    Lipton et al. 2018, arXiv:1802.03916, section 3 for the shares and 5 for the question. Differs: where they test whether predictions
    moved at all, here has to be enough for all that was seen to move, as a shift of features moves predictions too.
    """
    held_out, prior = sides.domains.held_out, sides.prior
    if held_out is None:
        return Mix(math.nan, {})
    labels = sides.labels(sides.learned)
    ratio = bbse_shares(held_out, labels, everyone[0].outputs) / np.maximum(prior, _TINY)
    explained = float(np.abs(held_out @ ratio - 1).mean())
    outputs = np.concatenate([held_out, sides.head.outputs(sides.held_rows)])
    labels = np.concatenate([labels, sides.labels(sides.held)])
    weight, right = ratio[labels], outputs.argmax(axis=1) == labels
    gains = {}
    for place, one in enumerate(everyone[1:], start=1):
        if one.head is None or one.model is not None or not np.array_equal(one.head.weight, sides.head.weight):
            continue
        moved = np.log(np.maximum(outputs, _TINY)) + (one.head.bias - sides.head.bias)
        change = (moved.argmax(axis=1) == labels).astype(float) - right
        gain = float(weight @ change / weight.sum())
        gains[place] = gain, float(np.sqrt(weight**2 @ (change - gain) ** 2) / weight.sum())
    return Mix(explained, gains)
