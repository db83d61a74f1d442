"""What recorded runs say of a new case: closed forms, left-out collections, coverage on made evidence, and what is missing."""

import csv

import numpy as np
import pytest
from adapt_samples import evidence, row
from scipy.special import expit, logit

from graft.adapt import predict
from graft.adapt.predict import LEVELS, SIGNS, Predictor, cases_of, fit, read_evidence, recorded
from graft.errors import GraftError
from graft.validators import ESTIMATES, VALIDATORS


def test_every_column_it_reads_is_a_validator_or_an_estimate():
    assert {*SIGNS, *LEVELS} <= {*VALIDATORS, *ESTIMATES}


# -- closed forms


def by_hand(*, level=0.0, agreement=0.0, scale=1.0, spread=0.05):
    """A predictor that adds `level` to the mean estimate, and reads the sign agreement alone."""
    sign = np.array([name == "agreement" for name in SIGNS])
    correction = np.zeros(2 + len(LEVELS))
    correction[0] = level
    return Predictor(correction, agreement * sign, np.where(sign, scale, 1.0), (0.5, 0.6), spread, ("made",))


def test_a_prediction_is_the_mean_estimate_in_logits_corrected_and_the_candidates_gain():
    """Truth: by hand. Estimates of 0.6 and 0.8 have the mean of their logits; the level adds 0.1, two steps of agreement 0.7."""
    told = {"atc": 0.6, "doc": 0.8}
    rows = [row("source_only", "", agreement=0.5, **told), row("coral", "", agreement=0.54, **told)]
    first, second = by_hand(level=0.1, agreement=0.35, scale=0.02).predict(rows)
    base = (logit(0.6) + logit(0.8)) / 2 + 0.1
    # Two estimates lie half of their distance from their mean.
    doubt = 1 + (logit(0.8) - logit(0.6)) / 2
    assert first.score == pytest.approx(expit(base)) and second.score == pytest.approx(expit(base + 0.7))
    assert first.interval == pytest.approx((expit(base - 0.5 * doubt), expit(base + 0.5 * doubt)))
    # What is chosen for its looks is missed by more.
    assert second.interval == pytest.approx((expit(base + 0.7 - 0.6 * doubt), expit(base + 0.7 + 0.6 * doubt)))
    assert (first.gain, first.spread, first.gain_interval) == (0.0, 0.0, (0.0, 0.0))
    gain = expit(base + 0.7) - expit(base)
    assert second.gain == pytest.approx(gain) and second.spread == 0.05
    assert second.gain_interval == pytest.approx((gain - 1.645 * 0.05, gain + 1.645 * 0.05))


def test_the_level_is_a_ridge_regression_on_how_far_estimates_lie_from_their_mean():
    """Truth: one estimate that is 0.5 too high in logits everywhere. The terms are then 1 and the distance from chance, 0 here."""
    rows = []
    for place, collection in enumerate("abcdef"):
        about = {"collection": collection, "pair": str(place), "atc": 0.5}
        rows += [row("source_only", float(expit(-0.5)), **about), row("coral", float(expit(-0.5)), **about)]
    strength = 0.1  # the weakest: every left-out collection is then predicted best
    expected = -0.5 * len("abcdef") / (len("abcdef") + strength)
    model = fit(rows)
    assert model.level[0] == pytest.approx(expected) and not model.level[1:].any()
    assert model.predict([row("source_only", "", atc=0.5)])[0].score == pytest.approx(expit(expected))


def test_the_gain_is_a_ridge_regression_on_signs_in_their_usual_steps():
    """Truth: agreement rises by 0.02 where accuracy rises by 0.3 logits; in steps of its root mean square that is one step."""
    rows = []
    for place, collection in enumerate("abcdef"):
        sign = 1 if place % 2 else -1
        about = {"collection": collection, "pair": str(place), "atc": 0.5}
        rows += [row("source_only", 0.5, agreement=0.7, **about)]
        rows += [row("coral", float(expit(0.3 * sign)), agreement=0.7 + 0.02 * sign, **about)]
    model = fit(rows)
    assert model.scale[SIGNS.index("agreement")] == pytest.approx(0.02)
    assert model.gain[SIGNS.index("agreement")] == pytest.approx(0.3 * 6 / 6.1)
    told = model.predict([row("source_only", "", agreement=0.7, atc=0.5), row("kmm", "", agreement=0.73, atc=0.5)])
    assert told[1].gain == pytest.approx(expit(1.5 * 0.3 * 6 / 6.1) - 0.5)


