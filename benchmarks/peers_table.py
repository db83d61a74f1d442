"""The summary of peers.csv as Markdown: medians of ratios within pairs, accuracies over seeds. Never measures."""

import pandas as pd
import rows

HEADER = (
    "data",
    "peer",
    "setting",
    "pairs, seeds",
    "accuracy: peer",
    "`Transfer.fit`",
    "`graft.run`",
    "in a fifth",
    "fit wins, ties, losses",
    "seconds: peer",
    "`Transfer.fit`",
    "`graft.run`",
    "in a fifth",
    "peer / fit",
    "peer / run",
)
ONE_CORE = ", one core"
ALONE = ("data", "setting", "runs, seeds", "accuracy", "seconds", "date", "versions")


def summary(path, since=""):
    if not path.exists():
        return "No runs recorded yet."
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table = table[table["date"] >= since]
    # "over 600" counts as 600 seconds: the ratio it gives is a lower bound, and is marked as one.
    table["over"] = table["seconds"].str.startswith("over")
    table["seconds"] = pd.to_numeric(table["seconds"].str.removeprefix("over "), errors="coerce")
    table["accuracy"] = pd.to_numeric(table["accuracy"])
    # Runs with freed memory kept are another measurement.
    table.loc[table["memory"] == "kept", "data"] += ", memory kept"
    # So are runs that were held to one core.
    table.loc[table["machine"].str.contains(", 1 cores") & (table["contender"] != "graft"), "setting"] += ONE_CORE
    beside, alone = table[table["pair"] != ""], table[table["pair"] == ""]
    parts = []
    if len(beside):
        pairs = latest(paired(beside))
        lines = []
        for (data, peer), group in pairs.groupby(["data", "contender"], sort=False):
            lines += [line(data, peer, setting, some) for setting, some in group.groupby("setting", sort=False)]
            played = group["setting"].str.removesuffix(ONE_CORE).groupby(group["seed"]).nunique()
            if played.max() > 1:
                # A seed that played fewer has no best of as many.
                whole = group[group["seed"].map(played) == played.max()]
                lines.append(line(data, peer, f"best of {played.max()}, by test accuracy", best(whole)))
        parts.append(rows.markdown(HEADER, lines))
    if len(alone):
        lines = [alone_line(*key, group) for key, group in alone.groupby(["data", "setting"], sort=False)]
        parts.append("graft measured alone, later or elsewhere; not to be set against the times above:\n\n" + rows.markdown(ALONE, lines))
    return "\n\n".join(parts) or "No runs recorded yet."


def paired(table):
    """A row for each run of a peer, with graft's runs of the same pair beside it: fit_accuracy, run_seconds, ..."""
    pairs = table[table["contender"] != "graft"]
    for short, setting in (("fit", "Transfer.fit"), ("run", "graft.run"), ("fifth", "Transfer.fit in .*")):
        ours = table[table["setting"].str.fullmatch(setting)][["pair", "accuracy", "seconds"]].drop_duplicates("pair", keep="last")
        pairs = pairs.merge(ours.rename(columns={name: f"{short}_{name}" for name in ("accuracy", "seconds")}), on="pair", how="left")
    return pairs


def latest(pairs):
    """Without graft's runs that a later pair of the same items and setting repeats, with a later graft; every run stays in the CSV."""
    same, superseded = ["data", "contender", "setting", "seed"], pd.Series(False, index=pairs.index)
    for short in ("fit", "run"):
        ran = pairs[pairs[f"{short}_seconds"].notna()]
        old = ran.index[ran.duplicated(same, keep="last")]
        pairs.loc[old, [f"{short}_accuracy", f"{short}_seconds"]] = float("nan")
        superseded[old] = True
    return pairs[~superseded | pairs[["fit_seconds", "run_seconds"]].notna().any(axis=1)]


def best(pairs):
    """For each seed the peer's run that did best on the test items: a choice in the peer's favour. The faster one of equals."""
    ordered = pairs.sort_values(["accuracy", "seconds"], ascending=[False, True])
    return ordered.drop_duplicates("seed")


def line(data, peer, setting, pairs):
    accuracies = [mean(pairs[name]) for name in ("accuracy", "fit_accuracy", "run_accuracy", "fifth_accuracy")]
    judged = pairs.dropna(subset=["accuracy", "fit_accuracy"]).groupby("seed")[["accuracy", "fit_accuracy"]].mean()
    gain = (judged["fit_accuracy"] - judged["accuracy"]).round(6)
    score = f"{(gain > 0).sum()}, {(gain == 0).sum()}, {(gain < 0).sum()}"
    over = ">" if pairs["over"].any() else ""
    failed = f", {pairs['seconds'].isna().sum()} failed" if pairs["seconds"].isna().any() else ""
    times = [over + median(pairs["seconds"], ".1f"), *(median(pairs[f"{name}_seconds"], ".1f") for name in ("fit", "run", "fifth"))]
    ratios = [median(pairs["seconds"] / pairs[name], ".2f", over) for name in ("fit_seconds", "run_seconds")]
    return [data, peer, setting, f"{len(pairs)}, {pairs['seed'].nunique()}{failed}", *accuracies, score, *times, *ratios]


def alone_line(data, setting, group):
    last = group.iloc[-1]
    runs = f"{len(group)}, {group['seed'].nunique()}"
    return [data, f"`{setting}`", runs, mean(group["accuracy"]), median(group["seconds"], ".1f"), last["date"], last["versions"]]


def mean(values):
    """Mean and, where there are several, the standard deviation."""
    values = values.dropna()
    if not len(values):
        return "–"
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def median(values, form, mark=""):
    values = values.dropna()
    return mark + format(values.median(), form) if len(values) else "–"
