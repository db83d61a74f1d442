"""The model that predicts scores after transfer: fitted on made-up runs whose truth is known."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit

from graft.errors import GraftError
from graft.transferability import predict
from graft.transferability.predict import EVIDENCE, SCORES, cases_of, direct_estimate, fit, read_evidence, terms


def runs(n_data=12, m=10, n=60, seed=0, informative=True, n_judged=100_000):
    """Runs of m candidates with known qualities: cross-validation is their binomial sample, `logme` tells of the quality or of nothing."""
    rng = np.random.default_rng(seed)
    rows = []
    for data in range(n_data):
        quality = rng.normal(0.5 * rng.normal(), 0.5, m)
        told = quality + 0.1 * rng.normal(size=m) if informative else rng.normal(size=m)
        share = rng.binomial(n, expit(quality)) / n
        case = {"data": f"d{data}", "labels_a_class": n // 2, "seed": 0, "classes": 2, "n": n, "n_judged": n_judged}
        truth = rng.binomial(n_judged, expit(quality)) / n_judged
        rows += [case | {"backbone": f"b{data}-{i}", "cross_validated": share[i], "logme": told[i], "probe": truth[i]} for i in range(m)]
    return rows


def missed(predictor, rows):
    """(cases, m) truth minus prediction, in logits."""
    return np.array([logit([row["probe"] for row in case]) - predictor.predict(case).centre for case in cases_of(rows)])


def test_the_direct_estimate_is_the_logit_with_half_an_item_on_both_sides():
    centre, variance = direct_estimate([{"cross_validated": 1.0, "n": 9}, {"cross_validated": 0.5, "n": 9}])
    np.testing.assert_allclose(centre, [math.log(9.5 / 0.5), 0.0])
    np.testing.assert_allclose(variance, [1 / (10 * 0.95 * 0.05), 1 / (10 * 0.25)])


def test_a_score_that_tells_helps_on_data_sets_it_was_not_fitted_on():
    predictor, fresh = fit(runs()), runs(seed=1)
    none = fit([])
    assert np.mean(missed(predictor, fresh) ** 2) < 0.5 * np.mean(missed(none, fresh) ** 2)


def test_estimates_shrink_towards_the_mean_by_the_share_of_noise():
    # Without any score the best linear prediction is the empirical Bayes one: believe 1 - u of a deviation.
    rows = runs(n_data=40, m=40, n=30, informative=False)
    predictor = fit(rows, strength=1e-6)
    fresh = cases_of(runs(seed=2, m=40, n=30, informative=False))[0]
    kept, share = predictor.predict(fresh).kept, terms(fresh, {})[1]
    assert kept == pytest.approx(1 - share, abs=0.1)


def test_with_many_items_the_direct_estimate_stands():
    predictor = fit(runs())
    case = cases_of(runs(n_data=1, n=1_000_000, seed=3))[0]
    np.testing.assert_allclose(predictor.predict(case).centre, direct_estimate(case)[0], atol=0.01)


def test_two_data_sets_give_no_correction():
    rows = runs(n_data=2)
    predictor = fit(rows)
    assert not predictor.coefficients.any() and math.isinf(predictor.strength)
    case = cases_of(rows)[0]
    np.testing.assert_array_equal(predictor.predict(case).centre, direct_estimate(case)[0])


def test_what_gains_nothing_beyond_its_standard_error_is_not_corrected():
    # Cross-validation of ten million items is the truth itself, and four collections in which a score tells nothing are no reason.
    assert math.isinf(fit(runs(n=10_000_000, n_judged=10_000_000, informative=False)).strength)
    cases = [predict._Case.of(case, "probe") for case in cases_of(runs(n_data=4, m=3))]
    gaps = [
        [np.full(3, size) for size in sizes]
        for sizes in ((1.0, 1.0, 1.0, 1.0), (0.9, 0.9, 0.9, 1.4), (1.0, 1.0, 1.0, 1.1), (2.0, 2.0, 2.0, 2.0))
    ]
    tried = [predict._Missed(strength, gap) for strength, gap in zip((1.0, 3.0, 10.0, math.inf), gaps, strict=True)]
    assert predict._simplest(tried, cases, lambda case, gap: float(gap.mean())).strength == 10.0


@pytest.mark.parametrize("n", [30, 200])
def test_eighty_per_cent_intervals_cover_eighty_per_cent(n):
    predictor, covered = fit(runs(n_data=40, n=n)), []
    for case in cases_of(runs(n_data=100, n=n, seed=7)):
        direct, variance = direct_estimate(case)
        resampled = direct[:, None] + np.sqrt(variance)[:, None] * np.random.default_rng(0).standard_normal((len(case), 2000))
        low, high = np.quantile(predictor.predict(case).draws(resampled, 0), (0.1, 0.9), axis=1)
        truth = np.array([row["probe"] for row in case])
        covered += ((low <= truth) & (truth <= high)).tolist()
    assert 0.75 < np.mean(covered) < 0.85


def test_noise_of_the_truth_is_not_taken_for_a_miss_of_the_prediction():
    # Cross-validation of a million items is right; the truth was counted on a hundred, and is off by 1 / (100 p (1 - p)) in logits.
    cases = [predict._Case.of(case, "probe") for case in cases_of(runs(n_data=30, n=1_000_000, n_judged=100))]
    common, own = predict._spreads(cases, [case.aim for case in cases])
    assert np.mean([case.noise.mean() for case in cases]) > 0.04
    assert max(side @ (1.0, cases[0].sampling) for side in (common, own)) < 0.01


def test_candidates_that_err_together_keep_their_difference():
    prediction = predict.Prediction(np.array([0.0, 1.0]), 1.0, 1.0, 1.0, 0.0)
    together = np.random.default_rng(0).normal(size=(1, 500)).repeat(2, axis=0)
    np.testing.assert_allclose(np.diff(logit(prediction.draws(together, 0)), axis=0), 1.0)


def test_a_score_that_is_missing_counts_as_the_mean():
    case = cases_of(runs())[0]
    blank = [{**row, "logme": "" if place == 0 else row["logme"]} for place, row in enumerate(case)]
    assert terms(blank, {})[0][0, 3 + SCORES.index("logme")] == 0.0
    assert terms(case, {})[0][0, 3 + SCORES.index("logme")] != 0.0


def test_only_one_benchmark_is_compared():
    case = cases_of(runs(m=3))[0]
    told = [{**row, "published": 70 + place, "benchmark": ("CIFAR-10 top-1", predict.BENCHMARK, predict.BENCHMARK)[place]}
            for place, row in enumerate(case)]  # fmt: skip
    column = terms(told, {})[0][:, 3 + len(SCORES)]
    assert column[0] == 0.0 and column[1] == -column[2] != 0.0


def test_evidence_is_read_and_a_users_own_is_added(tmp_path):
    mine = tmp_path / "mine.csv"
    lines = EVIDENCE.read_text().splitlines()
    names = lines[0].split(",")
    row = dict.fromkeys(names, "") | {"data": "mine", "n": "20", "classes": "2", "cross_validated": "0.5", "n_judged": "50", "probe": "0.6"}
    mine.write_text(lines[0] + "\n" + ",".join(row[name] for name in names) + "\n")
    assert len(read_evidence(mine)) == len(read_evidence()) + 1


def test_evidence_that_cannot_be_used_is_named_line_by_line(tmp_path):
    mine = tmp_path / "mine.csv"
    with pytest.raises(GraftError, match=r"mine\.csv: there is no such file, expected a CSV"):
        read_evidence(mine)
    mine.write_text("data,n\na,3\n")
    with pytest.raises(GraftError, match=r"columns labels_a_class, seed, backbone, classes, cross_validated, n_judged, probe are missing"):
        read_evidence(mine)
    header = "data,labels_a_class,seed,backbone,classes,n,cross_validated,n_judged,probe,tuned,logme,parameters\n"
    mine.write_text(header + "a,5,0,b,2,10,81,x,,,,\n")
    with pytest.raises(
        GraftError, match=r"(?s)2 problems.*line 2: cross_validated is '81', expected a number from 0 to 1.*n_judged is 'x'"
    ):
        read_evidence(mine)
    mine.write_text(header + "a,5,0,b,2,10,0.8,50,0.8,,,\na,5,0,c,2,10,0.8,50,81,x,good,2M\n")
    with pytest.raises(GraftError) as refused:
        read_evidence(mine)
    for told in (
        "probe is '81', expected a number from 0 to 1",
        "tuned is 'x'",
        "logme is 'good', expected a number",
        "parameters is '2M'",
    ):
        assert f"line 3: {told}" in str(refused.value)
    assert "4 problems" in str(refused.value)


def test_evidence_without_a_single_truth_is_not_taken_for_evidence(tmp_path):
    mine = tmp_path / "mine.csv"
    header = "data,labels_a_class,seed,backbone,classes,n,cross_validated,n_judged,probe\n"
    mine.write_text(header + "a,5,0,b,2,10,0.8,50,\n")
    with pytest.raises(GraftError, match=r"none of 1 rows has a number in column probe.*--check --out RUN"):
        read_evidence(mine)
    # One truth is something to learn from.
    mine.write_text(header + "a,5,0,b,2,10,0.8,50,\na,5,0,c,2,10,0.8,50,0.7\n")
    assert len(read_evidence(mine)) == len(read_evidence()) + 2


def test_a_file_that_is_no_csv_is_named(tmp_path):
    with pytest.raises(GraftError, match=r"this is a folder, expected a CSV of recorded runs"):
        read_evidence(tmp_path)
    sheet = tmp_path / "mine.xlsx"
    sheet.write_bytes(b"PK\x03\x04\xff\xfe")
    with pytest.raises(GraftError, match=r"mine\.xlsx: this is no CSV in UTF-8 \(.*\), expected one of recorded runs"):
        read_evidence(sheet)
    # Excel puts a mark before the first name.
    marked = tmp_path / "marked.csv"
    marked.write_text("\n".join(EVIDENCE.read_text().splitlines()[:2]), encoding="utf-8-sig")
    assert len(read_evidence(marked)) == len(read_evidence()) + 1


def test_all_right_on_ten_items_is_no_certainty():
    rows = [{"backbone": "b", "cross_validated": 1.0, "n": 10, "classes": 2} for _ in range(2)]
    direct, variance = direct_estimate(rows)
    draws = logit(fit([]).predict(rows).draws(np.repeat(direct[:, None], 2000, axis=1), 0))
    np.testing.assert_allclose(draws.var(axis=1), variance, rtol=0.1)
    np.testing.assert_array_equal(draws[0], draws[1])


def test_a_backbone_that_is_always_good_is_believed_in():
    # What cross-validation of eight items cannot tell, runs elsewhere do; a backbone that was never recorded is taken for an average one.
    rng = np.random.default_rng(0)
    quality = np.linspace(-1, 1, 8)

    def case(data):
        share = rng.binomial(8, expit(quality)) / 8
        about = {"data": data, "labels_a_class": 4, "seed": 0, "classes": 2, "n": 8, "n_judged": 10_000}
        return [about | {"backbone": f"b{i}", "cross_validated": share[i], "probe": expit(quality[i])} for i in range(8)]

    predictor = fit([row for data in range(20) for row in case(f"d{data}")])
    assert predictor.standing["b7"] == pytest.approx(1.0, abs=0.01) and predictor.standing["b0"] == pytest.approx(-1.0, abs=0.01)
    fresh = case("new")
    # What is predicted of backbones that are all new has nothing but their eight items.
    unknown = [row | {"backbone": f"new {place}"} for place, row in enumerate(fresh)]
    missed_known, missed_unknown = (np.abs(quality - predictor.predict(rows).centre).mean() for rows in (fresh, unknown))
    assert missed_known < 0.5 * missed_unknown


def test_parts_of_one_collection_are_left_out_together():
    rows = runs(n_data=6)
    parted = [row | {"collection": "same" if row["data"] in ("d0", "d1") else ""} for row in rows]
    for others, left in predict._parts([predict._Case.of(case, "probe") for case in cases_of(parted)]):
        assert not {case.collection for case in others} & {case.collection for case in left}
    assert len(predict._parts([predict._Case.of(case, "probe") for case in cases_of(parted)])) == 5
    two_collections = [row | {"collection": "same"} for row in rows if row["data"] != "d5"] + [row for row in rows if row["data"] == "d5"]
    assert math.isinf(fit(two_collections).strength)


def test_a_standing_never_knows_the_case_it_is_used_for_nor_what_is_left_out():
    cases = [predict._Case.of(case, "probe") for case in cases_of([row | {"backbone": row["backbone"][-1]} for row in runs(n_data=3)])]
    told = predict._standings(cases)({"d0", "d1"})
    only = cases[2].true - cases[2].true.mean()
    assert told == pytest.approx({str(place): value for place, value in enumerate(only)})
    # With d0 left out, a case of d1 is fitted on what d2 alone says.
    (others, (left,)) = predict._parts(cases)[0]
    assert (left.data, others[0].data) == ("d0", "d1")
    np.testing.assert_allclose(others[0].matrix[:, -1], others[0].share * only)
