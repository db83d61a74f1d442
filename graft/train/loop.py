"""The only training loop: plays the phases of a Plan, epoch by epoch. Heavy: torch."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from graft import budget, inlays, interrupt, processes
from graft.backbones.base import Backbone, State
from graft.device import seeded, tf32
from graft.errors import Diverged
from graft.features import Progress, States, device_of, one_ahead
from graft.losses import Other, Seen
from graft.memory import keep_freed
from graft.records import Epoch, Phase, Plan, Recipe, Step, Task
from graft.train import learning, mixing, shared
from graft.train.added import asks_for_others, loss_of, made
from graft.train.checkpoint import Checkpoint, Checkpoints, digest_of, events_of, load_optimiser
from graft.train.ends import Best, Ending, Reached, Weights
from graft.train.feed import Feed, Ready, Turn
from graft.train.feeds import Feeds, Lessons
from graft.train.judging import Metric, over, reached
from graft.train.others import Reading, Round
from graft.train.pace import Average, scheduler
from graft.train.precision import computes_in_bf16
from graft.train.tasks import Loss, encoded, mass


@dataclass
class Run:
    """One play of a plan: what every phase needs, gathered once."""

    backbone: Backbone
    head: nn.Module
    plan: Plan
    recipe: Recipe
    task: Task
    loss: Loss
    metric: Metric | None
    seed: int
    states: States | None
    progress: Progress | None
    checkpoints: Checkpoints | None = None
    checkpoint: Checkpoint | None = None
    saved: dict[str, Any] | None = None  # what an earlier process left to go on from
    events: list[Epoch] = field(default_factory=list)
    best: Reached | None = None
    bf16: bool = False
    weight: torch.Tensor | None = None  # of each class, as in the loss

    def __post_init__(self) -> None:
        self.device = device_of(self.backbone)
        # Of a GPU's matrices; who asks for fp32 has all of its digits.
        self.rounded = partial(tf32, self.device, self.recipe.precision != "fp32")
        self.kept: Weights = {}
        self.ending = Ending(self.plan.end)
        # A request from before is none to this run: who made it already decided that it is needed.
        self.asked_before = processes.from_first(interrupt.asked())

    def play(self, lessons: Lessons) -> Generator[Epoch, None, None]:
        losses = [loss_of(name) for name, _ in self.plan.losses]
        self.raw = any(loss.raw for loss in losses)
        if not asks_for_others(self.plan):
            lessons = lessons._replace(others=())
        keep_freed()
        if any(any(phase.lr) for phase in self.plan.phases):
            self.bf16 = computes_in_bf16(
                self.recipe.precision, self.backbone, self.head, lessons.items if self.plan.supervised else lessons.others
            )
        if self.plan.reset:
            self.backbone.reset(self.seed)
        if not self.plan.phases:
            return
        ever = [any(phase.lr[group] for phase in self.plan.phases) for group in range(self.backbone.depth)]
        stages = [stage for stage, learns in zip(self.backbone.stages, ever, strict=True) if learns]
        take_out = inlays.set_in(stages, self.plan, self.seed)
        self.target = encoded(lessons.y, self.task)
        self.feeds = Feeds(self.backbone, self.plan, self.recipe, lessons, self.target, self.seed, self.states, self.progress)
        # They stay with the keeper where it serves others that start from the same weights.
        opened = self.feeds.private if self.states is None else []
        try:
            told = (self.task, self.loss, self.seed, self.feeds.keeper, opened, self.progress)
            teachers = [teacher.to(self.device) for teacher in lessons.teachers]
            with self.rounded():
                self.added = made(self.plan, self.backbone, self.head, lessons.items, self.target, *told, lessons.others, teachers)
        except BaseException:
            take_out()
            raise
        self.changing = nn.ModuleList([*stages, self.head, self.added])
        anchored = any(phase.anchor for phase in self.plan.phases)
        self.start = {parameter: parameter.detach().clone() for parameter in self.backbone.parameters()} if anchored else {}
        self.keep()
        if self.checkpoints:
            self.open_checkpoint(self.checkpoints, lessons.teachers)
        try:
            yield from self.go_on()
            for number, phase in enumerate(self.plan.phases):
                if self.cut():
                    return
                if self.saved and number < self.saved["phase"]:
                    continue
                if any(phase.lr) and not (self.saved and number == self.saved["phase"]):
                    self.best, self.kept = self.ending.begin(Best(self.best, self.kept))
                    self.restore()
                yield from self.phase(number, phase)
                self.restore()
            if not self.cut() and not self.saved:
                if self.plan.end != "keep":
                    self.kept = self.ending.finish(Best(self.best, self.kept), self.judge())
                self.save({"phase": len(self.plan.phases)})
        finally:
            self.kept = self.ending.interrupted(Best(self.best, self.kept))
            self.feeds.drop()
            self.restore()
            take_out()
            self.backbone.requires_grad_(True).eval()
            self.head.requires_grad_(True).eval()

    @property
    def dtype(self) -> torch.dtype:
        """In which the network computes."""
        return torch.bfloat16 if self.bf16 else torch.float32

    @contextmanager
    def computing(self) -> Iterator[None]:
        """In this precision, also of what is kept for later."""
        with self.rounded(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def keep(self) -> None:
        """Remember the weights as the best so far."""
        self.kept = copy.deepcopy(self.changing.state_dict())

    def restore(self) -> None:
        """Put the best weights so far back in place."""
        self.changing.load_state_dict(self.kept)

    def phase(self, number: int, phase: Phase) -> Generator[Epoch, None, None]:
        learns = learning.learns(self.backbone, self.plan, phase)
        boundary = learns.index(True) if any(learns) else self.backbone.depth
        self.backbone.eval()
        self.feeds.move(boundary, self.dtype)
        self.feeds.untouched = min(self.feeds.untouched, boundary)
        judged, truth = self.feeds.judged, self.feeds.truth
        begun_from = self.kept
        if judged and self.best is None:
            self.best = self.score(judged, truth)
        self.training_mode(phase, learns)
        optimiser = learning.optimiser(self.backbone, self.head, self.added, phase)
        batches = len(self.feeds.batches(number))
        schedule = self.scheduler(optimiser, phase.epochs * math.ceil(batches / self.recipe.accumulate))
        self.average = Average(self.changing, self.recipe.averaging) if self.recipe.averaging else None
        first = waited = 0
        if self.saved and self.saved["phase"] == number:
            first, waited, begun_from = self.saved["epoch"] + 1, self.saved["waited"], self.saved["begun_from"]
            with self.computing():
                self.feeds.fill(number, first)
            load_optimiser(optimiser, self.saved["optimiser"])
            schedule.load_state_dict(self.saved["schedule"])
            if self.average:
                self.average.steps, self.average.values = self.saved["average"]
            self.saved = None
        else:
            with self.computing():
                self.feeds.fill_looked()
        for epoch in range(first, phase.epochs):
            if self.recipe.patience is not None and waited >= self.recipe.patience:
                return
            begun = time.perf_counter()
            loss = self.epoch(number, epoch, phase, learns, optimiser, schedule)
            if self.cut():
                return
            if not math.isfinite(loss) and self.bf16:
                warnings.warn(
                    f"training {self.backbone.name}: the loss became {loss} in bf16 in phase {number + 1}, epoch {epoch + 1}. "
                    "The phase is begun again from its starting weights, and training continues in fp32.",
                    stacklevel=2,
                )
                self.bf16 = False
                self.changing.load_state_dict(begun_from)
                yield from self.phase(number, phase)
                return
            if not math.isfinite(loss):
                yield Epoch(number, epoch, loss, None, time.perf_counter() - begun)
                raise Diverged(
                    f"training {self.backbone.name}: the loss became {loss} in phase {number + 1}, epoch {epoch + 1}, "
                    "expected a finite number. The weights from before it are kept. "
                    f"The highest rate was {max(*phase.lr, phase.head_lr):g}: try a tenth of it."
                )
            with self.average.in_place() if self.average else nullcontext():
                judgement = self.score(judged, truth) if judged else None
                if judgement is None or self.best is None or judgement > self.best:
                    self.best, waited = judgement, 0
                    self.keep()
                else:
                    waited += 1
            self.events.append(Epoch(number, epoch, loss, judgement.score if judgement else None, time.perf_counter() - begun))
            if self.checkpoint and self.checkpoint.due():
                place = {"phase": number, "epoch": epoch, "waited": waited, "begun_from": begun_from if self.bf16 else None}
                average = [self.average.steps, self.average.values] if self.average else None
                self.save({**place, "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict(), "average": average})
            yield self.events[-1]

    def epoch(
        self,
        number: int,
        epoch: int,
        phase: Phase,
        learns: list[bool],
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> float:
        """Mean loss over the items, or the first that is not finite."""
        self.added.begin_epoch(self.look)
        self.training_mode(phase, learns)
        rounds, k = self.feeds.rounds(number, epoch), self.recipe.accumulate
        masses = [self.mass(one.batch) for one in rounds]
        total, done, due = 0.0, 0, sum(len(one.batch) for one in rounds)
        seed = int(np.random.SeedSequence([self.seed, number, shared.apart(epoch)]).generate_state(1)[0])
        with seeded(seed, self.device), self.rounded():
            prepared = one_ahead(lambda one: [feed.prepare(part, turn) for feed, part, turn in one.readings], rounds)
            for place, (one, ready) in enumerate(zip(rounds, prepared, strict=True)):
                if self.cut():
                    break
                loss = self.fit(one, ready, (epoch + place / len(rounds)) / phase.epochs)
                value = shared.total(loss.item())
                self.heard(value)
                if not math.isfinite(value):
                    return value
                first = place - place % k
                if place == first:
                    optimiser.zero_grad()
                # Batches of one step weigh as they would in one large batch.
                (loss * (masses[place] / sum(masses[first : first + k]))).backward()
                if place + 1 == min(first + k, len(rounds)):
                    # Not all that ever changes: what earlier phases trained still has its last gradient.
                    moved = [parameter for group in optimiser.param_groups for parameter in group["params"]]
                    shared.add_gradients(moved)
                    learning.pull(self.backbone, self.start, phase, learns)
                    if self.recipe.clip_norm is not None:
                        nn.utils.clip_grad_norm_(moved, self.recipe.clip_norm)
                    optimiser.step()
                    schedule.step()
                    if self.average:
                        self.average.update()
                total, done = total + value * len(one.batch), done + len(one.batch)
                if self.progress:
                    self.progress(Step(f"training {self.backbone.name}", done, due))
        shared.level(self.changing)
        return total / max(1, done)

    def mass(self, batch: np.ndarray) -> float:
        """What these items weigh in a loss."""
        return mass(self.task, self.target[batch], self.weight) if self.plan.supervised else float(len(batch))

    @torch.no_grad()
    def look(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (m, d) and logits (m, c) of all others by now, as judged."""
        width = self.backbone.width
        if not (self.feeds.others and self.feeds.others.looked):
            nothing = torch.empty(0, width, device=self.device)
            return nothing, self.head(nothing)
        with self.rounded():
            both = over(self.backbone, self.head, self.feeds.others.looked, self.bf16, lambda rows: torch.cat([rows, self.head(rows)], 1))
        return both[:, :width].to(self.device), both[:, width:].to(self.device)

    def cut(self) -> bool:
        """Whether an end was asked for since this run began, or time is up: what is under way is dropped, the best weights are left."""
        # The first process's word, so that all end at the same batch.
        asked, spent = processes.from_first((interrupt.asked(), budget.left() <= 0))
        return spent or (asked and not self.asked_before)

    def open_checkpoint(self, checkpoints: Checkpoints, teachers: Sequence[Backbone]) -> None:
        """Find what an earlier process left of this run."""
        taught = [teacher.fingerprint() for teacher in teachers]
        about = [self.backbone.fingerprint(), *taught, self.task, self.seed, processes.count()]
        self.checkpoint = checkpoints.open(about, digest_of(self.head), self.plan, self.recipe, *self.feeds.contents())
        self.saved = self.checkpoint.read(self.device)

    def save(self, place: dict[str, Any]) -> None:
        """Write all that the rest of the run needs. place: how far it is, and what only this phase needs."""
        if not self.checkpoint:
            return
        weights = self.changing.state_dict()
        are_kept = all(torch.equal(tensor, self.kept[name]) for name, tensor in weights.items())
        run = {"bf16": self.bf16, "best": self.best and tuple(self.best), "events": [asdict(event) for event in self.events]}
        ending = self.ending.state(self.kept)
        self.checkpoint.write({**place, **run, "kept": self.kept, "weights": None if are_kept else weights, "ending": ending})

    def go_on(self) -> Generator[Epoch, None, None]:
        """Take up what an earlier process left: tell its epochs again, and put its weights in place."""
        if not self.saved:
            return
        self.bf16, self.events = self.saved["bf16"], events_of(self.saved)
        self.best = self.saved["best"] and Reached(*self.saved["best"])
        for number, phase in enumerate(self.plan.phases[: self.saved["phase"]]):
            learns = learning.learns(self.backbone, self.plan, phase)
            boundary = learns.index(True) if any(learns) else self.backbone.depth
            # Others who keep states with this run find what they would have found.
            if self.states and boundary <= self.feeds.untouched and boundary < self.backbone.depth:
                self.feeds.move(boundary, self.dtype)
                played = [event.epoch for event in self.events if event.phase == number]
                with self.computing():
                    self.feeds.fill(number, 1 + max(played, default=-1))
            self.feeds.untouched = min(self.feeds.untouched, boundary)
        self.kept = self.ending.take_up(self.saved["ending"], self.saved["kept"])
        self.changing.load_state_dict(self.saved["weights"] or self.kept)
        yield from list(self.events)

    def training_mode(self, phase: Phase, learns: list[bool]) -> None:
        learning.training_mode(self.backbone, self.head, self.plan, self.recipe, phase, learns)

    def fit(self, one: Round, ready: list[Ready], progress: float) -> torch.Tensor:
        """The loss of a batch, a scalar: the task's, and what the plan adds to it, with the weight that this process's part has in it."""
        feed, part, turn = one.readings[0]
        weight = shared.weight(one.batch, part, self.mass)
        target = self.target[part if self.plan.supervised else []].to(self.device)
        mix = mixing.draw(self.recipe, len(part), turn)
        states, features, logits = (self.said if self.plan.supervised else self.read)(one.readings[0], ready[0], mix)
        if mix:
            return mix.loss(self.loss, logits, target) * weight
        other = None
        if self.feeds.others:
            again = self.said(one.readings[-1], ready[-1])[1:] if self.feeds.others.again else (None, None)
            first = self.read(one.readings[1], ready[1]) if self.plan.supervised else (states, features, logits)
            places = torch.from_numpy(one.readings[1 if self.plan.supervised else 0].part).to(self.device)
            other = Other(*first, places, *again)
        keys = feed.keys(part, turn) if self.plan.losses else None
        seen = Seen(feed.boundary, states, features, logits, target, keys, self.bf16, other, progress, self.through(feed.boundary))
        task_loss = self.loss(logits, target) * weight if self.plan.supervised else logits.new_zeros(())
        # What is added is a mean over items, whatever their classes weigh.
        return self.added(seen, task_loss, shared.weight(one.batch, part, len))

    def through(self, boundary: int) -> Callable[[State, int | None], State]:
        """What runs the network on a state from this boundary on, up to a stage."""

        def run(state: State, stop: int | None) -> State:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                return self.backbone(state, boundary, stop)

        return run

    def read(self, reading: Reading, ready: Ready, mix: mixing.Mix | None = None) -> tuple[list[State], torch.Tensor, torch.Tensor]:
        """As `said`, of others; of those that a loss runs itself the state alone."""
        if not self.raw:
            return self.said(reading, ready, mix)
        feed, batch, turn = reading
        nothing = torch.empty(0, self.backbone.width, device=self.device)
        return [feed.state(batch, turn, ready)], nothing, self.head(nothing)

    def said(self, reading: Reading, ready: Ready, mix: mixing.Mix | None = None) -> tuple[list[State], torch.Tensor, torch.Tensor]:
        """States, features and logits of a batch in training."""
        states = self.states_of(*reading, ready, mix)
        assert isinstance(states[-1], torch.Tensor)
        features = states[-1].float()
        # The head is small: all digits cost it nothing.
        return states, features, self.head(nn.functional.dropout(features, self.recipe.dropout, self.head.training))

    def states_of(self, feed: Feed, batch: np.ndarray, turn: Turn | None, ready: Ready, mix: mixing.Mix | None = None) -> list[State]:
        """What stage `feed.boundary` takes of a batch, and what it and each later one gives."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            states = [feed.state(batch, turn, ready)]
            if mix and not feed.text:
                states = [mix.state(states[0])]
            for stage in self.backbone.stages[feed.boundary :]:
                states.append(stage(states[-1]))
        if mix and feed.text:
            # Texts differ in length: what can be mixed of them is their features.
            states[-1] = mix.state(states[-1])
        return states

    def scheduler(self, optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """What moves the rates through the steps of a phase."""
        return scheduler(self.recipe.schedule, optimiser, steps)

    def heard(self, loss: float) -> None:
        """Is told the loss of each batch."""

    def score(self, feed: Feed, y: Any) -> Reached:
        """The metric on the validation part, and the loss."""
        with self.rounded():
            return reached(over(self.backbone, self.head, feed, self.bf16, self.head), y, self.task, self.metric)

    def judge(self) -> Callable[[Weights], float] | None:
        """What scores weights on the validation part, when all phases are played; None without one."""
        judged = self.feeds.judged_at_last(self.dtype)
        if judged is None:
            return None

        def score(weights: Weights) -> float:
            self.changing.load_state_dict(weights)
            return self.score(judged, self.feeds.truth).score

        return score
