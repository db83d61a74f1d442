"""What training sees: changed images and texts, mixed batches, kept views, and what is judged, which is never changed."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import RATE, load, make_data, make_head, play, weights
from torch.nn import functional

from graft import torchvision_ops
from graft.errors import GraftError
from graft.features import States
from graft.records import Epoch, Note, Phase, Plan, Recipe
from graft.train import augment, mixing, trial
from graft.train.ends import Reached
from graft.train.feed import Feed, Turn
from graft.train.loop import Run
from graft.train.tasks import task_loss

FULL = Plan((Phase(3, (RATE,) * 4, RATE),))
TEXT = "where is my lost card please help me now"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))


def picture(height=40, width=60):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_magnitudes_are_those_of_torchvision():
    """Truth: torchvision's RandAugment, whose 31 magnitudes run over the same ranges. Ours has a tenth of them: every third."""
    torchvision_ops.ensure()
    space = pytest.importorskip("torchvision.transforms").RandAugment()._augmentation_space(31, (331, 331))
    assert len(space) == len(augment.CHANGES) == 14
    calls = {}

    class Spy:
        size = width = height = None

        def __init__(self, side):
            self.size, self.width, self.height = (side, side), side, side

        def rotate(self, degrees, *_, **__):
            calls["rotate"] = degrees

        def transform(self, size, kind, coefficients, *_, **__):
            calls["affine"] = coefficients

    for tenth in range(11):
        level = tenth / 10
        expected = {name: float(values[0][3 * tenth]) if values[0].ndim else None for name, values in space.items()}
        augment.CHANGES["rotate"](Spy(331), level)
        assert calls["rotate"] == pytest.approx(expected["Rotate"])
        for name, place, truth in (("shear_x", 1, "ShearX"), ("shear_y", 3, "ShearY"), ("translate_x", 2, "TranslateX")):
            augment.CHANGES[name](Spy(331), level)
            assert calls["affine"][place] == pytest.approx(expected[truth], abs=1e-5), name
        augment.CHANGES["translate_y"](Spy(331), -level)
        assert calls["affine"][5] == pytest.approx(-expected["TranslateY"], abs=1e-4)


def test_colours_change_as_in_torchvision():
    """Truth: torchvision's functions on the same image at its magnitudes, both signs where there are two."""
    torchvision_ops.ensure()
    f = pytest.importorskip("torchvision.transforms.functional")
    space = pytest.importorskip("torchvision.transforms").RandAugment()._augmentation_space(31, (40, 60))
    image = picture()
    for tenth in (0, 1, 4, 5, 9, 10):
        for sign in (-1, 1):
            level = sign * tenth / 10
            amount = {name: sign * float(values[0][3 * tenth]) for name, values in space.items() if values[1]}
            truth = {
                "brightness": f.adjust_brightness(image, 1 + amount["Brightness"]),
                "color": f.adjust_saturation(image, 1 + amount["Color"]),
                "contrast": f.adjust_contrast(image, 1 + amount["Contrast"]),
                "sharpness": f.adjust_sharpness(image, 1 + amount["Sharpness"]),
                "posterize": f.posterize(image, int(space["Posterize"][0][3 * tenth])),
                "solarize": f.solarize(image, 256 * (1 - tenth / 10)),
                "autocontrast": f.autocontrast(image),
                "equalize": f.equalize(image),
            }
            for name, expected in truth.items():
                np.testing.assert_array_equal(np.asarray(augment.CHANGES[name](image, level)), np.asarray(expected), err_msg=name)


def test_rand_augment_draws_every_change_equally_often(monkeypatch):
    """Truth: 2 of 14 with replacement; 2800 draws are 200 each, within five standard errors."""
    seen = dict.fromkeys(augment.CHANGES, 0)

    def count(name):
        def change(image, level):
            seen[name] += 1
            assert abs(level) == pytest.approx(0.9)
            return image

        return change

    monkeypatch.setattr(augment, "CHANGES", {name: count(name) for name in seen})
    for seed in range(1400):
        augment.rand_augment(picture(4, 4), 9.0, np.random.default_rng(seed))
    assert sum(seen.values()) == 2800 and max(abs(n - 200) for n in seen.values()) < 5 * np.sqrt(200)


def test_rand_augment_keeps_the_size_and_hangs_on_its_generator():
    image = picture()
    one, other, again = (np.asarray(augment.rand_augment(image, 9.0, np.random.default_rng(seed))) for seed in (1, 2, 1))
    assert one.shape == (40, 60, 3) and np.array_equal(one, again) and not np.array_equal(one, other)


