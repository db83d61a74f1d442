"""What every contender's process is: it loads its libraries, says their versions, then answers one job at a time.

A job is a line of JSON: "setting", "seed", "kind", "train", "train_labels", "test", and the places of the weights.
The answer is a line too: "seconds" to a ready model, and "predictions" of the test items, made after the clock has stopped.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(1, str(ROOT))  # graft is this checkout's; of it, the peers need only what mends torchvision

from graft import torchvision_ops  # noqa: E402

torchvision_ops.ensure()


def answer(run, packages):
    """Answer jobs until there are no more. run: job -> (seconds, predictions). packages: those whose versions count."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # progress bars would otherwise stand among the answers
    answers.write(json.dumps({"versions": ", ".join(f"{name} {release(name)}" for name in packages)}) + "\n")
    for line in sys.stdin:
        seconds, predictions = run(json.loads(line))
        answers.write(json.dumps({"seconds": seconds, "predictions": list(predictions)}) + "\n")


def release(name):
    if name != "graft":
        return version(name)
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True)
    return commit.stdout.strip()
