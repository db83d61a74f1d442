"""SetFit: `SetFitModel` on MiniLM and its `Trainer` with the default arguments: all pairs oversampled, one epoch, 2e-5.

Setting "num_iterations=N": N pairs of a kind for each item instead of all, which grow with the square of the items.
"""

import tempfile
import time

import worker
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def main(job):
    name, _, number = job["setting"].partition("=")
    assert name in ("defaults", "num_iterations")
    pairs = {name: int(number)} if number else {}
    classes = sorted(set(job["train_labels"]))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        model = SetFitModel.from_pretrained(job["minilm"])
        train = Dataset.from_dict({"text": job["train"], "label": [classes.index(name) for name in job["train_labels"]]})
        Trainer(model, TrainingArguments(folder, seed=job["seed"], **pairs), train_dataset=train).train()
        seconds = time.perf_counter() - begun
        return seconds, [classes[place] for place in model.predict(job["test"], as_numpy=True)]


if __name__ == "__main__":
    worker.answer(main, ["setfit", "sentence-transformers", "torch", "transformers"])