def test_words_are_deleted_by_their_chance_and_never_all():
    """Truth: Wei & Zou 2019, section 2: each word by chance p; 4000 draws within five standard errors."""
    words = TEXT.split()
    kept = np.array([len(augment.delete(TEXT, 0.3, np.random.default_rng(seed)).split()) for seed in range(4000)])
    assert abs(kept.mean() - 0.7 * len(words)) < 5 * np.sqrt(0.21 * len(words) / 4000)
    assert all(len(augment.delete("two words", 0.99, np.random.default_rng(seed)).split()) >= 1 for seed in range(50))
    assert augment.delete("one", 0.99, np.random.default_rng(0)) == "one" and augment.delete(TEXT, 0.0, np.random.default_rng(0)) == TEXT
    left = iter(words)
    assert all(word in left for word in augment.delete(TEXT, 0.3, np.random.default_rng(1)).split()), "words lost their order"


@pytest.mark.parametrize(("share", "swaps"), [(0.01, 1), (0.34, 3)])
def test_swaps_move_two_words_each(share, swaps):
    """Truth: n = share * words swaps, at least one; k swaps move at most 2k words, one swap exactly two."""
    words = TEXT.split()
    moved = []
    for seed in range(200):
        after = augment.swap(TEXT, share, np.random.default_rng(seed)).split()
        assert sorted(after) == sorted(words)
        moved.append(sum(a != b for a, b in zip(words, after, strict=True)))
    assert max(moved) == 2 * swaps and (swaps > 1 or min(moved) == 2)


def test_hidden_tokens_are_inner_ones_of_their_share():
    state = {"input_ids": torch.arange(4 * 102).view(4, 102), "attention_mask": torch.ones(4, 102, dtype=torch.long)}
    state["attention_mask"][1, 50:] = 0
    keys = [[seed, row] for seed in range(30) for row in range(4)]
    masks = torch.cat([augment.hide_tokens(state, 0.25, keys[k : k + 4])["attention_mask"] for k in range(0, 120, 4)])
    assert (masks[:, 0] == 1).all() and (masks[0::4, 101] == 1).all() and (masks[1::4, 49] == 1).all() and (masks[1::4, 50:] == 0).all()
    hidden = (masks[0::4, 1:101] == 0).float().mean().item()
    assert abs(hidden - 0.25) < 5 * np.sqrt(0.1875 / 3000)
    assert (state["attention_mask"][0] == 1).all(), "the batch itself was changed"


def test_mixup_is_its_equation():
    """Truth: Zhang et al. 2018, equation 2, and cross-entropy with the mixed one-hot targets."""
    mix = mixing.draw(Recipe(mixup=0.4), 8, (0, 1, 2, 3))
    x, y = torch.randn(8, 3, 5, 5), torch.arange(8) % 4
    torch.testing.assert_close(mix.state(x), mix.share * x + (1 - mix.share) * x[mix.partner])
    logits = torch.randn(8, 4)
    soft = mix.share * functional.one_hot(y, 4) + (1 - mix.share) * functional.one_hot(y[mix.partner], 4)
    torch.testing.assert_close(mix.loss(task_loss("classification", None), logits, y), functional.cross_entropy(logits, soft))


def test_cutmix_is_its_equation():
    """Truth: Yun et al. 2019, equation 1: a box of the partner, and the targets by its area; to the rounding of the box to pixels."""
    x = torch.arange(6.0)[:, None, None, None].expand(6, 3, 64, 96).clone()
    areas = []
    for batch in range(300):
        mix = mixing.draw(Recipe(cutmix=1.0), 6, (0, 0, 0, batch))
        mixed = mix.state(x)
        cut = (mixed != x).any(1)
        for item in range(6):
            if mix.partner[item] != item:
                area = cut[item].float().mean().item()
                assert area == pytest.approx(1 - mix.share, abs=0.03)
                rows, columns = cut[item].any(1).sum(), cut[item].any(0).sum()
                assert cut[item].sum() == rows * columns, "not a box"
                assert (mixed[item][:, cut[item]] == x[mix.partner[item], 0, 0, 0]).all()
        areas.append(1 - mix.share)
    assert 0.15 < np.mean(areas) < 0.4  # half of it in the middle, less where the box is cut off at an edge
    soft = mix.share * functional.one_hot(torch.arange(6) % 3, 3) + (1 - mix.share) * functional.one_hot(
        torch.arange(6)[mix.partner] % 3, 3
    )
    logits = torch.randn(6, 3)
    loss = mix.loss(task_loss("classification", None), logits, torch.arange(6) % 3)
    torch.testing.assert_close(loss, functional.cross_entropy(logits, soft))


