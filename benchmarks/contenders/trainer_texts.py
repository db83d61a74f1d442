"""transformers: `Trainer`, the whole MiniLM fine-tuned, as its text classification guide has it; the rest are its defaults."""

import tempfile
import time

import worker
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

BATCH_SIZE = 16  # of the guide


def main(job):
    setting = dict(part.split("=") for part in job["setting"].split())
    classes = sorted(set(job["train_labels"]))
    set_seed(job["seed"])
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        tokenizer = AutoTokenizer.from_pretrained(job["minilm"])
        model = AutoModelForSequenceClassification.from_pretrained(job["minilm"], num_labels=len(classes))

        def tokens(texts):
            return Dataset.from_dict({"text": texts}).map(lambda rows: tokenizer(rows["text"], truncation=True), batched=True)

        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH_SIZE,
            num_train_epochs=float(setting["epochs"]),
            learning_rate=float(setting["lr"]),
            seed=job["seed"],
            save_strategy="no",
            report_to="none",
        )
        train = tokens(job["train"]).add_column("label", [classes.index(name) for name in job["train_labels"]])
        trainer = Trainer(model, arguments, train_dataset=train, processing_class=tokenizer)
        trainer.train()
        seconds = time.perf_counter() - begun
        outputs = trainer.predict(tokens(job["test"])).predictions
    return seconds, [classes[place] for place in outputs.argmax(1)]


if __name__ == "__main__":
    worker.answer(main, ["transformers", "torch", "accelerate", "datasets"])
