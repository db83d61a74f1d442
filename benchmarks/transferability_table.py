"""What the rows of transferability.py say: each data set is predicted by a model that was fitted without it. Never measures."""

import base64
from functools import partial

import numpy as np
import pandas as pd
from rows import markdown
from scipy.special import logit
from scipy.stats import pearsonr, rankdata

from graft.study.checking import tau
from graft.study.ranking import expected_loss, groups
from graft.transferability.predict import BENCHMARK, EVIDENCE, Prediction, cases_of, collection, direct_estimate, fit

SCORES = (
    "logistic_cv", "ridge_loo", "lda_loo", "knn", "logme", "nleep", "leep", "nce", "sfda", "etran", "etran_lda", "energy", "gbc", "h_score",
    "h_score_shrunk", "transrate", "parc", "lfc", "rankme",
)  # fmt: skip
# What `graft rank` says, which predicts a head whatever is trained then.
SHIPPED = "fused prediction, fitted on heads"
FUSED, DIRECT, STATIC, PUBLISHED = "fused prediction", "cross-validated head", "mean rank on other data sets", "ImageNet accuracy"
DRAWS, LEVELS = 1000, (0.8, 0.95)
# Of accuracy, by which the recommended one may be expected to fall short of the first.
LOSSES = (0.01, 0.02, 0.03)
# What training all of it takes, in forward passes: ten epochs of three each.
PASSES = 30
# Top-1 of the weights as listed at docs.pytorch.org/vision/stable/models.html.
TORCHVISION = {
    "densenet121": 74.434, "densenet169": 75.600, "densenet201": 76.896, "googlenet": 69.778, "inception_v3": 77.294, "mnasnet1_0": 73.456,
    "mobilenet_v2": 71.878, "resnet34": 73.314, "resnet50": 76.130, "resnet101": 77.374, "resnet152": 78.312,
}  # fmt: skip
# (tau, Pearson x 100), as the authors' repositories report them: TencentARC/SFDA on its first table, dbolya/parc with 500 images.
PUBLISHED_SCORES = {
    "sfda_group1": {"SFDA": ("0.710", ""), "NLEEP": ("0.611", ""), "LogME": ("0.509", ""), "PARC": ("0.467", ""), "LEEP": ("0.410", "")},
    "parc_controlled": {"PARC": ("", "70.28"), "nearest neighbour, cross-validated": ("", "68.01")},
}


def read(path):
    """Rows as dicts of text, as `read_evidence` gives them; cases of a single candidate rank nothing and are left out."""
    rows = pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records")
    return [row for case in cases_of(rows) if len(case) > 1 for row in case]


def evidence(path):
    """Write graft's recorded runs, in the columns that its file has. Returns how many."""
    rows = read(path)
    columns = EVIDENCE.read_text(encoding="utf-8").partition("\n")[0].split(",")
    pd.DataFrame(rows)[columns].to_csv(EVIDENCE, index=False, lineterminator="\n")
    return len(rows)


def judged(rows, truth):
    """One dict for each case: data, labels, what each method says, and what was true. truth: "probe" or "tuned"."""
    every, rows = rows, [row for row in rows if row[truth]]
    found = []
    for left in dict.fromkeys(map(collection, rows)):
        known = [row for row in rows if collection(row) != left]
        predictor = fit(known, truth)
        shipped = None if truth == "probe" else fit([row for row in every if collection(row) != left], "probe")
        for case in cases_of([row for row in rows if collection(row) == left]):
            if len(case) > 1:
                found.append(one_case(case, known, predictor, truth))
                if shipped:
                    found[-1]["said"][SHIPPED] = shipped.predict(case).centre
    return found


def one_case(case, known, predictor, truth):
    prediction = predictor.predict(case)
    true = np.array([float(row[truth]) for row in case])
    draws = prediction.draws(resampled(case), 0)
    said = {FUSED: prediction.centre, DIRECT: direct_estimate(case)[0]}
    said |= {name: filled(case, name) for name in SCORES if any(row.get(name) for row in case)}
    said |= {STATIC: static(case, known, truth), PUBLISHED: published(case)}
    seconds = [(float(row["n"]) * float(row["item_ms"]) / 1000, float(row["head_seconds"]) + float(row["score_seconds"])) for row in case]
    extraction, heads = np.sum(seconds, axis=0)
    return {
        "data": case[0]["data"],
        "labels": case[0]["labels_a_class"],
        "true": true,
        "said": said,
        "covered": {level: covers(prediction, case, truth, level) for level in LEVELS},
        "recommended": recommendations(case, draws, prediction.centre),
        "item_ms": np.array([float(row["item_ms"]) for row in case]),
        "cost": (extraction + heads) / (PASSES * extraction),
    }


