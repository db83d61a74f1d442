"""The page: complete, self-contained, deaf to hostile names, on made-up results of every kind."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from report_samples import RESULTS, around, empty_result, images_result, picture, regression_result, texts_result

from graft.records import Mistake, Result
from graft.report import write_report


def mistakes_for(result):
    if result.modality == "image":
        return [Mistake(f"val/{n}.jpg", "ants", "bees", 0.9 - n / 100, image=picture(n)) for n in range(14)]
    probability = None if result.task == "regression" else 0.98
    return [Mistake("row 17", "card_arrival", "pin_limit", probability, text="wheres my   card???")]


@pytest.fixture(params=RESULTS)
def result(request):
    return RESULTS[request.param]()


@pytest.fixture
def page(result, tmp_path):
    write_report(result, tmp_path / "report.html", mistakes=mistakes_for(result))
    return (tmp_path / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Collects what a browser would see: tags with their attributes, ids, visible text; complains of unclosed tags."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(page)
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"closed out of order: {tag}"

        if tag in ("td", "th"):
            self.text.append(" ")

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)

    @property
    def words(self):
        return " ".join("".join(self.text).replace("\xa0", " ").split())

    @property
    def sections(self):
        return [attributes["id"] for tag, attributes in self.tags if tag == "section"]


def read(result, tmp_path, **options):
    write_report(result, tmp_path / "report.html", **options)
    return Reader((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_the_page_is_whole_html_and_loads_nothing(page):
    reader = Reader(page)
    for tag, attributes in reader.tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    assert "url(" not in page and "@import" not in page
    assert re.findall(r"https?://[^\s\"<]*", page) == []


def test_the_page_forbids_the_browser_to_load_anything(page):
    policies = [a["content"] for tag, a in Reader(page).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]


def test_the_page_holds_no_undefined_or_nan(page):
    words_read = Reader(page).words.lower()
    for slip in ("nan", "undefined", "none to", " inf"):
        assert slip not in words_read.replace("finance", ""), slip
    assert "nan%" not in page and "inf%" not in page


def test_a_full_study_has_every_section_in_order(tmp_path):
    reader = read(images_result(), tmp_path, mistakes=mistakes_for(images_result()))
    assert reader.sections == ["comparison", "labels", "classes", "mistakes", "data", "choice", "weights", "repeat"]


def test_a_bare_study_leaves_out_what_it_has_not(tmp_path):
    assert read(empty_result(), tmp_path).sections == ["comparison", "data", "weights", "repeat"]


@pytest.mark.parametrize(
    ("make", "headline", "difference", "advice"),
    [
        (
            images_result,
            "Transfer helps.",
            "The difference is +0.190, with a 95 % interval of +0.124 to +0.261.",
            "Ship the transferred model.",
        ),
        (
            texts_result,
            "No difference shown.",
            "The difference is +0.004, with a 95 % interval of −0.006 to +0.013.",
            "cannot tell the two apart",
        ),
        (
            regression_result,
            "Transfer hurts.",
            "The difference is −18,114, with a 95 % interval of −20,500 to −15,700.",
            "gradient boosting serves better",
        ),
    ],
)
def test_the_verdict_comes_first_and_says_what_to_do(make, headline, difference, advice, tmp_path):
    said = read(make(), tmp_path).words
    assert headline in said and difference in said and advice in said
    assert said.index(headline, len(make().data) + 25) < said.index("With and without transfer")


def test_every_number_of_the_result_is_on_the_page(tmp_path):
    said = read(images_result(), tmp_path).words
    for expected in ("0.974", "0.941 to 0.994", "0.745", "0.784", "0.967", "244 and 153 images", "3 min 7 s", "seeds 0, 1", "torch 2.13.0"):
        assert expected in said, expected
    for expected in (
        "Apache-2.0",
        "ImageNet-1k",
        "2.22 million parameters",
        "the given test split",
        "paired bootstrap over items, n = 153",
    ):
        assert expected in said, expected
    assert images_result().command in said


def test_findings_come_worst_first_with_their_items_named(tmp_path):
    said = read(images_result(), tmp_path).words
    assert said.index("2 files could not be read") < said.index("3 pairs of near-duplicates") < said.index("the largest class")
    assert "train/ants/broken.jpg, train/bees/half.jpg" in said
    assert "train/ants/11.jpg = val/ants/11.jpg, and 3 more" in said


def test_few_classes_get_a_matrix_and_many_the_worst_pairs(tmp_path):
    few = read(images_result(), tmp_path)
    cells = [attributes for tag, attributes in few.tags if tag == "td" and "--share" in attributes.get("style", "")]
    assert [cell["style"] for cell in cells] == ["--share: 98.6", "--share: 1.4", "--share: 3.6", "--share: 96.4"]
    many = texts_result()
    confusion = np.array(many.confusion)
    np.fill_diagonal(confusion, 0)
    reader = read(many, tmp_path)
    assert not [tag for tag, attributes in reader.tags if "matrix" in attributes.get("class", "")]
    first = re.search(r"was called\s*times\s*(\S+)\s+(\S+)\s+(\d+) of (\d+)", reader.words)
    assert int(first[3]) == confusion.max() == confusion[many.classes.index(first[1]), many.classes.index(first[2])]
    assert int(first[4]) == sum(many.confusion[many.classes.index(first[1])])


def test_a_class_without_held_out_items_does_not_divide_by_zero(tmp_path):
    said = read(replace(images_result(), confusion=[[5, 2], [0, 0]]), tmp_path)
    assert [a["style"] for t, a in said.tags if "--share" in a.get("style", "")][2:] == ["--share: 0.0", "--share: 0.0"]


def test_classes_are_listed_weakest_first(tmp_path):
    said = read(texts_result(), tmp_path).words
    table = said[said.index("The 77 classes, the weakest first") :]
    order = sorted(texts_result().per_class, key=lambda row: row["f1"])
    assert table.index(order[0]["class"]) < table.index(order[-1]["class"])


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_thumbnails_are_small_jpegs_inside_the_page(mode, tmp_path):
    reader = read(images_result(), tmp_path, mistakes=[Mistake("a.png", "ants", "bees", 0.9, image=picture(mode=mode))])
    (image,) = [attributes["src"] for tag, attributes in reader.tags if tag == "img"]
    assert image.startswith("data:image/jpeg;base64,")
    assert len(image) < 12_000


def test_a_thumbnail_leaves_the_image_of_the_caller_alone(tmp_path):
    image = picture()
    read(images_result(), tmp_path, mistakes=[Mistake("a.png", "ants", "bees", 0.9, image=image)])
    assert image.size == (640, 480)


def test_mistakes_are_told_in_words(tmp_path):
    said = read(texts_result(), tmp_path, mistakes=[Mistake("row 17", "arrival", "limit", 0.976, text="wheres my card???")]).words
    assert "wheres my card??? is arrival, called limit (98 % sure) row 17" in said
    said = read(regression_result(), tmp_path, mistakes=[Mistake("row 9", "21000", "93000", text="rooms: 9")]).words
    assert "rooms: 9 is 21000, predicted 93000 row 9" in said


HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>" style="background:url(http://evil.example/a)'


def test_hostile_names_stay_text(tmp_path):
    base = images_result()
    result = replace(
        base,
        data=HOSTILE,
        backbone=HOSTILE,
        strategy=HOSTILE,
        classes=[HOSTILE, "b"],
        command=HOSTILE,
        notes=[HOSTILE],
        judged_on=HOSTILE,
        controls={HOSTILE: {**around(0.5), "note": HOSTILE}},
        verdict={**base.verdict, "against": HOSTILE, "test": HOSTILE},
        candidates=[{"backbone": HOSTILE, "strategy": HOSTILE, **around(0.5), "seconds": 1.0}],
        ranking=[{"backbone": HOSTILE, **around(0.5), "seconds": 1.0}],
        findings=[{"kind": "leak", "severity": "warning", "message": HOSTILE, "items": (HOSTILE,)}],
        per_class=[{"class": HOSTILE, "precision": 1.0, "recall": 1.0, "f1": 1.0, "n": 1}],
        label_curve={"sentence": HOSTILE, "curves": {HOSTILE: [{"n": 10, **around(0.5)}]}},
        weights=[{"backbone": HOSTILE, "licence": HOSTILE, "pretrained_on": HOSTILE, "parameters": 1, "fingerprint": HOSTILE}],
        versions={HOSTILE: HOSTILE},
    )
    mistakes = [Mistake(HOSTILE, HOSTILE, HOSTILE, 0.5, text=HOSTILE, image=picture())]
    reader = read(result, tmp_path, mistakes=mistakes, fold_scores={HOSTILE: [0.4, 0.6]})
    assert {tag for tag, _ in reader.tags}.isdisjoint({"script", "iframe"})
    assert all(attributes["src"].startswith("data:") for tag, attributes in reader.tags if tag == "img")
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    assert not [attributes["style"] for _, attributes in reader.tags if "url(" in attributes.get("style", "")]
    assert reader.words.count("<script>alert") > 15


def test_folds_are_drawn_behind_the_intervals(tmp_path):
    folds = {"transfer": [0.9, 1.0, 0.95], "from scratch": [0.7, 0.75]}
    reader = read(images_result(), tmp_path, fold_scores=folds)
    assert len([tag for tag, attributes in reader.tags if attributes.get("class") == "fold"]) == 5
    assert "single folds" in reader.words


def test_what_was_not_measured_is_left_out_of_the_plots(tmp_path):
    gap = {"score": math.nan, "interval": (math.nan, math.nan)}
    base = images_result()
    result = replace(
        base,
        controls={"from scratch": gap, "baseline": around(0.7)},
        verdict={**base.verdict, "effect": math.nan, "interval": (math.nan, math.nan)},
        label_curve={
            "sentence": "",
            "curves": {"transfer": [{"n": 10, **gap}, {"n": 20, **around(0.9)}], "from scratch": [{"n": 10, **gap}]},
        },
    )
    reader = read(result, tmp_path)
    assert not [a for _, a in reader.tags for value in a.values() if value and "nan" in value]
    assert "The difference is –, no interval." in reader.words


def test_the_page_replaces_an_older_one_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "runs" / "report.html"
    write_report(empty_result(), path)
    write_report(images_result(), path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert "Transfer helps." in path.read_text(encoding="utf-8")


def test_a_failed_page_leaves_the_older_one(tmp_path):
    path = tmp_path / "report.html"
    write_report(images_result(), path)
    before = path.read_bytes()
    with pytest.raises(KeyError, match="outcome"):
        write_report(replace(images_result(), verdict={}), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_the_same_result_gives_the_same_page(tmp_path):
    write_report(images_result(), tmp_path / "a.html", mistakes=mistakes_for(images_result()))
    write_report(images_result(), tmp_path / "b.html", mistakes=mistakes_for(images_result()))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_a_result_read_back_from_json_gives_the_same_page(result, tmp_path):
    again = Result(**json.loads(json.dumps(result.to_dict())))
    write_report(result, tmp_path / "a.html")
    write_report(again, tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
