"""The only training loop: plays the phases of a Plan, epoch by epoch. Heavy: torch."""

import copy
import math
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from graft import inlays, interrupt, processes
from graft.backbones.base import Backbone, State
from graft.errors import Diverged
from graft.features import Progress, Shelf, States, device_of, extract, one_ahead
from graft.losses import Seen
from graft.memory import keep_freed
from graft.records import Epoch, Phase, Plan, Recipe, Step, Task
from graft.train import augment, mixing, shared
from graft.train.added import made
from graft.train.checkpoint import Checkpoint, Checkpoints, digest_of, events_of, load_optimiser
from graft.train.ends import Best, Ending, Reached, Weights
from graft.train.feed import Feed, Ready, Turn
from graft.train.pace import Average, scheduler
from graft.train.precision import computes_in_bf16
from graft.train.tasks import Loss, balanced, decode, encoded, mass, task_loss

Metric = Callable[[np.ndarray, np.ndarray], float]
Labelled = tuple[Sequence[Any], np.ndarray]


class Lessons(NamedTuple):
    """What is learned from, n items and their encoded target, and the part that is scored after each epoch, where there is one."""

    items: Sequence[Any]
    y: np.ndarray
    validation: Labelled | None = None


_WEIGHT_DECAY = 0.01  # AdamW's default in PyTorch


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
        self.keeper = self.states or States()
        self.private: list[Shelf] = []
        self.kept: Weights = {}
        self.ending = Ending(self.plan.end)
        # A request from before is none to this run: who made it already decided that it is needed.
        self.asked_before = self.asked()
        # From this stage on weights are no longer those that the run came with.
        self.untouched = 0 if self.plan.reset else self.backbone.depth

    def play(self, lessons: Lessons) -> Generator[Epoch, None, None]:
        items, y, validation = lessons
        keep_freed()
        if any(any(phase.lr) for phase in self.plan.phases):
            self.bf16 = computes_in_bf16(self.recipe.precision, self.backbone, self.head, items)
        if self.plan.reset:
            self.backbone.reset(self.seed)
        if not self.plan.phases:
            return
        learning = [any(phase.lr[group] for phase in self.plan.phases) for group in range(self.backbone.depth)]
        stages = [stage for stage, learns in zip(self.backbone.stages, learning, strict=True) if learns]
        take_out = inlays.set_in(stages, self.plan, self.seed)
        # They stay with the keeper where it serves others that start from the same weights.
        opened = self.private if self.states is None else []
        self.target = encoded(y, self.task)
        try:
            self.added = made(
                self.plan, self.backbone, self.head, items, self.target, self.task, self.loss, self.seed, self.keeper, opened, self.progress
            )
        except BaseException:
            take_out()
            raise
        self.changing = nn.ModuleList([*stages, self.head, self.added])
        anchored = any(phase.anchor for phase in self.plan.phases)
        self.start = {parameter: parameter.detach().clone() for parameter in self.backbone.parameters()} if anchored else {}
        self.keep()
        feed = Feed(self.backbone, items, self.recipe.batch_size, self.recipe)
        judged = Feed(self.backbone, validation[0], self.recipe.batch_size) if validation else None
        if self.checkpoints:
            self.open_checkpoint(self.checkpoints, feed, y, judged, validation[1] if validation else None)
        try:
            yield from self.go_on(feed, judged)
            for number, phase in enumerate(self.plan.phases):
                if self.cut():
                    return
                if self.saved and number < self.saved["phase"]:
                    continue
                if any(phase.lr) and not (self.saved and number == self.saved["phase"]):
                    self.best, self.kept = self.ending.begin(Best(self.best, self.kept))
                    self.restore()
                yield from self.phase(number, phase, feed, judged, validation[1] if validation else None)
                self.restore()
            if not self.cut() and not self.saved:
                if self.plan.end != "keep":
                    score = self.judge(judged, validation[1]) if judged and validation else None
                    self.kept = self.ending.finish(Best(self.best, self.kept), score)
                self.save({"phase": len(self.plan.phases)})
        finally:
            self.kept = self.ending.interrupted(Best(self.best, self.kept))
            for shelf in self.private:
                self.keeper.drop(shelf)
            self.restore()
            take_out()
            self.backbone.requires_grad_(True).eval()
            self.head.requires_grad_(True).eval()

    def keep(self) -> None:
        """Remember the weights as the best so far."""
        self.kept = copy.deepcopy(self.changing.state_dict())

    def restore(self) -> None:
        """Put the best weights so far back in place."""
        self.changing.load_state_dict(self.kept)

    def phase(self, number: int, phase: Phase, feed: Feed, judged: Feed | None, truth: np.ndarray | None) -> Generator[Epoch, None, None]:
        learns = self.learns(phase)
        boundary = learns.index(True) if any(learns) else self.backbone.depth
        self.backbone.eval()
        self.place(feed, boundary, self.views(boundary))
        if judged:
            self.place(judged, boundary, False)
        self.untouched = min(self.untouched, boundary)
        begun_from = self.kept
        if judged and self.best is None:
            self.best = self.score(judged, truth)
        optimiser = self.optimiser(phase, learns)
        batches = len(self.batches(feed, number))
        schedule = self.scheduler(optimiser, phase.epochs * math.ceil(batches / self.recipe.accumulate))
        self.average = Average(self.changing, self.recipe.averaging) if self.recipe.averaging else None
        first = waited = 0
        if self.saved and self.saved["phase"] == number:
            first, waited, begun_from = self.saved["epoch"] + 1, self.saved["waited"], self.saved["begun_from"]
            self.fill(number, first, feed, judged)
            load_optimiser(optimiser, self.saved["optimiser"])
            schedule.load_state_dict(self.saved["schedule"])
            if self.average:
                self.average.steps, self.average.values = self.saved["average"]
            self.saved = None
        for epoch in range(first, phase.epochs):
            if self.recipe.patience is not None and waited >= self.recipe.patience:
                return
            begun = time.perf_counter()
            loss = self.epoch(number, epoch, phase, feed, learns, optimiser, schedule)
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
                yield from self.phase(number, phase, feed, judged, truth)
                return
            if not math.isfinite(loss):
                yield Epoch(number, epoch, loss, None, time.perf_counter() - begun)
                raise Diverged(
                    f"training {self.backbone.name}: the loss became {loss} in phase {number + 1}, epoch {epoch + 1}, "
                    "expected a finite number. The weights from before it are kept. "
                    f"The highest rate was {max(*phase.lr, phase.head_lr):g}: try a tenth of it."
                )
            with self.average.in_place() if self.average else nullcontext():
                reached = self.score(judged, truth) if judged else None
                if reached is None or self.best is None or reached > self.best:
                    self.best, waited = reached, 0
                    self.keep()
                else:
                    waited += 1
            self.events.append(Epoch(number, epoch, loss, reached.score if reached else None, time.perf_counter() - begun))
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
        feed: Feed,
        learns: list[bool],
        optimiser: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
    ) -> float:
        """Mean loss over the items, or the first that is not finite."""
        self.training_mode(phase, learns)
        turns = self.turns(number, epoch, feed)
        k, target = self.recipe.accumulate, self.target
        masses = [mass(self.task, target[batch], self.weight) for batch, _, _ in turns]
        total, done, due = 0.0, 0, sum(len(batch) for batch, _, _ in turns)
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence([self.seed, number, shared.apart(epoch)]).generate_state(1)[0]))
            prepared = one_ahead(lambda turn: feed.prepare(*turn[1:]), turns)
            for place, ((batch, part, turn), ready) in enumerate(zip(turns, prepared, strict=True)):
                if self.cut():
                    break
                weight = shared.weight(batch, part, lambda some: mass(self.task, target[some], self.weight))
                loss = self.fit(feed, part, turn, ready, target[part].to(self.device)) * weight
                value = shared.total(loss.item())
                self.heard(value)
                if not math.isfinite(value):
                    return value
                first = place - place % k
                if place == first:
                    optimiser.zero_grad()
                # Batches of one step weigh as they would in one large batch.
                (loss * (masses[place] / sum(masses[first : first + k]))).backward()
                if place + 1 == min(first + k, len(turns)):
                    # Not all that ever changes: what earlier phases trained still has its last gradient.
                    learning = [parameter for group in optimiser.param_groups for parameter in group["params"]]
                    shared.add_gradients(learning)
                    self.pull(phase, learns)
                    if self.recipe.clip_norm is not None:
                        nn.utils.clip_grad_norm_(learning, self.recipe.clip_norm)
                    optimiser.step()
                    schedule.step()
                    if self.average:
                        self.average.update()
                total, done = total + value * len(batch), done + len(batch)
                if self.progress:
                    self.progress(Step(f"training {self.backbone.name}", done, due))
        shared.level(self.changing)
        return total / max(1, done)

    def turns(self, number: int, epoch: int, feed: Feed) -> list[tuple[np.ndarray, np.ndarray, Turn]]:
        """The batches of an epoch: the items of all processes, those of this one, and its turn."""
        # Every draw of an epoch hangs on (seed, phase, epoch) alone, so that an epoch can be repeated by itself.
        return [
            (batch, shared.part(batch), Turn(self.seed, number, epoch, shared.apart(place)))
            for place, batch in enumerate(self.batches(feed, number, epoch))
        ]

    def asked(self) -> bool:
        """Whether the user asked for an end: the first process's word, so that all end at the same batch."""
        return processes.from_first(interrupt.asked())

    def cut(self) -> bool:
        """Whether the user asked for an end since this run began: what is under way is dropped, the best weights so far are left."""
        return self.asked() and not self.asked_before

    def open_checkpoint(self, checkpoints: Checkpoints, feed: Feed, y: np.ndarray, judged: Feed | None, truth: np.ndarray | None) -> None:
        """Find what an earlier process left of this run."""
        about = [self.backbone.fingerprint(), self.device.type, self.task, self.seed, processes.count()]
        labelled = [b"".join(feed.contents), y] + ([b"".join(judged.contents), truth] if judged else [])
        self.checkpoint = checkpoints.open(about, digest_of(self.head), self.plan, self.recipe, *labelled)
        self.saved = self.checkpoint.read()

    def save(self, place: dict[str, Any]) -> None:
        """Write all that the rest of the run needs. place: how far it is, and what only this phase needs."""
        if not self.checkpoint:
            return
        weights = self.changing.state_dict()
        are_kept = all(torch.equal(tensor, self.kept[name]) for name, tensor in weights.items())
        run = {"bf16": self.bf16, "best": self.best and tuple(self.best), "events": [asdict(event) for event in self.events]}
        ending = self.ending.state(self.kept)
        self.checkpoint.write({**place, **run, "kept": self.kept, "weights": None if are_kept else weights, "ending": ending})

    def go_on(self, feed: Feed, judged: Feed | None) -> Generator[Epoch, None, None]:
        """Take up what an earlier process left: tell its epochs again, and put its weights in place."""
        if not self.saved:
            return
        self.bf16, self.events = self.saved["bf16"], events_of(self.saved)
        self.best = self.saved["best"] and Reached(*self.saved["best"])
        for number, phase in enumerate(self.plan.phases[: self.saved["phase"]]):
            learns = self.learns(phase)
            boundary = learns.index(True) if any(learns) else self.backbone.depth
            # Others who keep states with this run find what they would have found.
            if self.states and boundary <= self.untouched and boundary < self.backbone.depth:
                self.place(feed, boundary, self.views(boundary))
                if judged:
                    self.place(judged, boundary, False)
                played = [event.epoch for event in self.events if event.phase == number]
                self.fill(number, 1 + max(played, default=-1), feed, judged)
            self.untouched = min(self.untouched, boundary)
        self.kept = self.ending.take_up(self.saved["ending"], self.saved["kept"])
        self.changing.load_state_dict(self.saved["weights"] or self.kept)
        yield from list(self.events)

    def fill(self, number: int, epochs: int, feed: Feed, judged: Feed | None) -> None:
        """Keep what the frozen stages give for epochs that are not played again.

        In the order and the batches of then: in others it rounds differently.
        """

        def fill_judged() -> None:
            if judged:
                judged.fill((batch, None) for batch in processes.share(judged.batches(None)))

        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            for epoch in range(epochs):
                if (number, epoch) == (0, 0):
                    # The starting weights were judged before the first epoch of all.
                    fill_judged()
                feed.fill(turn[1:] for turn in self.turns(number, epoch, feed))
                fill_judged()

    def learns(self, phase: Phase) -> list[bool]:
        """Whether each layer group does in this phase."""
        return [rate > 0 and bool(inlays.learners(stage, self.plan)) for rate, stage in zip(phase.lr, self.backbone.stages, strict=True)]

    def views(self, boundary: int) -> bool:
        """Whether items are seen in random views in a phase with this boundary."""
        return augment.draws(self.recipe, self.backbone.modality) and boundary < self.backbone.depth

    def place(self, feed: Feed, boundary: int, views: bool) -> None:
        """Move a feed to a phase's boundary."""
        if boundary == self.untouched == self.backbone.depth:
            feed.place(boundary, features=extract(self.backbone, feed.items, progress=self.progress))
            return
        shelf = None
        if boundary and self.keeper.limit_bytes:
            shelf = self.keeper.open(self.backbone, boundary, torch.bfloat16 if self.bf16 else torch.float32)
            if self.states is None or boundary > self.untouched:
                self.private.append(shelf)
        feed.place(boundary, shelf=shelf, views=views, epochs=sum(phase.epochs for phase in self.plan.phases))

    def fit(self, feed: Feed, batch: np.ndarray, turn: Turn, ready: Ready, target: torch.Tensor) -> torch.Tensor:
        """The loss of a batch, a scalar: the task's, and what the plan adds to it."""
        mix = mixing.draw(self.recipe, len(batch), turn)
        states = self.states_of(feed, batch, turn, ready, mix)
        assert isinstance(states[-1], torch.Tensor)
        features = states[-1].float()
        # The head is small: all digits cost it nothing.
        logits = self.head(nn.functional.dropout(features, self.recipe.dropout, self.head.training))
        if mix:
            return mix.loss(self.loss, logits, target)
        keys = feed.keys(batch, turn) if self.plan.losses else None
        return self.added(Seen(feed.boundary, states, features, logits, target, keys, self.bf16), self.loss(logits, target))

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

    def logits(self, feed: Feed, batch: np.ndarray, ready: Ready) -> torch.Tensor:
        """What backbone and head say of a batch in the view that is judged, (n, c) float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.backbone(feed.state(batch, None, ready), start=feed.boundary)
        return self.head(features.float())

    def scheduler(self, optimiser: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
        """What moves the rates through the steps of a phase."""
        return scheduler(self.recipe.schedule, optimiser, steps)

    def heard(self, loss: float) -> None:
        """Is told the loss of each batch."""

    def batches(self, feed: Feed, *place: int) -> list[np.ndarray]:
        """The batches of one epoch. place: phase and epoch, on which they hang."""
        rng = np.random.default_rng([self.seed, *place])
        return self.share(feed.batches(rng, balanced(self.target, rng) if self.recipe.sampler == "balanced" else None))

    def share(self, batches: list[np.ndarray]) -> list[np.ndarray]:
        """The batches of one epoch: all of a shuffled pass, or its first ones."""
        return (
            batches
            if self.recipe.items_per_epoch is None
            else batches[: max(1, round(self.recipe.items_per_epoch / self.recipe.batch_size))]
        )

    def training_mode(self, phase: Phase, learns: list[bool]) -> None:
        """What learns is in training mode and has gradients; what is frozen has neither."""
        self.backbone.set_trainable(learns)
        for stage, trained in zip(self.backbone.stages, learns, strict=True):
            if trained:
                inlays.train_only(stage, self.plan)
                # A head solved on features, and weights that few items move, are at home with the statistics they came with.
                if self.recipe.batch_norm == "moving" and not self.plan.reset and not self.plan.stochnorm:
                    inlays.hold_statistics(stage)
        self.head.train(phase.head_lr > 0)
        self.head.requires_grad_(phase.head_lr > 0)

    def optimiser(self, phase: Phase, learns: list[bool]) -> torch.optim.Optimizer:
        """AdamW with the phase's rates on what learns."""
        self.training_mode(phase, learns)
        rated = [(group, rate, phase.anchor == 0) for group, rate in zip(self.backbone.groups(), phase.lr, strict=True)]
        rated += [(list(self.head.parameters()), phase.head_lr, True), *self.added.rated(phase)]
        groups = []
        for parameters, rate, decays in rated:
            # The anchor takes the place of weight decay; biases and norms are never decayed.
            matrices = [parameter for parameter in parameters if parameter.requires_grad and parameter.ndim > 1 and decays]
            rest = [parameter for parameter in parameters if parameter.requires_grad and not (parameter.ndim > 1 and decays)]
            groups.append({"params": matrices, "lr": rate, "weight_decay": _WEIGHT_DECAY})
            groups.append({"params": rest, "lr": rate, "weight_decay": 0.0})
        return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)

    def pull(self, phase: Phase, learns: list[bool]) -> None:
        """Add the gradient of anchor / 2 * |w - w_start|^2."""
        if phase.anchor:
            for group, trained in zip(self.backbone.groups(), learns, strict=True):
                for parameter in group if trained else ():
                    if parameter.grad is not None:
                        parameter.grad.add_(parameter.detach() - self.start[parameter], alpha=phase.anchor)

    def score(self, feed: Feed, y: Any) -> Reached:
        """The metric on the validation part, and the loss; what is no number counts as worst."""
        self.backbone.eval()
        self.head.eval()
        batches = feed.batches(None)
        mine, parts = processes.share(batches), []
        with torch.no_grad():
            for batch, ready in zip(mine, one_ahead(lambda batch: feed.prepare(batch, None), mine), strict=True):
                parts.append(self.logits(feed, batch, ready).cpu())
        # In the order of the batches, whoever scored them.
        everyone = processes.gathered(parts)
        parts = [everyone[place % len(everyone)][place // len(everyone)] for place in range(len(batches))]
        logits = torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(batches)))]
        minus_loss = -task_loss(self.task, None)(logits, encoded(y, self.task)).item()
        score = self.metric(y, decode(logits, self.task)) if self.metric else minus_loss
        return Reached(*(-math.inf if math.isnan(value) else float(value) for value in (score, minus_loss)))

    def judge(self, feed: Feed, truth: np.ndarray) -> Callable[[Weights], float]:
        """What scores weights on the validation part, when all phases are played."""
        # Below this boundary no phase changed a weight; the last one's may lie deeper.
        self.place(feed, self.untouched, False)

        def score(weights: Weights) -> float:
            self.changing.load_state_dict(weights)
            return self.score(feed, truth).score

        return score
