"""Tables: an encoder of adult_census without one group, then that group with 100 labels, against tuned gradient boosting.

`choose` plays settings on groups that are not judged, whose rows and the rest's are no rows of a judged group; `measure` judges what was
chosen; `table` prints the rows there are.
"""

import argparse
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from rows import ROOT, append, commit, machine, markdown
from scipy.stats import t as student
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, make_scorer, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from torch import nn

import graft
from graft.backbones import columns
from graft.baselines import fit_baseline
from graft.records import Phase, Plan, Recipe
from graft.train import train
from graft.transfer import Transfer

ROWS = Path(__file__).with_name("tables.csv")
CHOSEN_BY = Path(__file__).with_name("tables_chosen.csv")
JUDGED = {
    "Black": ("race", "Black"),
    "self-employed": ("workclass", "Self-emp-not-inc"),
    "Asian or Pacific": ("race", "Asian-Pac-Islander"),
    "women": ("sex", "Female"),
    "born in Mexico": ("native_country", "Mexico"),
}
CHOOSING = {"local government": ("workclass", "Local-gov"), "sales": ("occupation", "Sales")}
LABELS = 100
# Chosen by `choose`: kind of network, what it is taught, epochs, rate; and what a fine-tuning is called with.
SELF_TAUGHT = ("mlp", ("masked_cells",), 6, 1e-3)
TAUGHT = ("mlp", ("supervised",), 3, 1e-3)
TUNED = ("lp_ft", 20, 1e-3)
BATCH = 256
# Tuned by log loss in five folds of the labels: 12 settings.
GRID = {"min_samples_leaf": [2, 5, 10], "learning_rate": [0.03, 0.1], "max_iter": [30, 100]}
BOOSTING = "gradient boosting, tuned"
LOG_LOSS = make_scorer(log_loss, greater_is_better=False, response_method="predict_proba", labels=[0, 1])


def read(shared):
    """The whole table, without its split: groups are drawn across it."""
    frame = pd.read_parquet(shared / "data/adult_census/adult.parquet").drop(columns="split")
    return frame.assign(income=(frame["income"] == ">50K").astype(str))


def split_off(frame, group, apart=()):
    """(the group's rows, the rest), without the rows of the groups in apart."""
    for column, value in apart:
        frame = frame[frame[column] != value]
    column, value = group
    return frame[frame[column] == value].reset_index(drop=True), frame[frame[column] != value].reset_index(drop=True)


def pretrained(rest, setting, seed):
    """An encoder of the rest, taught as the setting says."""
    kind, methods, epochs, rate = setting
    dataset = graft.load(rest, label="income")
    items, target = list(dataset.items), dataset.target
    encoder = columns.fresh(dataset, kind, seed)
    if methods == ("supervised",):
        plan = Plan((Phase(epochs, (rate,) * encoder.depth, rate),))
        recipe = Recipe(batch_size=BATCH, precision="fp32")
        list(train(encoder, nn.Linear(encoder.width, 2), plan, items, target, task="classification", recipe=recipe, seed=seed))
    elif methods:
        losses = tuple((method, 1.0) for method in methods)
        plan = Plan((Phase(epochs, (rate,) * encoder.depth, 0.0),), losses=losses, supervised=False)
        recipe = Recipe(batch_size=BATCH, precision="fp32", batch_norm="batch", augment=False)
        given = {"task": "regression", "others": items, "recipe": recipe, "seed": seed}
        list(train(encoder, nn.Linear(encoder.width, 1), plan, [], np.empty(0), **given))
    return encoder


def typed(frame):
    """Inputs as boosting takes them: text as categories that every part shares."""
    inputs = frame.drop(columns="income")
    return inputs.astype({name: "category" for name in inputs if not pd.api.types.is_numeric_dtype(inputs[name])})


def _folds(y, seed):
    """Five, or as many as there are items of the rarer class: each needs one."""
    return StratifiedKFold(min(5, int(np.bincount(y).min())), shuffle=True, random_state=seed)


