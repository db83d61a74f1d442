"""Made domains, made evidence and labels that nobody may look at, for the tests of adaptation. Everything is drawn from a seed."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from graft.adapt.predict import LEVELS, SIGNS, Outlook

# A method that mends the shift of `domains`, and is soon done.
MENDS = "standardise"


def domains(n=60, m=50, *, shift=1.5, seed=0, classes=2, width=4, prior=None):
    """Rows and labels of a source, rows and labels of a target that lies `shift` further in every direction."""
    rng = np.random.default_rng(seed)
    means = 3.0 * np.eye(classes, width)
    labels, target_labels = rng.integers(0, classes, n), rng.choice(classes, m, p=prior)
    labels[:classes] = np.arange(classes)
    source = means[labels] + rng.normal(size=(n, width))
    target = means[target_labels] + rng.normal(size=(m, width)) + shift
    return source, labels, target, target_labels


def numbers(n=80, m=60, *, shift=2.0, seed=0):
    """Rows and values of a regression whose target lies `shift` further."""
    rng = np.random.default_rng(seed)
    source, target = rng.normal(size=(n, 3)), rng.normal(size=(m, 3)) + shift
    weight = np.array([1.0, -2.0, 0.5])
    return source, source @ weight + 0.1 * rng.normal(size=n) + 0.25, target, (target - shift) @ weight + 0.25


@dataclass(frozen=True)
class Believes:
    """A predictor that knows beforehand what each method is worth, in logits; of how high all are it believes the mean of two estimates."""

    gains: dict
    spread: float
    missed: float = 0.5

    def predict(self, rows):
        told = [rows[0].get(name, math.nan) for name in ("atc", "doc")]
        base = float(np.mean(logit(np.clip(told, 0.02, 0.98)))) if np.isfinite(told).all() else 1.0
        return [self._outlook(base, self.gains.get(row["method"], 0.0), not place) for place, row in enumerate(rows)]

    def _outlook(self, base, rise, is_base):
        score, spread = float(expit(base + rise)), 0.0 if is_base else self.spread
        gain, half = score - float(expit(base)), 1.645 * spread
        interval = (float(expit(base + rise - self.missed)), float(expit(base + rise + self.missed)))
        return Outlook(score, interval, gain, spread, (gain - half, gain + half))


def believes(gains=None, *, spread=0.005):
    return Believes(gains or {}, spread)


def row(method, accuracy, *, collection="a", pair="p", seed=0, **told):
    """A recorded run. told: columns; those of validators and estimates that are not told are empty."""
    about = {"collection": collection, "pair": pair, "sabotage": "", "seed": seed, "method": method, "fell_out": "", "classes": 2}
    return about | {"accuracy": accuracy} | dict.fromkeys((*SIGNS, *LEVELS), "") | told


def evidence(collections=8, pairs=10, *, methods=("coral", "kmm", "tca"), gain=0.4, noise=0.3, seed=0):
    """Recorded runs in which every estimate is a little too high, and one sign, agreement, tells each candidate's gain in truth.

    gain: standard deviation of what a method changes, in logits; noise: of the estimates, in logits.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for collection in range(collections):
        for pair in range(pairs):
            base = rng.normal(1.0, 0.7)
            changes = {"source_only": 0.0} | {name: float(rng.normal(0, gain)) for name in methods}
            told = {name: float(expit(base + 0.5 + noise * rng.normal())) for name in LEVELS}
            for method, change in changes.items():
                signs = {name: float(rng.normal()) for name in SIGNS if name not in LEVELS} | {"agreement": change}
                about = {"collection": f"c{collection}", "pair": f"c{collection}-{pair}"}
                rows.append(row(method, float(expit(base + change)), **about, **told | signs))
    return rows


class Untouchable:
    """A label that raises whatever is done with it."""

    def _touched(self, *_, **__):
        raise AssertionError("a label of the target was touched")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = __bool__ = _touched
    __str__ = __repr__ = __format__ = __float__ = __int__ = __index__ = __complex__ = _touched
    __len__ = __iter__ = __next__ = __getitem__ = __contains__ = __call__ = _touched
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __neg__ = __abs__ = _touched
    __array__ = __array_ufunc__ = __array_function__ = __reduce__ = __reduce_ex__ = __copy__ = __deepcopy__ = _touched


def untouchable(n):
    """(n,) of them; assigned one by one, as numpy would ask a list of them what they are."""
    found = np.empty(n, object)
    for place in range(n):
        found[place] = Untouchable()
    return found
