"""`graft adapt`: carry a model to a domain without labels. Reads flags, calls the library, prints."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from graft.budget import budget_seconds
from graft.cli.options import Image, Label, Seed, TaskName, Text
from graft.cli.show import print_findings, print_table, progress_bar
from graft.errors import GraftError
from graft.records import Adaptation, Finding

# More candidates than this are no answer but a list; the page has them all.
_SHOWN = 12


def adapt(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Labelled data: a folder of images, a .zip of one, a table; or the folder of a run.")
    ],
    target: Annotated[str, typer.Option(metavar="TARGET", help="Data of the domain to serve, of the same kind; labels are not read.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Folder to leave the page, the numbers and the model in; where SOURCE is a run, a new one beside it."
        ),
    ] = None,
    source_data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Where SOURCE is a run: the labelled data it was fitted on, if at hand.")
    ] = None,
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
        Path | None, typer.Option(metavar="FILE", help="CSV with the columns id and label, of some items of TARGET: the choice uses them.")
    ] = None,
    unknown: Annotated[
        float, typer.Option(metavar="SHARE", help='Below this probability an answer is "unknown", from 0 (never) to below 1.')
    ] = 0.0,
    guard: Annotated[bool, typer.Option(help="Keep the source-only model where the evidence is not enough.")] = True,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data of what is retrained.")] = 10,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Time for all methods, e.g. 10m; without it none retrains the network.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Adapt a model to data without labels.

    Makes a model on SOURCE, tries methods that carry it to TARGET, and keeps it as it was unless one is likely enough to be better.
    """
    seconds = None if budget is None else budget_seconds(budget)
    out = out or _beside(source, target)
    from graft.adapt import adapt_run
    from graft.report import sentences

    roles = {"label": label, "text": text or None, "image": image, "task": task}
    with progress_bar() as progress:
        adaptation = adapt_run(
            source,
            target,
            out=out,
            source_data=source_data,
            backbone=backbone,
            strategy=strategy,
            methods=method or "auto",
            domain=domain,
            target_labels=target_labels,
            unknown=unknown,
            guard=guard,
            epochs=epochs,
            budget=seconds,
            seed=seed,
            roles={name: value for name, value in roles.items() if value is not None},
            progress=progress,
            command=shlex.join(["graft", *sys.argv[1:]]),
        ).record
    for note in adaptation.notes:
        typer.echo(note)
    print_findings([Finding(**finding) for finding in adaptation.findings])
    typer.echo("\n" + "\n".join(sentences.summary(adaptation)) + "\n")
    _print_reasons(adaptation)
    _print_candidates(adaptation)
    typer.echo(f"\nThe page:  {out / 'report.html'}\nThe model: {out / 'model'}")


def _beside(source: str, target: str) -> Path:
    """`runs/flowers-to-new-photos`, of the run `runs/flowers` and the target `new-photos/`. Raises GraftError where SOURCE is no run."""
    run = Path(source)
    if run.name == "model":
        run = run.parent
    if not (run / "model" / "graft.json").is_file():
        raise GraftError(f"{source}: is no run, and no folder for the results was named, expected one. Add --out RUN.")
    # "." has no name of its own.
    whole = run if run.name not in ("", "..") else run.resolve()
    return whole.with_name(f"{whole.name}-to-{Path(target).resolve().stem}")


def _print_reasons(adaptation: Adaptation) -> None:
    from graft.report import words

    if adaptation.reasons:
        rows = [(str(row["evidence"]), words.number(row["value"]), row["speaks"], row["words"]) for row in adaptation.reasons]
        print_table(("evidence", "value", "speaks", "what it says"), rows)


def _print_candidates(adaptation: Adaptation) -> None:
    """Those that were judged as a table, the best and source-only, those that fell out with the reason."""
    from graft.report import sentences, words

    kept = [row for row in adaptation.candidates if not row["note"]]
    order = sorted(kept, key=lambda row: -(row["score"] or 0.0))
    kept = [row for place, row in enumerate(order) if place < _SHOWN or row["method"] == "source_only"]
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
    if more := len(order) - len(kept):
        typer.echo(f"and {words.plural(more, 'candidate')} more, which the page tells of")
    for row in adaptation.candidates:
        if row["note"]:
            typer.echo(f"{sentences.method(row['method'], row['settings'])} fell out: {row['note']}")
