"""Distillation: the loss against the papers' equations, the views, and what is kept of the teachers."""

import copy
import math

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import assert_same, load, make_data, numbers, weights
from test_train_raw import playing

from graft.backbones import load_backbone
from graft.errors import GraftError
from graft.features import extract
from graft.losses import Start
from graft.losses.base import Other, Seen
from graft.pretext import distillation
from graft.pretext.distillation import Distillation, KeptViews, divergence, standard
from graft.records import Phase, Plan
from graft.train import Checkpoints, checkpoint

RATE = 1e-2


def plan(epochs=2):
    return Plan((Phase(epochs, (RATE,) * 4, 0.0),), losses=(("distillation", 1.0),), supervised=False)


def teacher(kind, seed=3, classifier=True):
    backbone = load(kind)
    backbone.reset(seed)
    if not classifier:
        backbone.classifier = lambda: None
    return backbone


def started(kind, teachers, n=12, told=lambda step: None):
    backbone, items = load(kind), make_data(kind, n)[0]
    nothing = torch.empty(0)
    start = Start(backbone, None, [], nothing, "regression", None, 0, 5, None, None, told, items, teachers)
    return Distillation(start), backbone, items


def seen_of(backbone, places):
    nothing = torch.empty(0)
    other = Other([torch.empty(len(places), 0)], nothing, nothing, torch.tensor(places))
    return Seen(0, [], nothing, nothing, nothing, None, False, other, 0.0, lambda state, stop: backbone(state, 0, stop))


def softmax(logits):
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_the_loss_is_that_of_the_papers(kind):
    """Truth: Romero et al. 2015, equation 3, on standardised features, plus T^2 times the divergence of Hinton et al. 2015, in numpy."""
    teachers = [teacher(kind), teacher(kind, 4, classifier=False)]
    layer = torch.nn.Linear(32, 10)
    teachers[0].classifier = lambda: copy.deepcopy(layer)
    loss, backbone, items = started(kind, teachers)
    loss.begin_epoch(None)
    given = loss(seen_of(backbone, [3, 0, 7]))
    with torch.no_grad():
        batch = loss.views.of([3, 0, 7], 0, loss.views.side_px(backbone))
        features = backbone(backbone.prepare(batch)).numpy()
        expected = 0.0
        for one, projector in zip(teachers, loss.projectors, strict=True):
            told = one(one.prepare(loss.views.of(range(len(items)), 0, loss.views.side_px(one)))).numpy()
            mean, spread = told.mean(0), told.std(0)
            spread = np.maximum(spread, spread.mean() / 10)
            said = features @ projector.weight.numpy().T + projector.bias.numpy()
            told = told[[3, 0, 7]]
            expected += np.mean((said - (told - mean) / spread) ** 2)
            if one is teachers[0]:
                weight, bias = layer.weight.numpy(), layer.bias.numpy()
                true, drawn = (softmax((rows @ weight.T + bias) / 2.0) for rows in (told, said * spread + mean))
                expected += 4.0 * np.mean(np.sum(true * np.log(true / drawn), 1))
    # Halves are kept of the teachers' features: three digits.
    assert given.item() == pytest.approx(expected / 2, rel=5e-3)


def test_the_divergence_is_the_cross_entropy_less_the_entropy_of_what_is_told():
    """Truth: Hinton et al. 2015, equation 1: softmax(z / T). It is zero for equal logits, and its gradient at T is T (q - p) / n."""
    told, logits = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    given = divergence(logits, told, 3.0)
    said, true = softmax(logits.detach().numpy() / 3), softmax(told.numpy() / 3)
    assert given.item() == pytest.approx(9 * np.mean(np.sum(true * (np.log(true) - np.log(said)), 1)))
    given.backward()
    torch.testing.assert_close(logits.grad, torch.from_numpy(3 * (said - true) / 6))
    assert divergence(told + 1, told, 3.0).item() == pytest.approx(0, abs=1e-12)


def test_features_are_standardised_but_for_those_that_hardly_vary():
    rows = torch.tensor([[0.0, 10.0, 5.0], [2.0, 30.0, 5.0]])
    mean, spread = standard(rows)
    torch.testing.assert_close(mean, torch.tensor([1.0, 20.0, 5.0]))
    torch.testing.assert_close(spread, torch.tensor([1.0, 10.0, 11 / 30]))
    assert (standard(torch.ones(4, 2))[1] == 1).all()


def test_what_is_kept_of_teachers_is_what_they_say_of_the_views_anew(monkeypatch):
    monkeypatch.setattr(distillation, "_CHUNK", 5)
    told = []
    loss, _, items = started("image", [teacher("image"), teacher("image", 4)], told=told.append)
    for view in (0, 1):
        answers = loss.answers(view)
        for one, kept in zip(loss.start.teachers, answers, strict=True):
            fresh = extract(one, KeptViews(items, "image", 5).of(range(12), view, 32), cache=False)
            np.testing.assert_allclose(kept, fresh, rtol=2e-3, atol=1e-3)
    assert loss.answers(1) is answers and np.abs(loss.answers(0)[0] - answers[0]).max() > 0.01
    assert [(step.done, step.total) for step in told] == [(5, 12), (10, 12), (12, 12)] * 2


