"""The arguments and flags that several commands share, and the data set that those for DATA name."""

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from graft.data import Dataset

Data = Annotated[str, typer.Argument(metavar="DATA", help="A folder of images, a .zip of one, or a table: CSV, TSV, JSONL, Parquet.")]
Label = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column to predict.")]
Text = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Column with the text; repeat it to join several.")]
Image = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column with image paths or image bytes.")]
Split = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column saying train, validation or test.")]
Group = Annotated[str | None, typer.Option(metavar="COLUMN", help="Column whose equal values stay on one side of a split.")]
TaskName = Annotated[
    str | None, typer.Option("--task", help="classification, multilabel or regression; told from the labels unless given.")
]
Backbones = Annotated[list[str] | None, typer.Option("--backbone", metavar="SOURCE:NAME", help="Pretrained model to consider; repeatable.")]
Seed = Annotated[int, typer.Option(min=0, help="Same seed, same numbers.")]


def load_labelled(
    data: str, label: str | None, text: list[str] | None, image: str | None, split: str | None, group: str | None, task: str | None
) -> "Dataset":
    """The labelled data set that a command's flags for DATA name."""
    from graft.data import load

    return load(data, label=label, text=text or None, image=image, split=split, group=group, task=task)  # type: ignore[arg-type]
