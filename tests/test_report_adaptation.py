"""The page of an adaptation: complete, self-contained, deaf to hostile names, true to its record, on made-up adaptations of every kind."""

import html
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from adaptation_samples import (
    ADAPTATIONS,
    checked_source_only_adaptation,
    empty_adaptation,
    hurt_adaptation,
    images_adaptation,
    items_of,
    many_candidates_adaptation,
    many_classes_adaptation,
    regression_adaptation,
    source_only_adaptation,
    texts_adaptation,
)
from report_samples import picture
from test_report import HOSTILE, Reader

from graft.records import Adaptation, Mistake
from graft.report import domains, sentences, write_adaptation
from graft.report.adaptation import render


@pytest.fixture(params=ADAPTATIONS)
def adaptation(request):
    return ADAPTATIONS[request.param]()


def read(adaptation, items=None):
    return Reader(render(adaptation, items_of(adaptation) if items is None else items))


def test_the_page_is_whole_html_and_loads_nothing(adaptation, tmp_path):
    write_adaptation(adaptation, tmp_path / "new" / "report.html", label_next=items_of(adaptation))
    page = (tmp_path / "new" / "report.html").read_text("utf-8")
    for tag, attributes in Reader(page).tags:
        assert tag not in ("script", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    assert "url(" not in page and "@import" not in page
    assert re.findall(r"https?://[^\s\"<]*", page) == []


def test_the_page_holds_no_undefined_or_nan(adaptation):
    said = read(adaptation).words.lower()
    for slip in ("nan", "undefined", " none", " inf"):
        assert slip not in said, slip


def test_what_is_drawn_can_be_heard(adaptation):
    for tag, attributes in read(adaptation).tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg" and "overflow" not in attributes:
            assert attributes.get("aria-hidden") == "true" or (attributes["role"] == "img" and attributes["aria-label"])
        if attributes.get("class", "").startswith("scroll"):
            assert attributes["tabindex"] == "0" and attributes["aria-label"]


def test_a_record_read_back_from_json_gives_the_same_page(adaptation):
    again = Adaptation(**json.loads(json.dumps(adaptation.to_dict())))
    assert render(again) == render(adaptation)


SECTIONS = ["estimate", "guard", "distance", "shift", "classes", "map", "candidates", "next", "data", "repeat"]


@pytest.mark.parametrize(
    ("make", "without"),
    [
        (texts_adaptation, set()),
        (images_adaptation, set()),
        (source_only_adaptation, set()),
        (regression_adaptation, {"estimate", "classes"}),
        (empty_adaptation, set(SECTIONS) - {"data", "repeat"}),
    ],
)
def test_the_page_has_the_sections_that_the_record_has_in_order(make, without):
    assert read(make()).sections == [name for name in SECTIONS if name not in without]


@pytest.mark.parametrize(
    ("field", "section"),
    [
        ("reasons", "guard"),
        ("distances", "distance"),
        ("shift", "shift"),
        ("moved", "classes"),
        ("map", "map"),
        ("candidates", "candidates"),
        ("label_next", "next"),
        ("estimate", "estimate"),
    ],
)
def test_each_empty_field_takes_its_section_with_it(field, section):
    bare = replace(texts_adaptation(), **{field: type(getattr(texts_adaptation(), field))()})
    assert read(bare).sections == [name for name in SECTIONS if name != section]


def test_the_answer_comes_first_beside_source_only():
    said = read(texts_adaptation()).words
    assert "Adapted with coral." in said
    answer = "Expected accuracy on the target: 0.742, 90 % interval 0.701 to 0.783; of the source-only model: 0.655, 0.610 to 0.700."
    assert answer in said and said.index(answer) < said.index("What to expect on the target")
    assert "The gain is expected to be +0.087, 90 % interval +0.021 to +0.153." in said
    assert "Labels for a few of them turn it into a measurement" in said and "Checked" not in said


def test_source_only_kept_is_told_without_a_gain():
    said = read(source_only_adaptation()).words
    assert "Source-only kept." in said and "the guard let no adaptation take its place" in said
    assert "Expected accuracy on the target: 0.655, 90 % interval 0.610 to 0.700." in said and "gain is expected" not in said
    assert "After adapting" not in said and "Before adapting" in said


def test_given_target_labels_speak_beside_the_estimate():
    page = render(images_adaptation())
    said = Reader(page).words
    assert "Checked on 200 images of the target whose labels were given: accuracy 0.735, 95 % interval 0.675 to 0.795" in said
    assert "Better than source-only: +0.075, with a 95 % interval of +0.020 to +0.130 (paired bootstrap, n = 200)." in said
    for spoken in ("adapted: 0.742, 90\N{NO-BREAK SPACE}% interval", "source-only: 0.660, 95 % interval"):
        assert f'aria-label="{spoken}' in page
    assert "turn it into a measurement" not in said and '<h1 class="s0">' in page
    assert "on the labels that were given for 200 images of the target. The choice could see them" in said
    hurt = render(hurt_adaptation())
    assert '<h1 class="s1">' in hurt and "Worse than source-only: −0.060" in Reader(hurt).words


def test_labels_speak_of_a_source_only_model_that_is_kept():
    said = read(checked_source_only_adaptation()).words
    assert "Checked on 200 texts of the target whose labels were given: accuracy 0.660, 95 % interval 0.595 to 0.725." in said
    assert "but for 200 that were given" in said


def test_of_many_candidates_the_best_and_source_only_are_drawn_and_all_are_listed():
    section = render(many_candidates_adaptation()).split('<section id="candidates">')[1].split("</section>")[0].replace("<wbr>", "")
    drawn = re.findall(r'class="track"[^>]*aria-label="([^:]+):', section)
    assert drawn == ["coral", *(f"method_{n}" for n in range(17, 6, -1)), "source_only"]
    assert "Not drawn: 7 more" in section
    assert re.findall(r'<th scope="row">(\w+)<small>', section)[:2] == ["coral", "method_17"] and section.count('<th scope="row">') == 20


def test_a_regression_says_that_nothing_honest_can_be_said():
    said = read(regression_adaptation()).words
    assert "Without labels of the target nothing honest can be said about the model's error there." in said
    assert "Expected" not in said and "predicted 21.5" in said and "sure)" not in said
    assert "importance_weightsclip 5, chosen 1.0 s" in said


def test_of_a_regression_with_labels_it_is_not_said_that_there_are_none():
    checked = images_adaptation().checked
    said = sentences.summary(replace(regression_adaptation(), checked=checked))
    assert said[1] == "Of the model's error on the target nothing honest can be said but what the given labels say."
    assert said[2].startswith("Checked on 200 texts") and not any("Without labels" in line for line in said)


def test_reasons_stand_in_their_order_with_what_they_speak_for():
    said = read(texts_adaptation()).words
    table = said[said.index("evidence value speaks") :]
    assert "expected gainThe expected gain's interval lies above zero. 0.087 for" in table
    assert "held-out sourceA little is lost on held-out items of the source. −0.012 against" in table
    assert table.index("0.087 for") < table.index("2.310 for") < table.index("−0.012 against") < table.index("0.910 neither")


def test_a_reason_that_speaks_neither_for_nor_against_nor_neither_is_refused():
    with pytest.raises(KeyError, match="perhaps"):
        render(replace(texts_adaptation(), reasons=[{"evidence": "e", "value": 1.0, "words": "w", "speaks": "perhaps"}]))


def test_distances_are_read_from_zero_before_and_after():
    reader = read(texts_adaptation())
    spoken = [attributes["aria-label"] for tag, attributes in reader.tags if tag == "svg" and attributes.get("class") == "track"]
    assert "before: 0.214, 95 % interval no interval" in spoken and "after: 0.052, 95 % interval no interval" in spoken
    assert "before: 1.820, 95 % interval 1.710 to 1.910" in spoken and "after: 0.930, 95 % interval no interval" in spoken
    section = render(texts_adaptation()).split('<section id="distance">')[1].split("</section>")[0]
    assert re.findall(r'class="middle">([\d.]+)<', section) == ["0", "0.05", "0.10", "0.15", "0.20", "0", "0.5", "1.0", "1.5", "2.0"]


def test_a_distance_without_a_second_measure_has_one_row():
    bare = replace(texts_adaptation(), distances={"my_own": {"before": 0.3, "after": None, "interval": None}})
    section = render(bare).split('<section id="distance">')[1].split("</section>")[0]
    assert "My own" in section and "before" in section and ">after<" not in section


def test_the_bars_of_the_kinds_of_shift_are_as_long_as_their_values():
    drawn = str(domains.share_rows([("covariate shift", "words", 0.74), ("label shift", "words", math.nan)]))
    assert re.findall(r'width="([\d.]+)%"[^>]*class="bar"', drawn) == ["74.00"]
    assert 'aria-label="covariate shift: 0.740 of 1"' in drawn and 'aria-label="label shift: – of 1"' in drawn
    assert "It looks like covariate shift for the most part." in read(texts_adaptation()).words


def test_classes_stand_the_farthest_moved_first():
    made = many_classes_adaptation()
    made = replace(made, moved=[{**made.moved[0], "moved": None, "target_share": None}, *made.moved[1:]])
    page = read(made).words
    table = page[page.index("class source target moved") :]
    order = sorted(made.moved[1:], key=lambda row: -row["moved"])
    places = [table.index(f" {row['class']} ") for row in (*order, made.moved[0])]
    assert places == sorted(places)
    first = order[0]
    assert f"{first['class']} 3.3 %n 60 {100 * first['target_share']:.1f} %n 17 {first['moved']:.3f}" in table


def dots(drawn, style):
    return sum(path.count("M") for path in re.findall(rf'<path d="([^"]*)" class="{style}', str(drawn)))


def test_the_map_draws_each_item_once_hollow_in_the_source_filled_in_the_target():
    sides = {"source": [[0, 0, 0], [1, 0, 1], [2, 1, 1]], "target": [[0, 1, 1]]}
    drawn = domains.domain_map(sides, ["a", "b"], "before adapting")
    assert (dots(drawn, "hollow s0"), dots(drawn, "hollow s1"), dots(drawn, "filled s0"), dots(drawn, "filled s1")) == (1, 2, 0, 1)
    assert 'aria-label="before adapting: 3 items of the source, 1 of the target, coloured by class"' in drawn


def test_dots_lie_where_their_points_are_at_one_scale():
    drawn = str(domains.domain_map({"source": [[0, 0, 0], [4, 2, 0]], "target": []}, ["a"], "now"))
    (left, bottom), (right, top) = [(float(x), float(y)) for x, y in re.findall(r"M([\d.]+),([\d.]+)", drawn)]
    # The span is widest across: it fills the square but for the margin, the height is half of it, middled, and y grows upwards.
    inner = domains.SIDE - 2 * domains.MARGIN
    assert (right - left, bottom - top) == pytest.approx((inner, inner / 2))
    assert (left + right, top + bottom) == pytest.approx((domains.SIDE, domains.SIDE))


def test_many_classes_and_regressions_are_told_apart_by_domain():
    for made in (many_classes_adaptation(), regression_adaptation()):
        section = render(made).split('<section id="map">')[1].split("</section>")[0]
        assert set(re.findall(r'class="((?:hollow|filled) \w+)"', section)) == {"hollow s1", "filled s0"}
        assert "coloured by domain" in section and "Classes of the target are what the model predicts" not in section
    section = render(images_adaptation()).split('<section id="map">')[1].split("</section>")[0]
    assert {f"hollow s{n}" for n in range(8)} <= set(re.findall(r'class="((?:hollow|filled) \w+)"', section))
    assert all(name in section for name in images_adaptation().classes)


def test_no_two_classes_share_colour_and_shape():
    keys = [str(domains._named("filled", series, "")) for series in range(domains.CLASSES_COLOURED)]
    assert len(set(keys)) == domains.CLASSES_COLOURED
    assert len({re.sub(r" s\d", "", key) for key in keys}) == len(domains.DOTS)


def test_a_map_without_items_of_the_source_is_drawn_all_the_same():
    only = {"before": {"source": [], "target": [[0.0, 0.0, 0], [0.0, 0.0, 1]]}, "after": {"source": [], "target": []}}
    section = render(replace(texts_adaptation(), map=only)).split('<section id="map">')[1].split("</section>")[0]
    assert "Before adapting" in section and "After adapting" not in section and "nan" not in section


def test_candidates_stand_with_their_prediction_and_what_fell_out_with_its_reason():
    page = render(texts_adaptation())
    said = Reader(page).words
    assert "strength 0.5, chosen" in said and said.count("chosen") == 2
    assert "pseudo_labels (rounds 3)the class spam vanished in round 2" in said
    assert "source_only −0.710 2.020" in said and "coralstrength 1 −0.500 –" in said
    section = page.split('<section id="candidates">')[1].split("</section>")[0]
    assert 'aria-label="coral: 0.742, 90\N{NO-BREAK SPACE}% interval 0.701 to 0.783"' in section
    assert section.replace("<wbr>", "").count("pseudo_labels") == 1
    assert section.count('class="row s0"') == 1 and section.count('class="row other"') == 3


def test_what_to_label_next_shows_the_items_and_at_most_twenty():
    reader = read(texts_adaptation())
    said = reader.words
    assert "text number 0, cheap??? taken for ham (41 % sure) close to the border of two classes, and many are like it row 0" in said
    assert "20 of 23 are shown." in said and "text number 19," in said and "text number 20," not in said
    images = [attributes for tag, attributes in read(images_adaptation()).tags if tag == "img"]
    assert [image["alt"] for image in images] == [f"caltech/{n}.jpg" for n in range(6)]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)


