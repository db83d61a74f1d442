"""Added losses: each is its paper's equation, is refused where it cannot be had, and plays through the one loop."""

import math

import numpy as np
import pytest
import torch
from test_train import RATE, assert_same, load, make_data, make_head, numbers, play, weights
from test_train_boundary import OverflowsInBf16, counted
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss

from graft.backbones import load_backbone
from graft.errors import GraftError
from graft.features import States
from graft.losses import LOSSES, BatchSpectralShrinkage, BiTuning, CosFace, CoTuning, Delta, HeadNorm, Seen, Start
from graft.losses.bituning import contrast
from graft.losses.cotuning import relationship
from graft.losses.delta import by_place, chosen_stages, strayed
from graft.records import Phase, Plan
from graft.strategies import make_plan, remarks
from graft.transfer import Transfer

STRATEGIES = ("delta", "bss", "cotuning", "bituning")
PLAYED = [(kind, name) for kind in ("image", "text") for name in STRATEGIES if (kind, name) != ("text", "cotuning")]


def start_of(backbone, items, y, task="classification", loss=cross_entropy, outputs=3, first=0, source=None):
    def features():
        with torch.no_grad():
            return backbone(backbone.prepare(items))

    target = torch.as_tensor(y)
    source = source or (lambda stages: lambda seen: {})
    return Start(backbone, make_head(outputs), items, target, task, loss, first, 0, features, source, lambda step: None)


def seen_of(features, logits=None, target=None, states=(), boundary=0):
    return Seen(boundary, states, features, logits, target, None, False)


