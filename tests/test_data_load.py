"""Loading: every layout and format gives the same data set, every slip one message with the near miss."""

import io
import json
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from graft.data import encode_target, load, load_unlabelled, tables
from graft.data.target import SEPARATORS
from graft.errors import GraftError
from graft.items import open_image


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def encoded(seed=0):
    buffer = io.BytesIO()
    picture(seed).save(buffer, "PNG")
    return buffer.getvalue()


def put(root, *names):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(seed))
    return root


def frame(n=12):
    return pd.DataFrame({"text": [f"message number {i} of them" for i in range(n)], "label": ["spam", "ham", "news"] * (n // 3)})


# -- images


def test_folders_are_classes(tmp_path):
    data = load(put(tmp_path, "bees/b.png", "ants/a.jpg", "ants/deep/c.PNG"))
    assert (data.modality, data.task, data.classes) == ("image", "classification", ("ants", "bees"))
    assert list(data.ids) == ["ants/a.jpg", "ants/deep/c.PNG", "bees/b.png"]
    assert data.target.tolist() == [0, 0, 1] and data.split is None
    assert open_image(data.items[0]).size == (8, 8)


@pytest.mark.parametrize(
    "held_out, meant", [("val", "validation"), ("valid", "validation"), ("Validation", "validation"), ("test", "test")]
)
def test_folders_above_the_classes_are_splits(tmp_path, held_out, meant):
    data = load(put(tmp_path, "train/a/1.png", "train/b/2.png", f"{held_out}/b/3.png"))
    assert sorted(zip(data.split, data.target, strict=True)) == sorted([("train", 0), ("train", 1), (meant, 1)])
    assert f"{meant} 1" in data.notes[-1]


def test_class_order_does_not_shift_when_a_split_lacks_a_class(tmp_path):
    data = load(put(tmp_path, "train/a/1.png", "train/b/2.png", "train/c/3.png", "test/c/4.png"))
    assert data.classes == ("a", "b", "c")
    assert data.take(data.split == "test").target.tolist() == [2]


def test_splits_inside_the_classes_are_splits_too(tmp_path):
    data = load(put(tmp_path, "a/train/1.png", "a/test/2.png", "b/train/3.png", "b/test/4.png"))
    assert data.classes == ("a", "b") and data.split.tolist() == ["test", "train", "test", "train"]


def test_a_zip_loads_like_its_folder_and_its_top_folder_is_entered(tmp_path):
    put(tmp_path / "data", "train/a/1.png", "train/b/2.png", "test/a/3.png")
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        for path in sorted((tmp_path / "data").rglob("*.png")):
            archive.write(path, f"top/inner/{path.relative_to(tmp_path / 'data').as_posix()}")
        archive.writestr("__MACOSX/top/inner/train/a/._1.png", b"x")
    packed, plain = load(tmp_path / "data.zip"), load(tmp_path / "data")
    assert list(packed.ids) == list(plain.ids)
    assert packed.target.tolist() == plain.target.tolist() and packed.split.tolist() == plain.split.tolist()
    assert np.array_equal(np.asarray(open_image(packed.items[2])), np.asarray(open_image(plain.items[2])))


def test_stray_files_are_noted_and_left_aside(tmp_path):
    put(tmp_path, "a/1.png", "b/2.png")
    for name in (".DS_Store", "a/Thumbs.db", "notes.txt", "a/._1.png"):
        (tmp_path / name).write_bytes(b"x")
    data = load(tmp_path)
    assert len(data) == 2
    assert any("not images: 4 files" in note and "notes.txt" in note for note in data.notes)


def test_images_outside_the_class_folders_are_set_aside_by_name(tmp_path):
    data = load(put(tmp_path, "a/1.png", "b/2.png", "loose.png"))
    assert len(data) == 2
    assert [(finding.severity, finding.items) for finding in data.findings] == [("problem", ("loose.png",))]


def test_a_class_folder_without_images_is_told(tmp_path):
    (put(tmp_path, "a/1.png", "b/2.png") / "c").mkdir()
    data = load(tmp_path)
    assert data.classes == ("a", "b") and data.findings[0].items == ("c",)


@pytest.mark.parametrize(
    "names, message",
    [
        (["x.png", "y.png"], "its 2 images lie in no folder"),
        (["train/x.png", "test/y.png"], r"folder of splits \(test, train\) that hold images but no class folders"),
        (["data/train/a/x.png", "data/test/a/y.png"], "Did you mean .*'data', which holds the folders test, train"),
        (["train/a/x.png", "test/a/y.png", "extra/z.png"], r"folder of splits \(test, train\) with other folders beside them \(extra\)"),
        (["early/a/x.png", "early/b/x.png", "late/a/y.png", "late/b/y.png"], "each hold the same folders .a, b.*Did you mean .*'early'"),
        (["a/x.png", "a/y.png"], r"found one class folder \(a\), expected at least 2"),
        (["train/a/x.png", "val/a/y.png"], "every one of the 2 items has the label 'a'"),
    ],
)
def test_a_wrong_layout_is_named(tmp_path, names, message):
    with pytest.raises(GraftError, match=message):
        load(put(tmp_path, *names))


def test_an_empty_folder_a_wrong_path_and_a_broken_archive_are_named(tmp_path):
    (tmp_path / "flowers").mkdir()
    with pytest.raises(GraftError, match="found no image in it, nothing"):
        load(tmp_path / "flowers")
    with pytest.raises(GraftError, match=r"no such file or folder.*has no 'flower'. Did you mean 'flowers'\?"):
        load(tmp_path / "flower" / "train")
    (tmp_path / "x.zip").write_bytes(b"PK but no more")
    with pytest.raises(GraftError, match=r"cannot be read as a \.zip archive"):
        load(tmp_path / "x.zip")
    with pytest.raises(GraftError, match="label='kind' for a folder of images"):
        load(put(tmp_path, "a/1.png", "b/2.png"), label="kind")


def test_a_table_beside_unlabelled_images_is_the_near_miss(tmp_path):
    put(tmp_path, "x.png")
    (tmp_path / "labels.csv").write_text("path,label\nx.png,a\n")
    with pytest.raises(GraftError, match=r"did you mean .*'labels\.csv'\?"):
        load(tmp_path)


# -- tables


def write(folder, kind, data):
    path = folder / f"data.{kind}"
    if kind == "csv":
        data.to_csv(path, index=False)
    elif kind == "tsv":
        data.to_csv(path, index=False, sep="\t")
    elif kind == "jsonl":
        data.to_json(path, orient="records", lines=True)
    elif kind == "json":
        data.to_json(path, orient="records")
    else:
        data.to_parquet(path)
    return path


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
@pytest.mark.parametrize("spooled", [False, True])
def test_every_format_gives_the_same_data(tmp_path, monkeypatch, kind, spooled):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    if spooled:
        monkeypatch.setattr(tables, "SPOOL_BYTES", 0)
        monkeypatch.setattr(tables, "ROWS_AT_ONCE", 5)
    path = write(tmp_path, kind, frame())
    for _ in range(2):  # the second time from the cache
        data = load(path)
        assert list(data.items) == frame()["text"].tolist()
        assert data.classes == ("ham", "news", "spam") and data.target.tolist() == [2, 0, 1] * 4
        assert data.ids[3] == "row 4" and data.modality == "text"
    assert (tmp_path / "cache").exists() == (spooled and kind != "json")


def test_objects_give_the_same_data_as_files():
    import datasets

    whole = datasets.Dataset.from_pandas(frame())
    split = datasets.DatasetDict({"train": whole.select(range(9)), "validation": whole.select(range(9, 12))})
    for source in (frame(), pa.Table.from_pandas(frame()), whole, split):
        data = load(source)
        assert list(data.items) == frame()["text"].tolist() and data.target.tolist() == [2, 0, 1] * 4
    assert data.split.tolist() == ["train"] * 9 + ["validation"] * 3
    assert data.ids[9] == "validation row 1"


def test_class_names_of_hugging_face_are_used_and_an_unlabelled_test_split_is_left_out():
    import datasets

    features = datasets.Features({"text": datasets.Value("string"), "kind": datasets.ClassLabel(names=["zebra", "ant"])})

    def part(labels):
        return datasets.Dataset.from_dict({"text": [f"text {i}" for i in range(len(labels))], "kind": labels}, features=features)

    data = load(datasets.DatasetDict({"train": part([0, 1, 1]), "validation": part([0, 1]), "test": part([-1, -1])}))
    assert data.classes == ("ant", "zebra") and data.target.tolist() == [1, 0, 0, 1, 0]
    assert data.split.tolist() == ["train"] * 3 + ["validation"] * 2
    assert "test split has no labels (2 items)" in data.findings[0].message


def test_hugging_face_images_are_read_one_by_one():
    import datasets

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    whole = datasets.Dataset.from_dict({"image": [picture(i) for i in range(4)], "label": [0, 1, 0, 1]}, features=features)
    data = load(whole.select([3, 0]))
    assert data.modality == "image" and data.target.tolist() == [1, 0]
    assert np.array_equal(np.asarray(open_image(data.items[0])), np.asarray(picture(3)))


def test_a_folder_of_tables_named_after_splits_is_joined(tmp_path):
    frame(6).to_csv(tmp_path / "train.csv", index=False)
    frame(3).to_csv(tmp_path / "test.csv", index=False)
    data = load(tmp_path)
    assert data.split.tolist() == ["test"] * 3 + ["train"] * 6 and data.ids[0] == "test.csv row 1"
    (tmp_path / "train.csv").rename(tmp_path / "a.csv")
    with pytest.raises(GraftError, match=r"folder of tables \(a\.csv, test\.csv\)"):
        load(tmp_path)


def test_image_paths_bytes_and_objects_are_images(tmp_path):
    put(tmp_path, "pictures/1.png", "pictures/2.png")
    table = pd.DataFrame({"file": ["pictures/1.png", "pictures/2.png"], "label": ["a", "b"], "caption": ["one", "two"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    data = load(tmp_path / "t.csv")
    assert data.modality == "image" and list(data.ids) == ["pictures/1.png", "pictures/2.png"]
    assert any("left unused: columns caption" in note for note in data.notes)
    for values in ([encoded(0), encoded(1)], [picture(0), picture(1)], [np.asarray(picture(0)), np.asarray(picture(1))]):
        again = load(pd.DataFrame({"picture": values, "label": ["a", "b"]}))
        assert np.array_equal(np.asarray(open_image(again.items[1])), np.asarray(open_image(data.items[1])))


def test_image_paths_that_are_nowhere_are_named(tmp_path):
    pd.DataFrame({"path": ["x.png", "y.png"], "label": ["a", "b"]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(GraftError, match=r"column 'path': none of the first 2 paths is a file: not .*x.png"):
        load(tmp_path / "t.csv")


def test_usual_names_are_recognised_and_the_choice_is_told():
    table = frame().rename(columns={"text": "Message ", "label": "Intent"})
    table["id"] = range(12)
    data = load(table)
    assert data.target_name == "Intent"
    assert "label: column 'Intent' (recognised by its name)" in data.notes
    assert "text: column 'Message ' (recognised by its name)" in data.notes
    assert "left unused: columns id" in data.notes


def test_prose_and_the_only_other_column_are_recognised_without_names():
    data = load(frame().rename(columns={"text": "what they wrote", "label": "bin"}))
    assert (data.modality, data.target_name) == ("text", "bin")


def test_several_text_columns_are_joined():
    table = frame().assign(title=[f"title {i}" for i in range(12)])
    table.loc[1, "title"] = None
    data = load(table, text=["title", "text"])
    assert data.items[0] == "title 0\nmessage number 0 of them" and data.items[1] == "message number 1 of them"


def test_missing_columns_are_all_named_with_near_misses():
    with pytest.raises(GraftError, match=r"label='lable' Did you mean 'label'\?; text='txt' Did you mean 'text'\?"):
        load(frame(), label="lable", text="txt")
    with pytest.raises(GraftError, match="found no label among the columns a, b"):
        load(pd.DataFrame({"a": [1.0, 2.0], "b": [1, 2]}))


def test_a_table_of_numbers_and_names_is_a_table(tmp_path):
    table = pd.DataFrame(
        {"id": range(6), "age": [39, 50, None, 18, 33, 41], "work": ["a", "b", None, "a", "c", "b"], "label": ["x", "y"] * 3}
    )
    table.to_csv(tmp_path / "t.csv", index=False)
    for source in (table, tmp_path / "t.csv"):
        data = load(source)
        assert data.modality == "table" and {name: column.kind for name, column in data.columns.items()} == {
            "age": "number",
            "work": "category",
        }
        assert data.items[0] == "age: 39; work: a" and data.items[2] == ""
        part = data.take([1, 2]).table()
        assert part["work"].cat.categories.tolist() == ["a", "b", "c"] and np.isnan(part["age"][1])


def test_splits_and_groups_are_columns_when_named():
    table = frame().assign(split=["train"] * 6 + ["dev"] * 3 + ["test"] * 3, user=[1, 2, 3] * 4)
    data = load(table, group="user")
    assert set(data.split) == {"train", "validation", "test"} and data.group.tolist() == ["1", "2", "3"] * 4
    assert any("looks like a group" in note for note in load(table).notes)
    with pytest.raises(GraftError, match="column 'label': has values 'ham', 'news', 'spam', expected train"):
        load(table.rename(columns={"user": "kind"}), label="kind", split="label")
    with pytest.raises(GraftError, match="its splits are test, validation, expected train among them"):
        load(table.iloc[6:])


def test_a_lone_split_is_no_split():
    data = load(frame().assign(split="train"))
    assert data.split is None and "everything is 'train'" in data.notes[-1]


# -- messy files


def test_encodings_separators_and_quotes_are_recognised(tmp_path):
    text = 'text;label\n"grüße; du";a\nnaïve;b\n'
    for encoding in ("utf-8", "utf-8-sig", "cp1252", "utf-16"):
        (tmp_path / "t.csv").write_bytes(text.encode(encoding))
        assert list(load(tmp_path / "t.csv").items) == ["grüße; du", "naïve"]
    (tmp_path / "t.csv").write_bytes(text.encode("cp1252"))
    assert any("is not UTF-8" in note for note in load(tmp_path / "t.csv").notes)


def test_a_lone_quote_in_a_tsv_swallows_no_rows(tmp_path):
    (tmp_path / "t.tsv").write_text('label\ttext\na\t"hello there\nb\tit is 5" wide\na\t"quoted ""well"""\nb\tbye\n')
    assert list(load(tmp_path / "t.tsv").items) == ['"hello there', 'it is 5" wide', 'quoted "well"', "bye"]


def test_quoted_cells_may_hold_separators_and_line_ends(tmp_path):
    (tmp_path / "t.csv").write_text('text,label\n"one, two\nthree",a\nfour,b\n')
    assert list(load(tmp_path / "t.csv").items) == ["one, two\nthree", "four"]


def test_rows_with_too_many_cells_are_named_and_the_others_keep_their_numbers(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\none,a\ntwo,b,c\nthree,b\n")
    data = load(tmp_path / "t.csv")
    assert list(data.ids) == ["row 1", "row 3"] and data.findings[0].items == ("row 2",)


def test_lines_that_are_no_json_are_named(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "one", "label": 1}\n{"text": \n{"text": "two", "label": "x"}\n')
    data = load(tmp_path / "t.jsonl")
    assert list(data.ids) == ["row 1", "row 3"] and data.classes == ("1", "x") and data.findings[0].items == ("line 2",)


def test_labels_keep_their_spelling(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\none,01\ntwo,02\nthree,01\n")
    assert load(tmp_path / "t.csv").classes == ("01", "02")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", "", "is an empty file"),
        ("t.csv", "text,label\n", "has no rows"),
        ("t.csv", "text,text,label\na,b,c\n", "its header names text more than once"),
        ("t.json", '{"a":\n1}', "expected a list of objects"),
        ("t.json", "[1,", "is not JSON"),
        ("t.jsonl", "one\ntwo\n", "none of its 2 lines is a JSON object"),
        ("t.parquet", "text", "cannot be read as Parquet"),
        ("t.xlsx", "text", "cannot read a file that ends in '.xlsx'"),
        ("t.csv", "text,label\none,a\ntwo,\nthree,b\nfour,nan\n", "2 of 4 labels are missing .empty or NaN., first row 2, row 4"),
        ("t.csv", "text,label\none,a\ntwo,a\n", "every one of the 2 items has the label 'a'"),
        ("t.csv", "text,label\none,a\ntwo,b\nthree,c\n", "each of the 3 items has a label of its own"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(GraftError, match=message):
        load(tmp_path / name)


def test_other_objects_and_tasks_are_refused():
    with pytest.raises(GraftError, match="got a int, expected a path"):
        load(3)
    with pytest.raises(GraftError, match=r"task='regresion'.* Did you mean 'regression'\?"):
        load(frame(), task="regresion")


# -- targets


@pytest.mark.parametrize("separator", SEPARATORS)
def test_recurring_pieces_between_separators_are_labels(separator):
    target = encode_target([f"a{separator} b", "b", f"b{separator}c", "a", "c"])
    assert (target.task, target.classes) == ("multilabel", ("a", "b", "c"))
    assert target.y.tolist() == [[1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 0, 0], [0, 0, 1]]


def test_names_that_hold_a_comma_stay_whole():
    target = encode_target(["Arts, Culture", "Food, Drink", "Arts, Culture", "Food, Drink"])
    assert (target.task, target.classes) == ("classification", ("Arts, Culture", "Food, Drink"))


def test_lists_written_lists_and_rows_of_zeros_and_ones_are_multi_label():
    for values in ([["a"], ["a", "b"], []], ["['a']", "['a', 'b']", "[]"]):
        target = encode_target(values)
        assert target.task == "multilabel" and target.y.tolist() == [[1, 0], [1, 1], [0, 0]]
    assert encode_target(np.array([[1, 0, 1], [0, 0, 1]])).y.tolist() == [[1, 0, 1], [0, 0, 1]]


def test_fractions_and_many_numbers_are_regression_and_few_are_classes():
    assert encode_target([0.5, 1.5, 2.0]).task == "regression"
    assert encode_target(list(range(30))).task == "regression"
    few = encode_target([10.0, 2.0, 10.0])
    assert few.task == "classification" and few.classes == ("2", "10")
    assert encode_target([1, 2, 3, 1], task="regression").y.tolist() == [1, 2, 3, 1]


@pytest.mark.parametrize(
    "values, task, message",
    [
        ([1.0, float("nan"), 2.5], None, "y: 1 of 3 labels are missing .* first item 1"),
        ([1.0, float("inf"), 2.5], "regression", "1 labels are infinite, first item 1"),
        (["a", "1", "b"], "regression", "2 labels are no numbers .'a' at item 0, 'b' at item 2"),
        ([2.0, 2.0], "regression", "every label is 2"),
        ([["a"], ["a"]], None, "its labels name 1 different classes"),
    ],
)
def test_labels_that_cannot_be_learned_are_named(values, task, message):
    with pytest.raises(GraftError, match=message):
        encode_target(values, task)


# -- without labels


def test_what_is_to_be_predicted_needs_no_labels(tmp_path):
    put(tmp_path / "flat", "1.png", "2.png")
    flat = load_unlabelled(tmp_path / "flat")
    assert list(flat.ids) == ["1.png", "2.png"] and flat.target is None
    assert list(load_unlabelled(put(tmp_path / "one", "train/1.png")).ids) == ["train/1.png"]
    assert list(load_unlabelled(tmp_path / "flat" / "1.png").ids) == ["1.png"]
    assert load_unlabelled([str(tmp_path / "flat" / "1.png")]).modality == "image"
    assert load_unlabelled([picture()]).modality == "image"
    assert list(load_unlabelled(["good", "bad"]).items) == ["good", "bad"]
    assert list(load_unlabelled(frame()[["text"]]).items) == frame()["text"].tolist()
    (tmp_path / "t.txt").write_text("one\n\ntwo\n")
    assert list(load_unlabelled(tmp_path / "t.txt").ids) == ["line 1", "line 3"]


def test_a_table_to_predict_needs_the_columns_of_training():
    table = pd.DataFrame({"age": [1, 2], "work": ["a", "b"], "label": ["x", "y"]})
    assert list(load_unlabelled(table, columns=["work", "age"]).columns) == ["work", "age"]
    with pytest.raises(GraftError, match=r"lacks columns that the model was trained on: agee.* Did you mean 'age'\?"):
        load_unlabelled(table, columns=["agee"])
    with pytest.raises(GraftError, match="columns work hold other things than numbers"):
        load_unlabelled(table, columns={"work": "number"})
    with pytest.raises(GraftError, match="found no image among the columns"):
        load_unlabelled(table, modality="image")
    with pytest.raises(GraftError, match="got an empty list"):
        load_unlabelled([])


def test_a_part_of_a_part_reads_only_what_is_asked_for(tmp_path):
    pq.write_table(pa.table({"text": [f"t{i}" for i in range(10)], "label": ["a", "b"] * 5}), tmp_path / "t.parquet")
    part = load(tmp_path / "t.parquet").take(np.arange(2, 9)).take([0, 3])
    assert list(part.items) == ["t2", "t5"] and list(part.ids) == ["row 3", "row 6"] and part.target.tolist() == [0, 1]
    assert part.items[-1] == "t5" and list(part.items[1:]) == ["t5"]
    with pytest.raises(IndexError):
        part.items[2]
    assert json.dumps(list(part.ids))


def test_evenly_filled_numbers_without_a_gap_are_classes_however_many():
    few_shot = encode_target([i % 77 for i in range(770)])
    assert (few_shot.task, len(few_shot.classes)) == ("classification", 77)
    assert encode_target([i % 77 + 5 for i in range(770)]).task == "regression"
    uneven = [0] * 40 + [i % 76 + 1 for i in range(730)]
    assert encode_target(uneven).task == "regression"
