"""All that a run reads, moved together to the freeze boundary of each phase, and which batches an epoch is made of. Heavy: torch."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from graft.backbones.base import Backbone
from graft.features import Progress, Shelf, States, extract
from graft.losses import Added
from graft.records import Plan, Recipe
from graft.train import augment, shared
from graft.train.added import loss_of
from graft.train.feed import Feed, Turn
from graft.train.others import Others, Reading, Round
from graft.train.tasks import balanced

Labelled = tuple[Sequence[Any], np.ndarray]


class Lessons(NamedTuple):
    """What is learned from, n items and their encoded target, and the part that is scored after each epoch, where there is one.

    others: of another domain, without labels. teachers: networks that some losses learn from.
    """

    items: Sequence[Any]
    y: np.ndarray
    validation: Labelled | None = None
    others: Sequence[Any] = ()
    teachers: Sequence[Backbone] = ()


@dataclass
class Feeds:
    """What a run learns from, what it is judged on, and the others, each as states at the freeze boundary of the phase that is played.

    target: of the items, as the loss takes it. states: keeps what frozen stages gave for other runs too; None: for this one alone.
    lessons: others among them where the plan reads any.
    """

    backbone: Backbone
    plan: Plan
    recipe: Recipe
    lessons: Lessons
    target: torch.Tensor
    seed: int
    states: States | None
    progress: Progress | None
    private: list[Shelf] = field(default_factory=list)  # to be dropped when the run is over

    def __post_init__(self) -> None:
        items, validation, size = self.lessons.items, self.lessons.validation, self.recipe.batch_size
        self.items = self.learned = Feed(self.backbone, items, size, self.recipe)
        self.judged = Feed(self.backbone, validation[0], size) if validation else None
        self.truth = validation[1] if validation else None
        self.others: Others | None = None
        if len(self.lessons.others):
            losses = [loss_of(name) for name, _ in self.plan.losses]
            asks = {"two_views": any(loss.two_views for loss in losses), "elsewhere": any(loss.prepares for loss in losses)}
            asks["as_judged"] = any(loss.as_judged for loss in losses)
            asks["looked"] = any(loss.begin_epoch is not Added.begin_epoch for loss in losses)
            self.others = Others(self.backbone, self.lessons.others, size, self.recipe, **asks)
        if not self.plan.supervised:
            assert self.others, "checked_loss has refused a plan without labels and without others"
            self.learned = self.others.feed
        self.keeper = self.states or States()
        # From this stage on weights are no longer those that the run came with.
        self.untouched = 0 if self.plan.reset else self.backbone.depth

    def contents(self) -> list[Any]:
        """What the numbers of a run hang on of all that is read."""
        given = [b"".join(self.items.contents), self.lessons.y]
        if self.judged and self.lessons.validation:
            given += [b"".join(self.judged.contents), self.lessons.validation[1]]
        if self.others:
            given.append(b"".join(self.others.feed.contents))
        return given

    # -- which items

    def batches(self, *place: int) -> list[np.ndarray]:
        """The batches of one epoch: all of a shuffled pass, or its first ones. place: phase and epoch, on which they hang."""
        rng = np.random.default_rng([self.seed, *place])
        batches = self.learned.batches(rng, balanced(self.target, rng) if self.recipe.sampler == "balanced" else None)
        wanted = self.recipe.items_per_epoch
        return batches if wanted is None else batches[: max(1, round(wanted / self.recipe.batch_size))]

    def rounds(self, phase: int, epoch: int) -> list[Round]:
        """What the batches of an epoch read."""
        # Every draw of an epoch hangs on (seed, phase, epoch) alone, so that an epoch can be repeated by itself.
        batches, others = self.batches(phase, epoch), self.others
        beside = others.beside(batches, self.seed, phase, epoch) if others and self.plan.supervised else batches
        rounds = []
        for place, (batch, also) in enumerate(zip(batches, beside, strict=True)):
            turn = Turn(self.seed, phase, epoch, shared.apart(place))
            further = others.readings(shared.part(also), turn, first=self.plan.supervised) if others else []
            rounds.append(Round(batch, [Reading(self.learned, shared.part(batch), turn), *further]))
        return rounds

    # -- from which stage on

    def move(self, boundary: int, dtype: torch.dtype) -> None:
        """Move all that is read to a phase's boundary. dtype: in which training computes, and states are kept."""
        others = self.others
        views = augment.draws(self.recipe, self.backbone.modality) and boundary < self.backbone.depth
        self._place(self.learned, boundary, dtype, views)
        if self.judged:
            self._place(self.judged, boundary, dtype)
        if others and self.learned is not others.feed:
            self._place(others.feed, boundary, dtype, views and not others.as_judged)
        if others and others.again:
            # Without a change there would be no second view: it is seen even where nothing but the head learns.
            self._place(others.again, boundary, dtype, True)
        if others and others.looked:
            self._place(others.looked, boundary, dtype)

    def judged_at_last(self, dtype: torch.dtype) -> Feed | None:
        """What a run is judged on when all its phases are played."""
        if self.judged:
            # Below this boundary no phase changed a weight; the last one's may lie deeper.
            self._place(self.judged, self.untouched, dtype)
        return self.judged

    def _place(self, feed: Feed, boundary: int, dtype: torch.dtype, views: bool = False) -> None:
        if boundary == self.untouched == self.backbone.depth and not views:
            feed.place(boundary, features=extract(self.backbone, feed.items, progress=self.progress))
            return
        shelf = None
        if boundary and self.keeper.limit_bytes:
            shelf = self.keeper.open(self.backbone, boundary, dtype)
            if self.states is None or boundary > self.untouched:
                self.private.append(shelf)
        feed.place(boundary, shelf=shelf, views=views, epochs=sum(phase.epochs for phase in self.plan.phases))

    def fill(self, phase: int, epochs: int) -> None:
        """Keep what the frozen stages give for epochs that are not played again.

        In the order and the batches of then: in others it rounds differently.
        """
        for epoch in range(epochs):
            if self.judged and (phase, epoch) == (0, 0):
                # The starting weights were judged before the first epoch of all.
                self.judged.fill_judged()
            if epoch == 0:
                self.fill_looked()
            readings = [reading for one in self.rounds(phase, epoch) for reading in one.readings]
            for some, several in itertools.groupby(readings, lambda reading: reading.feed):
                some.fill((reading.part, reading.turn) for reading in several)
            if self.judged:
                self.judged.fill_judged()

    def fill_looked(self) -> None:
        """Keep what the frozen stages give for the others as judged, before an epoch meets them in batches of its own."""
        if self.others and self.others.looked:
            self.others.looked.fill_judged()

    def drop(self) -> None:
        """Forget the states that no other run may read."""
        for shelf in self.private:
            self.keeper.drop(shelf)
