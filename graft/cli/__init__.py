"""The command `graft`: reads flags, calls the library, prints. Nothing is computed here, nothing heavy is imported at the top."""

import csv
import errno
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graft import device as devices
from graft import processes
from graft.budget import budget_seconds
from graft.cli.adapt import adapt
from graft.cli.catalogue import backbone_rows, list_backbones
from graft.cli.compare import compare
from graft.cli.options import Backbones, Data, Group, Image, Label, Seed, Split, TaskName, Text, load_labelled
from graft.cli.pretrain import pretrain
from graft.cli.rank import rank
from graft.cli.show import Progress, Rows, number, print_findings, print_table, progress_bar, rate, say, show_warning, span
from graft.errors import GraftError, UnreadableItems, near_miss
from graft.files import replacing
from graft.outputs import cells
from graft.recipes import parse_recipe
from graft.records import Epoch, Event, Finding, Result, Step

if TYPE_CHECKING:
    from graft.data import Dataset
    from graft.transfer import Transfer

# Plain help and errors: importing rich for them would cost more than everything else `graft --help` does.
app = typer.Typer(
    name="graft",
    help="Puts a pretrained model to work on a small data set of your own, and says whether it helped.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command; what the user can mend is one message on stderr and exit code 2."""
    warnings.showwarning = show_warning
    if not processes.first():
        # One of several processes speaks; what another one prints besides is a traceback, which must be seen.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, until the end
    try:
        app()
    except GraftError as error:
        say(f"graft: {error}")
        sys.exit(2)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        say(
            f"graft: {error.filename or 'the disk'}: there is no room ({error.strerror}), expected some for what is written. "
            "Nothing is half-written. Free some space and give the same command again."
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


@app.callback()
def choose_device(
    device: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=f"cpu, cuda, cuda:N or mps, also by {devices.VARIABLE}; the GPU where there is one."),
    ] = None,
) -> None:
    # Before the command's name, as it is said for all of them; the variable reaches what the command starts.
    if name := devices.named(device):
        os.environ[devices.VARIABLE] = name


@app.command()
def run(
    data: Data,
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder to leave the page, the numbers and the model in.")],
    label: Label = None,
    text: Text = None,
    image: Image = None,
    split: Split = None,
    group: Group = None,
    task: TaskName = None,
    backbone: Backbones = None,
    strategy: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Strategy to try; repeatable. See: graft list strategies")
    ] = None,
    metric: Annotated[str | None, typer.Option(metavar="NAME", help="Number to choose by. See: graft list metrics")] = None,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Time to spend, e.g. 90s, 10m, 2h.")] = None,
    seed: Seed = 0,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE", help="Data of a task that the weights could do before: what of it was forgotten; replayed by replay."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="How what is trained is trained, e.g. mixup=0.2; repeatable.")
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write losses and scores to RUN/tensorboard as well.")] = False,
) -> None:
    """Find the best model for DATA, and judge it.

    Ranks pretrained models, tries strategies, compares with the controls, and leaves a page and a model in RUN.
    """
    seconds = None if budget is None else budget_seconds(budget)
    recipe = parse_recipe(settings) if settings else None
    from graft import study

    dataset = load_labelled(data, label, text, image, split, group, task)
    with progress_bar() as progress:
        if tensorboard:
            progress = _with_tensorboard(progress, out / "tensorboard")
        done = study.run(
            dataset,
            out=out,
            backbone=backbone or None,
            strategy=strategy or None,
            metric=metric,
            budget=seconds,
            seed=seed,
            keep=keep,
            recipe=recipe,
            progress=progress,
            command=shlex.join(["graft", *sys.argv[1:]]),
        )
    for note in done.notes:
        typer.echo(note)
    print_findings([Finding(**finding) for finding in done.result.findings])
    typer.echo(f"\n{done.verdict}\n")
    print_table(*_comparison(done.result))
    for name, control in done.result.controls.items():
        if control.get("note"):
            typer.echo(f"{name}: {control['note']}, {control['seconds']:.0f} s")
    if done.result.label_curve:
        typer.echo(done.result.label_curve["sentence"])
    if done.result.keep:
        typer.echo(done.result.keep["sentence"])
    typer.echo(f"\nThe page:  {out / 'report.html'}\nThe model: {out / 'model'}")
    if done.result.compared:
        typer.echo(f"\n{done.result.compared}\nStrategies beside each other: {out / 'comparison.html'}")


