"""Reads CSV, TSV, JSONL, JSON, Parquet, DataFrames and Hugging Face data sets into lazily read columns. No torch.

A file above SPOOL_BYTES is turned into an Arrow file in the cache folder once and memory-mapped from there, so that
it never has to fit in memory.
"""

import csv
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from PIL import Image

from graft.data.dataset import ArrowValues, Lazy, Mapped, View, is_missing
from graft.data.folders import SPLIT_NAMES, some
from graft.errors import GraftError
from graft.files import replacing
from graft.records import Finding

TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt")
SPOOL_BYTES = 128 * 2**20
ROWS_AT_ONCE = 10_000


@dataclass
class Table:
    """Columns by name, all of one length. where: for messages. folder: what paths in it are relative to.

    ids: what each row is called. class_names: names behind the numbers of a Hugging Face ClassLabel column.
    split: (n,) as the file names or the DatasetDict give it.
    """

    where: str
    columns: dict[str, Sequence[Any]]
    ids: Sequence[str]
    folder: Path | None = None
    class_names: dict[str, list[str]] = field(default_factory=dict)
    split: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)


def row_name(prefix: str, number: int) -> str:
    return f"{prefix}row {number}"


def row_names(n: int, prefix: str = "") -> Sequence[str]:
    return Mapped(partial(row_name, prefix), range(1, n + 1))


def is_huggingface(source: Any) -> bool:
    """Whether source is a `datasets` object, told without importing that library."""
    return type(source).__module__.partition(".")[0] == "datasets"


def read_table(source: Any) -> Table:
    """A table from a path, a DataFrame, an Arrow table, a Hugging Face Dataset or DatasetDict.

    Raises GraftError when it cannot be read as what it is called, or holds no rows.
    """
    if isinstance(source, pd.DataFrame):
        table = _from_frame(source)
    elif isinstance(source, pa.Table):
        table = _from_arrow(source, "Arrow table")
    elif is_huggingface(source):
        table = _from_huggingface(source)
    else:
        table = _from_file(Path(source))
    if not table.columns or len(table) == 0:
        raise GraftError(f"{table.where}: has no rows, expected at least one item.")
    return table


def read_table_folder(path: Path, names: list[str]) -> Table:
    """One table from files named after their splits (train.csv, test.csv), all with the same columns."""
    parts = {name: read_table(path / name) for name in names}
    columns = {name: set(part.columns) for name, part in parts.items()}
    if len({frozenset(column) for column in columns.values()}) > 1:
        described = "; ".join(f"{name} has {', '.join(sorted(column))}" for name, column in columns.items())
        raise GraftError(f"{path}: its tables have different columns, expected the same in each. {described}.")
    return _join(str(path), {name: (split_of(name) or "train", part) for name, part in parts.items()}, path)


def split_of(name: str) -> str | None:
    """The split that a file is named after: "train" for train.csv, train-00000-of-00002.parquet or my_train.csv."""
    words = re.split(r"[^a-z]+", Path(name).stem.lower())
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return found.pop() if len(found) == 1 else None


def _join(where: str, parts: dict[str, tuple[str, Table]], folder: Path | None) -> Table:
    """Tables below each other. parts: what a row's name begins with -> (split, table)."""
    tables = [table for _, table in parts.values()]
    columns = {name: _chain([table.columns[name] for table in tables], f"{where}, column {name!r}") for name in tables[0].columns}
    return Table(
        where=where,
        columns=columns,
        ids=[f"{prefix} {name}" for prefix, (_, table) in parts.items() for name in table.ids],
        folder=folder,
        class_names=tables[0].class_names,
        split=np.concatenate([np.full(len(table), split) for split, table in parts.values()]),
        notes=list(dict.fromkeys(note for table in tables for note in table.notes)),
        findings=[finding for table in tables for finding in table.findings],
    )


def _chain(parts: list[Sequence[Any]], where: str) -> Sequence[Any]:
    if not all(isinstance(part, ArrowValues) for part in parts):
        return [value for part in parts for value in part]
    arrays = [part.array for part in parts if isinstance(part, ArrowValues)]
    try:
        joined = pa.concat_tables([pa.table({"values": array}) for array in arrays], promote_options="permissive")
    except pa.ArrowException as error:
        types = ", ".join(sorted({str(array.type) for array in arrays}))
        raise GraftError(f"{where}: has different types in its parts ({types}), expected one.") from error
    return ArrowValues(joined["values"])


# -- files


