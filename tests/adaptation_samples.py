"""Made-up adaptations of every kind for the tests of their page; nothing here was measured."""

from dataclasses import replace

import numpy as np
from report_samples import around, picture

from graft.records import Adaptation, Mistake


def cloud(seed, classes, away, n=60):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, classes, n)
    angle = 2 * np.pi * index / classes
    x, y = 4 * np.cos(angle) + rng.normal(0, 0.8, n) + away, 3 * np.sin(angle) + rng.normal(0, 0.8, n)
    return [[float(a), float(b), int(c)] for a, b, c in zip(x, y, index, strict=True)]


def both(classes, n=60):
    return {
        "before": {"source": cloud(0, classes, 0.0, n), "target": cloud(1, classes, 3.5, n)},
        "after": {"source": cloud(0, classes, 0.0, n), "target": cloud(2, classes, 0.3, n)},
    }


def moved_of(classes):
    rng = np.random.default_rng(3)
    count, shares = len(classes), rng.dirichlet(np.ones(len(classes)))
    return [
        {
            "class": name,
            "source_share": 1 / count,
            "target_share": float(part),
            "moved": float(0.3 + 1.7 * part),
            "n_source": 60,
            "n_target": 17,
        }
        for name, part in zip(classes, shares, strict=True)
    ]


def texts_adaptation():
    """Spam of one network carried to another: adapted, with every section."""
    classes = ["ham", "promotion", "spam"]
    return Adaptation(
        task="classification",
        metric="accuracy",
        source="demo/mail.csv",
        target="demo/chat.csv",
        n_source=1240,
        n_target=3100,
        backbone="sentence:minilm",
        modality="text",
        classes=classes,
        outcome="adapted",
        method="coral",
        settings={"strength": 0.5},
        reasons=[
            {"evidence": "expected_gain", "value": 0.087, "words": "The expected gain's interval lies above zero.", "speaks": "for"},
            {"evidence": "snd", "value": 2.31, "words": "Neighbourhoods of the target are denser than source-only's.", "speaks": "for"},
            {
                "evidence": "held-out source",
                "value": -0.012,
                "words": "A little is lost on held-out items of the source.",
                "speaks": "against",
            },
            {
                "evidence": "agreement",
                "value": 0.91,
                "words": "It gives 91 % of the items the class that source-only gives.",
                "speaks": "neither",
            },
        ],
        estimate={
            **around(0.742, 0.041),
            "interval_share": 0.9,
            "source_only": around(0.655, 0.045),
            "gain": {"value": 0.087, "interval": (0.021, 0.153)},
        },
        candidates=[
            {
                "method": "source_only",
                "settings": {},
                **around(0.655, 0.045),
                "validators": {"entropy": -0.71, "snd": 2.02},
                "seconds": 0.2,
                "note": "",
            },
            {
                "method": "coral",
                "settings": {"strength": 0.5},
                **around(0.742, 0.041),
                "validators": {"entropy": -0.52, "snd": 2.31},
                "seconds": 1.4,
                "note": "",
            },
            {
                "method": "coral",
                "settings": {"strength": 1.0},
                **around(0.729, 0.043),
                "validators": {"entropy": -0.5},
                "seconds": 1.4,
                "note": "",
            },
            {
                "method": "saerens",
                "settings": {},
                **around(0.691, 0.05),
                "validators": {"entropy": -0.6, "snd": 2.1},
                "seconds": 0.3,
                "note": "",
            },
            {
                "method": "pseudo_labels",
                "settings": {"rounds": 3},
                "score": None,
                "interval": None,
                "validators": {},
                "seconds": 4.1,
                "note": "the class spam vanished in round 2",
            },
        ],
        distances={
            "mmd": {"before": 0.214, "after": 0.052, "interval": None},
            "proxy_a": {"before": 1.82, "after": 0.93, "interval": (1.71, 1.91)},
        },
        shift={
            "covariate": {"value": 0.74, "words": "The texts themselves look different."},
            "label": {"value": 0.31, "words": "Promotions are rarer in the target."},
            "concept": {"value": 0.08, "words": "No sign that a class means something else."},
            "sentence": "It looks like covariate shift for the most part.",
        },
        moved=moved_of(classes),
        map=both(3),
        label_next=[
            {
                "id": f"row {n}",
                "predicted": classes[n % 3],
                "probability": 0.41 + n / 100,
                "why": "close to the border of two classes, and many are like it",
            }
            for n in range(23)
        ],
        seeds=[0],
        seconds=95.0,
        versions={"graft": "0.1.0", "numpy": "2.3.1", "POT": "0.9.7"},
        findings=[{"kind": "duplicates", "severity": "note", "message": "12 texts are in both domains.", "items": ("row 4", "row 9")}],
        notes=["labels: column label of demo/mail.csv", "features: of the backbone as it came"],
        command="graft adapt demo/mail.csv --target demo/chat.csv --out runs/chat --backbone sentence:minilm --seed 0",
    )


