"""Transferability: what scores, a cross-validated head and static facts say of a candidate before it is used, beside what it reaches.

    python benchmarks/transferability.py measure --shared ../shared [--modality image] [--data NAME ...] [--candidates NAME ...] [--tiny]
    python benchmarks/transferability.py tune --shared ../shared [--data NAME ...] [--labels 20]   # fine-tuned, into their rows
    python benchmarks/transferability.py evidence      # graft/transferability/evidence.csv from the rows there are
    python benchmarks/transferability.py table         # whole data sets left out

A row for each candidate, data set, number of labels and seed goes to benchmarks/transferability.csv; rows that are there are skipped.
Items are cut into a pool, from which labels are drawn, and judged items, which no draw touches. Data, weights and features stay outside
of the repository.
"""

import argparse
import base64
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pandas as pd
import zoo
from draw import few
from rows import ROOT, append, commit, machine
from transferability_table import evidence, tables

ROWS = Path(__file__).with_name("transferability.csv")
# Items of the pool and judged ones, at most: usually, and to try it out.
AT_MOST = {False: (1500, 500), True: (100, 40)}
# Labels a class, and the seeds that they are drawn by; 0: the whole pool.
DRAWS = {5: (0, 1, 2), 20: (0, 1, 2), 0: (0,)}
TUNED_SEED = 0
TINY_CANDIDATES = {"image": ("mobilenetv1_025_128_imagenet", "cifar_resnet20"), "text": ("sentence:minilm", "untrained:sentence:minilm")}
# Items that a network is timed on, and those of one batch.
_TIMED, _BATCH = 80, 16
KEYS = ("data", "backbone", "labels_a_class", "seed")


def parts(read, pool_at_most, judged_at_most):
    """Places of the pool and of the judged items in a frame, the same for every seed: the given test part, else a third of all."""
    from graft.data.split import draw, holdout

    _, target = np.unique(read["label"].to_numpy(), return_inverse=True)
    test = read["split"].to_numpy() == "test"
    pool, judged = (np.flatnonzero(~test), np.flatnonzero(test)) if test.any() else holdout(target, "classification", 1 / 3, 7)

    def at_most(places, n):
        return places[draw(target[places], "classification", min(n, len(places)), 7)]

    return at_most(pool, pool_at_most), at_most(judged, judged_at_most)


def draws(labels, pool, tiny):
    """(labels a class, seed, places) for each draw that the pool has enough items for."""
    smallest = min(np.unique(labels[pool], return_counts=True)[1])
    for per_class, seeds in {5: (0,)}.items() if tiny else DRAWS.items():
        if per_class <= smallest:
            for seed in seeds:
                yield per_class, seed, few(pool, labels, per_class, seed) if per_class else pool


def candidate_rows(task):
    """The rows of one candidate on one data set that are not there yet. Runs in a process of its own."""
    import torch
    from threadpoolctl import threadpool_limits

    # As many workers as cores: more threads than one in each would wait for each other.
    torch.set_num_threads(1)
    with threadpool_limits(1):
        return list(_measured(task))


def _measured(task):
    from graft.backbones import entry_of, load_backbone
    from graft.features import extract

    read = zoo.frame(task["data"], task["shared"], task["work"] / "unpacked")
    labels = read["label"].to_numpy()
    pool, judged = parts(read, *AT_MOST[task["tiny"]])
    wanted = [one for one in draws(labels, pool, task["tiny"]) if (str(one[0]), str(one[1])) not in task["there"]]
    if not wanted:
        return
    name, published, benchmark = zoo.candidates(task["modality"], task["shared"] / "weights")[task["backbone"]]
    backbone = load_backbone(name)
    entry = entry_of(backbone)
    known, target = np.unique(labels, return_inverse=True)
    places = np.concatenate([pool, judged])
    items = read["item"].to_numpy()
    milliseconds = _item_ms(backbone, items[places].tolist())
    features = np.zeros((len(read), backbone.width), np.float32)
    features[places] = extract(backbone, items[places].tolist())
    facts = {
        "data": task["data"],
        "collection": zoo.COLLECTIONS.get(task["data"], task["data"]),
        "backbone": task["backbone"],
        "modality": task["modality"],
        "classes": len(known),
        "width": backbone.width,
        "parameters": entry.parameters,
        "size_px": entry.size_px or "",
        "gmacs": "" if entry.gmacs is None else f"{entry.gmacs:.4g}",
        "pretrained_on": entry.pretrained_on.partition(",")[0],
        "published": published or "",
        "benchmark": benchmark,
        "item_ms": f"{milliseconds:.3g}",
    }
    source_outputs = _source_outputs(backbone, features[places])
    outputs = None
    if source_outputs is not None:
        outputs = np.zeros((len(read), source_outputs.shape[1]), np.float32)
        outputs[places] = source_outputs
    for per_class, seed, drawn in wanted:
        measured = _one_draw(features, target, outputs, drawn, judged, seed)
        yield {**facts, "labels_a_class": per_class, "seed": seed, **measured, "tuned": "", "commit": commit(), "machine": machine()}