def _from_file(path: Path) -> Table:
    ending = path.suffix.lower()
    if path.stat().st_size == 0:
        raise GraftError(f"{path}: is an empty file, expected a table with a header line and rows.")
    if ending == ".parquet":
        return _from_parquet(path)
    if ending in (".jsonl", ".ndjson", ".json"):
        return _from_json(path)
    if ending in (".csv", ".tsv"):
        return _from_csv(path)
    if ending == ".txt":
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        kept = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        return Table(
            str(path), {"text": ArrowValues(_arrow([line for _, line in kept]))}, [f"line {number}" for number, _ in kept], path.parent
        )
    raise GraftError(
        f"{path}: cannot read a file that ends in {ending!r}, expected a folder, a .zip of images, or {', '.join(TABLE_ENDINGS)}."
    )


def _from_parquet(path: Path) -> Table:
    try:
        if path.stat().st_size <= SPOOL_BYTES:
            return _from_arrow(pa.parquet.read_table(path), str(path), path.parent)
        file = pa.parquet.ParquetFile(path)
        return _from_arrow(_spool(path, "", file.schema_arrow, file.iter_batches(batch_size=ROWS_AT_ONCE), []), str(path), path.parent)
    except pa.ArrowException as error:
        raise GraftError(f"{path}: cannot be read as Parquet ({_first_line(error)}). Write or copy it again.") from error