def resampled(case):
    """(m, draws) logits of the cross-validated accuracy on items drawn with replacement, the same for every candidate."""
    n = int(case[0]["n"])
    hits = np.array([np.unpackbits(np.frombuffer(base64.b85decode(row["hits"]), np.uint8))[:n] for row in case])
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS)
    return logit((hits @ times.T + 0.5) / (n + 1))


def filled(case, name):
    """A score of each candidate; who has none stands in the middle."""
    values = np.array([float(row[name]) if row[name] else np.nan for row in case])
    return np.where(np.isfinite(values), values, np.nanmedian(values))


def static(case, known, truth):
    """Minus the mean rank of each candidate in the other cases with as many labels, among the candidates of this one."""
    names = [row["backbone"] for row in case]
    ranks = []
    for other in cases_of([row for row in known if row["labels_a_class"] == case[0]["labels_a_class"]]):
        reached = {row["backbone"]: float(row[truth]) for row in other}
        if set(names) <= set(reached):
            ranks.append(rankdata([-reached[name] for name in names]))
    return -np.mean(ranks, axis=0) if ranks else np.zeros(len(names))


def published(case):
    return np.array([float(row["published"]) if row["benchmark"] == BENCHMARK and row["published"] else 0.0 for row in case])


def covers(prediction: Prediction, case, truth, level):
    """Of each candidate, whether its interval holds the truth. The truth was counted on few items, whose sampling is added."""
    noise = [direct_estimate([{"cross_validated": row[truth], "n": row["n_judged"]}]) for row in case]
    true, variance = (np.array([one[side][0] for one in noise]) for side in (0, 1))
    draws = logit(prediction.draws(resampled(case), 0))
    draws = draws + np.sqrt(variance)[:, None] * np.random.default_rng(2).standard_normal(draws.shape)
    low, high = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2), axis=1)
    return (low <= true) & (true <= high)


def recommendations(case, draws, centre):
    """rule -> place of the candidate that it recommends."""

    def cheapest(allowed):
        return min(np.flatnonzero(allowed), key=lambda place: (float(case[place]["item_ms"]), float(case[place]["parameters"])))

    found = {"the first": int(np.argmax(centre))}
    leading, loss = groups(draws, centre) == 1, expected_loss(draws, centre)
    for most in LOSSES:
        found[f"the cheapest of the group that is expected to lose at most {most}"] = cheapest(leading & (loss <= most))
    for level in LEVELS:
        found[f"the cheapest of the group, told apart at {level:.0%}"] = cheapest(groups(draws, centre, level) == 1)
    return found


def over_data(cases, value):
    """Mean over data sets of the mean over their cases, with its 95 % bootstrap interval over data sets, and the worst data set."""
    by_data = pd.Series([value(case) for case in cases]).groupby([case["data"] for case in cases]).mean().to_numpy()
    again = np.random.default_rng(0).choice(by_data, (2000, len(by_data))).mean(axis=1)
    return by_data.mean(), np.quantile(again, (0.025, 0.975)), by_data


def correlation(method, case):
    return tau(case["said"][method], case["true"])


def regret(place, case):
    return case["true"].max() - case["true"][place]


def comparison(cases):
    """Rank correlation and regret of every method."""
    labels = sorted({case["labels"] for case in cases}, key=lambda count: int(count) or 10**9)
    methods = [method for method in cases[0]["said"] if all(method in case["said"] for case in cases)]
    lines = []
    for method in methods:
        mean, (low, high), _ = over_data(cases, partial(correlation, method))
        cells = [method, f"{mean:.3f} ({low:.3f} to {high:.3f})"]
        for count in labels:
            cells.append(f"{over_data([case for case in cases if case['labels'] == count], partial(correlation, method))[0]:.3f}")
        lost = [regret(int(np.argmax(case["said"][method])), case) for case in cases]
        lines.append((mean, [*cells, f"{np.mean(lost):.3f}", f"{np.max(lost):.3f}"]))
    lines = [cells for _, cells in sorted(lines, key=lambda line: -line[0])]
    names = [f"{count} labels a class" if count != "0" else "all labels" for count in labels]
    return markdown(["ranked by", "weighted Kendall tau (95 % over data sets)", *names, "regret", "worst regret"], lines)


