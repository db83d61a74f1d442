"""Tables of the rows that adaptation.py wrote: methods, choices without labels, the guard, estimates. Measures nothing.

Whatever is learned from recorded runs is learned without the collection that it is judged on.
"""

import functools
import operator
from collections import defaultdict

import numpy as np
from rows import markdown

from graft.adapt.guard import LEAST_SURE, best_of, implausible, may_be_mix, strangeness
from graft.adapt.mix import Mix
from graft.adapt.predict import SOURCE_ONLY, cases_of, fit, number

# A pair below source-only by more than this counts as hurt.
HURT = 0.005
_UNTOLD = ("", None)


def cases(rows, sabotage=False):
    """(collection, pair, seed, kind of sabotage, rows) of each case, source-only first."""
    for case in cases_of(rows):
        first = case[0]
        if first["method"] == SOURCE_ONLY and bool(first["sabotage"]) == sabotage:
            yield first["collection"], first["pair"], first["seed"], first["sabotage"], case


def accuracies(case):
    return np.array([float(row["accuracy"]) for row in case])


def interval(values, draws=2000):
    """Mean and 95 % interval over pairs, by bootstrap."""
    values = np.asarray(values, float)
    again = values[np.random.default_rng(0).integers(len(values), size=(draws, len(values)))].mean(axis=1)
    return values.mean(), *np.quantile(again, (0.025, 0.975))


def points(value):
    return f"{100 * value:+.1f}"


def methods(rows):
    """What each method, with its default settings, is worth over source-only, by collection."""
    gains = defaultdict(lambda: defaultdict(list))
    for collection, _, _, _, case in cases(rows):
        accuracy, seen = accuracies(case), set()
        for place, row in enumerate(case):
            if row["method"] not in seen:
                seen.add(row["method"])
                gains[row["method"]][collection].append(accuracy[place] - accuracy[0])
    names = sorted({name for by in gains.values() for name in by})
    lines = []
    for method, by in sorted(gains.items(), key=lambda item: -np.mean(functools.reduce(operator.iadd, item[1].values(), []))):
        everything = functools.reduce(operator.iadd, by.values(), [])
        cells = [points(np.mean(by[name])) if by[name] else "" for name in names]
        lines.append([method, *cells, points(np.mean(everything)), points(min(everything)), f"{np.mean(np.array(everything) < -HURT):.0%}"])
    return markdown(["method", *names, "mean", "worst pair", "pairs hurt"], lines)


def is_evidence(row):
    """Whether a row is learned from: of a pair that is not spoilt, as first drawn, so that every pair counts alike."""
    return not row["sabotage"] and row["seed"] == "0" and not row["fell_out"]


def predictors(rows):
    """collection -> what all other collections tell."""
    sound = [row for row in rows if is_evidence(row)]
    return {name: fit([row for row in sound if row["collection"] != name]) for name in {row["collection"] for row in rows}}


def decided(case, predictor):
    """Outlooks, and places of the best candidate and of what the guard lets through."""
    first, outlooks = case[0], predictor.predict(case)
    alike, apart = number(first, "familiarity"), number(first, "apart")
    gains = {place: (number(row, "mix_gain"), number(row, "mix_spread")) for place, row in enumerate(case)}
    gains = {place: gain for place, gain in gains.items() if np.isfinite(gain).all()}
    mix = Mix(number(first, "explained"), gains)
    if may_be_mix(alike, apart) and mix.suffices(apart):
        outlooks = mix.revised(outlooks)
        tried, plausible = (0, *gains), True
    else:
        tried = range(len(case))
        plausible = not implausible(alike, apart, strangeness(first, int(first["classes"])))
    best, sure = best_of({place: (outlooks[place].gain, outlooks[place].spread) for place in tried})
    return outlooks, best, best if sure >= LEAST_SURE and plausible else 0


