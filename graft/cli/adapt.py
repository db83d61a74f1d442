"""`graft adapt`: carry a model to a domain without labels. Reads flags, calls the library, prints."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft.budget import budget_seconds
from graft.cli.options import Image, Label, Seed, TaskName, Text, load_labelled
from graft.cli.show import print_findings, print_table, progress_bar
from graft.records import Adaptation, Finding

if TYPE_CHECKING:
    from graft.data import Dataset


def adapt(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Labelled data: a folder of images, a .zip of one, or a table.")],
    target: Annotated[str, typer.Option(metavar="TARGET", help="Data of the domain to serve, of the same kind; labels are not read.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder to leave the page, the numbers and the model in.")],
    label: Label = None,
    text: Text = None,
    image: Image = None,
    task: TaskName = None,
    domain: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of SOURCE that names the domain of each item, where there are several.")
    ] = None,
    backbone: Annotated[str | None, typer.Option(metavar="SOURCE:NAME", help="Pretrained model to start from.")] = None,
    strategy: Annotated[
        str, typer.Option(metavar="NAME", help="How the source-only model is made. See: graft list strategies")
    ] = "feature_extraction",
    method: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Adaptation to try; repeatable. All that suit unless given.")
    ] = None,
    target_labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Table of some items of TARGET with labels: they correct the choice and check it.")
    ] = None,
    unknown: Annotated[
        float, typer.Option(metavar="SHARE", help='Below this probability an answer is "unknown", from 0 (never) to below 1.')
    ] = 0.0,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Time to spend on retraining, e.g. 90s, 10m, 2h.")] = None,
    seed: Seed = 0,
) -> None:
    """Adapt a model to data without labels.

    Makes a model on SOURCE, tries methods that carry it to TARGET, and keeps it as it was unless one is likely enough to be better.
    """
    seconds = None if budget is None else budget_seconds(budget)
    from graft.adapt import adapt_run  # type: ignore[import-not-found, unused-ignore]
    from graft.report import sentences

    labelled, domains = _load_source(source, label, text, image, task, domain)
    unlabelled = _load_target(target, labelled, text, image)
    with progress_bar() as progress:
        adaptation: Adaptation = adapt_run(
            labelled,
            unlabelled,
            out=out,
            domains=domains,
            backbone=backbone,
            strategy=strategy,
            methods=method or None,
            target_labels=target_labels,
            unknown=unknown,
            budget=seconds,
            seed=seed,
            progress=progress,
            command=shlex.join(["graft", *sys.argv[1:]]),
        )
    for note in adaptation.notes:
        typer.echo(note)
    print_findings([Finding(**finding) for finding in adaptation.findings])
    typer.echo("\n" + "\n".join(sentences.summary(adaptation)) + "\n")
    _print_reasons(adaptation)
    _print_candidates(adaptation)
    typer.echo(f"\nThe page:  {out / 'report.html'}\nThe model: {out / 'model'}")


def _load_source(
    source: str, label: str | None, text: list[str] | None, image: str | None, task: str | None, domain: str | None
) -> tuple["Dataset", Any]:
    """The labelled items, and the domain's name of each, (n,) of str; None without a column for it."""
    labelled = load_labelled(source, label, text, image, None, domain, task)
    # A domain is read as a group is, but its items need not stay on one side of a split.
    return (labelled, None) if domain is None else (replace(labelled, group=None), labelled.group)


def _load_target(target: str, labelled: "Dataset", text: list[str] | None, image: str | None) -> "Dataset":
    """The items without labels, read as those of the source are."""
    from graft.data import load_unlabelled

    columns = {name: column.kind for name, column in labelled.columns.items()}
    return load_unlabelled(target, text=text or None, image=image, modality=labelled.modality, columns=columns)


def _print_reasons(adaptation: Adaptation) -> None:
    from graft.report import words

    if adaptation.reasons:
        rows = [(str(row["evidence"]), words.number(row["value"]), row["speaks"], row["words"]) for row in adaptation.reasons]
        print_table(("evidence", "value", "speaks", "what it says"), rows)


def _print_candidates(adaptation: Adaptation) -> None:
    """Those that were judged as a table, those that fell out with the reason."""
    from graft.report import sentences, words

    kept = [row for row in adaptation.candidates if not row["note"]]
    if kept:
        typer.echo("")
        print_table(
            ("method", f"predicted {adaptation.metric}", "interval", "seconds"),
            [
                (
                    sentences.method(row["method"], row["settings"]),
                    words.number(row["score"]),
                    words.span(row["interval"]) if row["interval"] else "no interval",
                    f"{row['seconds']:.1f}",
                )
                for row in kept
            ],
        )
    for row in adaptation.candidates:
        if row["note"]:
            typer.echo(f"{sentences.method(row['method'], row['settings'])} fell out: {row['note']}")
