"""`load` and `load_unlabelled`: from whatever a user has (folder, .zip, table, DataFrame, ...) to a Dataset. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from graft.data.columns import GROUP_HINTS, TEXT_JOIN, Roles, choose_roles, holds_image_items, input_columns
from graft.data.dataset import ArrowValues, Column, Dataset, Mapped, View, is_missing
from graft.data.folders import SPLIT_NAMES, ImageFolder, is_image_name, list_images, read_folder, some
from graft.data.tables import TABLE_ENDINGS, Table, as_column, is_huggingface, read_table, read_table_folder, row_names, split_of
from graft.data.target import encode_target
from graft.errors import GraftError, near_miss
from graft.records import TASKS, Finding, Task

ROW_NUMBER_NAMES = ("id", "index", "column 1", "unnamed: 0")


def load(
    source: Any,
    *,
    label: str | None = None,
    text: str | Sequence[str] | None = None,
    image: str | None = None,
    split: str | None = None,
    group: str | None = None,
    task: Task | None = None,
) -> Dataset:
    """A labelled data set from a folder or .zip of images, a table file, a DataFrame, or a Hugging Face data set.

    label, text, image, split, group: names of columns; the usual ones are recognised, and `notes` says which were taken.
    text may name several columns, which are joined. task: inferred from the labels when None.
    Raises GraftError, with the near miss, for a wrong path, an unknown column, missing labels, one class only, ...
    """
    if task is not None and task not in TASKS:
        raise GraftError(f"task={task!r}, expected one of {', '.join(TASKS)}.{near_miss(task, TASKS)}")
    path = _existing(source)
    if path is not None and _holds_image_files(path):
        named = {"label": label, "text": text, "image": image, "split": split, "group": group}
        given = [f"{name}={value!r}" for name, value in named.items() if value is not None]
        if given:
            raise GraftError(
                f"{path}: got {', '.join(given)} for a folder of images, expected no column names: the folders name labels and splits."
            )
        dataset = _from_images(path, task)
    else:
        table = _read(source, path)
        dataset = _from_table(table, choose_roles(table, label=label, text=text, image=image, split=split, group=group), task)
    return _settle_splits(replace(dataset, name=_name(source)))


def load_unlabelled(
    source: Any,
    *,
    text: str | Sequence[str] | None = None,
    image: str | None = None,
    modality: str | None = None,
    columns: Mapping[str, str] | Sequence[str] | None = None,
) -> Dataset:
    """What a model is to predict, without labels: as `load` takes it, and also one image, a list of paths, images or texts.

    modality: "image", "text" or "table", what the model reads; None: told from the source. columns: for tables, the
    columns that the model was trained on, by name, or name -> "number", "category", "text" or "image"; a text or image
    column is taken where the table has it, numbers and categories must be there.
    Raises GraftError when the source cannot be read, or lacks one of those columns.
    """
    if isinstance(source, (list, tuple, np.ndarray, pd.Series)):
        table = _from_values(list(source), modality)
        text, image = ("text", None) if "text" in table.columns else (None, "image")
        return replace(_inputs(table, choose_roles(table, text=text, image=image, labelled=False)), name=_name(source))
    path = _existing(source)
    if path is not None and path.is_file() and is_image_name(path.name):
        return Dataset(str(source), {"image": Column("image", [str(path)])}, [path.name])
    if path is not None and _holds_image_files(path):
        found = list_images(path)
        return Dataset(str(source), {"image": Column("image", found.items)}, found.ids, notes=tuple(found.notes))
    table = _read(source, path)
    if isinstance(columns, Mapping) and not {"number", "category"} & set(columns.values()):
        # One text or image column: the one that was trained on, where this table has it too.
        (joined, kind), *_ = columns.items()
        known = [name for name in joined.split(TEXT_JOIN) if name in table.columns]
        if text is None and image is None and known == joined.split(TEXT_JOIN):
            text, image = (known, None) if kind == "text" else (None, joined)
        columns = None
    if modality == "table" or columns is not None:
        wanted = list(columns) if columns is not None else list(table.columns)
        missing = [name for name in wanted if name not in table.columns]
        if missing:
            close = "".join(near_miss(name, table.columns) for name in missing[:1])
            raise GraftError(
                f"{table.where}: lacks columns that the model was trained on: {some(missing, 20)}. "
                f"It has {some(list(table.columns), 20)}.{close}"
            )
        dataset = _inputs(table, Roles(rest=wanted))
        if isinstance(columns, Mapping):
            _refuse_other_kinds(dataset, columns, table.where)
        return replace(dataset, name=_name(source))
    roles = choose_roles(table, text=text, image=image, labelled=False, modality=modality)
    if modality is not None and not (roles.image if modality == "image" else roles.text):
        raise GraftError(
            f"{table.where}: found no {modality} among the columns {some(list(table.columns), 20)}. "
            f"Name it with {modality}=... (--{modality})."
        )
    return replace(_inputs(table, roles), name=_name(source))


def _refuse_other_kinds(dataset: Dataset, kinds: Mapping[str, str], where: str) -> None:
    wrong = [name for name, kind in kinds.items() if kind == "number" and dataset.columns[name].kind != "number"]
    if wrong:
        raise GraftError(f"{where}: columns {some(wrong)} hold other things than numbers, expected numbers as in training.")


# -- finding and reading the source


def _name(source: Any) -> str:
    if isinstance(source, (str, Path)):
        return str(source)
    return f"{type(source).__name__} of {len(source)} {'splits' if isinstance(source, dict) else 'items'}"


def _existing(source: Any) -> Path | None:
    """The path that source names; None when it is an object. Raises GraftError, with what lies nearby, when nothing is there."""
    if not isinstance(source, (str, Path)):
        return None
    path = Path(source).expanduser()
    if path.exists():
        return path
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    # The first part of the path that is not there, to be compared with what is.
    part = path.relative_to(folder).parts[0] if path != folder and folder in path.parents else path.name
    names = sorted(entry.name for entry in folder.iterdir())
    raise GraftError(f"{source}: no such file or folder: {str(folder)!r} has no {part!r}.{near_miss(part, names)}")


def _holds_image_files(path: Path) -> bool:
    """Whether a path is a folder or .zip of images; a folder of tables is not, an empty one is an error of `list_images`."""
    return path.suffix.lower() == ".zip" if path.is_file() else not _split_tables(path)


def _split_tables(folder: Path) -> list[str]:
    """Tables in a folder that are named after splits; none where it has sub-folders that could hold images."""
    entries = sorted(folder.iterdir())
    tables = [entry.name for entry in entries if entry.suffix.lower() in TABLE_ENDINGS[:-1] and not entry.name.startswith(".")]
    named = [name for name in tables if split_of(name)]
    if tables and not any(is_image_name(entry.name) or entry.is_dir() for entry in entries):
        if "train" in {split_of(name) for name in named}:
            return named
        raise GraftError(
            f"{folder}: is a folder of tables ({some(tables)}), "
            f"expected one table or files named train, val, test. Did you mean {folder}/{tables[0]!r}?"
        )
    return []


def _read(source: Any, path: Path | None) -> Table:
    if path is None:
        if isinstance(source, (pd.DataFrame, pa.Table)) or is_huggingface(source):
            return read_table(source)
        raise GraftError(f"got a {type(source).__name__}, expected a path, a pandas DataFrame, or a Hugging Face Dataset or DatasetDict.")
    return read_table_folder(path, _split_tables(path)) if path.is_dir() else read_table(path)


def _from_values(values: list[Any], modality: str | None) -> Table:
    """A list of images, image paths or texts as a table of one column, "image" or "text"."""
    if not values:
        raise GraftError("got an empty list, expected at least one item.")
    column = as_column(values)
    is_image = holds_image_items(column) if modality is None else modality == "image"
    paths = isinstance(values[0], (str, Path)) and is_image
    return Table(
        f"list of {len(values)} items",
        {"image" if is_image else "text": column},
        [str(value) for value in values] if paths else row_names(len(values)),
        Path(),
    )


# -- from what was read to a Dataset


def _from_images(path: Path, task: Task | None) -> Dataset:
    found: ImageFolder = read_folder(path)
    assert found.labels is not None
    if task not in (None, "classification"):
        raise GraftError(
            f"{path}: got task={task!r} for a folder of images, expected classification. Other tasks need a table of paths and labels."
        )
    target = encode_target(found.labels, "classification", str(path), found.ids)
    return Dataset(
        name=str(path),
        columns={"image": Column("image", found.items)},
        ids=found.ids,
        target=target.y,
        target_name="folder",
        task=target.task,
        classes=target.classes,
        split=found.split,
        notes=(*found.notes, f"task: classification, {len(target.classes)} classes (folders are classes)"),
        findings=tuple(found.findings),
    )


def _inputs(table: Table, roles: Roles) -> Dataset:
    columns = input_columns(table, roles)
    notes = [*table.notes, *roles.notes]
    if (roles.image or roles.text) and roles.rest:
        notes.append(f"left unused: columns {some(roles.rest, 20)}")
    return Dataset(table.where, columns, _ids(table, roles), notes=tuple(notes), findings=tuple(table.findings))


def _ids(table: Table, roles: Roles) -> Sequence[str]:
    """Image paths where they name the items, else rows."""
    if roles.image:
        values = table.columns[roles.image]
        named = isinstance(values, ArrowValues) and pa.types.is_string(values.array.type) and not values.array.null_count
        if named and _all_differ(values):
            return values
    return table.ids


def _all_differ(values: Sequence[Any]) -> bool:
    return isinstance(values, ArrowValues) and len(values.array.unique()) == len(values)


def _empty(value: Any) -> bool:
    return is_missing(value) or value == ""


def _from_table(table: Table, roles: Roles, task: Task | None) -> Dataset:
    assert roles.label is not None
    if not roles.image and not roles.text:
        _leave_out_row_numbers(table, roles)
    dataset = _inputs(table, roles)
    split = table.split if roles.split is None else _read_splits(table, roles.split)
    group = None if roles.group is None else _read_groups(table, roles.group, dataset.ids)
    labels: Sequence[Any] = table.columns[roles.label]
    if roles.label in table.class_names:
        labels = Mapped(_ClassNames(table.class_names[roles.label]), labels)
    dataset = replace(dataset, split=split, group=group, target_name=roles.label)
    dataset, labels = _leave_out_unlabelled_test(dataset, list(labels), table.where)
    target = encode_target(labels, task, f"{table.where}, column {roles.label!r}", dataset.ids)
    hint = [name for name in roles.rest if name.lower() in GROUP_HINTS] if roles.group is None else []
    notes = (
        [f"column {hint[0]!r} looks like a group: name it with group={hint[0]!r} (--group) to keep its items on one side of every split"]
        if hint
        else []
    )
    return replace(dataset, target=target.y, task=target.task, classes=target.classes, notes=(*dataset.notes, target.note, *notes))


class _ClassNames:
    """The name behind the number of a Hugging Face ClassLabel; -1 stands for no label."""

    def __init__(self, names: list[str]) -> None:
        self.names = names

    def __call__(self, number: int | None) -> str | None:
        return None if number is None or number < 0 else self.names[number]


def _leave_out_row_numbers(table: Table, roles: Roles) -> None:
    """A column that only counts or names the rows says nothing of the label, but lets a model learn rows by heart."""
    useless = []
    for name in roles.rest:
        if name.strip().lower() in ROW_NUMBER_NAMES and _all_differ(table.columns[name]):
            useless.append(name)
    roles.rest = [name for name in roles.rest if name not in useless]
    if useless:
        roles.notes.append(f"left unused: columns {some(useless)} (they number the rows)")
    if not roles.rest:
        raise GraftError(f"{table.where}: has no column beside the label {roles.label!r}, expected at least one to predict from.")


def _read_splits(table: Table, name: str) -> np.ndarray:
    values = [str(value) for value in table.columns[name]]
    unknown = sorted({value for value in values if value.strip().lower() not in SPLIT_NAMES})
    if unknown:
        raise GraftError(
            f"{table.where}, column {name!r}: has values {some([repr(value) for value in unknown])}, "
            f"expected train, val (valid, validation, dev) "
            f"and test.{near_miss(unknown[0], SPLIT_NAMES)}"
        )
    return np.array([SPLIT_NAMES[value.strip().lower()] for value in values])


def _read_groups(table: Table, name: str, ids: Sequence[str]) -> np.ndarray:
    values = list(table.columns[name])
    missing = [ids[i] for i, value in enumerate(values) if _empty(value)]
    if missing:
        raise GraftError(
            f"{table.where}, column {name!r}: {len(missing)} rows have no group, first {some(missing)}. "
            f"Expected one for each row: fill it in."
        )
    return np.array([str(value) for value in values])


def _leave_out_unlabelled_test(dataset: Dataset, labels: list[Any], where: str) -> tuple[Dataset, list[Any]]:
    """A split published without labels (all of them missing) cannot be judged on, so it is left out and told."""
    if dataset.split is None:
        return dataset, labels
    missing = np.array([_empty(value) for value in labels])
    hollow = [name for name in ("validation", "test") if np.any(dataset.split == name) and missing[dataset.split == name].all()]
    if not hollow:
        return dataset, labels
    keep = np.flatnonzero(~np.isin(dataset.split, hollow))
    message = f"the {' and '.join(hollow)} split has no labels ({len(labels) - len(keep)} items), so it is left out"
    finding = Finding("unlabelled", "warning", message)
    return replace(dataset.take(keep), findings=(*dataset.findings, finding)), list(View(labels, keep))


def _settle_splits(dataset: Dataset) -> Dataset:
    """Splits are kept as given; a lone one splits nothing, and is dropped."""
    if dataset.split is None:
        return dataset
    names, counts = np.unique(dataset.split, return_counts=True)
    if len(names) == 1:
        return replace(dataset, split=None, notes=(*dataset.notes, f"split: everything is '{names[0]}', so there is none"))
    if "train" not in names:
        raise GraftError(f"{dataset.name}: its splits are {', '.join(names)}, expected train among them.")
    sizes = ", ".join(f"{name} {count}" for name, count in zip(names, counts, strict=True))
    return replace(dataset, notes=(*dataset.notes, f"splits as given: {sizes}"))
