"""fastai: `vision_learner` and `fine_tune(epochs)`, as its vision tutorial has them, on the same MobileNetV2.

timm's `local-dir:` name gives vision_learner the weights, their padding and their normalisation; body, head, layer groups
and batch size are its defaults. All training items are trained on. fine_tune validates after each epoch: on so few test items
that it costs next to nothing, and nothing is chosen by them. "fine_tune(3) num_workers=0" reads the images in the training process
instead of one process a core: starting those anew for each epoch can cost more than they save.
"""

import re
import time

import worker
from fastai.vision.all import (
    CategoryBlock,
    ColReader,
    DataBlock,
    ImageBlock,
    IndexSplitter,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)
from pandas import DataFrame

BATCH_SIZE = 64  # fastai's default
VALIDATED = 16


def main(job):
    epochs, workers = re.fullmatch(r"fine_tune\((\d+)\)(?: num_workers=(\d+))?", job["setting"]).groups()
    n_train = len(job["train"])
    # The validated items need a known class but none in particular: their score is not looked at.
    validated = job["test"][:VALIDATED]
    frame = DataFrame({"item": job["train"] + validated, "label": job["train_labels"] + job["train_labels"][:1] * len(validated)})
    set_seed(job["seed"])
    begun = time.perf_counter()
    block = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_x=ColReader("item"),
        get_y=ColReader("label"),
        splitter=IndexSplitter(range(n_train, len(frame))),
        item_tfms=Resize(224),
        batch_tfms=aug_transforms(),
    )
    # An incomplete batch is dropped, which would leave nothing of a smaller data set.
    loaders = block.dataloaders(frame, bs=min(BATCH_SIZE, n_train), num_workers=None if workers is None else int(workers))
    learner = vision_learner(loaders, f"local-dir:{job['mobilenet']}", metrics=accuracy)
    learner.fine_tune(int(epochs))
    seconds = time.perf_counter() - begun
    probabilities, _ = learner.get_preds(dl=loaders.test_dl(DataFrame({"item": job["test"]})))
    return seconds, [loaders.vocab[place] for place in probabilities.argmax(1).tolist()]


if __name__ == "__main__":
    worker.answer(main, ["fastai", "torch", "timm"])
