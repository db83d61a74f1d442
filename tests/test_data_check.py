"""Checking: broken items are set aside by name, copies and leaks are found, unlike items are not taken for copies."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from graft.data import check, folds, load, load_unlabelled
from graft.data.near import BUCKET, image_print, near_images, near_texts, plain_text
from graft.errors import GraftError


def picture(seed, size=(96, 72)):
    """A smooth picture, as photos are: the details of one seed are unlike those of another."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def folder(tmp_path, files):
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data if isinstance(data, bytes) else encoded(data))
    return load(tmp_path)


def texts(rows, **columns):
    return load(pd.DataFrame({"text": [text for text, _ in rows], "label": [label for _, label in rows], **columns}))


def found(dataset):
    return {finding.kind: finding for finding in dataset.findings}


PROSE = "the train to the coast leaves at nine in the morning and takes about two hours with one change on the way"
OTHER = "my order has not come yet although the page says that it was handed over to the driver last friday at noon"


# -- broken items


def test_unreadable_and_truncated_images_are_set_aside_by_name(tmp_path):
    whole = encoded(picture(0, (800, 600)), "JPEG")
    data = check(
        folder(
            tmp_path,
            {
                "a/1.png": picture(1),
                "a/cut.jpg": whole[: len(whole) // 2],
                "b/2.png": picture(2),
                "b/page.png": b"<html>",
                "b/empty.png": b"",
            },
        )
    )
    assert list(data.ids) == ["a/1.png", "b/2.png"] and data.target.tolist() == [0, 1]
    finding = found(data)["unreadable"]
    assert finding.severity == "problem" and finding.items == ("a/cut.jpg", "b/empty.png", "b/page.png")
    assert "3 items are unreadable and set aside: a/cut.jpg (truncated), b/empty.png (not an image)" in finding.message


def test_a_path_to_nothing_is_set_aside(tmp_path):
    (tmp_path / "1.png").write_bytes(encoded(picture(1)))
    (tmp_path / "2.png").write_bytes(encoded(picture(2)))
    pd.DataFrame({"path": ["1.png", "gone.png", "2.png", None], "label": ["a", "a", "b", "b"]}).to_csv(tmp_path / "t.csv", index=False)
    data = check(load(tmp_path / "t.csv"))
    assert len(data) == 2 and found(data)["unreadable"].message.count("(no such file)") == 2


def test_empty_texts_are_set_aside_but_signs_alone_are_not():
    data = check(texts([("good", "a"), ("  ", "a"), (":)", "b"), (None, "b"), ("!!", "b")]))
    assert list(data.items) == ["good", ":)", "!!"]
    assert found(data)["empty"].items == ("row 2", "row 4") and "duplicates" not in found(data)


def test_rows_without_any_cell_are_set_aside():
    data = check(load(pd.DataFrame({"age": [1.0, None, 3.0], "work": ["a", None, None], "label": ["x", "y", "y"]})))
    assert list(data.ids) == ["row 1", "row 3"]


def test_nothing_left_is_an_error(tmp_path):
    with pytest.raises(GraftError, match=r"none of its 2 items can be used. 2 items are unreadable"):
        check(folder(tmp_path, {"a/1.png": b"x", "b/2.png": b"y"}))


def test_one_class_left_is_an_error(tmp_path):
    with pytest.raises(GraftError, match=r"one class only \(a\), expected at least 2"):
        check(folder(tmp_path, {"a/1.png": picture(1), "b/2.png": b"y"}))


def test_items_without_labels_are_checked_too():
    data = check(load_unlabelled(["one", "", "one"]))
    assert len(data) == 2 and data.cluster.tolist() == [0, 0]


# -- copies


def test_a_picture_saved_again_is_a_near_copy_and_another_picture_is_not(tmp_path):
    data = check(
        folder(
            tmp_path,
            {
                "a/1.png": picture(1),
                "a/again.jpg": encoded(picture(1), "JPEG", quality=60),
                "a/copy.png": picture(1),
                "b/2.png": picture(2),
                "b/half.png": picture(2).resize((48, 36)),
                "b/3.png": picture(3),
            },
        )
    )
    first, again, copy, second, third, half = (
        data.cluster[list(data.ids).index(name)] for name in ("a/1.png", "a/again.jpg", "a/copy.png", "b/2.png", "b/3.png", "b/half.png")
    )
    assert first == again == copy and second == half and len({first, second, third}) == 3
    assert found(data)["duplicates"].items == ("a/1.png = a/copy.png",)
    assert set(found(data)["near-duplicates"].items) == {"a/1.png = a/again.jpg", "b/2.png = b/half.png"}


def test_even_pictures_of_different_shade_are_no_copies():
    prints = [image_print(Image.new("RGB", (64, 64), (20, 40, shade))) for shade in range(60, 120)]
    assert len(near_images(np.array([bits for bits, _ in prints]), np.array([thumb for _, thumb in prints]))) == 0


def test_different_pictures_are_hardly_ever_taken_for_copies():
    prints = [image_print(picture(seed, (32, 32))) for seed in range(1000)]
    assert len(near_images(np.array([bits for bits, _ in prints]), np.array([thumb for _, thumb in prints]))) == 0


def test_texts_that_differ_by_case_and_signs_are_copies():
    data = check(texts([("Hello, World", "a"), ("hello   world!", "a"), ("hello worlds", "b")]))
    assert data.cluster[0] == data.cluster[1] != data.cluster[2]


def test_long_texts_with_a_word_changed_are_near_copies_and_short_ones_are_not():
    changed = PROSE.replace("nine", "ten")
    data = check(texts([(PROSE, "a"), (changed, "a"), (OTHER, "b"), ("block my card", "a"), ("find my card", "b")]))
    assert data.cluster[0] == data.cluster[1] and len(set(data.cluster)) == 4
    assert found(data)["near-duplicates"].items == ("row 1 = row 2",)


def test_near_texts_agree_with_comparing_every_pair():
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(300)]
    originals = [rng.choice(words, 40) for _ in range(60)]
    changed = [np.where(rng.random(40) < 0.02, "changed", original) for original in originals]
    both = [plain_text(" ".join(text)) for text in [*originals, *changed]]

    def runs(text):
        split = text.split()
        return {tuple(split[i : i + 3]) for i in range(len(split) - 2)}

    sets = [runs(text) for text in both]
    pairs = [(i, j) for i in range(120) for j in range(i + 1, 120) if len(sets[i] & sets[j]) >= 0.7 * len(sets[i] | sets[j])]
    ours = {tuple(pair) for pair in near_texts(both).tolist()}
    # MinHash with 16 bands of 4 misses a pair of Jaccard index 0.7 once in 80; it invents none.
    assert ours <= set(pairs) and len(ours) >= len(pairs) - 1 and len(pairs) > 30


