"""How the command writes to a screen or a pipe: tables, findings, a bar that moves. Computes nothing."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from graft import processes
from graft.records import Event, Finding, Note, Step

Progress = Callable[[Event], None]
# What `print_table` prints: the header, then a row of cells each.
Rows = tuple[Sequence[str], Sequence[Sequence[str]]]


def print_findings(findings: Iterable[Finding]) -> None:
    for finding in findings:
        typer.echo(f"{finding.severity}: {finding.message}")
        for item in finding.items[:10]:
            typer.echo(f"  {item}")
        if len(finding.items) > 10:
            typer.echo(f"  and {len(finding.items) - 10} more")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    # No markup: a class or a file may be called "[red]". Into a file or a pipe, lines are as long as they need to be.
    console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 240)
    table = Table(*header, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)


@contextmanager
def progress_bar() -> Iterator[Progress | None]:
    """A bar on the terminal that events move; where nobody watches, notes are written and nothing else."""
    from rich.console import Console

    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    if not console.is_terminal or not processes.first():
        yield lambda event: say(event.text) if isinstance(event, Note) else None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(event: Event) -> None:
            if isinstance(event, Step):
                if event.what not in tasks:
                    tasks[event.what] = bars.add_task(event.what, total=event.total)
                bars.update(tasks[event.what], completed=event.done, total=event.total, visible=event.done < event.total)
            elif isinstance(event, Note):
                bars.console.print(event.text)
            else:
                score = "" if event.score is None else f", score {event.score:.3f}"
                if "" not in tasks:
                    tasks[""] = bars.add_task("training", total=None)
                bars.update(
                    tasks[""], description=f"training: phase {event.phase + 1}, epoch {event.epoch + 1}, loss {event.loss:.3f}{score}"
                )

        yield show


def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"graft: warning: {message}")


def say(line: str) -> None:
    if processes.first():
        typer.echo(line, err=True)


def rate(cell: str | float) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:.3g}" if cell else "frozen"


def number(value: float) -> str:
    return f"{value:.3f}"


def span(interval: Sequence[float]) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}"