def test_a_view_hangs_on_seed_place_and_number_alone_and_is_one_crop_at_every_size():
    items = [Image.fromarray(np.random.default_rng(place).integers(256, size=(60, 90, 3), dtype=np.uint8)) for place in range(8)]
    smooth = [image.resize((12, 8)).resize((90, 60), Image.Resampling.BICUBIC) for image in items]
    views, again = KeptViews(smooth, "image", 0), KeptViews(smooth, "image", 0)
    shown = {(place, view): np.asarray(views.shown(place, view, 32), float) for place in range(8) for view in range(4)}
    for (place, view), pixels in reversed(shown.items()):
        np.testing.assert_array_equal(again.shown(place, view, 32), pixels)
        large = np.asarray(views.shown(place, view, 64).resize((32, 32), Image.Resampling.BOX), float)
        assert np.abs(large - pixels).mean() < 4
    different = [np.abs(shown[0, 0] - pixels).mean() for key, pixels in shown.items() if key != (0, 0)]
    assert min(different) > 4
    assert np.abs(np.asarray(KeptViews(smooth, "image", 1).shown(0, 0, 32), float) - shown[0, 0]).mean() > 4


@pytest.mark.parametrize(("blended", "pasted", "between"), [(1.0, 0.0, True), (0.0, 1.0, False)])
def test_another_item_is_blended_in_or_pasted(monkeypatch, blended, pasted, between):
    """Of a black and a white item: every pixel of a blend is of one grey, a piece that is pasted in stays black or white."""
    monkeypatch.setattr(distillation, "_COLOUR", 0.0)
    monkeypatch.setattr(distillation, "_BLENDED", blended)
    monkeypatch.setattr(distillation, "_PASTED", pasted)
    views = KeptViews([Image.new("RGB", (40, 40), colour) for colour in ("black", "white")], "image", 0)
    shown = [np.asarray(views.shown(0, view, 32))[..., 0] for view in range(20)]
    greys = [set(np.unique(pixels)) for pixels in shown]
    assert any(grey - {0, 255} for grey in greys) == between
    # Every other view has drawn the white item; of blends none keeps its black.
    mixed = [len(grey) == 2 if pasted else grey != {0} for grey in greys]
    assert 5 <= sum(mixed) <= 15
    if pasted:
        shares = [(pixels == 255).mean() for pixels in shown if pixels.any()]
        assert min(shares) < 0.3 and max(shares) > 0.6


@pytest.mark.parametrize(("n", "count"), [(10, 50), (10_000, 20), (10**6, 4)])
def test_items_have_as_many_views_as_teachers_can_be_asked_for(n, count):
    assert KeptViews([None] * n, "image", 0).count == count
    assert KeptViews([""] * n, "text", 0).count == 1


def test_decoded_images_are_kept_up_to_the_limit(monkeypatch):
    monkeypatch.setattr(distillation, "_KEPT_BYTES", 4 * 20 * 20 * 2)
    items = [np.full((20, 20), place, np.uint8) for place in range(4)]
    views = KeptViews(items, "image", 0)
    assert [views.image(place).getpixel((0, 0))[0] for place in (2, 0, 1, 2)] == [2, 0, 1, 2]
    assert sorted(views.kept) == [(0,), (2,)]


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_student_comes_to_say_what_its_teacher_says(kind):
    """A student of the teacher's own architecture: the loss falls, and the same call gives the same numbers."""
    items, teachers = make_data(kind, 40)[0], [teacher(kind)]
    before = teachers[0].fingerprint()
    student, other = load(kind), load(kind)
    events = list(playing(student, plan(8), items, teachers=teachers))
    assert events[-1].loss < 0.7 * events[0].loss and math.isfinite(events[0].loss)
    assert teachers[0].fingerprint() == before
    assert numbers(list(playing(other, plan(8), items, teachers=teachers))) == numbers(events)
    assert_same(weights(student), weights(other))


def test_a_killed_distillation_goes_on_with_the_view_whose_turn_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SHARE_OF_TIME", math.inf)
    items, teachers = make_data("image", 20)[0], [teacher("image")]
    student = load("image")
    whole = list(playing(student, plan(3), items, teachers=teachers))
    killed = playing(load("image"), plan(3), items, teachers=teachers, checkpoints=Checkpoints(tmp_path))
    next(killed)
    fresh = load("image")
    assert numbers(list(playing(fresh, plan(3), items, teachers=teachers, checkpoints=Checkpoints(tmp_path)))) == numbers(whole)
    assert_same(weights(fresh), weights(student))


def test_beside_another_pretext_it_is_refused():
    both = Plan((Phase(1, (RATE,) * 4, 0.0),), losses=(("distillation", 1.0), ("entropy_minimisation", 1.0)), supervised=False)
    with pytest.raises(GraftError, match="the loss distillation beside others that read unlabelled items, expected it alone"):
        playing(load("image"), both, make_data("image", 8)[0], teachers=[teacher("image")])


def test_the_loop_prepares_nothing_of_what_it_prepares_itself(monkeypatch):
    student, asked = load_backbone("tiny:image"), []
    prepare = student._prepare
    monkeypatch.setattr(student, "_prepare", lambda items, rng: asked.append(len(items)) or prepare(items, rng))
    list(playing(student, plan(1), make_data("image", 20)[0], teachers=[teacher("image")]))
    assert sum(asked) == 20