def boosting(train_rows, test_rows, y, seed):
    """Probability of the second class by gradient boosting, tuned in five folds of the labels."""
    both = typed(pd.concat([train_rows, test_rows], ignore_index=True))
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", early_stopping=False, random_state=seed)
    search = GridSearchCV(model, GRID, scoring=LOG_LOSS, cv=_folds(y, seed))
    return search.fit(both[: len(train_rows)], y).predict_proba(both[len(train_rows) :])[:, 1]


def logistic(train_rows, test_rows, y, seed):
    """The same by logistic regression on one-hot categories and standardised numbers, its strength tuned alike."""
    reader = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")),
        (StandardScaler(), make_column_selector(dtype_include="number")),
    )
    model = make_pipeline(
        reader, GridSearchCV(LogisticRegression(max_iter=2000), {"C": list(np.logspace(-3, 2, 6))}, scoring=LOG_LOSS, cv=_folds(y, seed))
    )
    return model.fit(train_rows.drop(columns="income"), y).predict_proba(test_rows.drop(columns="income"))[:, 1]


def baseline(train_rows, test_rows, y, seed):
    """The same by the baseline that stands beside every run."""
    fitted = fit_baseline("table", "classification", train_rows.drop(columns="income"), y, seed=seed)
    return fitted.outputs(test_rows.drop(columns="income"))[:, 1]


def by_encoder(encoder, strategy=None, epochs=10, lr=1e-3):
    def answer(train_rows, test_rows, y, seed):
        model = Transfer(encoder, strategy or "feature_extraction", epochs=epochs, lr=lr, random_state=seed)
        model.fit(train_rows.drop(columns="income"), y)
        return model.predict_proba(test_rows.drop(columns="income"))[:, 1]

    return answer


def judged(group, answers, seeds):
    """A row for each answer and draw. answers: name -> (labelled rows, judged rows, y, seed) -> probabilities."""
    y = (group["income"] == "True").to_numpy().astype(int)
    for seed in seeds:
        order = np.random.default_rng([seed, 100]).permutation(len(group))
        few, others = order[:LABELS], order[LABELS:]
        for name, answer in answers.items():
            begun = time.perf_counter()
            said = answer(group.iloc[few].reset_index(drop=True), group.iloc[others].reset_index(drop=True), y[few], seed)
            scores = {"auc": roc_auc_score(y[others], said), "accuracy": np.mean((said > 0.5) == y[others])}
            yield {"seed": seed, "answer": name, "n": len(others), **{key: f"{value:.4f}" for key, value in scores.items()}} | {
                "seconds": f"{time.perf_counter() - begun:.1f}"
            }


def choose(shared, seeds):
    """Append rows for each setting on each group that is not judged."""
    frame = read(shared)
    settings = [("mlp", (), 0, 0.0)]
    settings += [("mlp", methods, 6, 1e-3) for methods in (("masked_cells",), ("scarf",), ("masked_cells", "scarf"))]
    settings += [("mlp", ("supervised",), epochs, 1e-3) for epochs in (3, 6)]
    tunings = [("lp_ft", 20, 1e-3), ("lp_ft", 40, 3e-3)]
    for name, which in CHOOSING.items():
        group, rest = split_off(frame, which, JUDGED.values())
        for row in judged(group, {BOOSTING: boosting, "logistic regression": logistic}, seeds):
            append(CHOSEN_BY, {"group": name, "setting": row["answer"], "pretraining_seconds": "0.0"} | row)
        for setting in settings:
            begun = time.perf_counter()
            encoder = pretrained(rest, setting, 0)
            seconds = f"{time.perf_counter() - begun:.1f}"
            answers = {"probe": by_encoder(encoder)}
            answers |= {f"{strategy} {epochs} {lr:g}": by_encoder(encoder, strategy, epochs, lr) for strategy, epochs, lr in tunings}
            for row in judged(group, answers, seeds):
                append(CHOSEN_BY, {"group": name, "setting": _named(setting), "pretraining_seconds": seconds} | row)
            print(name, setting, seconds, flush=True)


