"""Made-up results of every kind for the tests of the page and the card; nothing here was measured."""

import math
from dataclasses import replace

import numpy as np
from PIL import Image

from graft.records import Result


def around(value, half=0.02):
    return {"score": value, "interval": (value - half, value + half)}


def images_result():
    """A binary image study in which transfer helps."""
    curve = {
        "transfer": (0.87, 0.93, 0.96, 0.974),
        "from scratch": (0.52, 0.6, 0.68, 0.745),
        "HOG + colour histogram + logistic regression": (0.6, 0.68, 0.75, 0.784),
    }
    backbone = "checkpoint:weights/mobilenetv2_100_imagenet"
    return Result(
        task="classification",
        metric="accuracy",
        n_train=244,
        n_test=153,
        score=0.974,
        interval=(0.941, 0.994),
        backbone=backbone,
        strategy="lp_ft",
        seeds=[0, 1],
        seconds=187.4,
        controls={
            "from scratch": {**around(0.745, 0.07), "seconds": 96.0, "note": "the same network from random weights"},
            "HOG + colour histogram + logistic regression": {
                **around(0.784, 0.065),
                "seconds": 4.2,
                "note": "the classical baseline for images",
            },
        },
        verdict={
            "outcome": "helps",
            "effect": 0.19,
            "interval": (0.124, 0.261),
            "against": "HOG + colour histogram + logistic regression",
            "n": 153,
            "test": "paired bootstrap over items",
        },
        candidates=[
            {"backbone": backbone, "strategy": "feature_extraction", **around(0.959, 0.025), "seconds": 6.1},
            {"backbone": backbone, "strategy": "lp_ft", **around(0.967, 0.022), "seconds": 71.0},
            {"backbone": "timm:resnet18", "strategy": "feature_extraction", **around(0.943, 0.03), "seconds": 9.4},
        ],
        ranking=[
            {"backbone": backbone, **around(0.959, 0.025), "seconds": 6.1},
            {"backbone": "timm:resnet18", **around(0.943, 0.03), "seconds": 9.4},
            {"backbone": "timm:mobilenetv3_large_100", **around(0.93, 0.031), "seconds": 5.0},
        ],
        findings=[
            {"kind": "imbalance", "severity": "note", "message": "the largest class, bees, holds 54 % of the items.", "items": ()},
            {
                "kind": "unreadable",
                "severity": "problem",
                "message": "2 files could not be read and were set aside.",
                "items": ("train/ants/broken.jpg", "train/bees/half.jpg"),
            },
            {
                "kind": "leak",
                "severity": "warning",
                "message": "3 pairs of near-duplicates lie on both sides of the split.",
                "items": tuple(f"train/ants/{n}.jpg = val/ants/{n}.jpg" for n in range(15)),
            },
        ],
        versions={"graft": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "timm": "1.0.31", "numpy": "2.3.1"},
        data="hymenoptera.zip",
        modality="image",
        classes=["ants", "bees"],
        notes=[
            "task: classification, as the target has 2 distinct words",
            "split: train and val of the folder, val used as the test split",
            "metric: accuracy, as no class holds more than 70 %",
        ],
        judged_on="the given test split",
        metrics={
            "accuracy": {"score": 0.974, "interval": (0.941, 0.994)},
            "balanced_accuracy": around(0.975),
            "macro_f1": around(0.973),
            "log_loss": around(0.081, 0.03),
            "calibration_error": around(0.02, 0.01),
        },
        per_class=[
            {"class": "ants", "precision": 0.958, "recall": 0.986, "f1": 0.972, "n": 70},
            {"class": "bees", "precision": 0.988, "recall": 0.964, "f1": 0.976, "n": 83},
        ],
        confusion=[[69, 1], [3, 80]],
        label_curve={
            "sentence": "With 25 labels the transferred model is ahead of what the from-scratch network reaches with all 244; "
            "the from-scratch network would need more labels than you have.",
            "curves": {
                name: [
                    {"n": n, **around(score, 0.9 / n**0.5 * (1.05 - score) + 0.01)}
                    for n, score in zip((25, 60, 120, 244), scores, strict=True)
                ]
                for name, scores in curve.items()
            },
        },
        weights=[
            {
                "backbone": backbone,
                "licence": "Apache-2.0",
                "pretrained_on": "ImageNet-1k",
                "parameters": 2_223_872,
                "fingerprint": "9f2c44d0a7be61537cd1",
            },
            {"backbone": "timm:resnet18", "licence": None, "pretrained_on": None, "parameters": 11_176_512, "fingerprint": "77ab"},
        ],
        command="graft run hymenoptera.zip --backbone checkpoint:weights/mobilenetv2_100_imagenet --out runs/hymenoptera --seed 0",
    )