@app.command()
def check(
    data: Data,
    label: Label = None,
    text: Text = None,
    image: Image = None,
    split: Split = None,
    group: Group = None,
    task: TaskName = None,
) -> None:
    """Say what is wrong with the data."""
    from graft import data as rooms

    dataset = load_labelled(data, label, text, image, split, group, task)
    with progress_bar() as progress:
        dataset = rooms.check(dataset, progress=progress)
    for line in _recognised(dataset):
        typer.echo(line)
    if dataset.findings:
        print_findings(dataset.findings)
    else:
        typer.echo("Nothing wrong was found.")


app.command()(rank)


@app.command()
def plan(
    strategy: Annotated[str, typer.Argument(metavar="STRATEGY", help="See: graft list strategies")],
    backbone: Annotated[str | None, typer.Option(metavar="SOURCE:NAME", help="Names the layer groups; four unnamed ones without.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training items.")] = 10,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    chart: Annotated[Path | None, typer.Option(metavar="FILE.svg", help="Write the plan as a picture, too.")] = None,
) -> None:
    """Show what a strategy will do.

    Which layer group learns when, and at what rate.
    """
    from graft import auto, strategies

    if strategy == auto.AUTO:
        if chart is not None:
            raise GraftError("--chart: auto is no single plan, expected a strategy that is one. See: graft list strategies")
        typer.echo(f"{strategy}: {_AUTO}")
        for line in auto.describe():
            typer.echo(line)
        return
    if backbone is None:
        names: Sequence[str] = ("group 1", "group 2", "group 3", "group 4")
    else:
        from graft.backbones import load_backbone

        names = load_backbone(backbone).stage_names
    planned = strategies.make_plan(strategy, len(names), epochs, lr)
    typer.echo(f"{strategy}: {strategies.STRATEGIES.describe(strategy)}\nSource: {strategies.STRATEGIES.sources[strategy]}")
    for remark in strategies.remarks(planned):
        typer.echo(remark)
    from graft.report import plan_chart

    drawn = {"groups": names, **asdict(planned)}
    typer.echo("\n" + "\n".join(plan_chart.text_chart(drawn)) + "\n")
    if planned.phases:
        rows = strategies.table(planned, names)
        print_table(tuple(rows[0]), [tuple(rate(cell) for cell in row.values()) for row in rows])
    if chart is not None:
        chart.parent.mkdir(parents=True, exist_ok=True)
        with replacing(chart) as file:
            file.write(plan_chart.chart_file(drawn, f"{strategy}, {epochs} epochs"))


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that 'graft run --out RUN' left, or its model folder.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="What to predict: an image, a folder or .zip of images, or a table; no labels needed.")
    ],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="CSV to write; the screen without it.")] = None,
    text: Text = None,
    image: Image = None,
    views: Annotated[
        int | None,
        typer.Option(min=1, help="Views of each image to average over: as judged, and random ones; as the model says unless given."),
    ] = None,
) -> None:
    """Predict with the model of a run.

    One row an input, as CSV: what it is, the prediction, the probability of each class.
    """
    from graft import data as rooms
    from graft.transfer import Transfer

    model = Transfer.load(run)
    if model.backbone_.modality == "row":
        raise GraftError(
            f"{run}: its model reads rows of {model.backbone_.width} numbers, expected one of images or texts. "
            f"In Python: graft.Transfer.load({str(run)!r}).predict(X)."
        )
    reads = "table" if {"number", "category"} & set(model.columns_.values()) else model.backbone_.modality
    dataset = rooms.load_unlabelled(data, text=text or None, image=image, modality=reads, columns=model.columns_ or None)
    header, rows = prediction_rows(model, dataset, views)
    if out is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows([header])
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as file:
        csv.writer(file, lineterminator="\n").writerows([header])
        csv.writer(file, lineterminator="\n").writerows(rows)


