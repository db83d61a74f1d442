"""The card: a Result, an Adaptation or a Pretraining as the README.md of what was saved, with the hub's front matter."""

import json
import re
from collections.abc import Sequence
from typing import Any

from graft.records import Adaptation, Pretraining, Result
from graft.report import pretraining, sentences, words

PIPELINE_TAGS = {
    ("image", "classification"): "image-classification",
    ("image", "multilabel"): "image-classification",
    ("text", "classification"): "text-classification",
    ("text", "multilabel"): "text-classification",
    ("table", "classification"): "tabular-classification",
    ("table", "multilabel"): "tabular-classification",
    ("table", "regression"): "tabular-regression",
}


def model_card(result: Result) -> str:
    """Markdown: what the model is, what it scored and against what, on which data, how to load it."""
    return _front_matter(result) + _body(result)


def adaptation_card(adaptation: Adaptation) -> str:
    """Markdown: from what domain to what, how it was chosen, what to expect, and what labels it rests on."""
    front = [*_tags("other", adaptation.backbone, adaptation.modality, adaptation.task), "- domain-adaptation", "---", ""]
    checked, about = adaptation.checked, words.items(adaptation.n_target, adaptation.modality)
    tried = words.plural(len(adaptation.candidates), "candidate")
    chosen = f": it was chosen among {tried} by what they say about {about} of the target" if adaptation.candidates else ""
    given = f" but those given for {words.items(checked['n'], adaptation.modality)}" if checked else ""
    lines = [
        f"# {_cell(adaptation.target or 'A model')}",
        "",
        f"A model for {_cell(adaptation.task)} of {words.items_name(adaptation.modality)}, "
        f"made with graft from {_code(adaptation.backbone)}.",
        "",
        "## Adapted to another domain",
        "",
        f"{_cell(sentences.outcome_sentence(adaptation))} No label of the target was read for it{given}{chosen}.",
        "",
        f"**{_cell(sentences.estimate_sentence(adaptation))}**",
        "",
        *([f"{_cell(sentences.checked_sentence(adaptation))} The choice could see these labels.", ""] if checked else []),
        *(f"- {reason['speaks']}: {_cell(reason['words'])}" for reason in adaptation.reasons),
        *([""] if adaptation.reasons else []),
        *_classes(adaptation.classes),
        *_USE,
        "It is a model for the target domain: on items of the source, or of a third domain, measure again before relying on it.",
        "",
        *_repeat(adaptation.command),
    ]
    return "\n".join(front) + "\n".join(lines)


def pretraining_card(record: Pretraining) -> str:
    """Markdown: what the backbone saw, how it was taught, whether it helped, how its features developed, how to use it."""
    looks = [row for row in record.watched if row["effective_rank"] is not None]
    lines = [
        *_tags(record.licence, record.start, record.modality, "pretraining"),
        "- pretraining",
        "---",
        "",
        f"# {_cell(record.data or 'A backbone')}",
        "",
        f"A backbone for {words.items_name(record.modality)}, made with graft: {_cell(pretraining.made_sentence(record))}",
        "",
        *([f"**{_cell(pretraining.collapse_sentence(record))}**", ""] if record.collapse else []),
        "## Did it help?",
        "",
        _cell(pretraining.helped_sentence(record)),
        "",
        "## What it saw",
        "",
        f"- pretrained on: {_cell(record.pretrained_on)}",
        f"- began with: {_code(record.start)}; licence of its weights: {_cell(record.licence or 'unknown, or random weights')}",
        *(f"- teacher: {_code(teacher)}" for teacher in record.teachers),
        f"- method: {_code(record.method)}, {_cell(record.source)}",
        f"- {words.plural(record.epochs, 'epoch')} of {words.items(record.n_items, record.modality)} in batches of {record.batch_size}, "
        f"highest rate {record.rate:.3g}, seed {', '.join(map(str, record.seeds))}, {words.duration(record.training_seconds)} of training",
        f"- {words.parameters(record.parameters)} parameters, features of {record.width:,} numbers",
        *([f"- {_cell(record.interrupted)}"] if record.interrupted else []),
        "",
        "## What became of its features",
        "",
        "| epoch | seconds | loss | effective rank | neighbours of the same class |",
        "|---|---|---|---|---|",
        *(
            f"| {row['epoch']} | {row['seconds']:.0f} | {words.number(row['loss'])} | {words.number(row['effective_rank'])} | "
            f"{words.number(row['knn'])} |"
            for row in _spread_out(looks, 12)
        ),
        "",
        "## Use",
        "",
        "```python",
        "import graft",
        "",
        'model = graft.Transfer("checkpoint:FOLDER").fit(items, labels)  # FOLDER: where this file lies',
        "```",
        "",
        "It was judged, if at all, on items like those that it learned from. For others, measure again before relying on it.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "",
        *_repeat(record.command),
    ]
    return "\n".join(lines)


