"""Runs that are killed at random points, again and again until they finish: do they end with the numbers of one that was not?

    python benchmarks/kills.py [--kills 50] [--seed 0] [--pictures 2400] [--data DATA --backbone NAME --strategy NAME ...]

Each round starts `graft run` and kills it (SIGKILL) after a random share of the time that the whole run took; a run that comes to its end
is compared, and the next one begins in a new folder. All share one cache with the whole run, so that what a clock decides is the same.
Pictures are made up unless --data is given. A row for each kill and each end is printed and appended to benchmarks/kills.csv.
"""

import argparse
import datetime
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rows
from PIL import Image

HERE = Path(__file__).parent


def pictures(folder, n, size_px=64):
    """Made-up pictures of four classes, told apart by the slant of noisy stripes."""
    rng = np.random.default_rng(0)
    down, right = np.mgrid[:size_px, :size_px]
    for i in range(n):
        angle = np.pi * (i % 4) / 4 + rng.normal(0, 0.25)
        stripes = np.sin((down * np.sin(angle) + right * np.cos(angle)) / 3 + rng.uniform(0, 6))
        noisy = 128 + 40 * stripes[..., None] + rng.normal(0, 60, (size_px, size_px, 3))
        path = folder / f"slant {i % 4}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return folder


def start(arguments, out, cache):
    command = [sys.executable, "-m", "graft", "run", *arguments, "--out", str(out)]
    environment = {**os.environ, "GRAFT_CACHE": str(cache)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def numbers(out):
    """What must be equal: all of result.json but what a clock measured and the command, which names the folder."""
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    del result["command"]
    return without_times(result), (out / "predictions.csv").read_text(encoding="utf-8")


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if not key.endswith("seconds")}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=2400, help="how many are made up")
    parser.add_argument("--data", default=None, help="a folder of images or a table; made-up pictures unless given")
    parser.add_argument("--backbone", default="tiny:image")
    parser.add_argument("--strategy", nargs="+", default=["partial", "full", "lp_ft"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        work, draw = Path(work), random.Random(given.seed)
        data = given.data or str(pictures(work / "data", given.pictures))
        arguments = [data, "--backbone", given.backbone, *(part for name in given.strategy for part in ("--strategy", name))]
        begun = time.perf_counter()
        whole = start(arguments, work / "whole", work / "cache")
        _, said = whole.communicate()
        if whole.returncode:
            sys.exit(said)
        whole_seconds = time.perf_counter() - begun
        expected, n_kills, number, kills_here = numbers(work / "whole"), 0, 0, 0
        while True:
            out = work / f"run {number}"
            begun = time.perf_counter()
            process = start(arguments, out, work / "cache")
            try:
                # Once enough were killed the last one may end.
                share = draw.uniform(0.05, 0.4) if n_kills < given.kills else None
                _, said = process.communicate(timeout=None if share is None else share * whole_seconds)
                outcome = "failed" if process.returncode else "equal" if numbers(out) == expected else "different"
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                outcome, said = "killed", ""
            n_kills, kills_here = n_kills + (outcome == "killed"), kills_here + (outcome == "killed")
            row = {
                "date": datetime.date.today().isoformat(),
                "machine": rows.machine(),
                "commit": rows.commit(),
                "backbone": given.backbone,
                "strategies": " ".join(given.strategy),
                "run": number,
                "outcome": outcome,
                "kills of this run": kills_here,
                "seconds": round(time.perf_counter() - begun, 1),
                "whole seconds": round(whole_seconds, 1),
            }
            print(row, said if outcome == "failed" else "", flush=True)
            rows.append(HERE / "kills.csv", row)
            if outcome != "killed":
                if n_kills >= given.kills:
                    break
                number, kills_here = number + 1, 0


if __name__ == "__main__":
    main()
