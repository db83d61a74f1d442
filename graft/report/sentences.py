"""What an adaptation came to, in sentences that the page, the terminal and the model card share. Computes nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

from graft.records import Adaptation
from graft.report import words

ADAPTED = "adapted"

VERDICTS = {
    "helps": "better than source-only",
    "hurts": "worse than source-only",
    "no difference shown": "no difference to source-only shown",
}

# name -> (in words, what it says, values that an axis of it reaches). A name that is not here is shown as it is.
DISTANCES = {
    "mmd": ("maximum mean discrepancy", "how far the two clouds of features lie from each other; 0 is not at all", (0.0,)),
    "proxy_a": ("proxy A-distance", "how well a classifier tells the domains apart; 0 is not at all, 2 without a mistake", (0.0, 2.0)),
}

KINDS = {
    "covariate": ("covariate shift", "the items look different"),
    "label": ("label shift", "the classes come in other shares"),
    "concept": ("concept shift", "the same looks mean something else"),
}


def outcome_sentence(adaptation: Adaptation) -> str:
    """ "Adapted from a.csv to b.csv with coral.", or that the source-only model is kept."""
    if adaptation.outcome == ADAPTED:
        return f"Adapted from {adaptation.source} to {adaptation.target} with {method(adaptation.method, adaptation.settings)}."
    return f"The source-only model of {adaptation.source} is kept for {adaptation.target}: the guard let no adaptation take its place."


def estimate_sentence(adaptation: Adaptation) -> str:
    """What to expect on the target, beside what the source-only model is expected to reach; that nothing can be said where so."""
    expected = adaptation.estimate
    if not expected and adaptation.checked:
        return "Of the model's error on the target nothing honest can be said but what the given labels say."
    if not expected:
        return "Without labels of the target nothing honest can be said about the model's error there."
    low_is_good = ", lower is better" if adaptation.metric in words.LOWER_IS_BETTER else ""
    sentence = (
        f"Expected {words.metric_name(adaptation.metric)} on the target{low_is_good}: {words.number(expected['score'])}, "
        f"{level(expected)} interval {words.span(expected['interval'])}"
    )
    if adaptation.outcome != ADAPTED:
        return sentence + "."
    plain = expected["source_only"]
    return f"{sentence}; of the source-only model: {words.number(plain['score'])}, {words.span(plain['interval'])}."


def checked_sentence(adaptation: Adaptation) -> str:
    """What the labels say that were given for some of the target; "" where none were."""
    seen = adaptation.checked
    if not seen:
        return ""
    sentence = (
        f"Checked on {words.items(seen['n'], adaptation.modality)} of the target whose labels were given: "
        f"{words.metric_name(adaptation.metric)} {words.number(seen['score'])}, 95 % interval {words.span(seen['interval'])}"
    )
    if adaptation.outcome != ADAPTED:
        return sentence + "."
    plain, verdict = seen["source_only"], seen["verdict"]
    return (
        f"{sentence}; of the source-only model: {words.number(plain['score'])}, {words.span(plain['interval'])}. "
        f"{words.opening(VERDICTS[verdict['outcome']])}: {words.signed(verdict['effect'])}, {words.interval_of(verdict['interval'])} "
        f"({verdict['test']}, n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{verdict['n']:,})."
    )


def shift_sentence(adaptation: Adaptation) -> str:
    """What kind of shift it looks like, as the record puts it; that it was not measured where it was not."""
    return str(adaptation.shift["sentence"]) if adaptation.shift else "What kind of shift this is was not measured."


def summary(adaptation: Adaptation) -> list[str]:
    """The answer, as lines for a terminal."""
    sentences = (outcome_sentence, estimate_sentence, checked_sentence, shift_sentence)
    return [line for sentence in sentences if (line := sentence(adaptation))]


def method(name: str, settings: Mapping[str, Any]) -> str:
    """ "coral (strength 0.5)"."""
    return f"{name} ({settings_text(settings)})" if settings else name


def settings_text(settings: Mapping[str, Any]) -> str:
    """ "rank 5, strength 0.5"."""
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in settings.items())


def level(expected: Mapping[str, Any]) -> str:
    """How sure the intervals of an estimate are meant to be: "90 %"."""
    return f"{100 * expected['interval_share']:.3g}\N{NO-BREAK SPACE}%"


def domains_named(names: Sequence[str], at_most: int) -> str:
    """ "2 domains: a, b"; "" where there are none to tell apart. at_most: names that are told."""
    if not names:
        return ""
    more = f", and {len(names) - at_most} more" if len(names) > at_most else ""
    return f"{words.plural(len(names), 'domain')}: {', '.join(names[:at_most])}{more}"