def test_a_mixing_share_is_drawn_from_its_beta_distribution():
    """Truth: Beta(a, a) has mean 1/2 and variance 1 / (4 (2a + 1))."""
    shares = np.array([mixing.draw(Recipe(mixup=0.4), 2, (0, 0, 0, batch)).share for batch in range(4000)])
    assert abs(shares.mean() - 0.5) < 0.03 and abs(shares.var() - 1 / (4 * 1.8)) < 0.01
    assert mixing.draw(Recipe(), 2, (0, 0, 0, 0)) is None
    both = [mixing.draw(Recipe(mixup=1.0, cutmix=1.0), 2, (0, 0, 0, batch)).box is None for batch in range(400)]
    assert abs(np.mean(both) - 0.5) < 0.13


@pytest.mark.parametrize(("kind", "frozen"), [("image", 0), ("image", 2), ("text", 0), ("text", 2), ("text", 4)])
def test_the_loop_mixes_images_at_the_freeze_boundary_and_texts_at_their_features(kind, frozen):
    """Truth: the first loss, written out."""
    backbone, head, (items, y) = load(kind), make_head(), make_data(kind)
    rates = (0.0,) * frozen + (RATE,) * (4 - frozen)
    plan, recipe = Plan((Phase(1, rates, RATE),)), Recipe(batch_size=45, mixup=0.4, augment=False, precision="fp32", batch_norm="batch")
    reference = load(kind)
    reference.set_trainable([rate > 0 for rate in rates])
    order = np.random.default_rng([0, 0, 0])
    feed = Feed(reference, items, 45)
    if frozen == 4:
        feed.features = torch.zeros(0)  # then texts are not sorted by length
    (batch,) = feed.batches(order)
    mix, target = mixing.draw(recipe, 45, Turn(0, 0, 0, 0)), torch.from_numpy(y)[batch]
    with torch.no_grad():
        state = reference(reference.prepare([items[i] for i in batch]), 0, frozen)
        features = reference(mix.state(state), frozen) if kind == "image" else mix.state(reference(state, frozen))
        expected = mix.loss(task_loss("classification", None), head(features), target).item()
    events, *_ = play(kind, plan, backbone=backbone, head=head, data=(items, y), **vars_of(recipe))
    assert events[0].loss == pytest.approx(expected, abs=1e-5)


def vars_of(recipe):
    return {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe) if getattr(recipe, f.name) != f.default}


CHANGES = {
    "image": {"rand_augment": 9.0, "mixup": 0.4, "cutmix": 1.0},
    "text": {"word_deletion": 0.2, "word_swap": 0.2, "token_dropout": 0.2, "mixup": 0.4},
}


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("frozen", [0, 2])
def test_validation_is_never_changed(kind, frozen, monkeypatch):
    """What the judged feed prepares, and what is made of it, is what `prepare` gives for the items as they are."""
    recipe = {name: value for name, value in CHANGES[kind].items() if not (frozen and name == "cutmix")}
    plan = Plan((Phase(2, (0.0,) * frozen + (1e-12,) * (4 - frozen), 1e-12),))
    validation = make_data(kind, 12, seed=1)
    turns, prepared = [], Feed.prepare

    def spy(self, batch, turn):
        if list(self.items) is validation[0] or self.items is validation[0]:
            turns.append(turn)
        return prepared(self, batch, turn)

    monkeypatch.setattr(Feed, "prepare", spy)
    changed, *_ = play(kind, plan, validation=validation, **recipe)
    plain, *_ = play(kind, plan, validation=validation, augment=False)
    assert turns and set(turns) == {None}
    if kind == "text":  # running means of batch normalisation follow what training sees
        np.testing.assert_allclose([e.score for e in changed], [e.score for e in plain], atol=1e-6)
    assert all(abs(a.loss - b.loss) > 1e-6 for a, b in zip(changed, plain, strict=True))


@pytest.mark.parametrize(("kind", "limit_bytes"), [("image", 0), ("image", 2**30), ("text", 0), ("text", 2**30)])
def test_what_is_drawn_hangs_on_its_turn_alone(kind, limit_bytes):
    """An epoch that is begun anew, as after an interruption, sees what it saw."""
    backbone, (items, _) = load(kind), make_data(kind)
    recipe = Recipe(**{name: value for name, value in CHANGES[kind].items() if name not in ("mixup", "cutmix")})

    def states(turns):
        with States(limit_bytes) as keeper:
            feed = Feed(backbone, items, 16, recipe)
            feed.place(2, shelf=keeper.open(backbone, 2) if limit_bytes else None, views=True, epochs=8)
            return [feed.state(np.arange(16), Turn(*turn), feed.prepare(np.arange(16), Turn(*turn))) for turn in turns]

    first, second = [0, 0, 0, 0], [0, 0, 1, 0]
    one, other = states([first, second])
    (again,) = states([second])
    assert not alike(one, other) and alike(other, again)