def test_items_to_label_that_were_not_handed_over_are_named():
    said = read(texts_adaptation(), items=[]).words
    assert "taken for ham (41 % sure) close to the border of two classes, and many are like it row 0" in said
    assert "text number" not in said


def test_an_item_that_the_record_does_not_name_is_a_mistake_of_ours():
    with pytest.raises(AssertionError, match="row 99"):
        render(texts_adaptation(), [Mistake("row 99", "", "ham", 0.5, text="x")])


def test_several_source_domains_are_named():
    assert "3 domains: amazon, dslr, webcam" in read(images_adaptation()).words
    many = replace(images_adaptation(), domains=[f"shop {n}" for n in range(15)])
    assert "15 domains: shop 0," in read(many).words and "shop 11, and 3 more" in read(many).words
    assert "domains:" not in read(texts_adaptation()).words


def test_findings_notes_command_seeds_and_versions_are_told():
    said = read(texts_adaptation()).words
    assert "12 texts are in both domains." in said and "row 4, row 9" in said and "features: of the backbone as it came" in said
    assert texts_adaptation().command in said and "seed 0" in said and "POT 0.9.7" in said
    said = read(empty_adaptation()).words
    assert "Nothing was found to report." in said and "Repeat the adaptation" not in said


def test_an_interrupted_adaptation_says_so():
    assert "Two methods were left out." in read(replace(texts_adaptation(), interrupted="two methods were left out")).words