def texts_result():
    """A 77-class text study without a difference, judged by cross-validation."""
    rng = np.random.default_rng(0)
    classes = [
        f"{a}_{b}"
        for a in ("card", "transfer", "top_up", "refund", "exchange", "cash", "pin")
        for b in (
            "arrival",
            "not_working",
            "fee_charged",
            "declined",
            "pending",
            "limit",
            "lost_or_stolen",
            "how_to",
            "wrong_amount",
            "supported_currencies",
            "verify_identity",
        )
    ]
    confusion = np.diag(rng.integers(28, 41, size=77)) + (rng.random((77, 77)) < 0.02) * rng.integers(1, 8, size=(77, 77))
    recall = np.diag(confusion) / confusion.sum(axis=1)
    precision = np.diag(confusion) / confusion.sum(axis=0)
    per_class = [
        {"class": name, "precision": float(p), "recall": float(r), "f1": float(2 * p * r / (p + r)), "n": int(n)}
        for name, p, r, n in zip(classes, precision, recall, confusion.sum(axis=1), strict=True)
    ]
    return replace(
        images_result(),
        metric="macro_f1",
        n_train=770,
        n_test=3080,
        score=0.872,
        interval=(0.861, 0.883),
        backbone="sentence:minilm",
        strategy="feature_extraction",
        controls={"from scratch": around(0.61), "TF-IDF + logistic regression": around(0.868)},
        verdict={
            "outcome": "no difference shown",
            "effect": 0.004,
            "interval": (-0.006, 0.013),
            "against": "TF-IDF + logistic regression",
            "n": 3080,
            "test": "corrected resampled t over 10 folds",
        },
        candidates=[{"backbone": "sentence:minilm", "strategy": "feature_extraction", **around(0.865), "seconds": 21.0}],
        ranking=[],
        findings=[],
        label_curve={
            "sentence": "The from-scratch network would need about 4,100 labels to match what transfer reaches with 770.",
            "curves": {
                name: [{"n": n, **around(score)} for n, score in zip((154, 385, 770), scores, strict=True)]
                for name, scores in {"transfer": (0.71, 0.82, 0.872), "TF-IDF + logistic regression": (0.6, 0.78, 0.868)}.items()
            },
        },
        data="banking77.csv",
        modality="text",
        classes=classes,
        confusion=confusion.tolist(),
        per_class=per_class,
        judged_on="5-fold cross-validation, 2 repeats",
        weights=[
            {
                "backbone": "sentence:minilm",
                "licence": "apache-2.0",
                "pretrained_on": "1 billion sentence pairs",
                "parameters": 22_713_216,
                "fingerprint": "0c1d",
            }
        ],
        metrics={},
    )


def regression_result():
    """A regression in which transfer hurts, with large numbers and a metric that is better when lower."""
    return replace(
        images_result(),
        task="regression",
        metric="mae",
        score=51234.5,
        interval=(49000.0, 53500.0),
        controls={
            "from scratch": {"score": 61000.0, "interval": (58000.0, 64000.0)},
            "gradient boosting": {"score": 33120.0, "interval": (32000.0, 34000.0)},
        },
        verdict={
            "outcome": "hurts",
            "effect": -18114.5,
            "interval": (-20500.0, -15700.0),
            "against": "gradient boosting",
            "n": 153,
            "test": "paired bootstrap over items",
        },
        data="housing",
        modality="table",
        classes=[],
        confusion=[],
        per_class=[],
        candidates=[],
        ranking=[],
        label_curve={},
        metrics={"mae": {"score": 51234.5, "interval": (49000.0, 53500.0)}, "r2": around(0.61)},
    )


def multilabel_result():
    """Labels that may hold together: no confusion matrix."""
    return replace(
        images_result(),
        task="multilabel",
        metric="macro_f1",
        classes=["beach", "city", "night"],
        confusion=[],
        per_class=[{"class": name, "precision": 0.9, "recall": 0.8, "f1": 0.85, "n": 50} for name in ("beach", "city", "night")],
    )


def empty_result():
    """The least a study can hand over: every optional section empty, one interval unknown."""
    return Result(
        task="classification",
        metric="shiny_score",
        n_train=8,
        n_test=1,
        score=1.0,
        interval=(math.nan, math.nan),
        backbone="tiny:text",
        strategy="mine",
        seeds=[0],
        seconds=0.4,
        controls={},
        verdict={
            "outcome": "no difference shown",
            "effect": 0.0,
            "interval": (0.0, 0.0),
            "against": "from scratch",
            "n": 1,
            "test": "none",
        },
        candidates=[],
        ranking=[],
        findings=[],
        versions={},
    )


RESULTS = {
    "images": images_result,
    "texts": texts_result,
    "regression": regression_result,
    "multilabel": multilabel_result,
    "empty": empty_result,
}


def picture(seed=0, size=(640, 480), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 255, size=(6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size).convert(mode)