app.command()(compare)

app.command()(adapt)

app.command()(pretrain)


@app.command("list")
def list_members(
    family: Annotated[
        str,
        typer.Argument(
            metavar="FAMILY",
            help="backbones, strategies, metrics, heads, scores, distances, adaptations, validators, estimates, pretexts or sources.",
        ),
    ],
    modality: Annotated[str | None, typer.Option(metavar="NAME", help="Backbones for image or text.")] = None,
    max_parameters: Annotated[str | None, typer.Option(metavar="NUMBER", help="Backbones of at most so many, e.g. 5M.")] = None,
    licence: Annotated[str | None, typer.Option(metavar="NAME", help="Backbones under this licence, e.g. apache-2.0.")] = None,
    max_ms: Annotated[
        float | None, typer.Option(metavar="MS", help="Backbones of about so many milliseconds an item here, at most.")
    ] = None,
    on_disk: Annotated[
        bool | None,
        typer.Option("--on-disk/--anywhere", help="Only backbones that load without a network; the default where there is none."),
    ] = None,
) -> None:
    """List what can be named."""
    if family not in _FAMILIES:
        raise GraftError(f"unknown family {family!r}, expected one of {', '.join(_FAMILIES)}.{near_miss(family, _FAMILIES)}")
    filters = {"modality": modality, "max_parameters": max_parameters, "licence": licence, "max_ms": max_ms, "on_disk": on_disk}
    given = [f"--{name.replace('_', '-')}" for name, value in filters.items() if value is not None]
    if family == "backbones":
        list_backbones(modality, max_parameters, licence, max_ms, on_disk)
    elif given:
        raise GraftError(f"{', '.join(given)}: chooses among backbones, and {family} were asked for. Leave it out, or list backbones.")
    else:
        print_table(*_FAMILIES[family]())


def prediction_rows(model: "Transfer", dataset: "Dataset", views: int | None = None) -> tuple[list[str], Iterator[list[str]]]:
    """Header and rows of what `graft predict` writes; rows are made as they are asked for. views: see `Transfer.predict_outputs`.

    Columns: id, prediction, one `probability CLASS` for each class (none for a regression), error. An input that cannot
    be read has only its id and the error, and is named on stderr. Several labels are joined by "|".
    """
    classes = [] if model.task_ == "regression" else [str(name) for name in model.classes_]
    return ["id", "prediction", *(f"probability {name}" for name in classes), "error"], _prediction_rows(model, dataset, classes, views)


def _prediction_rows(model: "Transfer", dataset: "Dataset", classes: list[str], views: int | None) -> Iterator[list[str]]:
    chunk = 256
    with progress_bar() as progress:
        for start in range(0, len(dataset), chunk):
            stop = min(start + chunk, len(dataset))
            items = dataset.items[start:stop]
            outputs, errors = _predict_readable(model, items, views)
            ready = iter(outputs)
            for position in range(stop - start):
                name = str(dataset.ids[start + position])
                if position in errors:
                    say(f"graft: {name}: {errors[position]}")
                    yield [name, "", *("" for _ in classes), errors[position]]
                else:
                    yield [name, *cells(next(ready), model.task_, classes, model.unknown_), ""]
            if progress:
                progress(Step("predicting", stop, len(dataset)))


def _predict_readable(model: "Transfer", items: Sequence[Any], views: int | None) -> tuple[Any, dict[int, str]]:
    """Outputs of the items that can be read, in order; position -> why, for those that cannot."""
    try:
        return model.predict_outputs(items, views=views), {}
    except UnreadableItems:
        # Only now is each image opened by itself: doing it first would decode every image twice.
        errors = _unreadable(items)
        if not errors:
            raise
        readable = [item for position, item in enumerate(items) if position not in errors]
        return model.predict_outputs(readable, views=views) if readable else (), errors


def _unreadable(items: Sequence[Any]) -> dict[int, str]:
    """Position -> why, of the images that cannot be opened whole."""
    from PIL import UnidentifiedImageError

    from graft.items import open_image

    errors = {}
    for position, item in enumerate(items):
        try:
            open_image(item)
        except UnidentifiedImageError:
            # Pillow's own words name an object in memory, another one each time.
            errors[position] = "cannot be read: not an image"
        except OSError as error:
            errors[position] = f"cannot be read: {error}"
    return errors


