"""`graft compare`: strategies beside each other. Reads flags, calls the library, prints."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from graft.budget import budget_seconds
from graft.cli.options import Data, Group, Image, Label, Seed, Split, TaskName, Text, load_labelled
from graft.cli.show import number, print_table, progress_bar, span


def compare(
    data: Data,
    backbone: Annotated[str, typer.Option(metavar="SOURCE:NAME", help="Pretrained model that all start from.")],
    strategy: Annotated[list[str], typer.Option(metavar="NAME", help="Strategy to compare; name two or more.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to leave comparison.html and comparison.json in.")],
    rate: Annotated[list[float] | None, typer.Option(metavar="RATE", help="Rate of the head to try; repeatable.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training items, at most.")] = 10,
    label: Label = None,
    text: Text = None,
    image: Image = None,
    split: Split = None,
    group: Group = None,
    task: TaskName = None,
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="Number to compare by. See: graft list metrics")] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Time to spend, e.g. 90s, 10m, 2h: lowers the epochs of all.")] = None,
    seed: Seed = 0,
) -> None:
    """Compare strategies on DATA.

    On the same folds, with the same search of rates: scores, the difference of every two with its interval, and learning curves.
    """
    seconds = None if budget is None else budget_seconds(budget)
    from graft import study
    from graft.runs import folder

    dataset = load_labelled(data, label, text, image, split, group, task)
    # Known to be writable before any time is spent.
    folder.prepare(out)
    with progress_bar() as progress:
        done = study.compare(
            dataset,
            backbone,
            strategy,
            **({"rates": rate} if rate else {}),
            epochs=epochs,
            metric=metric,
            budget=seconds,
            seed=seed,
            progress=progress,
            command=shlex.join(["graft", *sys.argv[1:]]),
        )
    done.write(out)
    for note in done.notes:
        typer.echo(note)
    typer.echo(f"\n{done}\n")
    print_table(
        (f"judged on {done.n_test} items", done.metric, "95 % interval", "rates chosen", "seconds"),
        [
            (
                rival.strategy,
                number(rival.score),
                span(rival.interval),
                ", ".join(f"{one:g}" for one in sorted(set(rival.rates))) or "none to choose",
                f"{rival.seconds:.1f}",
            )
            for rival in done.rivals
        ],
    )
    print_table(
        ("first minus second", "difference", "95 % interval", "p", "p (Holm)", "better"),
        [
            (
                f"{pair.first} - {pair.second}",
                f"{pair.effect:+.3f}",
                f"{pair.interval[0]:+.3f} to {pair.interval[1]:+.3f}",
                number(pair.p),
                number(pair.adjusted_p),
                pair.better or "tie",
            )
            for pair in done.pairs
        ],
    )
    typer.echo(f"\nThe page: {out / 'comparison.html'}\nThe numbers: {out / 'comparison.json'}")
