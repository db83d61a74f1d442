"""A fitted `Transfer` trained on for a domain without labels: the same model, another backbone and head. Heavy: torch."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from graft.errors import GraftError
from graft.records import Epoch, Event, Plan, Recipe
from graft.train import highest, train
from graft.train.layer import linear_head, torch_head
from graft.transfer import Transfer


def adapt_trained(
    model: Transfer,
    plan: Plan,
    items: Sequence[Any],
    target: np.ndarray,
    others: Sequence[Any],
    *,
    recipe: Recipe = Recipe(),
    seed: int = 0,
    progress: Callable[[Event], None] | None = None,
) -> Transfer:
    """A fitted model that has played the plan from where this one stands, which stays as it is. It is saved, loaded and asked as any other.

    items: n of the source, target: their labels as `fit_encoded` takes them; both may be empty where the plan is not supervised.
    others: m items of the other domain. recipe: how the plan is played. progress: is told what happens.
    Nothing is held out, as the other domain has no labels to score by: the weights after the last epoch are what is left.
    After it: `plan_` is the plan, `strategy_` the names of its losses, `history_` its epochs, `lr_` its highest rate.
    Raises GraftError for a backbone without layers that learn, a head on other features than the pooled ones, a plan without phases, and
    as `graft.train.train` does.
    """
    check_is_fitted(model, "head_")
    before = model.backbone_
    if not any(True for _ in before.parameters()):
        raise GraftError(
            f"adapt_trained: {before.name} has no layers that learn, expected a network: what it reads are features already. "
            "Use a method on features (graft.shift), or give the items themselves and a backbone for them."
        )
    if model.plan_.tap != "pooled":
        raise GraftError(
            f"adapt_trained: the head of this model reads {model.plan_.tap!r} outputs of {before.name}, expected 'pooled', which training "
            "moves. Fit the source with another strategy, e.g. 'feature_extraction' or 'lp_ft'."
        )
    if not plan.phases:
        raise GraftError("adapt_trained: the plan has no phases, expected one in which something learns.")
    regression = model.task_ == "regression"
    centre, scale = (float(np.mean(target)), float(np.std(target)) or 1.0) if regression and len(target) else (0.0, 1.0)
    backbone, outputs = copy.deepcopy(before), max(1, len(model.classes_))
    head = torch_head(model.head_, backbone.width, outputs, centre, scale, seed)
    y = (target - centre) / scale if regression else target
    twin = copy.copy(model)
    twin.history_ = []
    for event in train(backbone, head, plan, items, y, task=model.task_, others=others, recipe=recipe, seed=seed, progress=progress):
        if isinstance(event, Epoch):
            twin.history_.append(event)
        if progress:
            progress(event)
    twin.backbone_, twin.head_, twin.tuned_ = backbone, linear_head(head, model.task_, centre, scale), True
    twin.plan_, twin.strategy_ = plan, " and ".join(name for name, _ in plan.losses) or "plan"
    twin.lr_, twin.climb_ = highest(plan), None
    return twin