def _recognised(dataset: "Dataset") -> Iterator[str]:
    """What the data was taken for, a line each."""
    yield f"{dataset.name}: {len(dataset)} items, {dataset.modality}, {dataset.task}"
    if dataset.classes:
        shown = ", ".join(dataset.classes[:20])
        more = f", and {len(dataset.classes) - 20} more" if len(dataset.classes) > 20 else ""
        yield f"{len(dataset.classes)} classes: {shown}{more}"
    if dataset.split is not None:
        parts = list(dataset.split)
        yield "splits: " + ", ".join(f"{name} {parts.count(name)}" for name in dict.fromkeys(parts))
    yield from dataset.notes


def _comparison(result: Result) -> Rows:
    """The chosen model beside its controls."""
    rows = [(f"{result.backbone}, {result.strategy}", number(result.score), span(result.interval))]
    rows += [(f"control: {name}", number(entry["score"]), span(entry["interval"])) for name, entry in result.controls.items()]
    return (f"judged on {result.n_test} items", result.metric, "95 % interval"), rows


_AUTO = "From the frozen probe on, only while held-out items show a gain beyond its standard error. The default."


def _list_strategies() -> Rows:
    header, rows = _list_registry("graft.strategies", "STRATEGIES")
    return header, [("auto", _AUTO, "Breiman et al. 1984, section 3.4.3, for the rule"), *rows]


def _list_registry(module: str, name: str) -> Rows:
    from importlib import import_module

    registry = getattr(import_module(module), name)
    return (registry.kind, "what it is", "source"), [(member, registry.describe(member), registry.sources[member]) for member in registry]


def _list_adaptations() -> Rows:
    from graft.adapt.trained import described

    (name, *about), rows = _list_registry("graft.shift", "SHIFTS")
    on_features = [(member, "features", *more) for member, *more in rows]
    return (name, "works on", *about), [*on_features, *((member, "the network, with --budget", *more) for member, *more in described())]


def _list_scores() -> Rows:
    from graft import transferability

    served = {
        "classification": "SCORES",
        "regression": "REGRESSION_SCORES",
        "source outputs": "SOURCE_SCORES",
        "no labels": "LABEL_FREE_SCORES",
    }
    rows = []
    for needs, registry in served.items():
        rows += [(name, needs, *more) for name, *more in _list_registry(transferability.__name__, registry)[1]]
    return ("score", "for", "what it is", "source"), rows


def _list_sources() -> Rows:
    import ast
    from importlib.util import find_spec

    from graft.backbones import SOURCES

    rows = []
    for name in SOURCES:
        # Read, not imported: a source whose library is not installed is listed too.
        spec = find_spec(f"graft.backbones.{name}")
        assert spec is not None and spec.origin is not None
        about = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
        rows.append((f"{name}:", about.partition("\n")[0]))
    return ("source", "what it is"), rows


_FAMILIES: dict[str, Callable[[], Rows]] = {
    "backbones": backbone_rows,
    "strategies": _list_strategies,
    "metrics": lambda: _list_registry("graft.evaluate", "METRICS"),
    "heads": lambda: _list_registry("graft.heads", "HEADS"),
    "scores": _list_scores,
    "distances": lambda: _list_registry("graft.transferability", "DISTANCES"),
    "adaptations": _list_adaptations,
    "validators": lambda: _list_registry("graft.validators", "VALIDATORS"),
    "estimates": lambda: _list_registry("graft.validators", "ESTIMATES"),
    "pretexts": lambda: _list_registry("graft.pretext", "PRETEXTS"),
    "sources": _list_sources,
}


def _with_tensorboard(progress: Progress | None, folder: Path) -> Progress:
    from graft.train import tensorboard_writer

    write = tensorboard_writer(folder)

    def tell(event: Event) -> None:
        if isinstance(event, Epoch):
            write(event)
        if progress:
            progress(event)

    return tell
