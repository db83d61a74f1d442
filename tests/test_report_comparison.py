"""The page of a comparison: whole, self-contained, and what it says of who is best, on made-up numbers."""

import copy
import re
from dataclasses import asdict

import pytest
from report_samples import around, images_result
from test_report import Reader

from graft.report import plots, write_comparison, write_report
from graft.strategies import make_plan

NAMES = ("lp_ft", "full", "feature_extraction")


def numbers(better=("lp_ft", "", ""), names=NAMES):
    """Three strategies; better: of first and second, first and third, second and third."""
    curve = []
    for n in (1, 2, 3):
        scored = {"score": 0.5 + n / 10, "score_range": (0.4 + n / 10, 0.6 + n / 10)}
        curve.append({"epoch": n, **scored, "loss": 1 / n, "loss_range": (0.5 / n, 2 / n), "seconds": 2.0**n})
    level = [{"epoch": 0, "score": 0.7, "score_range": (0.6, 0.8), "loss": None, "loss_range": None, "seconds": 0.5}]
    rivals = [
        {
            "strategy": name,
            **around(0.9 - place / 10),
            "fold_scores": [0.8, 0.9],
            "rates": [] if place == 2 else [1e-3, 1e-3],
            "seconds": 12.0,
            "plan": {"groups": ["stem", "pool"], **asdict(make_plan(NAMES[place], 2, 4, 1e-3))},
            "curve": level if place == 2 else curve,
        }
        for place, name in enumerate(names)
    ]
    tested = {"effect": 0.1, "interval": (-0.1, 0.3), "p": 0.2, "adjusted_p": 0.4, "n": 90, "test": "t"}
    both = ((0, 1), (0, 2), (1, 2))
    pairs = [{"first": names[a], "second": names[b], "better": who, **tested} for (a, b), who in zip(both, better, strict=True)]
    about = {"data": "flowers", "modality": "image", "task": "classification", "metric": "accuracy", "backbone": "tiny:image"}
    return about | {
        "n_train": 72, "n_test": 90, "judged_on": "5-fold", "rivals": rivals, "pairs": pairs, "rates": [1e-3], "epochs": 4, "seed": 0,
        "seconds": 80.0, "notes": ["metric: accuracy"], "command": "graft compare flowers", "version": "0",
    }  # fmt: skip


def read(told, tmp_path):
    write_comparison(told, tmp_path / "new" / "comparison.html")
    page = (tmp_path / "new" / "comparison.html").read_text("utf-8")
    return page, Reader(page)


@pytest.mark.parametrize(
    ("better", "headline"),
    [
        (("lp_ft", "lp_ft", ""), "lp_ft is best."),
        (("lp_ft", "", ""), "2 of 3 tie for the lead."),
        (("", "", ""), "No difference shown."),
        (("", "", "full"), "No difference shown."),
    ],
)
def test_the_headline_says_who_leads(better, headline, tmp_path):
    page, _ = read(numbers(better), tmp_path)
    assert re.search(r"<h1[^>]*>(.*?)</h1>", page)[1] == headline


def test_what_each_strategy_forgot_of_a_source_task_is_shown(tmp_path):
    told = numbers()
    change = {"effect": -0.25, "interval": (-0.375, -0.125)}
    about = {"data": "animals", "metric": "accuracy", "n_test": 40, "judged_on": "5-fold", "before": around(0.875)}
    for place, rival in enumerate(told["rivals"]):
        after = {"same_head": {**around(0.625), "change": change}, "new_head": {**around(0.75), "change": change}}
        rival["keep"] = {**about, "retrained": place < 2, **(after if place < 2 else {})}
    page, reader = read(told, tmp_path)
    assert reader.sections == ["scores", "pairs", "curves", "keep", "plans", "repeat"]
    shown = page[page.index('id="keep"') : page.index('id="plans"')]
    # Two heads, each with the start and the two strategies that retrain; the third moved nothing.
    assert shown.count("the pretrained weights</") == 2 and shown.count("change −0.250, −0.375 to −0.125") == 4
    assert "features that the pretrained weights give for animals" in shown and "n = 40" in shown and "feature_extraction" not in shown


def test_the_page_is_whole_loads_nothing_and_has_every_section(tmp_path):
    page, reader = read(numbers(), tmp_path)
    assert reader.sections == ["scores", "pairs", "curves", "plans", "repeat"]
    assert not {tag for tag, _ in reader.tags} & {"script", "iframe", "object", "embed", "base"}
    assert re.findall(r"https?://[^\s\"<]*", page) == [] and "url(" not in page
    assert "lp_ft has the highest mean and ties with feature_extraction" in reader.words and "It is better than full." in reader.words
    assert "nan" not in reader.words.lower().replace("finance", "")