def _spread_out(rows: Sequence[dict[str, Any]], at_most: int) -> list[dict[str, Any]]:
    """The first, the last, and some between."""
    return [rows[place * (len(rows) - 1) // max(1, min(at_most, len(rows)) - 1)] for place in range(min(at_most, len(rows)))]


def hub_name(backbone: str) -> str | None:
    """The backbone's repository on the hub, None where it has none or we cannot know it.

    A timm name without a tag ("timm:resnet18") leaves open which of several repositories is meant.
    """
    source, _, name = backbone.partition(":")
    if source == "hf" and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return name
    if source == "timm" and "." in name:
        return f"timm/{name}"
    return "sentence-transformers/all-MiniLM-L6-v2" if backbone == "sentence:minilm" else None


def _chosen_weights(result: Result) -> dict[str, Any]:
    return next((row for row in result.weights if row.get("backbone") == result.backbone), {})


def _front_matter(result: Result) -> str:
    licence = _chosen_weights(result).get("licence") or ""
    lines = _tags(licence, result.backbone, result.modality, result.task)
    lines += ["metrics:", f"- {_quote(result.metric)}"]
    name = result.data or "model"
    tag = PIPELINE_TAGS.get((result.modality, result.task))
    lines += ["model-index:", f"- name: {_quote(name)}", "  results:", "  - task:", f"      type: {tag or result.task}"]
    lines += ["    dataset:", f"      name: {_quote(name)}", f"      type: {_quote(name)}", "    metrics:"]
    lines += [f"    - type: {_quote(result.metric)}", f"      value: {result.score:.6g}", "---", ""]
    return "\n".join(lines)


def _tags(licence: str, backbone: str, modality: str, task: str) -> list[str]:
    """The lines of the front matter that every card begins with."""
    lines = ["---"]
    if re.fullmatch(r"[A-Za-z0-9.-]+", licence):
        lines.append(f"license: {_quote(licence.lower())}")
    else:
        lines += ["license: other", f"license_name: {_quote(licence or 'unknown')}"]
    lines.append("library_name: graft")
    if base := hub_name(backbone):
        lines.append(f"base_model: {_quote(base)}")
    if tag := PIPELINE_TAGS.get((modality, task)):
        lines.append(f"pipeline_tag: {tag}")
    return [*lines, "tags:", "- graft", "- transfer-learning"]


def _quote(text: str) -> str:
    """A JSON string, which YAML reads as it stands, whatever a data set or a class is called."""
    return json.dumps(text)


def _classes(names: Sequence[str]) -> list[str]:
    return ["## Classes", "", ", ".join(_code(name) for name in names), ""] if names else []


_USE = (
    "## Use",
    "",
    "```python",
    "import graft",
    "",
    'model = graft.Transfer.load("model/")',
    "model.predict(items)  # file paths, PIL images, arrays or texts",
    "```",
    "",
)


def _repeat(command: str) -> list[str]:
    return ["## Repeat", "", "```", " ".join(command.split()), "```", ""] if command else []


def _code(text: object) -> str:
    """Text as inline code, whatever it holds."""
    return "`" + " ".join(str(text).split()).replace("`", "'") + "`"


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _body(result: Result) -> str:
    weights = _chosen_weights(result)
    verdict = result.verdict
    meaning = words.strategy_meaning(result.strategy)
    lines = [
        f"# {_cell(result.data or 'A model')}",
        "",
        f"A model for {_cell(result.task)} of {words.items_name(result.modality)}, made with graft from {_code(result.backbone)} by "
        f"{_code(result.strategy)}{f' ({meaning})' if meaning else ''}.",
        "",
        "## Did transfer help?",
        "",
        f"**{verdict['outcome'].capitalize()}.** The difference to the better control, {_cell(verdict['against'])}, is "
        f"{words.signed(verdict['effect'])} {words.metric_name(result.metric)} "
        f"(95 % interval {words.span(verdict['interval'], sign=True)}, n = {verdict['n']:,}, {_cell(verdict['test'])}).",
        "",
        f"| | {words.metric_name(result.metric)} | 95 % interval |",
        "|---|---|---|",
        f"| this model | {words.number(result.score)} | {words.span(result.interval)} |",
        *(
            f"| {_cell(name)} (control) | {words.number(control['score'])} | {words.span(control['interval'])} |"
            for name, control in result.controls.items()
        ),
        "",
        f"Judged on {_cell(result.judged_on) or 'held-out items'}: {words.items(result.n_test, result.modality)}, "
        f"after training on {result.n_train:,}. Seeds: {', '.join(map(str, result.seeds))}.",
        "",
    ]
    others = {name: score for name, score in result.metrics.items() if name != result.metric}
    if others:
        lines += ["| other metrics | score | 95 % interval |", "|---|---|---|"]
        lines += [f"| {words.metric_name(name)} | {words.number(s['score'])} | {words.span(s['interval'])} |" for name, s in others.items()]
        lines.append("")
    lines += [
        *_classes(result.classes),
        *_USE,
        "The scores hold for items like those it was judged on. For others, measure again before relying on it.",
        "",
        "## Weights",
        "",
        f"Started from {_code(result.backbone)}; licence: {_cell(weights.get('licence') or 'unknown')}; "
        f"pretrained on: {_cell(weights.get('pretrained_on') or 'unknown')}.",
        "",
        *_repeat(result.command),
    ]
    return "\n".join(lines)
