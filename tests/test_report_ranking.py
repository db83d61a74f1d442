"""The page of a ranking: what it says, that it is whole, and where its dots stand."""

import re

import pytest

from graft.report import plots, write_ranking
from graft.report.ranking import render

HOSTILE = "<script>alert(1)</script>"


def row(name, predicted, group=1, **more):
    about = {"backbone": name, "predicted": predicted, "score": predicted, "interval": (predicted - 0.1, predicted + 0.1), "group": group}
    costs = {"extract_seconds": 1.0, "train_seconds": 95.0, "serve_ms": 2.5, "seconds": 3.0, "parameters": 1_500_000, "licence": "mit"}
    return {**about, **costs, "cross_validated": predicted, "n": 100, "p_best": 0.4, "loss": 0.012, "scores": {"logme": 0.25}, **more}


def numbers(**more):
    rows = [row("timm:a", 0.9), row("timm:b", 0.8), row("timm:c", 0.5, group=None, n=50, scores={}, licence="")]
    about = {"data": "flowers", "task": "classification", "modality": "image", "metric": "accuracy", "n": 100, "seconds": 5.0, "seed": 0}
    told = {"ranking": rows, "recommended": "timm:b", "basis": "the cross-validated accuracy", "notes": ["dropped on 50"], "check": {}}
    return {**about, **told, "command": "graft rank flowers", **more}


CHECK = {
    "strategy": "lp_ft", "n": 30, "best": "timm:a", "correlation": 0.5, "correlation_interval": (-0.1, 0.8), "regret": 0.07,
    "regret_interval": (-0.02, 0.16), "seconds_all": 100.0, "seconds_trusted": 40.0, "saved": 0.6,
    "candidates": [
        {"backbone": "timm:a", "predicted": 0.9, "score": 0.85, "interval": (0.8, 0.9), "seconds": 50.0},
        {"backbone": "timm:b", "predicted": 0.8, "score": 0.78, "interval": (0.7, 0.9), "seconds": 50.0},
    ],
}  # fmt: skip


def words(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page.replace("<wbr>", "")).replace("&nbsp;", " "))


def test_the_page_says_what_to_start_from_and_why(tmp_path):
    write_ranking(numbers(), tmp_path / "new" / "rank.html")
    page = words((tmp_path / "new" / "rank.html").read_text())
    assert "Start from timm:b." in page and "It is one of 2 that these images cannot tell apart" in page
    assert "It is cheaper than timm:a, the first, and expected to lose 0.012 by that." in page
    assert "group 1, recommended" in page and "dropped on 50 items" in page and "best: 40%" in page
    assert "1 min 35 s" in page and "1.50 M" in page and "unknown" in page and "It rests on the cross-validated accuracy." in page
    assert "Was it right?" not in page


def test_a_leader_that_is_recommended_is_not_called_cheaper():
    page = words(render(numbers(recommended="timm:a")))
    assert "It is the first of 2 that these images cannot tell apart" in page and "cheaper" not in page


def test_a_single_leader_is_ahead_of_the_others():
    rows = [row("timm:a", 0.9), row("timm:b", 0.5, group=2)]
    assert "It is ahead of each of the others." in words(render(numbers(ranking=rows, recommended="timm:a")))
    assert "ahead" not in words(render(numbers(ranking=rows[:1], recommended="timm:a")))


def test_the_check_stands_beside_the_prediction():
    page = words(render(numbers(check=CHECK)))
    assert "+0.500, 95 % interval −0.100 to +0.800" in page and "0.070, 95 % interval −0.020 to +0.160" in page
    assert "took 40 s, fine-tuning all 1 min 40 s: 60 % saved" in page


def test_a_check_that_tells_nothing_and_saves_nothing_says_so():
    page = words(render(numbers(check=CHECK | {"correlation": None, "correlation_interval": None, "saved": -5.34})))
    assert "There is no rank correlation to tell: all were predicted, or reached, the same." in page
    assert "fine-tuning all 1 min 40 s: nothing saved." in page and "534" not in page


def test_the_page_loads_nothing_and_escapes_names():
    page = render(numbers(data=HOSTILE, notes=[HOSTILE], command=HOSTILE, ranking=[row(HOSTILE, 0.5)], recommended=HOSTILE))
    assert HOSTILE not in page and "&lt;script&gt;" in page
    assert not re.findall(r"""(?:src|href)=["']?https?:""", page)


def test_a_dot_on_the_line_reached_what_was_predicted():
    drawn = str(plots.predicted_and_true([{"backbone": "a", "predicted": 0.5, "score": 0.5, "interval": (0.25, 1.0)}], "a"))
    x, y = map(float, re.search(r'<svg x="([\d.]+)%" y="([\d.]+)%" overflow="visible"><path', drawn).groups())
    # The line goes from the lower left corner to the upper right one: x = 100 - y.
    assert x == pytest.approx(100 - y)
    assert "a: predicted 0.500, reached 0.500" in drawn and 'class="s0"' in drawn