def _item_ms(backbone, items):
    """Milliseconds of the processor for the features of one item: with one thread those of the clock, were the core not shared."""
    from graft.features import extract

    # The first batch waits for the network to be set up.
    seen = []
    extract(backbone, items[:_TIMED], batch_size=_BATCH, cache=False, progress=lambda step: seen.append((step.done, time.process_time())))
    (before, begun), (after, ended) = seen[0], seen[-1]
    return 1000 * (ended - begun) / (after - before)


def _source_outputs(backbone, features):
    """(n, z) probabilities of the classifier that the weights came with, None where they came without."""
    import torch

    layer = backbone.classifier()
    if layer is None:
        return None
    with torch.inference_mode():
        return layer.eval()(torch.from_numpy(features)).softmax(1).numpy()


def _one_draw(features, target, outputs, drawn, judged, seed):
    """What is known of a candidate from the drawn items alone, and what its probe then reaches on the judged ones."""
    from graft.data.split import folds
    from graft.heads import cross_validate, fit_head
    from graft.transferability import LABEL_FREE_SCORES, SCORES, SOURCE_SCORES, all_scores

    x, y, c = features[drawn], target[drawn], int(target.max()) + 1
    begun = time.process_time()
    held = cross_validate(x, y, "classification", folds(y, "classification", 5, seed), n_classes=c, seed=seed)
    seconds, begun = time.process_time() - begun, time.process_time()
    scores = all_scores(x, y, "classification", None if outputs is None else outputs[drawn])
    score_seconds = time.process_time() - begun
    hits = held.argmax(axis=1) == y
    probe = fit_head(x, y, "classification", n_classes=c, seed=seed).outputs(features[judged]).argmax(axis=1) == target[judged]
    return {
        "n": len(drawn),
        "cross_validated": f"{hits.mean():.4f}",
        # Which items, in the order of the draw, so that candidates can be compared item by item.
        "hits": base64.b85encode(np.packbits(hits).tobytes()).decode(),
        **{name: f"{scores[name]:.5g}" if name in scores else "" for name in [*SCORES, *SOURCE_SCORES, *LABEL_FREE_SCORES]},
        "head_seconds": f"{seconds:.2f}",
        "score_seconds": f"{score_seconds:.2f}",
        "n_judged": len(judged),
        "probe": f"{probe.mean():.4f}",
    }


def tuned_accuracy(task):
    """Accuracy of one candidate after `lp_ft` with its usual epochs, the head first, then everything. Runs in a process of its own."""
    import torch
    from threadpoolctl import threadpool_limits

    from graft.backbones import load_backbone
    from graft.transfer import Transfer

    torch.set_num_threads(1)
    with threadpool_limits(1):
        read = zoo.frame(task["data"], task["shared"], task["work"] / "unpacked")
        items, labels = read["item"].to_numpy(), read["label"].to_numpy()
        pool, judged = parts(read, *AT_MOST[task["tiny"]])
        drawn = next(drawn for *key, drawn in draws(labels, pool, task["tiny"]) if key == [task["labels"], TUNED_SEED])
        backbone = load_backbone(zoo.candidates(task["modality"], task["shared"] / "weights")[task["backbone"]][0])
        model = Transfer(backbone, "lp_ft", random_state=TUNED_SEED).fit(items[drawn].tolist(), labels[drawn])
        return f"{model.score(items[judged].tolist(), labels[judged]):.4f}"