def test_a_sign_far_off_its_scale_counts_as_three_steps():
    model = by_hand(agreement=0.1, scale=0.02)
    near, far = (
        model.predict([row("source_only", "", agreement=0.5, atc=0.5), row("coral", "", agreement=value, atc=0.5)])[1].score
        for value in (0.56, 0.99)
    )
    assert near == pytest.approx(far) == pytest.approx(expit(0.3))


def test_which_method_a_candidate_is_plays_no_part():
    model = fit(evidence())
    told = {"agreement": 0.3, "atc": 0.8}
    gains = {
        model.predict([row("source_only", "", agreement=0.0, atc=0.8), row(name, "", **told)])[1].gain
        for name in ("coral", "kmm", "a new one")
    }
    assert len(gains) == 1 and gains.pop() > 0.02


# -- what is left out


def test_a_collection_is_predicted_without_its_own_runs():
    """The misses that the interval is made of are those of left-out collections: of one unlike all others, its whole distance."""
    rows = [one for place in range(8) for one in [
        row("source_only", 0.7, collection=f"c{place}", pair=str(place), atc=0.7),
        row("coral", 0.7, collection=f"c{place}", pair=str(place), atc=0.7),
    ]]  # fmt: skip
    rows += [row(method, 0.3, collection="odd", pair=f"odd {n}", atc=0.7) for n in range(3) for method in ("source_only", "coral")]
    model = fit(rows)
    # Of nine collections the odd one is more than a tenth: 90 % are not reached before it.
    assert model.missed[0] == pytest.approx(logit(0.7) - logit(0.3), rel=0.05)
    # With the odd ones in one collection each, they vouch for each other.
    spread_out = [one | {"collection": one["pair"]} for one in rows]
    assert fit(spread_out).missed[0] < model.missed[0] - 0.05


def test_intervals_hold_the_truth_of_new_collections_as_often_as_they_say():
    held, cases = 0, 0
    for seed in range(4):
        model = fit(evidence(seed=seed))
        for case in cases_of(evidence(collections=10, pairs=10, seed=100 + seed)):
            low, high = model.predict(case)[0].interval
            held += low <= case[0]["accuracy"] <= high
            cases += 1
    # 400 cases of an interval of 90 %: four standard errors are 6 points.
    assert 0.84 <= held / cases <= 0.96


def test_an_interval_is_wider_where_estimates_disagree():
    """Truth: misses that grow with the distance of two estimates from their mean; per unit of doubt all are 0.4 logits."""
    rows = []
    for place in range(20):
        apart, about = 0.1 * place, {"collection": f"c{place}", "pair": str(place)}
        about |= {"atc": float(expit(apart)), "doc": float(expit(-apart))}
        true = float(expit((-1) ** place * 0.4 * (1 + apart)))
        rows += [row("source_only", true, **about), row("coral", true, **about)]
    model = fit(rows)
    assert model.missed[0] == pytest.approx(0.4, abs=0.1)
    halves = []
    for apart in (0.0, 1.0):
        low, high = model.predict([row("source_only", "", atc=float(expit(apart)), doc=float(expit(-apart)))])[0].interval
        halves.append((logit(high) - logit(low)) / 2)
    assert halves == pytest.approx([model.missed[0], 2 * model.missed[0]])


def test_the_spread_of_a_gain_is_what_chosen_gains_miss_by():
    model = fit(evidence())
    missed, gained = [], []
    for case in cases_of(evidence(collections=10, pairs=10, seed=100)):
        outlooks = model.predict(case)
        best = max(range(len(case)), key=lambda place: outlooks[place].gain)
        missed.append(outlooks[best].gain - (case[best]["accuracy"] - case[0]["accuracy"]))
        gained.append(case[best]["accuracy"] - case[0]["accuracy"])
    assert model.spread == pytest.approx(np.sqrt(np.mean(np.square(missed))), rel=0.6)
    # The sign that tells the truth is found among noise.
    assert np.mean(gained) > 0.03


def test_what_says_nothing_predicts_no_gain():
    rows = [one | {name: 0.5 for name in SIGNS if name not in LEVELS} for one in evidence(gain=0.0)]
    model = fit(rows)
    for case in cases_of(rows)[:5]:
        assert all(abs(one.gain) < 0.01 for one in model.predict(case))


# -- what is missing


@pytest.mark.parametrize("collections", [0, 1, 2])
def test_of_too_few_collections_nothing_is_predicted(collections):
    model = fit(evidence(collections=collections, pairs=30))
    told = model.predict([row("source_only", "", atc=0.8), row("coral", "", atc=0.99, agreement=1.0)])
    assert [one.gain for one in told] == [0.0, 0.0]
    assert told[0].score == pytest.approx(0.8)
    assert told[0].interval == (0.0, 1.0) and not told[0].is_told and told[1].spread == 1.0


