"""What a network is becoming while it learns: effective rank, neighbours, and whether it collapsed, against seconds. Heavy: torch."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graft import processes
from graft.backbones.base import Backbone
from graft.features import REFERENCE, extract
from graft.files import replacing
from graft.pretraining.material import Material
from graft.records import Epoch, Event, Step
from graft.scatter import effective_rank, one_thread
from graft.transferability import SCORES

_SHARE_OF_TIME = 0.05
# Of what the start's features fill beside one direction, and of their relative spread: stated, not fitted to runs.
LEAST_SHARE = 0.1

ADVICE = (
    "What it gives for all items is becoming the same. Stop it (Ctrl-C), and take larger batches (--set batch_size=...), a lower rate, or "
    "another method: vicreg and simclr hold features apart."
)


@dataclass
class Watch:
    """Looks at the features of a fixed sample after an epoch, at most 5 % of the time; tells at once when they collapse.

    rows: one an epoch, in order, the start as epoch 0: dicts of epoch, seconds (of training until then), loss (None at the start), and
    effective_rank, spread and knn, which are None where nobody looked, knn also where there are no classes. kept: a file that holds the
    rows beyond this process, None for none. reads_labels: classes may then fill few directions, which is no collapse.
    """

    material: Material
    tell: Callable[[Event], None]
    say: Callable[[str], None]
    kept: Path | None = None
    reads_labels: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    collapse: dict[str, Any] = field(default_factory=dict)
    spent: float = 0.0
    cost: float = 0.0
    trained: float = 0.0  # seconds in this process, for the share of time
    stepped: bool = False

    def __post_init__(self) -> None:
        if self.kept and self.kept.exists():
            self.rows = json.loads(self.kept.read_text(encoding="utf-8"))

    def step(self, event: Event) -> None:
        """Is told what training tells; an epoch without a step before it was played by an earlier process."""
        self.stepped |= isinstance(event, Step)
        self.tell(event)

    def begin(self, backbone: Backbone) -> None:
        """Look at the start, where no earlier process did."""
        if not self.rows:
            self._put(self._row(0, 0.0, None, self._look(backbone)))
            # It serves whatever is learned, and is no part of the share.
            self.spent = 0.0

    def epoch(self, event: Epoch, backbone: Backbone, *, last: bool) -> bool:
        """An epoch is over. last: it is looked at whatever that costs. Returns whether it was played just now, not retold."""
        played, self.stepped = self.stepped, False
        known = {row["epoch"]: row for row in self.rows}
        number = event.epoch + 1
        # By the epochs' own seconds: those of an earlier process count, looking does not.
        seconds = known[number - 1]["seconds"] + event.seconds
        if not played and number in known:
            return False
        self.trained += event.seconds * played
        due = processes.from_first(last or self.spent + self.cost <= _SHARE_OF_TIME * (self.trained + self.spent))
        row = self._row(number, seconds, event.loss, self._look(backbone) if played and due else None)
        self._put(row)
        if row["effective_rank"] is not None:
            self._judge(row)
        self.tell(event)
        return played

    def _row(self, number: int, seconds: float, loss: float | None, looked: dict[str, float | None] | None) -> dict[str, Any]:
        return {"epoch": number, "seconds": seconds, "loss": loss} | (looked or {"effective_rank": None, "spread": None, "knn": None})

    def _put(self, row: dict[str, Any]) -> None:
        self.rows = [one for one in self.rows if one["epoch"] < row["epoch"]] + [row]
        if self.kept and processes.first():
            with replacing(self.kept) as file:
                json.dump(self.rows, file)

    def _look(self, backbone: Backbone) -> dict[str, float | None]:
        begun = time.perf_counter()
        features = extract(backbone, self.material.seen, cache=False, runtime=REFERENCE)
        looked = look(features, self._labels())
        self.cost = time.perf_counter() - begun
        self.spent += self.cost
        return looked

    def _labels(self) -> np.ndarray | None:
        judged = self.material.judged
        if judged is None or judged.task != "classification":
            return None
        kinds = len(np.unique(judged.held_target))
        return judged.held_target if 1 < kinds < len(judged.held_target) else None

    def _judge(self, row: dict[str, Any]) -> None:
        found = collapsed(self.rows[0], row, self.reads_labels)
        if found and not self.collapse:
            self.collapse = {"epoch": row["epoch"], "words": found}
            self.say(f"collapse in epoch {row['epoch']}: {found}. {ADVICE}")
        if self.collapse:
            self.collapse["at_the_end"] = bool(found)


@one_thread
def look(features: np.ndarray, labels: np.ndarray | None) -> dict[str, float | None]:
    """effective_rank of features (n, d), RankMe; spread, the root of their mean variance over that of their mean square, 0 to 1; knn, the
    share of the first items, those with labels (m,), whose class their 5 nearest others name, None without labels. What is not finite
    gives 1, 0 and no share.

    Source: Garrido et al. 2023, arXiv:2210.02885, eq. 1; Cover & Hart 1967, doi:10.1109/TIT.1967.1053964.
    """
    wide = features.astype(np.float64)
    if not np.isfinite(wide).all():
        return {"effective_rank": 1.0, "spread": 0.0, "knn": None}
    square = float((wide**2).mean())
    spread = math.sqrt(float(wide.var(axis=0).mean()) / square) if square else 0.0
    knn = None if labels is None else float(SCORES["knn"](features[: len(labels)], labels))
    return {"effective_rank": effective_rank(wide), "spread": spread, "knn": knn}


def collapsed(start: dict[str, Any], now: dict[str, Any], reads_labels: bool = False) -> str:
    """What shows that features collapsed, in words; "" where they did not. start, now: rows of a `Watch`."""
    if now["spread"] < LEAST_SHARE * start["spread"]:
        return f"features of different items differ by {now['spread']:.2g} of their size, {start['spread']:.2g} at the start"
    if not reads_labels and now["effective_rank"] - 1 < LEAST_SHARE * (start["effective_rank"] - 1):
        return f"features fill {now['effective_rank']:.1f} directions, {start['effective_rank']:.1f} at the start"
    return ""
