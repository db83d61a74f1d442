"""`graft rank`: which pretrained model to start from. Reads flags, calls the library, prints."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from graft.cli.options import Backbones, Data, Group, Image, Label, Seed, Split, TaskName, Text, load_labelled
from graft.cli.show import number, print_table, progress_bar, span
from graft.errors import GraftError


def rank(
    data: Data,
    backbone: Backbones = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder to leave rank.html and rank.json in.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fine-tune every candidate, and say how good the ranking was. Takes long.")
    ] = False,
    strategy: Annotated[str, typer.Option(metavar="NAME", help="With --check: how candidates are fine-tuned.")] = "lp_ft",
    evidence: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="CSV of checked runs of your own to base predictions on, too; repeatable.")
    ] = None,
    label: Label = None,
    text: Text = None,
    image: Image = None,
    split: Split = None,
    group: Group = None,
    task: TaskName = None,
    seed: Seed = 0,
) -> None:
    """Rank pretrained models on the data.

    By what they are predicted to reach, with the doubt, the chance of being best, and what they cost.
    """
    if strategy != "lp_ft" and not check:
        raise GraftError(f"--strategy {strategy} without --check: a ranking trains nothing. Add --check, or leave it out.")
    from graft import study
    from graft.runs import folder

    dataset = load_labelled(data, label, text, image, split, group, task)
    if out is not None:
        # Known to be writable before any time is spent.
        folder.prepare(out)
    with progress_bar() as progress:
        ranking = study.rank(
            dataset,
            backbone or None,
            seed=seed,
            check=strategy if check else None,
            evidence=evidence or (),
            progress=progress,
            command=shlex.join(["graft", *sys.argv[1:]]),
        )
    for note in ranking.notes:
        typer.echo(note)
    print_table(
        ("backbone", ranking.metric, "95 % interval", "best", "group", "ms an item", "training, s", "parameters", "licence"),
        [
            (
                row.backbone,
                number(row.predicted),
                span(row.interval),
                f"{row.p_best:.0%}",
                "dropped" if row.group is None else str(row.group),
                f"{row.serve_ms:.1f}",
                f"{row.train_seconds:.0f}",
                f"{row.parameters / 1e6:.2f} M",
                row.licence or "unknown",
            )
            for row in ranking.rows
        ],
    )
    typer.echo(f"\n{ranking.sentence}\nBased on {ranking.basis}.")
    if ranking.check:
        _print_check(ranking.check, ranking.metric)
    if out is not None:
        ranking.write(out)
        typer.echo(f"\nThe page: {out / 'rank.html'}\nThe numbers: {out / 'rank.json'}")


def _print_check(check: dict, metric: str) -> None:  # type: ignore[type-arg]
    rows = [
        (one["backbone"], number(one["predicted"]), number(one["score"]), span(one["interval"]), f"{one['seconds']:.0f}")
        for one in check["candidates"]
    ]
    typer.echo("")
    print_table(("fine-tuned", f"predicted {metric}", "reached", "95 % interval", "seconds"), rows)
    if check["correlation"] is not None:
        typer.echo(
            f"Rank correlation (weighted Kendall tau): {check['correlation']:+.2f}, 95 % interval "
            f"{check['correlation_interval'][0]:+.2f} to {check['correlation_interval'][1]:+.2f}, on {check['n']} items."
        )
    else:
        typer.echo("Rank correlation: none can be told, as all were predicted, or reached, the same.")
    saved = f"{check['saved']:.0%}" if check["saved"] > 0 else "nothing"
    typer.echo(
        f"Regret: {check['regret']:.3f}, 95 % interval {span(check['regret_interval'])}; the best was {check['best']}.\n"
        f"Time: {check['seconds_trusted']:.0f} s to rank and fine-tune one, {check['seconds_all']:.0f} s to fine-tune all: "
        f"{saved} saved."
    )
