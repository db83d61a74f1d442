"""Decides which column of a table is the label, the text, the image, the split: as named, else by usual names and by content. No torch."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from graft.data.dataset import ArrowValues, Column, Mapped, Rows, is_missing
from graft.data.folders import SPLIT_NAMES, is_image_name, some
from graft.data.tables import Table, holds_images
from graft.errors import GraftError, near_miss

# In the order of preference where a table has several of them.
LABEL_NAMES = (
    "label",
    "labels",
    "target",
    "targets",
    "class",
    "classes",
    "category",
    "categories",
    "intent",
    "sentiment",
    "tags",
    "topic",
    "y",
)
TEXT_NAMES = (
    "text", "texts", "sentence", "content", "message", "review", "body", "document", "description", "comment", "utterance",
    "query", "question", "tweet", "post", "sms", "title",
)  # fmt: skip
IMAGE_NAMES = ("image", "images", "image_path", "img", "img_path", "path", "file", "file_name", "filename", "filepath", "picture", "photo")
SPLIT_COLUMNS = ("split", "subset", "partition", "fold", "set")
TEXT_JOIN = " + "  # between the names of text columns that are read as one
GROUP_HINTS = ("user", "user_id", "group", "patient", "patient_id", "subject", "subject_id", "author", "customer", "customer_id", "session")
MISSING_NUMBERS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "none", "?", "-")
LOOK_AT = 200  # values looked at to tell what a column holds


@dataclass
class Roles:
    """What each column is for. text: several are joined. rest: columns with no role. notes: the choices, in words."""

    label: str | None = None
    text: list[str] = field(default_factory=list)
    image: str | None = None
    split: str | None = None
    group: str | None = None
    rest: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def choose_roles(
    table: Table,
    *,
    label: str | None = None,
    text: str | Sequence[str] | None = None,
    image: str | None = None,
    split: str | None = None,
    group: str | None = None,
    labelled: bool = True,
    modality: str | None = None,
) -> Roles:
    """The role of each column. Named columns are taken as named; label, text, image and split are recognised otherwise.

    labelled: whether there must be a label. modality: keeps the search for inputs to it; None looks for image, text, table.
    Raises GraftError for columns that are not there, all of them at once, and when no label is found.
    """
    texts = [text] if isinstance(text, str) else list(text or ())
    _refuse_missing(table, {"label": [label], "text": texts, "image": [image], "split": [split], "group": [group]})
    roles = Roles(label=label, text=texts, image=image, split=split, group=group)
    if texts and image:
        raise GraftError(f"{table.where}: got text={text!r} and image={image!r}, expected one of them: a model reads images or texts.")

    def free() -> list[str]:
        taken = {roles.label, roles.image, roles.split, roles.group, *roles.text}
        return [name for name in table.columns if name not in taken]

    if split is None and table.split is None:
        roles.split = _by_name(free(), SPLIT_COLUMNS, lambda name: _holds_splits(table.columns[name]))
        if roles.split:
            roles.notes.append(f"split: column {roles.split!r} (recognised by its name)")
    if label is None:
        _find_label(table, roles, free())
    if not texts and image is None and modality in (None, "image"):
        images = [name for name in free() if holds_image_items(table.columns[name])]
        roles.image = _by_name(images, IMAGE_NAMES) or next(iter(images), None)
        if roles.image:
            roles.notes.append(f"image: column {roles.image!r} (it holds images)")
    if not texts and roles.image is None and modality in (None, "text"):
        _find_text(table, roles, free())
    if labelled and roles.label is None and len(free()) == 1 and (roles.image or roles.text):
        roles.label = free()[0]
        roles.notes.append(f"label: column {roles.label!r} (the only one left)")
    if labelled and roles.label is None:
        close = next((name for name in table.columns if any(known in name.lower() for known in LABEL_NAMES)), None)
        hint = f" Did you mean {close!r}?" if close else ""
        header = " If the first row is no header, add one." if table.where.lower().endswith((".csv", ".tsv")) else ""
        raise GraftError(
            f"{table.where}: found no label among the columns {some(list(table.columns), 20)}, "
            f"expected one named {', '.join(LABEL_NAMES[:6])} or the like. "
            f"Name it with label=... (--label).{hint}{header}"
        )
    roles.rest = free()
    return roles


def _refuse_missing(table: Table, named: dict[str, list[Any]]) -> None:
    wrong = [(role, name) for role, names in named.items() for name in names if name is not None and name not in table.columns]
    if wrong:
        asked = "; ".join(f"{role}={name!r}{near_miss(name, table.columns)}" for role, name in wrong)
        raise GraftError(f"{table.where}: has no such column: {asked} Expected one of its columns: {some(list(table.columns), 20)}.")


def _by_name(names: Iterable[str], usual: Sequence[str], accept: Any = lambda name: True) -> str | None:
    """The column whose name comes first among the usual ones; case, spaces and dashes do not count."""
    plain = {name.strip().lower().replace(" ", "_").replace("-", "_"): name for name in reversed(list(names))}
    return next((plain[name] for name in usual if name in plain and accept(plain[name])), None)


def _find_label(table: Table, roles: Roles, free: list[str]) -> None:
    roles.label = _by_name(free, LABEL_NAMES)
    if roles.label:
        roles.notes.append(f"label: column {roles.label!r} (recognised by its name)")
    elif len(table.class_names) == 1:
        roles.label = next(iter(table.class_names))
        roles.notes.append(f"label: column {roles.label!r} (it names its classes)")


def _find_text(table: Table, roles: Roles, free: list[str]) -> None:
    strings = [name for name in free if _holds_strings(table.columns[name])]
    named = _by_name(strings, TEXT_NAMES)
    if named:
        roles.text = [named]
        roles.notes.append(f"text: column {named!r} (recognised by its name)")
        return
    # Prose has several words a cell and hardly repeats itself; categories do not.
    words = {name: _mean_words(table.columns[name]) for name in strings}
    if words and max(words.values()) >= 4:
        longest = max(words, key=words.__getitem__)
        roles.text = [longest]
        roles.notes.append(f"text: column {longest!r} (it holds the longest texts)")


# -- what a column holds


def _first_values(values: Sequence[Any], at_most: int = LOOK_AT) -> list[Any]:
    """Up to at_most values that are there, spread over the column."""
    step = max(1, len(values) // (5 * at_most))
    there = (value for value in (values[i] for i in range(0, len(values), step)) if value is not None and value != "")
    return [value for _, value in zip(range(at_most), there, strict=False)]


def _arrow_type(values: Sequence[Any]) -> pa.DataType | None:
    return values.array.type if isinstance(values, ArrowValues) else None


def _is_string(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def holds_image_items(values: Sequence[Any]) -> bool:
    """Whether a column holds decoded images, encoded image bytes, Hugging Face images, or paths with image endings."""
    kind = _arrow_type(values)
    if kind is None:
        first = _first_values(values, 1) if not holds_images(values) else []
        return holds_images(values) or bool(first and isinstance(first[0], dict) and {"bytes", "path"} <= first[0].keys())
    if pa.types.is_struct(kind):
        return {"bytes", "path"} <= {kind.field(i).name for i in range(kind.num_fields)}
    if _is_binary(kind):
        return any(_opens(value) for value in _first_values(values, 5))
    if not _is_string(kind):
        return False
    paths = _first_values(values)
    return len(paths) > 0 and sum(is_image_name(path) and "\n" not in path for path in paths) >= 0.8 * len(paths)


def _opens(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).close()
    except OSError:
        return False
    return True


def _holds_strings(values: Sequence[Any]) -> bool:
    return _is_string(_arrow_type(values)) and as_numbers(values) is None


def _mean_words(values: Sequence[Any]) -> float:
    texts = _first_values(values)
    return float(np.mean([len(text.split()) for text in texts])) if len(set(texts)) > 0.5 * len(texts) else 0.0


def _holds_splits(values: Sequence[Any]) -> bool:
    if not isinstance(values, ArrowValues) or not _is_string(values.array.type):
        return False
    return all(value is not None and value.strip().lower() in SPLIT_NAMES for value in values.array.unique().to_pylist())


def as_numbers(values: Sequence[Any]) -> np.ndarray | None:
    """The column as float64, NaN where missing; None where a cell is no number. Text is read as numbers only if all of it can be."""
    kind = _arrow_type(values)
    if kind is None or not isinstance(values, ArrowValues):
        return None
    array = values.array
    if _is_string(kind):
        array = pc.utf8_trim_whitespace(array)
        array = pc.if_else(pc.is_in(array, value_set=pa.array(MISSING_NUMBERS, array.type)), pa.scalar(None, array.type), array)
        if array.null_count == len(array):
            return None
        try:
            return _to_float(array)
        except pa.ArrowInvalid:
            return None
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _to_float(array)
    return None


def _to_float(array: pa.ChunkedArray) -> np.ndarray:
    return array.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy()


# -- columns as inputs


def input_columns(table: Table, roles: Roles) -> dict[str, Column]:
    """The typed inputs: the image column, the text column(s), or every column without a role as numbers and categories."""
    if roles.image:
        return {roles.image: Column("image", _image_items(table, roles.image))}
    if roles.text:
        texts = [Mapped(_as_text, table.columns[name]) for name in roles.text]
        return {TEXT_JOIN.join(roles.text): Column("text", texts[0] if len(texts) == 1 else Rows(_join_texts, texts))}
    return {name: table_column(table.columns[name], f"{table.where}, column {name!r}") for name in roles.rest}


def table_column(values: Sequence[Any], where: str) -> Column:
    numbers = as_numbers(values)
    if numbers is not None:
        return Column("number", numbers)
    kind = _arrow_type(values)
    if kind is None or not isinstance(values, ArrowValues) or pa.types.is_nested(kind) or _is_binary(kind):
        raise GraftError(
            f"{where}: holds {kind or 'objects'}, expected numbers or names. Leave the column out, or name it with image=... or text=...."
        )
    names = values.array.cast(pa.string())
    names = pc.if_else(pc.equal(pc.utf8_trim_whitespace(names), ""), pa.scalar(None, pa.string()), names)
    categories = tuple(sorted(name for name in names.unique().to_pylist() if name is not None))
    return Column("category", ArrowValues(names), categories)


def _as_text(value: Any) -> str:
    return "" if is_missing(value) else str(value)


def _join_texts(texts: tuple[str, ...]) -> str:
    return "\n".join(text for text in texts if text.strip())


def _image_items(table: Table, name: str) -> Sequence[Any]:
    values = table.columns[name]
    if not _is_string(_arrow_type(values)):
        if not holds_image_items(values):
            kind = _arrow_type(values) or type(next(iter(values), None)).__name__
            raise GraftError(
                f"{table.where}, column {name!r}: holds {kind} that is no image, expected paths, encoded images, or decoded ones."
            )
        return values
    paths = [str(path) for path in _first_values(values)]
    folders = list(dict.fromkeys([table.folder or Path.cwd(), Path.cwd()]))
    there = [sum((folder / path).is_file() for path in paths) for folder in folders]
    if not any(there):
        tried = " nor ".join(str(folder / paths[0]) for folder in folders) if paths else "no path at all"
        raise GraftError(
            f"{table.where}, column {name!r}: none of the first {len(paths)} paths is a file: not {tried}. "
            f"Expected paths relative to the table's folder."
        )
    return Mapped(partial(_resolve, str(folders[int(np.argmax(there))])), values)


def _resolve(folder: str, path: str | None) -> str:
    # A missing path becomes the folder itself, which `check` reports as unreadable.
    return str(Path(folder) / path.strip().replace("\\", "/")) if path else folder