def _from_arrow(table: pa.Table, where: str, folder: Path | None = None) -> Table:
    """Categorical and date columns become text; the names of ClassLabel columns come from Hugging Face's metadata."""
    columns: dict[str, Sequence[Any]] = {}
    for name in table.column_names:
        if name == "__index_level_0__":  # pandas' index, written beside the data
            continue
        array = table[name]
        if pa.types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        if pa.types.is_temporal(array.type):
            array = array.cast(pa.string())
        columns[name] = ArrowValues(array)
    info = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {})
    features = (info.get("features") or {}).items()
    names = {name: feature["names"] for name, feature in features if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"}
    return Table(where, columns, row_names(len(table)), folder, class_names=names)


def _from_json(path: Path) -> Table:
    with path.open(encoding="utf-8-sig") as file:
        head = file.read(4096).lstrip()
    bad: list[int] = []
    if path.suffix.lower() == ".json" and (head.startswith("[") or not _is_json(head.partition("\n")[0])):
        return _from_json_document(path)
    rows = _json_rows(path, bad)
    if path.stat().st_size <= SPOOL_BYTES:
        numbered = list(rows)
        table = _columns_of_rows([row for _, row in numbered])
    else:
        # Row numbers of a large file are not kept: they are wrong only after a broken line, which is then listed.
        numbered = []
        batches = (_columns_of_rows(batch) for batch in iter(lambda: list(itertools.islice((row for _, row in rows), ROWS_AT_ONCE)), []))
        first = next(batches, None)
        if first is None:
            raise GraftError(f"{path}: has no rows, expected at least one item.")
        later = (_fit(batch, first.schema, path) for batch in batches)
        table = _spool(path, "", first.schema, (part for batch in itertools.chain([first], later) for part in batch.to_batches()), bad)
    ids: Sequence[str] = [f"row {number}" for number, _ in numbered] if bad and numbered else row_names(len(table))
    result = _from_arrow(table, str(path), path.parent)
    result.ids = ids
    if bad:
        names = tuple(f"line {number}" for number in bad)
        result.findings.append(
            Finding("unreadable", "problem", f"{len(bad)} lines are not JSON objects and are left out: {some(names)}", names)
        )
    return result


def _from_json_document(path: Path) -> Table:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise GraftError(f"{path}: is not JSON ({error}). Expected a list of objects, or one object a line (JSONL).") from error
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if isinstance(content, dict) and content and all(isinstance(values, list) for values in content.values()):
        if len({len(values) for values in content.values()}) > 1:
            lengths = ", ".join(f"{name}: {len(values)}" for name, values in content.items())
            raise GraftError(f"{path}: its columns have different lengths ({lengths}), expected one length.")
        content = [dict(zip(content, row, strict=True)) for row in zip(*content.values(), strict=True)]
    if not isinstance(content, list) or not all(isinstance(row, dict) for row in content):
        raise GraftError(f"{path}: holds a {type(content).__name__}, expected a list of objects such as [{{'text': ..., 'label': ...}}].")
    return _from_arrow(_columns_of_rows(content), str(path), path.parent)


def _json_rows(path: Path, bad: list[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) for each line; numbers of lines that are no JSON object are added to bad."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if isinstance(row, dict):
                yield number, row
            else:
                bad.append(number)
    if bad and number == len(bad):
        raise GraftError(f"{path}: none of its {number} lines is a JSON object, expected lines such as {{'text': ..., 'label': ...}}.")


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False


def _columns_of_rows(rows: list[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    return pa.table({name: _arrow([row.get(name) for row in rows]) for name in names})


def _fit(batch: pa.Table, schema: pa.Schema, path: Path) -> pa.Table:
    try:
        missing = [field for field in schema if field.name not in batch.column_names]
        for field_ in missing:
            batch = batch.append_column(field_, pa.nulls(len(batch), field_.type))
        return batch.select(schema.names).cast(schema)
    except pa.ArrowException as error:
        raise GraftError(f"{path}: its columns change type on the way ({_first_line(error)}), expected one type a column.") from error


def _from_csv(path: Path) -> Table:
    """Every cell is read as text, so that labels such as 01 or true keep their spelling; numbers are recognised later."""
    encoding, notes = _encoding(path)
    with path.open(encoding=encoding, newline="") as file:
        head = file.readline()
    separator = max("\t,;|", key=lambda mark: (head.count(mark), mark == ","))
    # Tab-separated files are mostly written without quoting: a lone " is then part of the text.
    attempts: list[str | bool] = ['"'] if separator != "\t" else [False, '"']
    tries = [_read_csv(path, encoding, separator, quote) for quote in attempts]
    table, bad = min(tries, key=lambda result: len(result[1]))
    if separator == "\t" and table is tries[0][0]:
        table = pa.table({name: _unquoted(table[name]) for name in table.column_names})
    result = _from_arrow(table, str(path), path.parent)
    result.notes += notes + (
        [f"{path.name}: cells are separated by {separator!r}"]
        if separator not in ",\t" or path.suffix.lower() == ".tsv" != (separator == "\t")
        else []
    )
    if bad:
        names = tuple(f"row {number}" for number in bad)
        message = f"{len(bad)} rows do not have the header's {len(table.column_names)} cells and are left out: {some(names)}"
        result.findings.append(Finding("unreadable", "problem", message, names))
        good = np.setdiff1d(np.arange(1, len(table) + len(bad) + 1), bad)
        result.ids = View(row_names(len(table) + len(bad)), good - 1)
    return result


def _encoding(path: Path) -> tuple[str, list[str]]:
    with path.open("rb") as file:
        start = file.read(4)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")):
            return "utf-16", [f"{path.name}: read as UTF-16"]
        file.seek(0)
        try:
            # Whole lines: a block could end inside a character.
            for line in file:
                line.decode("utf-8")
        except UnicodeDecodeError:
            return "cp1252" if _decodes(path, "cp1252") else "latin-1", [f"{path.name}: is not UTF-8, read as Windows-1252 / Latin-1"]
    return "utf-8-sig", []


def _decodes(path: Path, encoding: str) -> bool:
    with path.open("rb") as file:
        try:
            for line in file:
                line.decode(encoding)
        except UnicodeDecodeError:
            return False
    return True


def _read_csv(path: Path, encoding: str, separator: str, quote: str | bool) -> tuple[pa.Table, list[int]]:
    """The table, all text, and the numbers of the rows left out for having the wrong number of cells."""
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=separator, **({"quotechar": '"'} if quote else {"quoting": csv.QUOTE_NONE}))
        names = [name.strip() or f"column {place}" for place, name in enumerate(next(reader), 1)]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise GraftError(f"{path}: its header names {some(repeated)} more than once, expected different names. Rename one.")
    bad: list[int] = []

    def leave_out(row: Any) -> str:
        bad.append(row.number - 1)
        return "skip"

    try:
        stream = pa.csv.open_csv(
            path,
            # utf8 by that name is read as it lies; any other encoding, its BOM variant too, goes through a slower decoder.
            pa.csv.ReadOptions(
                use_threads=False,
                block_size=16 * 2**20,
                column_names=names,
                skip_rows_after_names=1,
                encoding="utf8" if encoding == "utf-8-sig" else encoding,
            ),
            pa.csv.ParseOptions(delimiter=separator, quote_char=quote, newlines_in_values=bool(quote), invalid_row_handler=leave_out),
            pa.csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False),
        )
        if path.stat().st_size > SPOOL_BYTES:
            return _spool(path, f"{encoding} {separator} {quote}", stream.schema, stream, bad), bad
        return pa.Table.from_batches(list(stream), stream.schema), bad
    except pa.ArrowException as error:
        raise GraftError(f"{path}: cannot be read as a table separated by {separator!r} ({_first_line(error)}).") from error


def _unquoted(array: pa.ChunkedArray) -> pa.ChunkedArray:
    inner = pc.replace_substring(pc.utf8_slice_codeunits(array, 1, -1), '""', '"')
    return pc.if_else(pc.match_substring_regex(array, r'(?s)^".*"$'), inner, array)


def _spool(path: Path, how: str, schema: pa.Schema, batches: Iterable[Any], bad: list[int]) -> pa.Table:
    """The batches as a memory-mapped Arrow file in the cache folder, written once for each state of the file at path.

    how: what else the content depends on. bad: the rows that reading left out; filled again when nothing is read.
    """
    stat = path.stat()
    key = hashlib.blake2b(f"{path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{how}".encode(), digest_size=16).hexdigest()
    cache = os.environ.get("GRAFT_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "graft"
    target, left_out = Path(cache) / "tables" / f"{key}.arrow", Path(cache) / "tables" / f"{key}.json"
    if target.exists():
        bad[:] = json.loads(left_out.read_text())
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target, "wb") as file, pa.ipc.new_file(file, schema) as writer:
            for batch in batches:
                writer.write(batch)
            # The rows take their name last: they are looked for first.
            with replacing(left_out) as note:
                note.write(json.dumps(bad))
    return pa.ipc.open_file(pa.memory_map(str(target))).read_all()


# -- objects


def _arrow(values: list[Any]) -> pa.ChunkedArray:
    """A column from Python values; mixed types become text, as they would be read from a file."""
    try:
        array = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        array = pa.array([None if is_missing(value) else value if isinstance(value, str) else str(value) for value in values], pa.string())
    return array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array])


