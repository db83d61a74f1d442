"""What training reads of another domain: which of its items come beside which batch, and in which views. Heavy: torch. Sees no label."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from graft.backbones.base import Backbone
from graft.records import Recipe
from graft.train.augment import MAGNITUDE
from graft.train.feed import Feed, Turn

_WORD_DELETION = 0.1  # Wei & Zou 2019, arXiv:1901.11196, section 4.4, alpha for more than 500 texts
_TOKEN_DROPOUT = 0.3  # Iyyer et al. 2015, doi:10.3115/v1/P15-1162, section 5


class Reading(NamedTuple):
    """One batch of one feed: places of the items that this process reads, and when."""

    feed: Feed
    part: np.ndarray
    turn: Turn


class Round(NamedTuple):
    """What one batch of training reads. batch: places of the items of all processes. readings: of this one, `batch`'s own first."""

    batch: np.ndarray
    readings: list[Reading]


class Others:
    """The items of another domain as training reads them.

    feed: in the views of training, or `as_judged`. again: in a second, stronger view, see `stronger`. looked: as they are judged. The last
    two are None where no loss asks. elsewhere: whether a loss prepares its batches of them itself.
    """

    def __init__(
        self,
        backbone: Backbone,
        items: Sequence[Any],
        batch_size: int,
        recipe: Recipe,
        *,
        two_views: bool,
        looked: bool,
        as_judged: bool = False,
        elsewhere: bool = False,
    ) -> None:
        self.as_judged = as_judged
        self.feed = Feed(backbone, items, batch_size, recipe, elsewhere)
        self.again = Feed(backbone, items, batch_size, stronger(recipe, backbone.modality)) if two_views else None
        self.looked = Feed(backbone, items, batch_size) if looked else None

    def beside(self, batches: Sequence[np.ndarray], seed: int, phase: int, epoch: int) -> list[np.ndarray]:
        """For each batch as many places of others, from a pass over them that goes on through the epochs of a phase and has no end.

        The n-th pass hangs on (seed, phase, n) alone, and where an epoch begins in it on the epoch, so that an epoch can be repeated.
        """
        sizes = [len(batch) for batch in batches]
        n, due = len(self.feed.items), sum(sizes)
        begun = epoch * due
        # Longer than the keys of what else is drawn for a phase, so that the draws are no copies of each other.
        passes = [np.random.default_rng([seed, phase, number, 0, 0]).permutation(n) for number in range(begun // n, (begun + due) // n + 1)]
        order = np.concatenate(passes)[begun % n :][:due].tolist()
        rng = np.random.default_rng([seed, phase, epoch, 0, 1])
        order, given = self.feed.alike(order), [np.empty(0, int)] * len(sizes)
        # Dealt out in random turn: what is alike lies together.
        for place in rng.permutation(len(sizes)):
            given[place], order = np.array(order[: sizes[place]]), order[sizes[place] :]
        return given

    def readings(self, part: np.ndarray, turn: Turn, *, first: bool) -> list[Reading]:
        """What is read of these items. first: the views of training among it, and not the second ones alone."""
        # Seeds of their own: an item of a batch and the one beside it would else be cropped alike.
        readings = [Reading(self.feed, part, turn._replace(seed=_apart(turn.seed, 1)))] if first else []
        return readings + ([Reading(self.again, part, turn._replace(seed=_apart(turn.seed, 2)))] if self.again else [])


def stronger(recipe: Recipe, modality: str) -> Recipe:
    """The recipe whose views are strongly changed: RandAugment at its highest magnitude after the random crop and mirroring of images;
    of texts a tenth of the words left out and three tenths of the tokens hidden. What the recipe changes more it changes still.

    Source: Sohn et al. 2020, arXiv:2001.07685, section 2.3, for images. Differs: no cutout. The paper has no texts.
    """
    if modality == "image":
        return replace(recipe, augment=True, rand_augment=MAGNITUDE)
    deleted, hidden = max(recipe.word_deletion, _WORD_DELETION), max(recipe.token_dropout, _TOKEN_DROPOUT)
    return replace(recipe, augment=True, word_deletion=deleted, token_dropout=hidden)


def _apart(seed: int, stream: int) -> int:
    return int(np.random.SeedSequence([seed, stream]).generate_state(1)[0])