def test_each_pair_has_its_difference_both_p_and_who_is_better(tmp_path):
    _, reader = read(numbers(), tmp_path)
    assert "lp_ftand full +0.100−0.100 to +0.300 lp_ftp 0.200Holm's 0.400" in reader.words
    assert "lp_ftand feature_extraction +0.100−0.100 to +0.300 tiep 0.200Holm's 0.400" in reader.words


def test_hostile_names_do_not_break_the_page(tmp_path):
    page, _ = read(numbers(("", "", ""), ("<script>a", 'b" onload="x', "c")), tmp_path)
    assert "<script>" not in page and 'b" onload' not in page


def test_without_any_epochs_there_is_no_chart_of_losses(tmp_path):
    told = copy.deepcopy(numbers())
    for rival in told["rivals"]:
        rival["curve"] = told["rivals"][2]["curve"]
    _, reader = read(told, tmp_path)
    assert "Training loss" not in reader.words and "How they learn" in reader.words


def drawn(markup, kind):
    return re.findall(rf'<line x1="([\d.]+)%" y1="([\d.]+)%" x2="([\d.]+)%" y2="([\d.]+)%" class="{kind}"', str(markup))


def test_a_line_goes_where_its_numbers_are_and_a_single_point_is_level():
    curves = {"a": [plots.Place(0, 0.0, 0.0, 0.0), plots.Place(10, 1.0, 1.0, 1.0)], "b": [plots.Place(0, 0.5, 0.5, 0.5)]}
    markup = plots.learning_curves(curves, {"a": 0, "b": 5})
    # 3 % of room at both sides of ten epochs, 4 % below and above.
    ((x1, y1, x2, y2),) = drawn(markup, "curve again0")
    expected = [100 * 0.03 / 1.06, 100 * 1.04 / 1.08, 100 * 1.03 / 1.06, 100 * 0.04 / 1.08]
    assert [float(one) for one in (x1, y1, x2, y2)] == pytest.approx(expected, abs=0.01)
    ((x1, y1, x2, y2),) = drawn(markup, "curve level")
    assert (float(x1), float(y1), float(x2), float(y2)) == (pytest.approx(2.83), 50.0, 100.0, 50.0)


def test_seconds_are_marked_at_powers_of_ten():
    curves = {"a": [plots.Place(1, 0, 0, 0), plots.Place(10, 1, 1, 1), plots.Place(1000, 1, 1, 1)]}
    markup = str(plots.learning_curves(curves, {"a": 0}, logarithmic=True))
    assert re.findall(r'y="20" class="middle">([\d,]+)<', markup) == ["1", "10", "100", "1,000"]
    (first, second) = drawn(markup, "curve again0")
    assert float(second[2]) - float(second[0]) == pytest.approx(2 * (float(first[2]) - float(first[0])), abs=0.03)


def test_eight_strategies_differ_in_colour_shape_or_dash():
    names = [str(n) for n in range(8)]
    assert len({str(plots.key(n)) for n in range(8)}) == 8
    markup = str(
        plots.learning_curves(
            {name: [plots.Place(0, 0, 0, 0), plots.Place(1, 1, 1, 1)] for name in names}, dict(zip(names, range(8), strict=True))
        )
    )
    assert markup.count("curve again0") == markup.count("curve again1") == 4


def test_the_page_of_a_study_shows_the_chosen_plan_and_what_was_forgotten(tmp_path):
    result = images_result()
    result.plan = {"groups": ["stem", "pool"], **asdict(make_plan("lp_ft", 2, 4, 1e-3))}
    change = {"effect": -0.2, "interval": (-0.3, -0.1), "p": 0.01, "n": 50, "test": "t"}
    result.keep = {
        "data": "cars", "metric": "accuracy", "n_train": 40, "n_test": 50, "judged_on": "5-fold", "retrained": True,
        "sentence": "On cars: less.",
        "before": around(0.9), "same_head": {**around(0.7), "change": change}, "new_head": {**around(0.8), "change": change},
    }  # fmt: skip
    write_report(result, tmp_path / "report.html")
    reader = Reader((tmp_path / "report.html").read_text("utf-8"))
    assert reader.sections.index("keep") == reader.sections.index("labels") + 1
    assert "On cars: less." in reader.words and "change −0.200, −0.300 to −0.100" in reader.words
    assert "The plan of lp_ft" in reader.words and "its optimum is solved for, and its epochs go to the next phase" in reader.words