def recommendation(cases):
    """What trusting the recommendation costs and saves, by the rule that makes it."""
    lines = []
    for rule in cases[0]["recommended"]:
        places = [case["recommended"][rule] for case in cases]
        lost = [regret(place, case) for place, case in zip(places, cases, strict=True)]
        share = [
            case["item_ms"][place] / case["item_ms"][case["recommended"]["the first"]] for place, case in zip(places, cases, strict=True)
        ]
        lines.append([rule, f"{np.mean(lost):.3f}", f"{np.quantile(lost, 0.9):.3f}", f"{np.max(lost):.3f}", f"{np.mean(share):.2f}"])
    header = ["recommended", "mean regret", "nine of ten below", "worst", "time an item, of the first (mean)"]
    return markdown(header, lines) + f"\n\nRanking all took {np.mean([case['cost'] for case in cases]):.0%} of fine-tuning all, about."


def coverage(cases):
    lines = []
    for count in sorted({case["labels"] for case in cases}, key=lambda count: int(count) or 10**9):
        some = [case for case in cases if case["labels"] == count]
        shares = [over_data(some, lambda case, level=level: case["covered"][level].mean()) for level in LEVELS]
        lines.append([count if count != "0" else "all", *(f"{mean:.0%} ({low:.0%} to {high:.0%})" for mean, (low, high), _ in shares)])
    return markdown(["labels a class", *(f"{level:.0%} intervals hold (95 % over data sets)" for level in LEVELS)], lines)


def published_tables(shared):
    """What ranks accuracies after fine-tuning that others published, beside the scores that they published; for each target the others
    alone are known.

    No features come with the tables, so that of the fused prediction only its static part is there: by how much a model was above the
    others, in logits, on the other targets.
    """
    lines = []
    for name in ("sfda_group1", "sfda_group2", "parc_controlled"):
        wide = published_table(shared, name)
        said = {f"{FUSED}, its static part": standing, STATIC: mean_rank}
        if set(wide) <= set(TORCHVISION):
            said[PUBLISHED] = lambda others, models: [TORCHVISION[model] for model in models]
        size = f"{name}, {len(wide)} x {wide.shape[1]}"
        for method, score in said.items():
            taus, pearson = [], []
            for target, row in wide.iterrows():
                reached = row.dropna()
                predicted = score(wide.drop(target)[reached.index], reached.index)
                taus.append(tau(predicted, reached))
                pearson.append(pearsonr(predicted, reached)[0])
            lines.append([size, method, f"{np.mean(taus):.3f}", f"{100 * np.mean(pearson):.1f}"])
        for method, (published_tau, published_pearson) in PUBLISHED_SCORES.get(name, {}).items():
            lines.append([size, f"{method}, as published", published_tau, published_pearson])
    return markdown(["table, targets x models", "ranked by", "mean weighted Kendall tau", "mean Pearson x 100"], lines)


def published_table(shared, name):
    """Accuracies in percent, a row for each target and a column for each model; those that were not published are NaN."""
    read = pd.read_csv(shared / f"data/published_transfer/{name}.csv")
    if name == "parc_controlled":
        read = read.assign(model=read["Architecture"] + " " + read["Source Dataset"])
        return read.pivot(index="Target Dataset", columns="model", values="Oracle")
    return read.pivot(index="target", columns="model", values="finetuned_accuracy_percent")


def standing(others, models):
    """Mean over the other targets of the logit less that target's mean."""
    reached = others.map(lambda percent: logit(min(percent, 99.9) / 100))
    return reached.sub(reached.mean(axis=1), axis=0).mean()[models]


def mean_rank(others, models):
    return others[models].rank(axis=1).mean()


def tables(path, shared):
    """Everything as Markdown."""
    rows, parts = read(path), []
    for modality in dict.fromkeys(row["modality"] for row in rows):
        some = [row for row in rows if row["modality"] == modality]
        for truth, words in (("probe", "a head on frozen features"), ("tuned", "fine-tuning (lp_ft)")):
            cases = judged(some, truth)
            if len({case["data"] for case in cases}) > 1:
                counts = [len(cases), *(len({row[key] for row in some if row[truth]}) for key in ("data", "backbone"))]
                about = "{} cases, {} data sets, {} candidates".format(*counts)
                parts += [f"### {modality}s, judged by {words}: {about}", comparison(cases), recommendation(cases), coverage(cases)]
    if (shared / "data/published_transfer").exists():
        parts += ["### Published accuracies after fine-tuning", published_tables(shared)]
    return "\n\n".join(parts)