def test_hostile_names_stay_text():
    base = images_adaptation()
    made = replace(
        base,
        source=HOSTILE,
        target=HOSTILE,
        backbone=HOSTILE,
        method=HOSTILE,
        settings={HOSTILE: HOSTILE},
        command=HOSTILE,
        notes=[HOSTILE],
        classes=[HOSTILE, *base.classes[1:]],
        domains=[HOSTILE],
        versions={HOSTILE: HOSTILE},
        interrupted=HOSTILE,
        reasons=[{"evidence": HOSTILE, "value": HOSTILE, "words": HOSTILE, "speaks": "for"}],
        candidates=[
            {**base.candidates[0], "method": HOSTILE, "settings": {HOSTILE: HOSTILE}, "validators": {HOSTILE: 0.5}},
            {**base.candidates[-1], "method": HOSTILE, "note": HOSTILE},
        ],
        distances={HOSTILE: {"before": 1.0, "after": 0.5, "interval": None}},
        shift={"covariate": {"value": 0.5, "words": HOSTILE}, "sentence": HOSTILE},
        moved=[{**base.moved[0], "class": HOSTILE}],
        label_next=[{"id": HOSTILE, "predicted": HOSTILE, "probability": 0.5, "why": HOSTILE}],
        findings=[{"kind": "leak", "severity": "warning", "message": HOSTILE, "items": (HOSTILE,)}],
        checked={**base.checked, "verdict": {**base.checked["verdict"], "test": HOSTILE}},
    )
    page = render(made, [Mistake(HOSTILE, "", HOSTILE, 0.5, text=HOSTILE, image=picture())])
    reader = Reader(page)
    assert "<script" not in page and {tag for tag, _ in reader.tags}.isdisjoint({"script", "iframe"})
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    assert not [attributes for _, attributes in reader.tags if "url(" in attributes.get("style", "")]
    assert all(attributes["src"].startswith("data:") for tag, attributes in reader.tags if tag == "img")
    assert reader.words.count("<script>alert") > 20


