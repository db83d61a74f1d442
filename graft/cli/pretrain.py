"""`graft pretrain`: make a backbone from items without labels. Reads flags, calls the library, prints."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from graft.budget import budget_seconds
from graft.cli.options import Image, Seed, Text
from graft.cli.show import print_findings, progress_bar
from graft.recipes import parse_settings
from graft.records import Finding


def pretrain(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Images (a folder, a .zip), a table of texts or of columns, or signals (.npy, .npz).")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder that becomes the backbone checkpoint:FOLDER, with its page.")],
    start: Annotated[
        str | None, typer.Option("--from", metavar="SOURCE:NAME", help="Backbone to begin with; untrained:SOURCE:NAME for random weights.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="NAME", help="What it is taught by: supervised, or see graft list pretexts.")
    ] = None,
    teacher: Annotated[list[str] | None, typer.Option(metavar="SOURCE:NAME", help="Backbone to learn from; repeatable.")] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column to learn from; with another --method only to look at.")
    ] = None,
    text: Text = None,
    image: Image = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the items; the method's own number unless given.")] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Time to spend instead, e.g. 20m, 2h.")] = None,
    judge: Annotated[
        str | None, typer.Option(metavar="DATA", help="Labelled data that tell whether it helped, where DATA has no labels.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="How it is trained, e.g. batch_size=128; repeatable.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Make a backbone from unlabelled data.

    Teaches a network by DATA alone, from random weights or from a backbone, and says whether a probe is better for it.
    """
    seconds = None if budget is None else budget_seconds(budget)
    recipe = parse_settings(settings or ())
    from graft.pretraining import pretrain as play
    from graft.report import pretraining, words

    roles = {"text": text or None, "image": image}
    with progress_bar() as progress:
        record = play(
            data,
            out=out,
            start=start,
            method=method,
            teachers=teacher or (),
            label=label,
            epochs=epochs,
            budget=seconds,
            seed=seed,
            recipe=recipe,
            judge=judge,
            roles={name: value for name, value in roles.items() if value is not None},
            progress=progress,
            command=shlex.join(["graft", *sys.argv[1:]]),
        ).record
    for note in record.notes:
        typer.echo(note)
    print_findings([Finding(**finding) for finding in record.findings])
    typer.echo(f"\n{pretraining.made_sentence(record)}")
    for sentence in (pretraining.collapse_sentence(record), pretraining.helped_sentence(record), words.opening(record.interrupted)):
        if sentence:
            typer.echo(sentence)
    typer.echo(f"\nThe page:     {out / 'report.html'}\nThe backbone: checkpoint:{out}")
