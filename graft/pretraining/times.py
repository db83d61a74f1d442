"""How many epochs: those that are named, the method's own, or as many as fit a budget, measured on a few batches. Heavy: torch."""

import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from graft import interrupt, processes
from graft.errors import GraftError
from graft.files import replacing
from graft.records import Event, Step
from graft.report import words

_BATCHES = 4  # the first one warms up
# Of the budget, for looking at features and writing what an interrupted run goes on from.
_SHARE_OF_REST = 0.12
# A forward pass is a third of a step.
_STEPS_A_LOOK = 1 / 3


class Interrupted(GraftError):
    """Ctrl-C came before there was anything to keep."""


def seconds_an_item(play: Callable[[int, Callable[[Event], None]], float], batch_size: int, n: int, *, whole_epochs: bool = False) -> float:
    """Seconds that training takes for an item, about. play: (items, progress) plays epochs on the first items, on a copy, and gives the
    seconds of the last. whole_epochs: what comes before the first batch of each is not to be left out.

    Raises Interrupted on Ctrl-C.
    """
    times: list[tuple[float, int]] = []

    def tell(event: Event) -> None:
        if isinstance(event, Step) and event.what.startswith("training"):
            times.append((time.perf_counter(), event.done))

    first = min(n, _BATCHES * batch_size)
    last = play(first, tell)
    if interrupt.asked():
        raise Interrupted("interrupted while the time was measured: nothing was learned yet. The same command begins anew.")
    if whole_epochs:
        return processes.from_first(last / first)
    paces = [(b - a) / (there - here) for (a, here), (b, there) in itertools.pairwise(times) if there > here]
    if not paces:
        # One batch holds all items: the time is that between two epochs of one step each.
        paces = [(times[-1][0] - times[-2][0]) / times[-1][1]]
    return processes.from_first(statistics.median(paces))


def fitting(seconds: float, spent: float, epoch_seconds: float, look_seconds: float) -> int:
    """Epochs that fit: what is left of the budget, after both judgements, over an epoch. Raises GraftError where it is none.

    seconds: the budget. spent: of it. look_seconds: of one judgement.
    """
    left = (seconds - spent - 2 * look_seconds) * (1 - _SHARE_OF_REST)
    epochs = int(left / epoch_seconds)
    if epochs < 1:
        least = spent + 2 * look_seconds + epoch_seconds / (1 - _SHARE_OF_REST)
        raise GraftError(
            f"a budget of {words.duration(seconds)} allows no epoch: one takes about {words.duration(epoch_seconds)}, and what "
            f"comes before and after it {words.duration(spent + 2 * look_seconds)}. "
            f"The smallest that works is about {math.ceil(1.1 * least)} s: "
            f"--budget {math.ceil(1.1 * least)}s. Or take fewer items, or a smaller network."
        )
    return epochs


def look_seconds(pace: float, n: int) -> float:
    """Seconds that features of n items take. pace: of a training step, seconds an item."""
    return pace * _STEPS_A_LOOK * n


def remembered_epochs(kept: Path | None, decide: Callable[[], int]) -> int:
    """What an earlier process of this run decided, else what is decided now, which is kept."""
    if kept and kept.exists():
        return int(json.loads(kept.read_text(encoding="utf-8"))["epochs"])
    epochs = decide()
    if kept and processes.first():
        with replacing(kept) as file:
            json.dump({"epochs": epochs}, file)
    return epochs