def softmax(rows):
    shares = np.exp(rows - rows.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def tensor(array):
    return torch.from_numpy(np.asarray(array)).float()


def test_bss_is_the_smallest_squared_singular_value():
    """Truth: Chen et al. 2019, equation 4, by numpy's eigenvalues of F F^T."""
    for shape in ((8, 20), (20, 8)):
        features = random(*shape)
        expected = np.sort(np.linalg.eigvalsh(features @ features.T))[-min(shape)]
        given = BatchSpectralShrinkage(None)(seen_of(tensor(features)))
        assert given.item() == pytest.approx(expected, rel=1e-4)


def test_head_norm_is_half_the_squared_norm():
    head = make_head()
    start = start_of(load("text"), ["a"], [0])
    expected = 0.5 * sum((weight.detach().numpy() ** 2).sum() for weight in head.parameters())
    assert HeadNorm(start)(seen_of(torch.zeros(1, 32))).item() == pytest.approx(expected)
    assert list(HeadNorm(start).parameters()) == []


def test_cosface_is_the_cross_entropy_of_scaled_cosines():
    """Truth: Wang et al. 2018, equation 4 with m = 0 and s = 16, in numpy; a feature's length does not count."""
    loss, target = CosFace(start_of(load("text"), ["a", "b", "c"], [0, 1, 2])), np.array([0, 2, 1, 2])
    features, directions = random(4, 32), loss.directions.detach().numpy()
    shares = softmax(16 * unit(features) @ unit(directions).T)
    expected = -np.log(shares[np.arange(4), target]).mean()
    for length in (1, 7):
        assert loss(seen_of(tensor(length * features), target=torch.as_tensor(target))).item() == pytest.approx(expected, rel=1e-5)
    assert (loss.rate(Phase(1, (RATE,), 10 * RATE)), loss.rate(Phase(1, (RATE,), 0.0))) == pytest.approx((10 * RATE, 10 * RATE))
    assert "cosface with the task regression, expected classification" in CosFace.refusal(load("text"), make_head(1), "regression", None)


def test_a_plan_may_ask_for_cosface():
    plain, asked = (Plan((Phase(4, (RATE,) * load("text").depth, RATE),), losses=losses) for losses in ((), (("cosface", 1.0),)))
    losses, alone = ([event.loss for event in play("text", plan)[0]] for plan in (asked, plain))
    assert losses[-1] < 0.6 * losses[0] and losses[0] > 1.5 * alone[0]


@pytest.mark.parametrize("layout", ["maps", "maps, channels last", "tokens", "features"])
def test_delta_is_the_weighted_distance_of_two_states(layout):
    """Truth: Li et al. 2019, equation 3, as their code scales it, in loops."""
    attention = softmax(random(5))
    now, was = random(3, 5, 4, 4, seed=1), random(3, 5, 4, 4, seed=2)
    given = [tensor(now), tensor(was)]
    if layout == "maps, channels last":
        given = [state.permute(0, 2, 3, 1) for state in given]
    elif layout == "tokens":
        now, was = now[..., 0], was[..., 0]
        mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 1, 1]])
        given = [{"hidden": tensor(state).transpose(1, 2), "attention_mask": mask} for state in (now, was)]
    elif layout == "features":
        now, was = now[..., 0, 0], was[..., 0, 0]
        given = [tensor(state) for state in (now, was)]
    expected = 0.0
    for item in range(3):
        for channel in range(5):
            square = (now[item, channel] - was[item, channel]) ** 2
            places = square[2:] if layout == "tokens" and item == 2 else square
            expected += 5 * attention[channel] * places.mean() / 2 / 3
    assert strayed(*given, tensor(attention)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_channels_are_weighed_by_the_rise_of_the_loss_without_them(kind, task):
    """Truth: Li et al. 2019, equation 5: the network is run once with each output channel of a stage set to zero, by a hook."""
    backbone, (items, y) = load(kind), make_data(kind, 24)
    loss, target = (cross_entropy, y) if task == "classification" else (lambda given, wanted: mse_loss(given[:, 0], wanted), tensor(y))
    start = start_of(backbone, items, target, task, loss, 3 if task == "classification" else 1, first=1)
    delta = Delta(start)
    assert list(delta.attention) == ([1, 2])
    from graft.losses.delta import fitted_probe

    probe = fitted_probe(start.features(), start)
    assert loss(probe(start.features()), start.target).item() < 0.5 * loss(start.head(start.features()), start.target).item()
    for stage, attention in delta.attention.items():
        rises = []
        for channel in range(32):

            def off(module, inputs, output, channel=channel):
                changed = output["hidden"] if kind == "text" else output
                changed = changed.clone()
                changed[(..., channel) if kind == "text" else (slice(None), channel)] = 0
                return {**output, "hidden": changed} if kind == "text" else changed

            handle = backbone.stages[stage].register_forward_hook(off)
            with torch.no_grad():
                without = loss(probe(start.features()), start.target).item()
            handle.remove()
            rises.append(without - loss(probe(start.features()), start.target).item())
        standard = (np.array(rises) - np.mean(rises)) / np.std(rises)
        # The probe is fitted twice by an iteration that ends at a tolerance.
        np.testing.assert_allclose(attention.numpy(), softmax(standard / 5), rtol=1e-3)
        assert attention.max() > 1.2 * attention.min()


def test_delta_holds_the_last_stage_of_each_size_of_map():
    maps = [torch.zeros(1, channels, side, side) for channels, side in ((4, 32), (8, 16), (8, 16), (9, 8), (9, 4), (9, 2))]
    assert chosen_stages({**dict(enumerate(maps)), 6: torch.zeros(1, 9)}) == [2, 3, 4, 5]
    swin = [torch.zeros(1, side, side, channels) for side, channels in ((8, 24), (4, 48))]
    assert chosen_stages(dict(enumerate(swin))) == [0, 1]
    tokens = [torch.zeros(1, 5, 8)] * 4
    assert chosen_stages({**dict(enumerate(tokens)), 4: torch.zeros(1, 8)}) == [2, 3]
    assert chosen_stages({0: torch.zeros(1, 8)}) == [0]
    assert by_place(swin[0])[0].shape == (1, 64, 24)


def test_the_category_relationship_is_the_mean_prediction_of_each_class():
    """Truth: You et al. 2020, algorithm 1, the direct approach, in loops."""
    said, target = softmax(random(9, 6)), np.array([0, 1] * 4 + [3])
    given = relationship(tensor(said), torch.as_tensor(target), 4)
    for label in range(4):
        of_class = [said[place] for place in range(9) if target[place] == label]
        np.testing.assert_allclose(given[label], np.mean(of_class, 0) if of_class else np.zeros(6), atol=1e-6)


def test_cotuning_is_the_cross_entropy_with_the_relationship():
    """Truth: You et al. 2020, equation 1, in numpy, with the classifier that tiny:image is said to come with."""
    backbone, (items, y) = load("image"), make_data("image", 12)
    start = start_of(backbone, items, y)
    classifier = backbone.classifier()
    weight, bias = (parameter.detach().numpy() for parameter in classifier.parameters())
    said = softmax(start.features().numpy() @ weight.T + bias)
    related = np.stack([said[y == label].mean(0) for label in range(3)])
    features = random(5, 32)
    target = np.array([0, 1, 2, 2, 1])
    expected = -(related[target] * np.log(softmax(features @ weight.T + bias))).sum(1).mean()
    loss = CoTuning(start)
    assert loss(seen_of(tensor(features), target=torch.as_tensor(target))).item() == pytest.approx(expected, rel=1e-5)
    assert [name for name, _ in loss.named_parameters()] == ["classifier.weight", "classifier.bias"]
    # What never changes is not kept and put back with the weights.
    assert "related" not in loss.state_dict()


def test_each_contrast_is_the_mean_share_of_the_positives():
    """Truth: Zhong et al. 2020, equations 3 and 4, in loops; class 2 has no key, class 1 two of four."""
    memory, queries, own = unit(random(3, 4, 6)), unit(random(5, 6, seed=1)), random(5, seed=2)
    target, counts = np.array([0, 1, 2, 0, 1]), np.array([9, 2, 0])
    expected = []
    for item, label in enumerate(target):
        keys = [(own[item], True)]
        for other in range(3):
            keys += [(queries[item] @ memory[other, slot], other == label) for slot in range(min(4, counts[other]))]
        shares = softmax(np.array([similar for similar, _ in keys]) / 0.07)
        expected.append(-np.mean([np.log(share) for share, (_, positive) in zip(shares, keys, strict=True) if positive]))
    given = contrast(tensor(own), tensor(queries), tensor(memory), torch.as_tensor(counts), torch.as_tensor(target))
    assert given.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_bituning_contrasts_features_with_the_head_and_projections_with_keys():
    """Truth: both terms of Zhong et al. 2020 in numpy, from the parts that the loss holds; then the momentum and the queue."""
    backbone, (items, y) = load("text"), make_data("text", 12)
    start = start_of(backbone, items, y)
    loss = BiTuning(start)
    features = start.features().numpy()
    head, bias = start.head.weight.detach().numpy(), start.head.bias.detach().numpy()
    project, offset = (parameter.detach().numpy() for parameter in loss.projector.parameters())
    assert loss.counts.tolist() == [4, 4, 4]

    def one(rows):
        return unit(np.concatenate([rows, np.ones((len(rows), 1))], 1))

    def term(own, queries, memory):
        parts = [contrast(tensor(own), tensor(queries), memory, torch.tensor([4, 4, 4]), start.target)]
        return parts[0].item()

    known = [one(features[y == label]) for label in range(3)]
    for label in range(3):
        kept = loss.features[label, :4].numpy()
        assert (np.linalg.norm(kept[:, None] - known[label], axis=2).min(0) < 1e-5).all()
    w = unit(np.concatenate([head, bias[:, None]], 1))[y]
    z = unit(features @ project.T + offset)
    expected = term((w * one(features)).sum(1), w, loss.features) + term((z * z).sum(1), z, loss.projections)
    state = backbone.prepare(items)
    given = loss(seen_of(start.features(), target=start.target, states=[state]))
    assert given.item() == pytest.approx(expected, rel=1e-5)
    assert loss.counts.tolist() == [8, 8, 8]
    # Key weights move a thousandth of the way to the query's; an old key gives way when a class has more than forty.
    before = loss.key_projector.weight.clone()
    with torch.no_grad():
        loss.projector.weight.add_(1.0)
    loss(seen_of(start.features(), target=start.target, states=[state]))
    torch.testing.assert_close(loss.key_projector.weight - before, torch.full_like(before, 1e-3), atol=1e-6, rtol=0.0)
    oldest = loss.features[0, 0].clone()
    loss.remember(-torch.ones(29, 33), torch.ones(29, 128), torch.zeros(29, dtype=torch.long))
    assert loss.counts[0] == 41 and not torch.equal(loss.features[0, 0], oldest) and (loss.features[0, 0] == -1).all()


@pytest.mark.parametrize(("kind", "name"), PLAYED)
def test_the_loss_that_is_reported_and_trained_holds_what_is_added(kind, name):
    """Control: with a strength near zero the numbers are those of full fine-tuning."""
    # Small batches: of more items than there are features the smallest singular value is next to nothing.
    options = {"augment": False, "validation": make_data(kind, 12, seed=1), "batch_size": 8}
    plan = make_plan(name, 4, 3, RATE)
    faint = Plan(plan.phases, losses=tuple((loss, 1e-12) for loss, _ in plan.losses))
    plain, *same = play(kind, Plan(plan.phases), **options)
    weak, *other = play(kind, faint, **options)
    strong, *moved = play(kind, plan, **options)
    np.testing.assert_allclose([event.loss for event in weak], [event.loss for event in plain], atol=1e-5)
    assert_same(weights(*other), weights(*same), atol=1e-4)
    assert all(one.loss > other.loss for one, other in zip(strong, plain, strict=True))
    assert any(not torch.equal(one, other) for one, other in zip(weights(*moved).values(), weights(*same).values(), strict=True))


def test_what_a_loss_has_of_its_own_learns_at_the_rate_of_the_backbone(monkeypatch):
    made = []
    monkeypatch.setattr(CoTuning, "__init__", lambda self, start, init=CoTuning.__init__: (init(self, start), made.append(self))[0])
    play("image", "cotuning")
    before, after = load("image").classifier().weight, made[0].classifier.weight
    # AdamW moves a weight by at most about its rate, a tenth of the head's, in each of the 8 steps.
    assert 0.1 * RATE / 10 < (after - before).abs().max() < 10 * RATE / 10


def test_delta_holds_the_stages_near_what_they_gave():
    def distance(backbone):
        items = make_data("text")[0]
        with torch.no_grad():
            now, was = (network(network.prepare(items), stop=3)["hidden"] for network in (backbone, load("text")))
        return (now - was).square().mean().item()

    phases = (Phase(4, (RATE,) * 4, RATE),)
    (_, free, _), (_, held, _) = play("text", Plan(phases)), play("text", Plan(phases, losses=(("delta", 100.0),)))
    assert distance(held) < 0.5 * distance(free)


def test_bss_shrinks_the_smallest_singular_value():
    def smallest(backbone):
        with torch.no_grad():
            return torch.linalg.svdvals(backbone(backbone.prepare(make_data("text")[0][:16])))[-1].item()

    phases = (Phase(15, (RATE,) * 4, RATE),)
    free, shrunk = (play("text", Plan(phases, losses=losses), batch_size=16)[1] for losses in ((), (("bss", 10.0),)))
    assert smallest(shrunk) < 0.9 * smallest(free)


@pytest.mark.parametrize(("kind", "name"), PLAYED)
def test_added_losses_keep_the_freeze_boundary(kind, name):
    """Truth: 1e-4; what frozen stages gave is kept or computed anew, phase by phase deeper down, to the same numbers."""
    losses = make_plan(name, 4, 3, RATE).losses
    phases = tuple(Phase(2, (0.0,) * frozen + (RATE / 10,) * (4 - frozen), RATE) for frozen in (4, 2, 1))
    options = {"augment": False, "validation": make_data(kind, 13, seed=1)}
    backbone = load(kind)
    kept, *one = play(kind, Plan(phases, losses=losses), backbone=backbone, **options)
    computed, *other = play(kind, Plan(phases, losses=losses), states=States(0), **options)
    np.testing.assert_allclose([event.loss for event in kept], [event.loss for event in computed], atol=1e-4)
    assert_same(weights(*one), weights(*other), atol=1e-4)
    start = load(kind).state_dict()
    assert all(torch.equal(value, start[key]) for key, value in backbone.state_dict().items() if key.startswith("stages.0."))


@pytest.mark.parametrize(("kind", "runs"), [("text", 45), ("image", 2 * 45)])
def test_what_the_network_gave_at_the_start_is_computed_once_for_each_view(kind, runs, monkeypatch):
    """In 4 epochs images are seen in two kept views, texts in one; where nothing is kept it is computed each time."""
    from graft.train import added

    ran = []
    deepcopy = added.copy.deepcopy

    def counting(stages, *memo):
        copied = deepcopy(stages, *memo)
        copied[-1].register_forward_hook(lambda module, inputs, output: ran.append(len(output["hidden"] if kind == "text" else output)))
        return copied

    class Copy:
        deepcopy = staticmethod(counting)

    monkeypatch.setattr(added, "copy", Copy)
    plan = Plan((Phase(4, (0.0, RATE, RATE, RATE), RATE),), losses=(("delta", 1.0),))
    play(kind, plan)
    assert sum(ran) == runs
    ran.clear()
    play(kind, plan, states=States(0))
    assert sum(ran) == 4 * 45
    ran.clear()
    # From the first stage on images are drawn anew each epoch.
    play(kind, Plan((Phase(4, (RATE,) * 4, RATE),), losses=(("delta", 1.0),)))
    assert sum(ran) == (45 if kind == "text" else 4 * 45)


@pytest.mark.parametrize("name", [name for kind, name in PLAYED if kind == "text"])
def test_what_bf16_cannot_hold_is_trained_again_in_fp32_with_the_losses_as_they_began(name):
    """Truth: the numbers of fp32 from the start."""
    plan = make_plan(name, 4, 3, RATE)
    options = {"validation": make_data("text", 13, seed=1)}
    expected, *_ = play("text", plan, precision="fp32", **options)
    backbone = load("text")
    backbone.stages[2] = OverflowsInBf16(backbone.stages[2], after=3)
    with pytest.warns(UserWarning, match="the loss became nan in bf16 in phase 1, epoch 2.*continues in fp32"):
        events, *_ = play("text", plan, backbone=backbone, precision="bf16", **options)
    np.testing.assert_allclose([event.loss for event in events[-3:]], [event.loss for event in expected], atol=1e-4)


@pytest.mark.parametrize(("kind", "name"), PLAYED)
def test_bf16_learns_the_same_to_its_digits(kind, name):
    plan = make_plan(name, 4, 3, RATE)
    (exact, *_), (rounded, *_) = (play(kind, plan, precision=precision, augment=False) for precision in ("fp32", "bf16"))
    assert [event.loss for event in exact] != [event.loss for event in rounded]
    np.testing.assert_allclose([event.loss for event in rounded], [event.loss for event in exact], rtol=0.05)


@pytest.mark.parametrize(("kind", "name"), PLAYED)
def test_added_losses_go_with_low_rank_updates(kind, name):
    plan = Plan((Phase(3, (RATE,) * 4, RATE),), lora_rank=2, losses=make_plan(name, 4, 3, RATE).losses)
    events, backbone, _ = play(kind, plan, augment=False)
    assert all(math.isfinite(event.loss) for event in events) and backbone.state_dict().keys() == load(kind).state_dict().keys()


@pytest.mark.parametrize("task", ["multilabel", "regression"])
@pytest.mark.parametrize("name", ["delta", "bss"])
def test_losses_without_classes_play_any_task(name, task):
    items, y = make_data("text")
    target = np.eye(3)[y] if task == "multilabel" else y.astype(float)
    head = make_head(3 if task == "multilabel" else 1)
    events, *_ = play("text", name, data=(items, target), head=head, task=task)
    assert events[-1].loss < events[0].loss


@pytest.mark.parametrize(
    ("name", "kind", "task", "message"),
    [
        ("cotuning", "text", "classification", "cotuning with tiny:text, which comes without the classifier .* Use delta or bss"),
        ("cotuning", "image", "regression", "cotuning with the task regression, expected classification"),
        ("bituning", "image", "multilabel", "bituning with the task multilabel, expected classification"),
    ],
)
def test_a_loss_that_cannot_be_had_is_refused_at_once(name, kind, task, message):
    backbone = load(kind)
    runs = counted(backbone)
    items, y = make_data(kind)
    target = np.eye(3)[y] if task == "multilabel" else y.astype(float) if task == "regression" else y
    with pytest.raises(GraftError, match=message):
        play(kind, name, backbone=backbone, data=(items, target), head=make_head(1 if task == "regression" else 3), task=task)
    assert sum(runs) == 0


@pytest.mark.parametrize(
    ("plan", "head", "message"),
    [
        (Plan((Phase(1, (RATE,) * 4, RATE),), losses=(("detla", 1.0),)), None, r"unknown loss 'detla'.*Did you mean 'delta'\?"),
        (Plan((Phase(1, (0.0,) * 4, RATE),), losses=(("delta", 1.0),)), None, "delta in a plan in which no layer group learns"),
        (
            Plan((Phase(1, (RATE,) * 4, RATE), Phase(1, (0.0, RATE, RATE, RATE), RATE)), losses=(("delta", 1.0),)),
            None,
            "delta in a plan whose later phase freezes layer groups that an earlier one trained",
        ),
        (
            Plan((Phase(1, (RATE,) * 4, RATE),), losses=(("bituning", 1.0),)),
            nn.Sequential(nn.Linear(32, 3)),
            "bituning with a head of type Sequential, expected torch.nn.Linear with a bias",
        ),
    ],
)
def test_a_plan_that_a_loss_does_not_fit_is_refused(plan, head, message):
    with pytest.raises(GraftError, match=message):
        play("text", plan, head=head)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (
            Plan((Phase(1, (RATE,), RATE),), losses=(("bss", -1.0),)),
            "the strength of the loss bss is -1.0, expected a finite number above 0",
        ),
        (Plan((), losses=(("bss", 1.0),)), r"losses \(bss\) without phases, expected one"),
        (Plan((Phase(1, (RATE,), RATE),), reset=True, losses=(("bss", 1.0),)), r"losses \(bss\) with reset, expected pretrained weights"),
    ],
)
def test_losses_that_make_no_plan_are_refused(plan, message):
    with pytest.raises(GraftError, match=message):
        make_plan(lambda depth, epochs, lr: plan, 1, 1, RATE)


