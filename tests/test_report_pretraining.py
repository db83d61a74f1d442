"""The page and the card of a pretraining: what they say of each outcome, that every number is there, that nothing breaks out of it."""

import re
from dataclasses import replace

import pytest

from graft.records import Pretraining
from graft.report import pretraining, pretraining_card, write_pretraining


def rows(ranks=(12.0, 20.0, 30.5)):
    looked = [{"epoch": 0, "seconds": 0.0, "loss": None, "effective_rank": ranks[0], "spread": 0.4, "knn": 0.5}]
    for epoch, rank in enumerate(ranks[1:], 1):
        looked.append({"epoch": epoch, "seconds": 61.5 * epoch, "loss": 3.0 / epoch, "effective_rank": rank, "spread": 0.4, "knn": 0.6})
    return looked


def verdict(outcome, effect, interval):
    return {"outcome": outcome, "effect": effect, "interval": interval, "against": "the start", "n": 300, "test": "paired bootstrap"}


HELPED = {
    "data": "photos",
    "metric": "accuracy",
    "why": "no class is large",
    "n": 300,
    "n_fitted": 900,
    "start": {"score": 0.61, "interval": (0.55, 0.66)},
    "result": {"score": 0.702, "interval": (0.65, 0.75)},
    "verdict": verdict("helps", 0.092, (0.05, 0.134)),
}


def record(**changes):
    plain = Pretraining(
        data="photos/",
        modality="image",
        n_items=4321,
        method="simclr",
        source="Chen et al. 2020",
        start="untrained:timm:resnet18@96px",
        teachers=[],
        licence="",
        pretrained_on="4,321 images of photos (simclr)",
        parameters=11_176_512,
        width=512,
        epochs=2,
        planned_epochs=2,
        batch_size=256,
        rate=0.002,
        seconds=200.0,
        training_seconds=123.0,
        watched=rows(),
        n_seen=300,
        collapse={},
        helped=HELPED,
        fingerprint="0123456789abcdef",
        seeds=[0],
        versions={"graft": "0.1.0"},
        notes=["labels: by folder"],
        command="graft pretrain photos/ --out backbones/photos",
    )
    return replace(plain, **changes)


def words_of(page):
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", "", page, flags=re.DOTALL).replace("\xa0", " ").split())


@pytest.mark.parametrize(
    ("helped", "headline", "sentence"),
    [
        (HELPED, "It helped.", "It helps: on 300 images that were held out a probe on the features reaches 0.702 accuracy, 0.610 on"),
        (HELPED | {"verdict": verdict("hurts", -0.1, (-0.2, -0.01))}, "It hurt.", "It hurts: on 300 images"),
        (
            HELPED | {"verdict": verdict("no difference shown", 0.01, (-0.02, 0.04))},
            "No difference shown.",
            "No difference is shown: on 300",
        ),
        ({}, "Pretrained with simclr.", "Whether it helped is not known, as there were no labels to judge on"),
    ],
)
def test_the_page_opens_with_whether_it_helped(helped, headline, sentence):
    page = words_of(pretraining.render(record(helped=helped)))
    assert headline in page and sentence in page and sentence in pretraining_card(record(helped=helped))


def test_every_number_is_on_the_page(tmp_path):
    write_pretraining(record(), tmp_path / "report.html")
    page = words_of((tmp_path / "report.html").read_text("utf-8"))
    for said in ("4,321 images", "2 epochs", "batches of 256, rate 0.002", "3 min 20 s", "11.2 million", "512 numbers", "0123456789abcdef"):
        assert said in page
    assert "+0.050 to +0.134" in page and "graft pretrain photos/ --out backbones/photos" in page


def test_the_course_is_drawn_against_seconds():
    page = pretraining.render(record())
    for label in ("effective rank: from 12.0 to 30.5", "neighbours of the same class: from 0.500 to 0.600", "loss: from 3.000 to 1.500"):
        assert label in page
    unlabelled = [{**row, "knn": None} for row in rows()]
    assert "neighbours of the same class" not in pretraining.render(record(watched=unlabelled, helped={}))


@pytest.mark.parametrize(
    ("at_the_end", "headline", "said"), [(True, "It collapsed.", "are at the end"), (False, "It helped.", "recovered")]
)
def test_collapse_is_said_first(at_the_end, headline, said):
    collapse = {"epoch": 3, "words": "features fill 1.1 directions, 12.0 at the start", "at_the_end": at_the_end}
    collapsed = record(collapse=collapse)
    page = words_of(pretraining.render(collapsed))
    assert headline in page and "collapsed in epoch 3" in page and said in page
    assert said in pretraining_card(collapsed)


def test_an_interrupted_one_says_so():
    text = "interrupted: 1 of 2 epochs were played; the same command goes on"
    page = words_of(pretraining.render(record(epochs=1, interrupted=text)))
    assert "Interrupted: 1 of 2 epochs" in page and "1 epoch of 2" in page
    assert text in pretraining_card(record(interrupted=text))


def test_the_card_tells_licence_and_what_it_saw():
    card = pretraining_card(record(licence="apache-2.0", teachers=["timm:resnet50"]))
    front = card.split("---")[1]
    assert 'license: "apache-2.0"' in front and "- pretraining" in front
    for said in (
        "pretrained on: 4,321 images of photos (simclr)",
        "teacher: `timm:resnet50`",
        "highest rate 0.002, seed 0",
        "| 2 | 123 | 1.500 | 30.5 |",
    ):
        assert said in card
    assert "license: other" in pretraining_card(record())


def test_a_long_course_is_told_by_its_first_its_last_and_some_between():
    card = pretraining_card(record(watched=rows([1.5 + k for k in range(200)])))
    epochs = [int(line.split("|")[1]) for line in card.splitlines() if re.match(r"\| \d", line)]
    assert len(epochs) == 12 and epochs[0] == 0 and epochs[-1] == 199


def test_nothing_breaks_out_of_the_page():
    page = pretraining.render(record(data="<script>alert(1)</script>", notes=["<b>bold</b>"], start="<i>x</i>"))
    assert "<script" not in page and "<b>bold" not in page and "<i>x" not in page