def test_the_terminal_is_told_the_answer_in_words():
    assert sentences.summary(images_adaptation()) == [
        "Adapted from office/{amazon,dslr,webcam} to office/caltech with coral (strength 0.5).",
        sentences.estimate_sentence(images_adaptation()),
        sentences.checked_sentence(images_adaptation()),
        "It looks like covariate shift for the most part.",
    ]
    assert sentences.summary(empty_adaptation()) == [
        "The source-only model of demo/mail.csv is kept for demo/chat.csv: the guard let no adaptation take its place.",
        "Without labels of the target nothing honest can be said about the model's error there.",
        "What kind of shift this is was not measured.",
    ]


def test_a_metric_that_is_better_low_says_so():
    assert "Expected log loss on the target, lower is better: 0.742" in sentences.estimate_sentence(
        replace(texts_adaptation(), metric="log_loss")
    )


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium to lay the page out")
def test_the_page_needs_no_scrolling_sideways_on_a_phone(tmp_path):
    frames = "".join(
        f'<iframe width="390" height="800" srcdoc="{html.escape(render(make(), items_of(make())))}"></iframe>'
        for make in ADAPTATIONS.values()
    )
    script = (
        "onload = () => document.title = [...document.querySelectorAll('iframe')].map(f => f.contentDocument.documentElement.scrollWidth)"
    )
    (tmp_path / "phones.html").write_text(f"<!doctype html><body>{frames}<script>{script}</script>", "utf-8")
    flags = ("--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom")
    done = subprocess.run([BROWSER, *flags, (tmp_path / "phones.html").as_uri()], capture_output=True, text=True, timeout=60, check=True)
    widths = re.search(r"<title>([\d,]+)</title>", done.stdout)[1].split(",")
    assert dict(zip(ADAPTATIONS, map(int, widths), strict=True)) == dict.fromkeys(ADAPTATIONS, 390)
