"""graft's side: `Transfer.fit` with the default strategy, with or without a budget, or a whole `graft.run`. The cache is cold each time."""

import os
import tempfile
import time
from pathlib import Path

import pandas as pd
import worker

import graft
import graft.study
import graft.transfer


def main(job):
    backbone = f"checkpoint:{job['mobilenet']}" if job["kind"] == "image" else "sentence:minilm"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRAFT_CACHE"] = f"{folder}/cache"
        begun = time.perf_counter()
        fit, _, budget = job["setting"].partition(" in ")
        if fit == "Transfer.fit":
            model = graft.Transfer(backbone, budget=budget or None, random_state=job["seed"]).fit(job["train"], job["train_labels"])
        else:
            assert fit == "graft.run"
            frame = pd.DataFrame({job["kind"]: job["train"], "label": job["train_labels"]})
            model = graft.run(frame, backbone=backbone, seed=job["seed"], out=Path(folder) / "run").model
        seconds = time.perf_counter() - begun
        return seconds, model.predict(job["test"]).tolist()


if __name__ == "__main__":
    worker.answer(main, ["graft", "torch", "timm", "transformers", "scikit-learn"])
