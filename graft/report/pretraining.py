"""The page of a pretraining: the numbers of a `Pretraining` in, one HTML file out."""

import math
import os
from typing import Any

from markupsafe import Markup

from graft.records import Pretraining
from graft.report import plots, words
from graft.report.page import template, told, write_page

# What a look measures -> its heading, what it says, and the number of its colour.
LOOKS = {
    "loss": ("Loss", "mean over the items of an epoch; what is good depends on the method", 1),
    "effective_rank": (
        "Effective rank",
        "how many directions the features of a fixed sample fill; near 1 all items look the same to the network",
        0,
    ),
    "knn": ("Neighbours of the same class", "share of held-out items whose class their five nearest others name; 1 is perfect", 2),
}
_OUTCOMES = {"helps": "It helped.", "no difference shown": "No difference shown.", "hurts": "It hurt."}


def write_pretraining(pretraining: Pretraining, path: str | os.PathLike[str]) -> None:
    """Write the page. path: as `write_page` takes it."""
    write_page(render(pretraining), path)


def render(pretraining: Pretraining) -> str:
    """The page as HTML."""
    helped = pretraining.helped
    outcome = helped["verdict"]["outcome"] if helped else ""
    bad = outcome == "hurts" or pretraining.collapse.get("at_the_end")
    return template("pretraining.html").render(
        result=pretraining,
        headline=headline(pretraining),
        tone="s1" if bad else "s0" if outcome == "helps" else "other" if helped else "s0",
        sentences=_sentences(pretraining),
        words=words,
        difference=plots.difference(helped["verdict"]["effect"], helped["verdict"]["interval"], ("start", "result")) if helped else "",
        scores=_scores(helped) if helped else "",
        looks=[(title, meaning, drawn) for name, (title, meaning, series) in LOOKS.items() if (drawn := _curve(pretraining, name, series))],
        findings=told(pretraining.findings),
    )


def headline(pretraining: Pretraining) -> str:
    if pretraining.collapse.get("at_the_end"):
        return "It collapsed."
    return _OUTCOMES[pretraining.helped["verdict"]["outcome"]] if pretraining.helped else f"Pretrained with {pretraining.method}."


def made_sentence(pretraining: Pretraining) -> str:
    """What was done, in a sentence."""
    learned = words.items(pretraining.n_items, pretraining.modality)
    taught = f", taught by {' and '.join(pretraining.teachers)}" if pretraining.teachers else ""
    return (
        f"{pretraining.start} learned from {learned} by {pretraining.method}{taught}, "
        f"{words.plural(pretraining.epochs, 'epoch')} in {words.duration(pretraining.training_seconds)}."
    )


def helped_sentence(pretraining: Pretraining) -> str:
    """Whether a probe is better for it, in a sentence; that it is not known, where there were no labels."""
    helped = pretraining.helped
    if not helped:
        return "Whether it helped is not known, as there were no labels to judge on: `graft run` on labelled data tells."
    verdict = helped["verdict"]
    said = {"helps": "It helps", "hurts": "It hurts", "no difference shown": "No difference is shown"}[verdict["outcome"]]
    return (
        f"{said}: on {words.items(helped['n'], pretraining.modality)} that were held out a probe on the features reaches "
        f"{words.number(helped['result']['score'])} {words.metric_name(helped['metric'])}, {words.number(helped['start']['score'])} on "
        f"those of the start: {words.signed(verdict['effect'])}, {words.interval_of(verdict['interval'])}."
    )


def collapse_sentence(pretraining: Pretraining) -> str:
    """That the features collapsed, when, and whether they still are; "" where they did not."""
    collapse = pretraining.collapse
    if not collapse:
        return ""
    after = "and they are at the end" if collapse["at_the_end"] else "and they recovered by the end"
    return f"The features collapsed in epoch {collapse['epoch']}, {after}: {collapse['words']}."


def _sentences(pretraining: Pretraining) -> list[str]:
    return [text for text in (collapse_sentence(pretraining), helped_sentence(pretraining), made_sentence(pretraining)) if text]


def _scores(helped: dict[str, Any]) -> Markup:
    rows = [("result", helped["result"], 0), ("start", helped["start"], 1)]
    return plots.interval_rows([plots.Mark(name, row["score"], tuple(row["interval"]), series) for name, row, series in rows])


def _curve(pretraining: Pretraining, name: str, series: int) -> Markup | str:
    """One look against seconds of training; "" where it was taken less than twice."""
    places = [
        plots.Place(row["seconds"], row[name], row[name], row[name])
        for row in pretraining.watched
        if row[name] is not None and math.isfinite(row[name])
    ]
    label = LOOKS[name][0].lower()
    return plots.learning_curves({label: places}, {label: series}, legend=False) if len(places) > 1 else ""