def test_every_loss_says_what_it_is_and_where_it_is_from():
    for name in LOSSES:
        assert LOSSES.describe(name).endswith(".") and len(LOSSES.sources[name]) > 10
    assert "Adds 0.64 times the loss delta to the task's own." in remarks(make_plan("delta", 3, 2, RATE))


def test_a_fitted_model_keeps_its_losses_when_saved(tmp_path):
    items, y = make_data("text", 40)
    model = Transfer("tiny:text", "delta", epochs=2).fit(items, y)
    assert model.plan_.losses == (("delta", 0.64), ("head_norm", 0.01))
    model.save(tmp_path)
    assert Transfer.load(tmp_path).plan_ == model.plan_


def test_a_head_that_learns_with_losses_is_descended_to():
    """Its optimum is not that of the task's loss alone, so it is not solved for."""
    items, y = make_data("text", 40)
    plan = Plan((Phase(2, (0.0,) * 4, RATE),), losses=(("head_norm", 1.0),))
    assert len(Transfer("tiny:text", plan).fit(items, y).history_) == 2


def test_a_checkpoint_brings_the_classifier_that_it_holds(tmp_path):
    """Truth: timm's own network, with its classifier, gives the same logits."""
    from backbone_samples import pictures, save_timm

    for family in ("MobileNet v2", "ResNet", "ViT"):
        network = save_timm(family, tmp_path / family)
        backbone = load_backbone(f"checkpoint:{tmp_path / family}")
        batch = backbone.prepare(pictures(64))
        with torch.no_grad():
            torch.testing.assert_close(backbone.classifier()(backbone(batch)), network(batch), atol=1e-4, rtol=1e-4)
        backbone.save(tmp_path / f"{family} saved")
        assert load_backbone(f"checkpoint:{tmp_path / f'{family} saved'}").classifier() is None


def test_timm_is_asked_for_the_classifier_only_where_it_is_wanted(monkeypatch):
    """Truth: timm's own network gives the same logits. Random weights stand in for published ones, as there is no network here."""
    from backbone_samples import pictures, scramble, timm

    made, create = [], timm.create_model

    def random_instead(name, pretrained=False, **arguments):
        made.append(arguments)
        torch.manual_seed(0)
        network = scramble(create(name, pretrained=False))
        if arguments.get("num_classes") == 0:
            network.reset_classifier(0)
        return network

    monkeypatch.setattr(timm, "create_model", random_instead)
    backbone = load_backbone("timm:resnet10t")
    assert made == [{"num_classes": 0}]
    batch = backbone.prepare(pictures(64))
    with torch.no_grad():
        torch.testing.assert_close(backbone.classifier()(backbone(batch)), random_instead("resnet10t")(batch), atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_numbers_and_leaves_the_random_state():
    before = torch.get_rng_state()
    one, other, third = (play("image", "bituning", seed=seed)[0] for seed in (0, 0, 1))
    assert numbers(one) == numbers(other) != numbers(third)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(math.isfinite(event.loss) for event in one)