def test_many_copies_are_joined_without_comparing_every_pair():
    n = 3 * BUCKET
    near = near_texts([plain_text(f"{PROSE} number {i}") for i in range(n)])
    assert len(near) < n * BUCKET


def test_folds_keep_copies_on_one_side():
    data = check(texts([(f"message {i // 2}", "ab"[i // 2 % 2]) for i in range(40)]))
    for train, test in folds(data.target, data.task, 5, seed=0, blocks=data.blocks()):
        assert not set(data.cluster[train]) & set(data.cluster[test])


def test_blocks_join_groups_through_copies():
    data = check(load(pd.DataFrame({"text": ["one", "two", "one", "four"], "label": list("abab"), "user": list("ppqr")}), group="user"))
    blocks = data.blocks()
    assert blocks[0] == blocks[1] == blocks[2] != blocks[3]


# -- leaks, conflicts, classes


def test_a_leak_across_given_splits_is_told_and_the_splits_stay():
    rows = [("hello", "a"), ("bye", "b"), (PROSE, "a"), ("Hello!", "a"), (PROSE.replace("nine", "ten"), "a"), ("new", "b")]
    data = check(texts(rows, split=["train"] * 3 + ["test"] * 3))
    leak = found(data)["leak"]
    assert leak.severity == "warning" and leak.items == ("row 4 = row 1", "row 5 = row 3")
    assert "2 of 3 test items are in train too (1 exact, 1 near copies)" in leak.message
    assert data.split.tolist() == ["train"] * 3 + ["test"] * 3


def test_a_group_on_both_sides_is_a_leak():
    table = pd.DataFrame({"text": list("pqrs"), "label": list("abab"), "split": ["train", "train", "test", "test"], "user": list("uvvw")})
    assert found(check(load(table, group="user")))["group-leak"].items == ("v",)


def test_identical_items_with_different_labels_are_a_conflict():
    conflict = found(check(texts([("same", "a"), ("other", "b"), ("same", "b")])))["conflict"]
    assert conflict.items == ("row 1 (a)", "row 3 (b)")


def test_labels_that_differ_by_case_or_space_are_told_and_kept():
    data = check(texts([("1", "Spam"), ("2", "spam "), ("3", "ham"), ("4", "ham"), ("5", "Spam")]))
    assert data.classes == ("Spam", "ham", "spam ") and found(data)["label-spelling"].items == ("Spam", "spam ")


def test_small_classes_and_imbalance_are_told():
    data = check(texts([(f"text {i}", "many") for i in range(20)] + [("x", "one"), ("y", "two"), ("z", "two")]))
    assert found(data)["small-class"].items == ("one (1)",)
    assert "'many' has 20 training items (87%), 'one' has 1" in found(data)["imbalance"].message


def test_classes_missing_from_a_split_are_told_and_their_order_stays():
    data = check(texts([(f"text {i}", label) for i, label in enumerate("aabbcd")], split=["train"] * 5 + ["test"]))
    messages = [finding.message for finding in data.findings if finding.kind == "missing-class"]
    assert data.classes == ("a", "b", "c", "d")
    assert any("no test item has" in message and "a, b, c" in message for message in messages)
    assert any("no training item has, so they cannot be learned: d" in message for message in messages)


def test_clean_data_has_no_findings(tmp_path):
    assert check(folder(tmp_path, {f"{name}/{i}.png": picture(10 * i + k) for k, name in enumerate("ab") for i in range(4)})).findings == ()
    assert check(texts([(f"text {i}", "ab"[i % 2]) for i in range(10)])).findings == ()


def test_progress_is_told_up_to_the_last_item(tmp_path):
    steps = []
    check(folder(tmp_path, {"a/1.png": picture(1), "b/2.png": picture(2)}), steps.append)
    assert (steps[-1].done, steps[-1].total) == (2, 2)