def test_a_collection_counts_once_in_the_interval_however_many_its_cases():
    """Truth: ten collections of one case that miss by 1, 2, ... 10, and one of 50 cases that miss by 2.5.

    Of 11 collections 10 of 11 are not yet 95 %, and the last is 10. Of 60 cases the 57th is 7.
    """
    gaps = np.array([-1.0, 2, -3, 4, 5, 6, 7, 8, 9, 10] + [2.5] * 50)
    assert predict._quantile(gaps, np.array([1.0] * 10 + [1 / 50] * 50)) == 10.0
    assert predict._quantile(gaps, np.ones(60)) == 7.0


def test_columns_that_are_missing_are_left_out_and_not_taken_for_zero():
    model = fit(evidence())
    full = dict.fromkeys(LEVELS, 0.8) | {"agreement": 0.7}
    some = {name: value for name, value in full.items() if name not in ("cot", "doc")}
    whole, part = (model.predict([row("source_only", "", **told), row("coral", "", **told)]) for told in (full, some))
    assert part[0].score == pytest.approx(whole[0].score) and part[1].gain == pytest.approx(whole[1].gain)
    assert np.isfinite([one.score for one in model.predict([{"method": "source_only"}, {"method": "coral"}])]).all()


def test_runs_that_fell_out_and_those_without_truth_teach_nothing():
    rows = evidence()
    fallen = [one | {"fell_out": "no", "accuracy": 0.0} for one in rows[:9]]
    untold = [one | {"accuracy": "", "pair": "noise"} for one in rows[:9]]
    # One pair each: a case has one source-only.
    alone = [one | {"pair": f"{one['pair']} alone"} for one in rows if one["method"] == "source_only"][:3]
    headless = [one | {"pair": "headless"} for one in rows if one["method"] != "source_only"][:3]
    plain, more = fit(rows), fit(rows + fallen + untold + alone + headless)
    np.testing.assert_allclose(plain.level, more.level)
    np.testing.assert_allclose(plain.gain, more.gain)
    assert plain.missed == more.missed and plain.spread == more.spread


def test_cases_are_pairs_of_one_seed_and_kind_with_source_only_first():
    rows = [row("coral", 0.5), row("source_only", 0.6), row("coral", 0.5, seed=1), row("coral", 0.4) | {"sabotage": "noise"}]
    assert [[one["method"] for one in case] for case in cases_of(rows)] == [["source_only", "coral"], ["coral"], ["coral"]]


# -- the file


def written(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_what_is_read_from_a_file_predicts_as_the_rows_themselves(tmp_path, monkeypatch):
    rows = evidence(collections=4, pairs=3)
    written(tmp_path / "a.csv", rows[: len(rows) // 2])
    written(tmp_path / "b.csv", rows[len(rows) // 2 :])
    np.testing.assert_allclose(fit(read_evidence(tmp_path / "a.csv", tmp_path / "b.csv")).level, fit(rows).level)


def test_without_the_source_recorded_runs_are_read_without_what_it_tells(tmp_path, monkeypatch):
    written(tmp_path / "evidence.csv", evidence(collections=5, pairs=4))
    monkeypatch.setattr(predict, "read_evidence", lambda: read_evidence(tmp_path / "evidence.csv"))
    recorded.cache_clear()
    try:
        with_source, without = recorded(), recorded(False)
    finally:
        recorded.cache_clear()
    # Every estimate asks source items; agreement asks the target alone, and tells gains as before.
    assert with_source.level[2:].any() and not without.level[2:].any()
    assert without.missed[0] > with_source.missed[0]
    assert without.gain[SIGNS.index("agreement")] > 0.1 and without.gain[SIGNS.index("reverse")] == 0
    told = without.predict([row("source_only", "", entropy=-0.2), row("coral", "", entropy=-0.1)])[0]
    assert told.is_told and told.interval[1] - told.interval[0] > 0.3


def test_a_file_that_is_not_there_or_lacks_columns_is_named(tmp_path):
    with pytest.raises(GraftError, match=r"nowhere.csv: there is no such file, expected a CSV of recorded adaptations"):
        read_evidence(tmp_path / "nowhere.csv")
    written(tmp_path / "bare.csv", [{name: 1 for name in row("coral", 0.5) if name not in ("snd", "pair")}])
    with pytest.raises(GraftError, match=r"bare.csv: columns pair, snd are missing, expected those of evidence.csv"):
        read_evidence(tmp_path / "bare.csv")
