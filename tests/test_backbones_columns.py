"""Encoders of columns: what they read of a table, of another table, and that they are backbones like any other."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import graft
from graft.backbones import columns, load_backbone
from graft.errors import GraftError
from graft.features import extract
from graft.items import Row


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))


def people(n=120, seed=0):
    """A table whose label hangs on a number and a category."""
    rng = np.random.default_rng(seed)
    age, work = rng.integers(18, 80, n).astype(float), rng.choice(["state", "private", "own"], n)
    pay = np.where(rng.random(n) < 0.7, 0.0, rng.lognormal(6, 2, n))
    rich = (age > 45) ^ (work == "own")
    age[::11] = np.nan
    return pd.DataFrame({"age": age, "work": np.where(np.arange(n) % 13, work, None), "pay": pay, "label": np.where(rich, "yes", "no")})


def dataset(frame=None):
    return graft.load(people() if frame is None else frame, label="label")


def inputs(frame):
    return frame.drop(columns="label")


def features(backbone, items):
    with torch.inference_mode():
        return backbone(backbone.prepare(items))


@pytest.fixture(params=columns.KINDS)
def encoder(request):
    return columns.fresh(dataset(), request.param)


def test_cells_become_standardised_numbers_and_codes():
    """Truth: by hand."""
    frame = pd.DataFrame({"age": [20.0, 40.0, 60.0, np.nan], "work": ["b", "a", "a", "b"], "label": ["x", "y", "x", "y"]})
    backbone = columns.fresh(dataset(frame))
    rows = [{"age": 60.0, "work": "a"}, {"age": None, "work": "c"}, {"age": "40", "work": None}]
    batch = backbone.prepare([Row("", cells) for cells in rows])
    deviation = np.std([20, 40, 60])
    torch.testing.assert_close(batch["numbers"], torch.tensor([[20 / deviation], [np.nan], [0.0]], dtype=torch.float32), equal_nan=True)
    assert batch["codes"].tolist() == [[columns.KNOWN], [columns.UNKNOWN], [columns.MISSING]]
    assert columns.sizes_of(backbone.preprocessing) == [4]


def test_a_number_is_told_by_how_far_it_reaches_into_each_bin():
    """Truth: Gorishniy et al. 2022, equation 1, of three columns with other numbers of bins."""
    embed = columns.Embed([[-1.0, 0.0, 2.0], [0.0, 4.0], []], [3], 5)
    numbers = torch.tensor([[1.0, 1.0, 7.0], [-9.0, 9.0, torch.nan], [torch.nan, torch.inf, -1.0]])
    tokens = embed({"numbers": numbers, "codes": torch.tensor([[0], [2], [1]])})
    slope, base, missing = embed.slopes, embed.base, embed.missing
    expected = [
        [base[0] + slope[0, 0] + 0.5 * slope[0, 1], base[1] + 0.25 * slope[1, 0], base[2], embed.table.weight[0]],
        [base[0], base[1] + slope[1, 0], missing[2], embed.table.weight[2]],
        [missing[0], base[1] + slope[1, 0], base[2], embed.table.weight[1]],
    ]
    torch.testing.assert_close(tokens, torch.stack([torch.stack(row) for row in expected]))


def test_a_column_that_is_mostly_zero_has_bins_where_it_is_not():
    values = np.concatenate([np.zeros(900), np.arange(1.0, 101)])
    about = columns._statistics(values)
    edges = np.array(about["edges"]) * about["std"] + about["mean"]
    assert len(edges) <= 13 and (edges > 1).sum() >= 5 and edges[-1] == pytest.approx(100)
    assert columns._statistics(np.full(3, np.nan)) == {"mean": 0.0, "std": 1.0, "edges": []}
    assert columns._statistics(np.full(3, 7.0))["std"] == 1.0


def test_what_occurs_once_is_unknown_and_the_most_frequent_are_kept(monkeypatch):
    monkeypatch.setattr(columns, "_MOST_CATEGORIES", 2)
    words = ["a"] * 2 + ["b"] * 4 + ["c"] * 3 + ["once"]
    backbone = columns.fresh(dataset(pd.DataFrame({"word": words, "label": [0, 1] * 5})))
    assert backbone.preprocessing["categories"] == {"word": ["b", "c"]}


def test_every_parameter_is_in_one_group_and_stages_can_be_entered(encoder):
    batch = encoder.prepare(list(dataset().items))
    with torch.inference_mode():
        whole = encoder(batch)
        assert whole.shape == (120, encoder.width) and len(set(encoder.stage_names)) == encoder.depth >= 4
        for stage in range(1, encoder.depth):
            torch.testing.assert_close(encoder(encoder(batch, stop=stage), start=stage), whole)
    grouped = [id(parameter) for group in encoder.groups() for parameter in group]
    assert len(grouped) == len(set(grouped)) and set(grouped) == {id(parameter) for parameter in encoder.parameters()}


def test_what_is_saved_pickled_or_copied_gives_the_same_features(encoder, tmp_path):
    items = list(dataset().items)
    encoder.save(tmp_path)
    for again in (load_backbone(f"checkpoint:{tmp_path}"), pickle.loads(pickle.dumps(encoder)), copy.deepcopy(encoder)):
        assert again.fingerprint() == encoder.fingerprint()
        torch.testing.assert_close(features(again, items), features(encoder, items))


def test_weights_hang_on_the_seed_and_are_reset_to_it(encoder):
    kind = encoder.name.partition(":")[2]
    before = torch.get_rng_state()
    assert columns.fresh(dataset(), kind).fingerprint() == encoder.fingerprint() != columns.fresh(dataset(), kind, 1).fingerprint()
    assert torch.equal(torch.get_rng_state(), before)
    encoder.reset(1)
    assert encoder.fingerprint() == columns.fresh(dataset(), kind, 1).fingerprint()


def test_another_table_may_have_other_columns(encoder):
    """Truth: a lacking column is a column of missing cells, and a new one changes nothing."""
    own = inputs(people())
    other = own.drop(columns="pay").assign(city="Rome")[["city", "work", "age"]]
    with pytest.warns(UserWarning, match="left out: city, which it was not made with; read as missing: pay, which this table lacks"):
        read = features(encoder, graft.load(other.assign(label=people()["label"]), label="label").items)
    hidden = [Row("", {**row.cells, "pay": None}) for row in dataset().items]
    torch.testing.assert_close(read, features(encoder, hidden))
    # Once is enough.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        features(encoder, graft.load(other.assign(label=people()["label"]), label="label").items)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"ages": 3.0}, r"the table has the columns ages, expected some of those that the encoder knows: age, pay, work. Rename"),
        ({"age": "old"}, r"age holds 'old', expected numbers, as the encoder was made with"),
    ],
)
def test_a_row_that_does_not_fit_is_refused(cells, message):
    with pytest.raises(GraftError, match=message):
        columns.fresh(dataset()).prepare([Row("", cells)])


def test_what_is_no_row_is_refused():
    backbone = columns.fresh(dataset())
    with pytest.raises(GraftError, match=r"was given a str, expected rows of a table"):
        backbone.prepare(["age: 3"])
    with pytest.raises(GraftError, match=r"X holds a list, expected a DataFrame or a list of dicts"):
        graft.Transfer(backbone).fit([[1.0], [2.0]], [0, 1])
    with pytest.raises(GraftError, match=r"X holds a ndarray, expected a DataFrame"):
        graft.Transfer(backbone).fit(np.zeros((2, 3)), [0, 1])


def test_an_encoder_without_a_table_is_explained(tmp_path):
    with pytest.raises(GraftError, match=r"columns:mlp: a name without a table.*graft pretrain TABLE --out FOLDER"):
        load_backbone("columns:mlp")
    with pytest.raises(GraftError, match=r"columns:mpl: .*Did you mean 'mlp'\?"):
        load_backbone("columns:mpl")
    with pytest.raises(GraftError, match=r"kind is 'lstm', expected 'mlp' or 'transformer'"):
        columns.fresh(dataset(), "lstm")
    texts = graft.load(pd.DataFrame({"text": ["a b c d e", "f g h i j"] * 3, "label": [0, 1] * 3}))
    with pytest.raises(GraftError, match=r"holds columns of text, expected at least one of numbers or categories"):
        columns.fresh(texts)
    columns.fresh(dataset()).save(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "columns:mlp"}')
    with pytest.raises(GraftError, match=r"keys architecture, expected columns:mlp or columns:transformer with numbers and categories"):
        load_backbone(f"checkpoint:{tmp_path}")


def test_a_table_of_numbers_alone_and_one_of_categories_alone_are_read():
    for names in (["age", "pay"], ["work"]):
        backbone = columns.fresh(dataset(people()[[*names, "label"]]))
        assert features(backbone, list(dataset(people()[[*names, "label"]]).items)).isfinite().all()


def test_a_table_is_learned_from_a_frame_or_dicts_and_the_model_is_saved(encoder, tmp_path):
    frame, fresh = people(240), people(120, seed=1)
    model = graft.Transfer(encoder, "full", epochs=12, lr=3e-2).fit(inputs(frame), frame["label"])
    # Copied pay and age decide nothing alone: 0.5 is chance, and a tenth of the rows lacks what decides.
    assert model.score(inputs(fresh), fresh["label"]) > 0.7
    rows = inputs(fresh).astype(object).where(inputs(fresh).notna(), None).to_dict("records")
    np.testing.assert_allclose(model.predict_proba(rows), model.predict_proba(inputs(fresh)), atol=1e-6)
    model.save(tmp_path)
    again = graft.Transfer.load(tmp_path)
    np.testing.assert_allclose(again.predict_proba(inputs(fresh)), model.predict_proba(inputs(fresh)), atol=1e-6)


def test_features_are_kept_by_cells(encoder, monkeypatch):
    """Rows that read alike as texts are not taken for one another."""
    items = [Row("pay: 1e+06", {"age": None, "work": None, "pay": pay}) for pay in (1.0, 900.0)]
    first = extract(encoder, items)
    assert not np.allclose(first[0], first[1])
    monkeypatch.setattr(type(encoder), "forward", lambda *arguments, **named: pytest.fail("computed again"))
    np.testing.assert_array_equal(extract(encoder, items), first)


@pytest.mark.usefixtures("quick_studies")
def test_a_run_and_a_ranking_read_another_table_with_it(tmp_path):
    """The from-scratch control and the classical baseline stand beside it, and a text backbone reads the same rows."""
    columns.fresh(dataset(people(300))).save(tmp_path / "encoder")
    other = people(60, seed=2).drop(columns="pay").assign(split=np.where(np.arange(60) % 3, "train", "test"))
    with pytest.warns(UserWarning, match="read as missing: pay"):
        study = graft.run(other, backbone=f"checkpoint:{tmp_path / 'encoder'}", strategy="feature_extraction", out=tmp_path / "run")
    assert set(study.result.controls) == {"from scratch", "gradient boosting"} and study.result.modality == "table"
    with pytest.warns(UserWarning, match="read as missing: pay"):
        ranking = graft.rank(other, [f"checkpoint:{tmp_path / 'encoder'}", "tiny:text"])
    assert {row.backbone for row in ranking.rows} == {f"checkpoint:{tmp_path / 'encoder'}", "tiny:text"}


def test_an_image_or_text_data_set_is_refused_by_name():
    texts = pd.DataFrame({"text": ["a b c d e", "f g h i j"] * 10, "label": [0, 1] * 10})
    with pytest.raises(GraftError, match=r"reads tables, .* holds texts"):
        from graft.study.material import Material

        Material(graft.load(texts), {"mine": columns.fresh(dataset())}, "accuracy", 0)


@pytest.mark.parametrize("method", ["scarf", "masked_cells"])
def test_what_pretraining_makes_of_a_table_reads_another_one(method, tmp_path):
    graft.pretrain(people(80), method=method, out=tmp_path, epochs=1, label="label")
    other = people(40, seed=1).drop(columns="work")
    model = graft.Transfer(f"checkpoint:{tmp_path}", "feature_extraction")
    with pytest.warns(UserWarning, match="read as missing: work"):
        assert model.fit(inputs(other), other["label"]).predict(inputs(other)).shape == (40,)
    assert load_backbone(f"checkpoint:{tmp_path}").fingerprint() != columns.fresh(dataset(people(80))).fingerprint()
