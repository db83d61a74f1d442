"""The course of a pretraining, step by step: plan the epochs, judge the start, play and watch, judge the result. Heavy: torch."""

import copy
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from graft import interrupt, processes
from graft.backbones.base import Backbone
from graft.pretext import PRETEXTS
from graft.pretraining import judge, methods, times
from graft.pretraining.material import Material
from graft.pretraining.methods import SUPERVISED
from graft.pretraining.squares import packed
from graft.pretraining.watch import Watch
from graft.records import Epoch, Event, Note, Plan, Pretraining, Recipe
from graft.report import pretraining_card, words
from graft.runs import Log, folder, versions
from graft.train import Checkpoints, train
from graft.train.layer import torch_head

LATEST = "latest"  # a backbone below `unfinished`: the weights as they are by now
_LOCAL = ("checkpoint", "columns", "vectors")
_SHARE_OF_TIME = 0.02  # that goes into writing it
_SUPERVISED_SOURCE = "Yosinski et al. 2014, arXiv:1411.1792"


@dataclass
class Lesson:
    """What a network is taught, and how: all that one play of the loop needs but the network. plan: None for the method's own."""

    material: Material
    method: str
    recipe: Recipe
    teachers: list[Backbone]
    seed: int
    plan: Plan | None = None

    @property
    def prepares(self) -> bool:
        """Whether the method reads the items themselves, and no batches of the loop's."""
        return self.method != SUPERVISED and PRETEXTS[self.method].prepares

    def head(self, backbone: Backbone) -> nn.Module:
        """What stands behind the network while it learns from labels, and is thrown away; one number that nobody reads elsewhere."""
        outputs = len(self.material.classes) if self.method == SUPERVISED and self.material.task != "regression" else 1
        return torch_head(None, backbone.width, outputs, 0.0, 1.0, self.seed)

    def play(
        self,
        backbone: Backbone,
        items: Sequence[Any],
        epochs: int,
        checkpoints: Checkpoints | None,
        progress: Callable[[Event], None],
        first: int | None = None,
    ) -> Generator[Epoch | Note, None, None]:
        """The events of `train`. items: as those of the material, or packed; the first so many of them."""
        plan, head = self.plan or methods.plan_of(self.method, backbone, epochs), self.head(backbone)
        given: dict[str, Any] = {"recipe": self.recipe, "seed": self.seed, "checkpoints": checkpoints, "progress": progress}
        items = items[:first]
        if self.method != SUPERVISED:
            return train(backbone, head, plan, [], np.empty(0), task="regression", others=items, teachers=self.teachers, **given)
        target, task = self.material.target, self.material.task
        assert target is not None and task is not None, "`read` has refused data without labels"
        if task == "regression":
            target = (target - target.mean()) / (target.std() or 1.0)
        return train(backbone, head, plan, items, target[:first], task=task, **given)