def _named(setting):
    kind, methods, epochs, rate = setting
    return f"{kind}, {' + '.join(methods) or 'untrained'}, {epochs} epochs at {rate:g}"


def measure(shared, seeds, groups):
    """Append rows of what was chosen, and of its controls, on the judged groups."""
    frame, about = read(shared), {"commit": commit(), "machine": machine(), "threads": torch.get_num_threads()}
    for name in groups:
        group, rest = split_off(frame, JUDGED[name])
        rest_y = (rest["income"] == "True").to_numpy().astype(int)
        everything = typed(pd.concat([rest, group], ignore_index=True))
        begun = time.perf_counter()
        model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=0)
        known = model.fit(everything[: len(rest)], rest_y).predict_proba(everything[len(rest) :])[:, 1]
        by_row = dict(zip(map(tuple, group.astype(str).to_numpy()), known, strict=True))

        def from_the_rest(train_rows, test_rows, y, seed, by_row=by_row):
            return np.array([by_row[tuple(row)] for row in test_rows.astype(str).to_numpy()])

        spent = {"gradient boosting on the rest's labels": time.perf_counter() - begun}
        answers = {
            BOOSTING: boosting,
            "gradient boosting, as beside every run": baseline,
            "logistic regression, tuned": logistic,
            "gradient boosting on the rest's labels": from_the_rest,
        }
        untaught = (SELF_TAUGHT[0], (), 0, 0.0)
        for told, setting in (("random weights", untaught), ("without labels", SELF_TAUGHT), ("with labels", TAUGHT)):
            begun = time.perf_counter()
            encoder = pretrained(rest, setting, 0)
            for way, answer in (("probe", by_encoder(encoder)), ("fine-tuned", by_encoder(encoder, *TUNED))):
                spent[f"{told}, {way}"], answers[f"{told}, {way}"] = time.perf_counter() - begun, answer
        for row in judged(group, answers, seeds):
            append(ROWS, {"group": name, "pretraining_seconds": f"{spent.get(row['answer'], 0.0):.1f}"} | row | about)
        print(name, flush=True)


def table(path, metric):
    """A Markdown table: mean over draws, and in brackets the paired difference to tuned boosting with Student's 95 % interval."""
    kept = pd.read_csv(path)
    key = "answer" if path == ROWS else ["setting", "answer"]
    wide = kept.pivot_table(index=["group", "seed"], columns=key, values=metric, sort=False)
    boosted = wide[BOOSTING] if path == ROWS else wide[(BOOSTING, BOOSTING)]
    groups = list(dict.fromkeys(kept["group"]))
    lines = []
    for name in wide:
        cells = []
        for group in [*groups, None]:
            values, gains = ((part.loc[group] if group else part.groupby("seed").mean()) for part in (wide[name], wide[name] - boosted))
            cells.append(_told(values, gains, name == boosted.name))
        lines.append([name if path == ROWS else ": ".join(dict.fromkeys(name)), *cells])
    print(f"\n{metric}, %\n" + markdown(["", *groups, "mean"], lines))


def _told(values, gains, itself):
    values, gains = 100 * values.dropna(), 100 * gains.dropna()
    if itself or len(gains) < 2:
        return f"{values.mean():.1f}"
    half = student.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
    return f"{values.mean():.1f} ({gains.mean():+.1f} ± {half:.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choose", "measure", "table"))
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--seeds", nargs="*", type=int, default=list(range(5)))
    parser.add_argument("--groups", nargs="*", default=list(JUDGED), choices=list(JUDGED))
    told = parser.parse_args()
    # A test part may hold a category that no labelled row has.
    warnings.filterwarnings("ignore", message="Found unknown categories", category=UserWarning)
    if told.what == "choose":
        choose(told.shared, told.seeds)
    elif told.what == "measure":
        measure(told.shared, told.seeds, told.groups)
    else:
        for path in (CHOSEN_BY, ROWS):
            for metric in ("auc", "accuracy") if path.exists() else ():
                table(path, metric)


if __name__ == "__main__":
    main()
