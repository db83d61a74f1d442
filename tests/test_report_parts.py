"""What the page is made of: plots, words, and the model card."""

import math
from dataclasses import replace

import numpy as np
import pytest
from adaptation_samples import ADAPTATIONS, empty_adaptation, images_adaptation, source_only_adaptation, texts_adaptation
from report_samples import RESULTS, images_result

from graft.report import adaptation_card, model_card, plots, words


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.66, 1.01, [0.7, 0.8, 0.9, 1.0]),
        (-6e-3, 0.013, [-0.005, 0, 0.005, 0.01]),
        (32000, 64000, [40000, 50000, 60000]),
    ],
)
def test_ticks_are_round_and_within(low, high, expected):
    assert plots.ticks(low, high, at_most=6 if low == 0 else 5) == pytest.approx(expected)


def test_ticks_are_few_round_and_inside_whatever_the_range():
    rng = np.random.default_rng(0)
    for low, width in zip(rng.normal(0, 100, 300), 10 ** rng.uniform(-6, 6, 300), strict=True):
        stops = plots.ticks(low, low + width)
        assert 1 <= len(stops) <= 5
        assert low - 1e-9 * width <= stops[0] and stops[-1] <= low + width * (1 + 1e-9)
        assert len(set(plots.tick_text(stops))) == len(stops)


def test_a_point_lies_where_its_value_is():
    scale = plots.Scale([0.0, 1.0], room=0.0)
    assert [scale(0.0), scale(0.25), scale(1.0)] == [0.0, 25.0, 100.0]
    assert plots.Scale([0.5, math.nan]).low < 0.5 < plots.Scale([0.5]).high


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.97449, "0.974"), (-0.0001, "0.000"), (-0.5, "−0.500"), (12.345, "12.3"), (51234.5, "51,234"), (math.nan, "–"), (None, "–")],
)
def test_numbers_are_written_for_reading(value, text):
    assert words.number(value) == text


@pytest.mark.parametrize(("value", "text"), [(0.19, "+0.190"), (0.0, "0.000"), (0.0001, "0.000"), (-0.1, "−0.100"), (18000.0, "+18,000")])
def test_differences_show_their_sign(value, text):
    assert words.signed(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.44, "0.4 s"), (9.96, "10 s"), (42, "42 s"), (59.7, "1 min"), (190, "3 min 10 s"), (3599.6, "1 h"), (3900, "1 h 5 min")],
)
def test_times_are_written_for_reading(seconds, text):
    assert words.duration(seconds) == text


def test_long_texts_are_cut_at_a_word():
    assert words.shorten("one two\n three", 100) == "one two three"
    assert words.shorten("one two three", 9) == "one two…"
    assert words.shorten("x" * 30, 9) == "x" * 9 + "…"


def test_long_names_break_behind_their_separators_only():
    assert words.breakable("timm:a_b<c>/") == "timm:<wbr>a_<wbr>b&lt;c&gt;/"


def front_matter(card):
    """The card's front matter, read by YAML where it is installed."""
    yaml = pytest.importorskip("yaml")
    empty, head, body = card.split("---\n", 2)
    assert empty == ""
    return yaml.safe_load(head), body


def test_the_card_tells_the_verdict_the_scores_and_the_licence():
    head, body = front_matter(model_card(images_result()))
    assert head["license"] == "apache-2.0"
    assert head["library_name"] == "graft"
    assert head["pipeline_tag"] == "image-classification"
    assert head["metrics"] == ["accuracy"]
    assert head["model-index"][0]["results"][0]["metrics"] == [{"type": "accuracy", "value": 0.974}]
    assert "base_model" not in head
    assert "**Helps.**" in body and "+0.190 accuracy" in body and "+0.124 to +0.261" in body
    assert "| from scratch (control) | 0.745 | 0.675 to 0.815 |" in body
    assert "`ants`, `bees`" in body and 'graft.Transfer.load("model/")' in body


@pytest.mark.parametrize("name", RESULTS)
def test_every_result_has_a_readable_card(name):
    head, body = front_matter(model_card(RESULTS[name]()))
    assert head["license"] and "## Did transfer help?" in body


@pytest.mark.parametrize(
    ("backbone", "base"),
    [
        ("sentence:minilm", "sentence-transformers/all-MiniLM-L6-v2"),
        ("hf:google/vit-base-patch16-224", "google/vit-base-patch16-224"),
        ("hf:./local/folder", None),
        ("timm:resnet18.a1_in1k", "timm/resnet18.a1_in1k"),
        ("timm:resnet18", None),
        ("checkpoint:weights/x", None),
    ],
)
def test_the_card_names_a_base_model_only_where_the_hub_has_one(backbone, base):
    head, _ = front_matter(model_card(replace(images_result(), backbone=backbone)))
    assert head.get("base_model") == base
    assert (head["license"], head.get("license_name")) == ("other", "unknown")


def test_hostile_names_do_not_break_the_front_matter():
    name = 'a: "b"\n---\n- `c` | d'
    head, body = front_matter(model_card(replace(images_result(), data=name, classes=[name, "e"])))
    assert head["model-index"][0]["name"] == name
    assert "`a: \"b\" --- - 'c' | d`" in body


def test_the_card_of_an_adapted_model_says_from_what_to_what_and_what_to_expect():
    head, body = front_matter(adaptation_card(texts_adaptation()))
    assert "Adapted from demo/mail.csv to demo/chat.csv with coral (strength 0.5)." in body
    assert (
        "No label of the target was read for it: it was chosen among 5 candidates by what they say about 3,100 texts of the target." in body
    )
    assert "accuracy on the target: 0.742, 90 % interval 0.701 to 0.783; of the source-only model: 0.655" in body
    assert "- for: The expected gain's interval lies above zero." in body
    assert "Checked" not in body
    # An estimate is no measured score.
    assert "model-index" not in head and "domain-adaptation" in head["tags"]


def test_the_card_says_which_target_labels_were_read():
    head, body = front_matter(adaptation_card(images_adaptation()))
    assert "No label of the target was read for it but those given for 200 images: it was chosen among 5 candidates" in body
    assert "Checked on 200 images of the target" in body and "The choice could see these labels." in body
    assert "model-index" not in head


def test_the_card_says_that_the_source_only_model_is_kept():
    _, body = front_matter(adaptation_card(source_only_adaptation()))
    assert "The source-only model of demo/mail.csv is kept for demo/chat.csv" in body


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_every_adaptation_has_a_readable_card(name):
    head, body = front_matter(adaptation_card(ADAPTATIONS[name]()))
    assert head["license"] and "## Adapted to another domain" in body and "nan" not in body


def test_hostile_names_of_domains_do_not_break_the_card():
    name = 'a: "b"\n---\n- `c` | d'
    made = replace(images_adaptation(), source=name, target=name, method=name)
    head, body = front_matter(adaptation_card(made))
    assert head["library_name"] == "graft" and "\\| d" in body and name not in body
    card = adaptation_card(empty_adaptation())
    assert "nothing honest can be said" in card and "No label of the target was read for it.\n" in card