class Course:
    """A pretraining under way: each step is called once, in the order of the methods. Changes the backbone in place."""

    def __init__(self, lesson: Lesson, backbone: Backbone, path: Path | None, log: Log, begun: float) -> None:
        self.lesson, self.backbone, self.log, self.begun, self.path = lesson, backbone, log, begun, path
        self.material, self.seed = lesson.material, lesson.seed
        self.unfinished = path / folder.UNFINISHED if path else None
        self.notes = list(self.material.notes)
        self.start = backbone.name
        self.rate = max(lesson.plan.phases[0].lr) if lesson.plan else methods.highest_rate(lesson.method, backbone)
        self.watch = Watch(
            self.material, log, log.say, self.unfinished and self.unfinished / "watched.json", reads_labels=lesson.method == SUPERVISED
        )
        self.items: Sequence[Any] = self.material.items
        self.epochs = self.played = 0
        self.before: np.ndarray | None = None
        self.written, self.cost = time.perf_counter(), 0.0

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Within, the items can be read quickly."""
        if self.material.modality != "image" or self.lesson.prepares:
            # What makes its own views wants all of an image.
            yield
            return
        with packed(self.items, self.backbone.preprocessing, self.unfinished, self.log) as (items, note):
            self.items = items
            self.notes += [note] if note else []
            yield

    def plan_epochs(self, epochs: int | None, budget: float | None) -> None:
        """How many epochs, said before they are played. Raises GraftError where the budget allows none."""
        method, n, batch_size = self.lesson.method, len(self.items), self.lesson.recipe.batch_size

        def measured() -> float:
            def play(first: int, progress: Callable[[Event], None]) -> float:
                # Two epochs where one batch holds all items, or nearly: there is but one step in each.
                rounds = 2 if first < 2 * batch_size or self.lesson.prepares else 1
                events = self.lesson.play(copy.deepcopy(self.backbone), self.items, rounds, None, progress, first)
                return ([0.0] + [event.seconds for event in events if isinstance(event, Epoch)])[-1]

            return times.seconds_an_item(play, batch_size, n, whole_epochs=self.lesson.prepares)

        def decide() -> int:
            learned = f"of {method} on {words.items(n, self.material.modality)}"
            if budget is None:
                plan = self.lesson.plan
                wanted = plan.phases[0].epochs if plan else epochs or methods.default_epochs(method, self.backbone)
                self.log.say(f"plan: {words.plural(wanted, 'epoch')} {learned}")
                return wanted
            one = measured() * n
            judged = self.material.judged
            look = 0.0 if judged is None else times.look_seconds(one / n, len(judged.fitted_target) + len(judged.held_target))
            spent = time.perf_counter() - self.begun
            wanted = times.fitting(budget, spent, one, look)
            total = spent + 2 * look + one * wanted * 1.05
            self.log.say(
                f"plan: {words.plural(wanted, 'epoch')} {learned}, about {words.duration(one)} each, {words.duration(total)} in all of "
                f"{words.duration(budget)}"
            )
            return wanted

        self.epochs = times.remembered_epochs(self.unfinished and self.unfinished / "planned.json", decide)

    def play(self) -> None:
        """The start is judged, the epochs are played and watched, the result is judged by `record`."""
        judged = self.material.judged
        if judged is not None:
            self.before = judge.outputs(judged, self.backbone, cache=True, seed=self.seed, progress=self.log)
        self.watch.begin(self.backbone)
        checkpoints = Checkpoints(self.unfinished, self.lesson.method) if self.unfinished else None
        if interrupt.asked():
            raise times.Interrupted("interrupted before the first epoch: nothing was learned yet. The same command begins anew.")
        events = self.lesson.play(self.backbone, self.items, self.epochs, checkpoints, self.watch.step)
        self.backbone.card = self._card()
        for event in events:
            if isinstance(event, Note):
                self.log.say(event.text)
            elif isinstance(event, Epoch):
                self.played = event.epoch + 1
                left = self.epochs - self.played
                if self.watch.epoch(event, self.backbone, last=not left):
                    self._write_latest()
                    # What a method prepares before an epoch is done before the clock of the first, and later epochs may do without.
                    if self.played == (2 if self.lesson.prepares else 1) and left:
                        told = f"{'at most' if self.lesson.prepares else 'about'} {words.duration(left * event.seconds)}"
                        self.log.say(f"an epoch takes {words.duration(event.seconds)}: {told} for the {left} that are left")
        if not self.played:
            raise times.Interrupted("interrupted within the first epoch: nothing was learned yet. The same command begins anew.")
        if self.path:
            self.backbone.name = f"checkpoint:{self.path}"

    def record(self, command: str) -> Pretraining:
        """Every number, the last look and the judgement among them."""
        material, judged, lesson = self.material, self.material.judged, self.lesson
        helped: dict[str, Any] = {}
        if judged is not None and self.before is not None:
            after = judge.outputs(judged, self.backbone, cache=False, seed=self.seed, progress=self.log)
            helped = judge.helped(judged, self.before, after, self.seed)
        interrupted = ""
        if self.played < self.epochs:
            interrupted = f"interrupted: {self.played} of {words.plural(self.epochs, 'epoch')} were played; the same command goes on"
        return Pretraining(
            data=material.name,
            modality=material.modality,
            n_items=len(material.items),
            method=lesson.method,
            source=PRETEXTS.sources.get(lesson.method, _SUPERVISED_SOURCE),
            start=self.start,
            teachers=[teacher.name for teacher in lesson.teachers],
            licence=self.backbone.card.get("licence", ""),
            pretrained_on=self.backbone.card["pretrained_on"],
            parameters=sum(parameter.numel() for parameter in self.backbone.parameters()),
            width=self.backbone.width,
            epochs=self.played,
            planned_epochs=self.epochs,
            batch_size=lesson.recipe.batch_size,
            rate=self.rate,
            seconds=time.perf_counter() - self.begun,
            training_seconds=self.watch.rows[-1]["seconds"],
            watched=self.watch.rows,
            n_seen=len(material.seen),
            collapse=self.watch.collapse,
            helped=helped,
            fingerprint=self.backbone.fingerprint(),
            seeds=[self.seed],
            versions=versions(),
            findings=[asdict(finding) for finding in material.findings],
            notes=self.notes,
            command=command,
            interrupted=interrupted,
        )

    def save(self, made: Path, record: Pretraining) -> None:
        """Write the backbone and its card into a folder."""
        self.backbone.save(made)
        (made / "README.md").write_text(pretraining_card(record), encoding="utf-8")

    def _card(self) -> dict[str, str]:
        """What the result is, for whoever loads it: the start's licence, and what the weights have seen."""
        begun, material = self.backbone.card, self.material
        # The folder's own name: where it lay on this machine is nobody else's business.
        data = Path(material.name).name if Path(material.name).exists() else material.name
        saw = f"{words.items(len(material.items), material.modality)} of {data} ({self.lesson.method})"
        # What lies in a folder of one's own, or was made of a table, no name brings back elsewhere.
        card = {} if self.start.partition(":")[0] in _LOCAL else {"start": self.start}
        if methods.is_untrained(self.backbone):
            return {**card, "pretrained_on": saw}
        before = begun.get("pretrained_on") or f"what {self.start} saw"
        return {**card, **{name: text for name, text in begun.items() if name == "licence"}, "pretrained_on": f"{before}, then {saw}"}

    def _write_latest(self) -> None:
        """The weights by now as a backbone that can be looked at, where enough time has passed since the last one."""
        if not self.unfinished or not processes.first() or (time.perf_counter() - self.written) * _SHARE_OF_TIME < self.cost:
            return
        begun = time.perf_counter()
        with folder.writing(self.unfinished), folder.replacing_folder(self.unfinished / LATEST) as made:
            self.backbone.save(made)
        self.written = time.perf_counter()
        self.cost = self.written - begun
