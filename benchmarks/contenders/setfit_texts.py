"""SetFit: `SetFitModel` on MiniLM and its `Trainer` with the default arguments: all pairs oversampled, one epoch, 2e-5."""

import tempfile
import time

import worker
from datasets import Dataset
from setfit import SetFitModel, Trainer, TrainingArguments


def main(job):
    assert job["setting"] == "defaults"
    classes = sorted(set(job["train_labels"]))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        model = SetFitModel.from_pretrained(job["minilm"])
        train = Dataset.from_dict({"text": job["train"], "label": [classes.index(name) for name in job["train_labels"]]})
        Trainer(model, TrainingArguments(folder, seed=job["seed"]), train_dataset=train).train()
        seconds = time.perf_counter() - begun
        return seconds, [classes[place] for place in model.predict(job["test"], as_numpy=True)]


if __name__ == "__main__":
    worker.answer(main, ["setfit", "sentence-transformers", "torch", "transformers"])