def played(arguments, function, tasks_of):
    """Yield (task, what the function makes of it), one data set after the other, and end with SystemExit if some could not be had.

    tasks_of: (data, candidate) -> what is added to the task, None to leave it out.
    """
    from graft.errors import GraftError

    names = arguments.candidates or (
        TINY_CANDIDATES[arguments.modality] if arguments.tiny else zoo.candidates(arguments.modality, arguments.shared / "weights")
    )
    settings = {name: getattr(arguments, name) for name in ("shared", "work", "modality", "tiny")}
    failed = []
    with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as pool:
        for data in arguments.data or (zoo.DATA[arguments.modality][:4:3] if arguments.tiny else zoo.DATA[arguments.modality]):
            # Unpacked once, before several processes look for it.
            zoo.frame(data, arguments.shared, arguments.work / "unpacked")
            begun = time.perf_counter()
            tasks = [{**settings, "data": data, "backbone": name, **more} for name in names if (more := tasks_of(data, name)) is not None]
            submitted = {pool.submit(function, task): task for task in tasks}
            for done in as_completed(submitted):
                about = f"{submitted[done]['backbone']} on {data}"
                try:
                    yield submitted[done], done.result()
                except GraftError as error:
                    failed.append(f"{about}: {error}")
                    print(failed[-1], flush=True)
                print(f"{about} after {time.perf_counter() - begun:.0f} s", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} could not be had:\n" + "\n".join(failed))


def measure(arguments):
    """Append what is not there yet."""
    there = {}
    if arguments.rows.exists():
        for row in pd.read_csv(arguments.rows, dtype=str, usecols=KEYS).itertuples():
            there.setdefault((row.data, row.backbone), set()).add((row.labels_a_class, row.seed))
    for _, rows in played(arguments, candidate_rows, lambda *key: {"there": there.get(key, set())}):
        for row in rows:
            append(arguments.rows, row)


def tune(arguments):
    """Fill the column `tuned` of the rows of so many labels a class and the first seed, a candidate at a time."""
    from graft.files import replacing

    rows = pd.read_csv(arguments.rows, dtype=str, keep_default_na=False)
    wanted = rows[(rows["labels_a_class"] == str(arguments.labels)) & (rows["seed"] == str(TUNED_SEED)) & (rows["tuned"] == "")]
    places = {(row.data, row.backbone): row.Index for row in wanted.itertuples()}
    for task, tuned in played(arguments, tuned_accuracy, lambda *key: {"labels": arguments.labels} if key in places else None):
        rows.loc[places[task["data"], task["backbone"]], "tuned"] = tuned
        with replacing(arguments.rows) as file:
            rows.to_csv(file, index=False, lineterminator="\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring, tuning = commands.add_parser("measure"), commands.add_parser("tune")
    for command in (measuring, tuning):
        command.add_argument("--modality", choices=("image", "text"), default="image")
        command.add_argument("--data", nargs="+", metavar="NAME", help="all of the modality unless named")
        command.add_argument("--candidates", nargs="+", metavar="NAME", help="all of the modality unless named")
        command.add_argument("--work", type=Path, default=ROOT / "runs/transferability", help="where archives and features are kept")
        command.add_argument("--workers", type=int, default=2)
        command.add_argument("--tiny", action="store_true", help="two candidates, two data sets, a few items: to try it out")
    tuning.add_argument("--labels", type=int, default=20, help="a class")
    for command in (measuring, tuning, *(commands.add_parser(name) for name in ("evidence", "table"))):
        command.add_argument("--rows", type=Path, default=ROWS)
        command.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder that holds data/ and weights/")
    arguments = parser.parse_args()
    if arguments.command in ("measure", "tune"):
        arguments.shared, arguments.work = arguments.shared.resolve(), arguments.work.resolve()
        os.environ["GRAFT_CACHE"] = str(arguments.work / "cache")
        {"measure": measure, "tune": tune}[arguments.command](arguments)
    elif arguments.command == "evidence":
        print(f"{evidence(arguments.rows)} recorded runs")
    else:
        print(tables(arguments.rows, arguments.shared))


if __name__ == "__main__":
    main()