def holds_images(values: Sequence[Any]) -> bool:
    """Whether the first value that is there is a decoded image: a PIL image or an array of at least two dimensions."""
    first = next((value for value in values if not is_missing(value)), None)
    return isinstance(first, Image.Image) or (isinstance(first, np.ndarray) and first.ndim > 1)


def as_column(values: Sequence[Any]) -> Sequence[Any]:
    """Values of an object column: decoded images stay a list, anything else goes into Arrow."""
    return values if holds_images(values) else ArrowValues(_arrow([str(value) if isinstance(value, Path) else value for value in values]))


def _from_frame(frame: pd.DataFrame) -> Table:
    where = f"DataFrame of {len(frame)} rows"
    names = [str(name) for name in frame.columns]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise GraftError(f"{where}: columns {some(repeated)} are there more than once, expected different names. Rename one.")
    columns: dict[str, Sequence[Any]] = {}
    for name, (_, series) in zip(names, frame.items(), strict=True):
        if isinstance(series.dtype, pd.CategoricalDtype) or pd.api.types.is_datetime64_any_dtype(series.dtype):
            series = series.astype(object).where(series.notna(), None).map(lambda value: None if value is None else str(value))
        columns[name] = as_column(series.tolist())
    return Table(where, columns, row_names(len(frame)), Path.cwd())


class _HuggingFaceValues(Lazy):
    """One column of a `datasets.Dataset` that lists its rows by an index: read row by row, never all at once."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.dataset, self.name = dataset.select_columns([name]).with_format("arrow"), name

    def __len__(self) -> int:
        return len(self.dataset)

    def one(self, i: int) -> Any:
        return self.dataset[i][self.name][0].as_py()


def _from_huggingface(source: Any) -> Table:
    if isinstance(source, dict):
        kept, notes = {}, []
        for name, part in source.items():
            if split_of(name) is None:
                notes.append(f"split: {name!r} is left aside, it is none of train, validation, test")
            elif len(part):
                kept[name] = (split_of(name) or "", _from_huggingface(part))
        if not kept:
            raise GraftError(
                f"DatasetDict: its splits are {some(list(source)) or 'none'}, expected train, and validation or test beside it."
            )
        table = _join("DatasetDict", kept, Path.cwd())
        table.notes += notes
        return table
    where = "Hugging Face Dataset"
    if not hasattr(source, "features") or not hasattr(source, "select_columns") or not hasattr(source, "__len__"):
        raise GraftError(f"{where}: got {type(source).__name__}, expected a Dataset or DatasetDict. Load it with streaming=False.")
    images = [name for name, feature in source.features.items() if type(feature).__name__ == "Image"]
    plain = source.with_format("arrow")
    table = (
        _from_arrow(plain.remove_columns(images)[:], where, Path.cwd())
        if len(images) < len(source.features)
        else Table(where, {}, [], Path.cwd())
    )
    columns = {name: _HuggingFaceValues(source, name) if name in images else table.columns[name] for name in source.column_names}
    names = {name: list(feature.names) for name, feature in source.features.items() if type(feature).__name__ == "ClassLabel"}
    return Table(where, columns, row_names(len(source)), Path.cwd(), class_names=names)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