def alike(one, other):
    if isinstance(one, dict):
        return all(one[name].shape == other[name].shape and torch.allclose(one[name].float(), other[name].float()) for name in one)
    return torch.allclose(one, other)


def test_kept_views_of_one_recipe_are_not_taken_for_those_of_another():
    backbone, (items, _) = load("image"), make_data("image")
    seen = []
    with States() as keeper:
        for magnitude in (0.0, 9.0):
            feed = Feed(backbone, items, 16, Recipe(rand_augment=magnitude))
            feed.place(2, shelf=keeper.open(backbone, 2), views=True, epochs=4)
            turn = Turn(0, 0, 0, 0)
            seen.append(feed.state(np.arange(16), turn, feed.prepare(np.arange(16), turn)))
    assert not alike(*seen)


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("strategy", ["full", "partial"])
def test_changed_items_are_learned_from_and_repeat(kind, strategy):
    recipe = {name: value for name, value in CHANGES[kind].items() if not (strategy == "partial" and name == "cutmix")}
    runs = [play(kind, strategy, validation=make_data(kind, 12, seed=1), **recipe) for _ in range(2)]
    assert [(e.loss, e.score) for e in runs[0][0]] == [(e.loss, e.score) for e in runs[1][0]]
    assert runs[0][0][-1].score > runs[0][0][0].score


def fixed_scores(monkeypatch, with_, without):
    """Every epoch scores what is given, by whether its run is augmented."""
    monkeypatch.setattr(Run, "score", lambda self, feed, y: Reached(with_ if self.recipe.augment else without, 0.0))


@pytest.mark.parametrize(("with_", "without", "better"), [(0.5, 0.8, "without"), (0.8, 0.5, "with"), (0.5, 0.5, "with")])
def test_auto_keeps_what_scores_better_and_says_so(monkeypatch, with_, without, better):
    fixed_scores(monkeypatch, with_, without)
    validation, begun = make_data("image", 12, seed=1), []
    monkeypatch.setattr(Run, "__post_init__", spy_of(Run.__post_init__, begun))
    plan = Plan((Phase(1, (0.0,) * 4, RATE), Phase(4, (RATE,) * 4, RATE)))
    backbone = load("image")
    note, *events = play("image", plan, backbone=backbone, validation=validation, augment="auto")[0]
    assert isinstance(note, Note) and all(isinstance(event, Epoch) for event in events) and len(events) == 5
    assert note.text.startswith(
        f"augmentation: score {with_:.4f} with, {without:.4f} without, on 12 validation items after 6 epochs in all"
    )
    assert note.text.endswith(f"training goes on {better} it.")
    assert [run.recipe.augment for run in begun] == [True, False, better == "with"]
    assert [phase.epochs for phase in begun[0].plan.phases] == [1, 2]


def spy_of(function, seen):
    def spy(self):
        seen.append(self)
        return function(self)

    return spy


def test_after_auto_the_plan_is_played_as_if_it_had_been_chosen_by_hand():
    validation = make_data("image", 12, seed=1)
    (note, *one), *measured = play("image", FULL, validation=validation, augment="auto")
    other, *chosen = play("image", FULL, validation=validation, augment="training goes on with it" in note.text)
    assert [(e.loss, e.score) for e in one] == [(e.loss, e.score) for e in other]
    assert all(torch.equal(a, b) for a, b in zip(weights(*measured).values(), weights(*chosen).values(), strict=True))


@pytest.mark.parametrize(("kind", "strategy"), [("text", "full"), ("image", "linear_probe")])
def test_auto_measures_nothing_where_there_is_nothing_to_change(kind, strategy, monkeypatch):
    monkeypatch.setattr(trial, "_SHARE", 0)  # a trial would divide by it
    events, *_ = play(kind, strategy, validation=make_data(kind, 12, seed=1), augment="auto")
    assert all(isinstance(event, Epoch) for event in events)


def test_cutmix_on_kept_states_is_refused():
    with pytest.raises(GraftError, match="phase 1 freezes the first layer group"):
        play("image", "partial", cutmix=1.0)
