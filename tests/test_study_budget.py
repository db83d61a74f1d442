"""What a budget buys a study: refused where it is too small, random views counted, and said where nothing is left for retraining."""

import re
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_study import table

from graft.backbones import load_backbone
from graft.data import load
from graft.errors import GraftError
from graft.records import Epoch
from graft.study import run, times
from graft.study.controls import Scratch
from graft.study.material import Material

pytestmark = pytest.mark.usefixtures("quick_studies")


def test_a_budget_too_small_is_refused_with_the_smallest_that_works():
    with pytest.raises(
        GraftError, match=r"budget 0\.01s: 40 items at tiny:text \d+ items/s.* The smallest that works is about --budget (\d+)s"
    ):
        run(table(40), backbone="tiny:text", budget=0.01)


def test_a_budget_too_small_for_the_only_strategy_named_is_refused_with_the_smallest_that_works(monkeypatch):
    monkeypatch.setattr(times, "training_speed", lambda *_: 10.0)
    # Six fits of ten epochs of 40 items at 10 a second, and 1.43 times that from scratch.
    with pytest.raises(
        GraftError, match=r"budget 60s: 50 items .* and 6 fits of full, take about 58\d s .*--budget (6[45]\d)s; .*--strategy auto\."
    ) as found:
        run(table(50), backbone="tiny:text", strategy="full", budget="60s")
    least = float(re.search(r"--budget (\d+)s", str(found.value))[1])
    material = Material(load(table(50)), {"tiny:text": load_backbone("tiny:text")}, "accuracy", 0)
    for strategies, budget in ((["full"], least), (["full", "feature_extraction"], 60.0), (["full", "auto"], 60.0)):
        times.Clock(material, budget, time.perf_counter(), 40, 6, {"strategies": strategies}).refuse_too_little()


@pytest.mark.parametrize(("modality", "passes"), [("image", 4), ("text", 1)])
def test_random_views_that_a_named_strategy_reads_are_counted(modality, passes, tmp_path):
    """Texts have none."""
    for place in range(8):
        path = tmp_path / f"class{place % 2}" / f"{place}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (20 * place, 0, 0)).save(path)
    name, data = f"tiny:{modality}", load(tmp_path if modality == "image" else table(8))
    material = Material(data, {name: load_backbone(name)}, "accuracy", 0)
    material.extraction_seconds = {name: 100.0}

    def clock(*strategies):
        return times.Clock(material, 2000.0, time.perf_counter(), 10, 6, {"strategies": [*strategies]})

    assert clock("feature_extraction").extraction() == clock("auto").extraction() == 100
    assert clock("feature_extraction", "views").extraction() == 100 * passes
    assert f"items/s {100 * passes} s; heads" in clock("views").words(plays=4)


@pytest.mark.parametrize(("budget", "why"), [("30s", "of the budget of 30 s too little is left"), (None, "there is no budget")])
def test_why_auto_retrains_nothing_tells_a_budget_that_is_too_small_from_none(budget, why, monkeypatch):
    monkeypatch.setattr(times, "_LEAST_FIT", 1e6)
    # Labels drawn at random: enough held-out answers are wrong to go on.
    frame = table(60, split=True).assign(label=np.random.default_rng(0).choice(["fruit", "metal"], 60))
    study = run(frame, backbone="tiny:text", budget=budget)
    (note,) = [note for note in study.notes if note.startswith("auto ")]
    assert f": {why} " in note and note.endswith(
        "find out whether retraining pays." if budget else "for finding out whether retraining pays."
    )
    assert study.model.climb_.why in note


@pytest.mark.parametrize(
    ("budget", "attempt_seconds", "tried"), [(40.0, 25.0, 1), (40.0, 8.0, 2), (40.0, 2.0, 5), (None, 25.0, 3), (None, 2.0, 5)]
)
def test_no_rate_is_begun_from_scratch_when_the_time_of_a_budget_is_up(monkeypatch, budget, attempt_seconds, tried):
    """Ten seconds are planned for three rates. Without a budget all of them are tried, however long they take."""
    seconds, played = [0.0], []

    def fit(self, attempt, index, epochs):
        played.append(attempt)
        seconds[0] += attempt_seconds
        return SimpleNamespace(lr_=attempt, history_=[Epoch(0, 0, 1.0, attempt / 10, 1.0)], predict_outputs=lambda items: attempt)

    monkeypatch.setattr(Scratch, "_fit", fit)
    material = SimpleNamespace(now=lambda: seconds[0], items=lambda index: index, target=np.zeros(4))
    clock, plan = times.Clock(material, budget, 0.0, 4, 2, {}), times.ScratchPlan(10.0, 2, 3, 2, 40)
    first = Scratch(clock, "any", plan)
    assert first.fit_and_predict(np.arange(4), np.arange(4)) == tried - 1
    assert played == list(range(tried)) and first.rates == [tried] and first.seconds == tried * attempt_seconds >= 10.0
    # The same call on a machine that is faster or slower by now, on which four would be tried.
    played.clear()
    attempt_seconds = 3.0
    again = Scratch(clock, "any", plan)
    assert again.fit_and_predict(np.arange(4), np.arange(4)) == tried - 1 and played == list(range(tried))