def choices(rows, signs):
    """Mean accuracy of what each validator would choose, of graft's choice without and with the guard, and of the oracle."""
    fitted, found = predictors(rows), defaultdict(list)
    # What was never recorded would choose the first of each case, source-only.
    signs = [sign for sign in signs if any(row[sign] not in _UNTOLD for *_, case in cases(rows) for row in case)]
    for collection, _, _, _, case in cases(rows):
        accuracy = accuracies(case)
        found["source-only"].append(accuracy[0])
        found["oracle"].append(accuracy.max())
        for sign in signs:
            told = [float(row[sign]) if row[sign] not in _UNTOLD else -np.inf for row in case]
            found[sign].append(accuracy[int(np.argmax(told))])
        _, best, chosen = decided(case, fitted[collection])
        found["graft, no guard"].append(accuracy[best])
        found["graft"].append(accuracy[chosen])
    oracle, base = np.array(found["oracle"]), np.array(found["source-only"])
    lines = []
    for name, values in sorted(found.items(), key=lambda item: -np.mean(item[1])):
        gain = np.array(values) - base
        mean, low, high = interval(gain)
        cells = [f"{np.mean(values):.3f}", f"{points(mean)} ({points(low)} to {points(high)})"]
        lines.append([name, *cells, points(np.mean(values - oracle)), points(gain.min()), f"{np.mean(gain < -HURT):.0%}"])
    return markdown(["chosen by", "accuracy", "over source-only (95 %)", "below the oracle", "worst pair", "pairs hurt"], lines)


def collections(rows):
    """Graft's choice with its guard, by collection."""
    fitted, found = predictors(rows), defaultdict(list)
    for collection, pair, _, _, case in cases(rows):
        accuracy = accuracies(case)
        outlooks, _, chosen = decided(case, fitted[collection])
        low, high = outlooks[chosen].interval
        row = (
            accuracy[0],
            accuracy[chosen],
            accuracy.max(),
            chosen > 0,
            low <= accuracy[chosen] <= high,
            abs(outlooks[chosen].score - accuracy[chosen]),
            high - low,
        )
        found[collection, pair.partition(" ")[0]].append(row)
    lines = []
    for (_, name), values in found.items():
        base, chosen, oracle, adapted, held, off, width = np.array(values, float).T
        gain = chosen - base
        cells = [f"{base.mean():.3f}", f"{chosen.mean():.3f}", f"{oracle.mean():.3f}", points(gain.mean()), points(gain.min())]
        lines.append(
            [name, str(len(values)), *cells, f"{adapted.mean():.0%}", f"{held.mean():.0%}", f"{off.mean():.3f}", f"{width.mean():.2f}"]
        )
    header = [
        "pairs",
        "n",
        "source-only",
        "graft",
        "oracle",
        "gain",
        "worst",
        "adapted",
        "estimate's 90 % interval holds",
        "mean error",
        "width",
    ]
    return markdown(header, lines)


def guard(rows):
    """Under sabotage: how often source-only is returned, or what is returned is no worse than it."""
    fitted = predictors(rows)
    found = defaultdict(list)
    for collection, _, _, kind, case in cases(rows, sabotage=True):
        _, _, chosen = decided(case, fitted[collection])
        known = case[0]["accuracy"] not in _UNTOLD
        gain = float(case[chosen]["accuracy"]) - float(case[0]["accuracy"]) if known else np.nan
        found[kind].append((chosen == 0, gain))
    lines = []
    for kind, values in found.items():
        kept, gain = np.array(values, float).T
        sound = kept.astype(bool) | (gain >= -HURT)
        cells = [f"{kept.mean():.0%}", f"{sound.mean():.0%}", points(np.nanmean(gain)) if np.isfinite(gain).any() else "no truth"]
        lines.append([kind, str(len(values)), *cells])
    return markdown(["sabotage", "cases", "source-only kept", "kept, or not worse", "gain"], lines)


def tables(rows, signs):
    """All of them, as Markdown."""
    parts = [("Methods", methods(rows)), ("Choosing", choices(rows, signs)), ("By pairs", collections(rows)), ("The guard", guard(rows))]
    return "\n\n".join(f"### {name}\n\n{table}" for name, table in parts)