def items_of(adaptation):
    """The items to label next themselves."""
    pictured = adaptation.modality == "image"
    return [
        Mistake(
            row["id"],
            "",
            row["predicted"],
            row["probability"],
            **({"image": picture(n)} if pictured else {"text": f"text number {n}, cheap???"}),
        )
        for n, row in enumerate(adaptation.label_next)
    ]


def images_adaptation():
    """8 classes, three source domains, checked on a few labels."""
    classes = ["bike", "bus", "car", "cat", "dog", "horse", "person", "van"]
    return replace(
        texts_adaptation(),
        source="office/{amazon,dslr,webcam}",
        target="office/caltech",
        modality="image",
        backbone="timm:resnet18",
        classes=classes,
        domains=["amazon", "dslr", "webcam"],
        moved=moved_of(classes),
        map=both(8, 400),
        label_next=[
            {"id": f"caltech/{n}.jpg", "predicted": classes[n % 8], "probability": 0.4, "why": "models disagree about it"} for n in range(6)
        ],
        checked={
            "n": 200,
            **around(0.735, 0.06),
            "source_only": around(0.66, 0.065),
            "verdict": {
                "outcome": "helps",
                "effect": 0.075,
                "interval": (0.02, 0.13),
                "against": "source-only",
                "n": 200,
                "test": "paired bootstrap",
            },
        },
    )


def many_classes_adaptation():
    """30 classes with long names: told apart by domain on the map."""
    classes = [f"class_{n}_with_a_rather_long_name_{n}" for n in range(30)]
    return replace(texts_adaptation(), classes=classes, moved=moved_of(classes), map=both(30))


def source_only_adaptation():
    """The guard kept the source-only model."""
    base = texts_adaptation()
    return replace(
        base,
        outcome="source only",
        method="source_only",
        settings={},
        reasons=[{"evidence": "expected_gain", "value": -0.02, "words": "The best candidate is expected to lose.", "speaks": "against"}],
        estimate={
            **around(0.655, 0.045),
            "interval_share": 0.9,
            "source_only": around(0.655, 0.045),
            "gain": {"value": 0.0, "interval": (0.0, 0.0)},
        },
        map={"before": base.map["before"]},
    )


def regression_adaptation():
    """No estimate without labels; candidates have no score."""
    base = texts_adaptation()
    return replace(
        base,
        task="regression",
        metric="mae",
        classes=[],
        estimate={},
        moved=[],
        method="importance_weights",
        settings={"clip": 5},
        candidates=[
            {
                "method": "importance_weights",
                "settings": {"clip": 5},
                "score": None,
                "interval": None,
                "validators": {},
                "seconds": 1.0,
                "note": "",
            }
        ],
        shift={"covariate": base.shift["covariate"], "sentence": "It looks like covariate shift."},
        label_next=[{"id": "row 7", "predicted": "21.5", "probability": None, "why": "far from all of the source"}],
    )


def hurt_adaptation():
    """Labels of the target said that adapting was a mistake."""
    base = images_adaptation()
    verdict = {**base.checked["verdict"], "outcome": "hurts", "effect": -0.06, "interval": (-0.1, -0.02)}
    return replace(base, checked={**base.checked, "score": 0.6, "interval": (0.53, 0.67), "verdict": verdict})


def checked_source_only_adaptation():
    """Source-only is kept, and labels were given: there is nothing to compare it with."""
    checked = {"n": 200, **around(0.66, 0.065), "source_only": around(0.66, 0.065)}
    return replace(source_only_adaptation(), checked=checked)


def many_candidates_adaptation():
    """20 candidates and as many validators."""
    base = texts_adaptation()
    told = {f"validator_{n}": n / 10 for n in range(20)}
    rows = [
        {"method": f"method_{n}", "settings": {}, **around(0.5 + n / 100), "validators": told, "seconds": 1.0, "note": ""}
        for n in range(18)
    ]
    return replace(base, candidates=[*rows, {**base.candidates[0], **around(0.3)}, base.candidates[1]])


def empty_adaptation():
    """The least an adaptation can hand over."""
    return replace(
        texts_adaptation(),
        modality="",
        classes=[],
        outcome="source only",
        method="source_only",
        settings={},
        reasons=[],
        estimate={},
        candidates=[],
        distances={},
        shift={},
        moved=[],
        map={},
        label_next=[],
        seeds=[0],
        versions={},
        findings=[],
        notes=[],
        command="",
    )


ADAPTATIONS = {
    "texts": texts_adaptation,
    "images": images_adaptation,
    "many classes": many_classes_adaptation,
    "source only": source_only_adaptation,
    "checked source only": checked_source_only_adaptation,
    "many candidates": many_candidates_adaptation,
    "regression": regression_adaptation,
    "hurt": hurt_adaptation,
    "empty": empty_adaptation,
}
