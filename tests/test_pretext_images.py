"""What images teach without labels: views, each pretext's loss against its paper, and all of them through the real loop."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_train import assert_same, load, make_data, make_head, numbers, weights

from graft import torchvision_ops
from graft.errors import GraftError
from graft.losses import Other, Seen, Start
from graft.pretext import PRETEXTS, contrastive, masked_images, siamese, views
from graft.pretext.base import Follower
from graft.pretext.views import Views, cropped, views_of
from graft.records import Phase, Plan, Recipe
from graft.train import Checkpoints, checkpoint, train

NAMES = [name for name in PRETEXTS if "image" in PRETEXTS[name].modalities and not PRETEXTS[name].needs_teachers]
SIAMESE = ("simclr", "vicreg", "byol", "dino")
PLAIN = Views((0.5,) * 3, (0.5,) * 3, (1.0, 1.0), (1.0, 1.0), mirror=0, jitter=0, grey=0, blur=0)


def images(n=6, side_px=32, channels=3, seed=0):
    """In [-1, 1], as tiny:image reads them; in the middle of it, so that no change of colour is clipped."""
    return torch.rand(n, channels, side_px, side_px, generator=torch.Generator().manual_seed(seed)) * 0.4 - 0.2


def playing(name, items, epochs=2, *, batch_size=16, backbone=None, **options):
    backbone = backbone or load("image")
    plan = Plan((Phase(epochs, (3e-3,) * backbone.depth, 0.0),), losses=((name, 1.0),), supervised=False)
    recipe = Recipe(batch_norm="batch", precision="fp32", batch_size=batch_size, augment=False)
    return train(backbone, make_head(1), plan, [], np.empty(0), task="regression", others=items, recipe=recipe, **options), backbone


def played(*arguments, **options):
    events, backbone = playing(*arguments, **options)
    return list(events), backbone


def started(name, backbone, n=6):
    """The pretext as the loop makes it, for n grey pictures."""
    nothing = torch.empty(0)
    items = [np.full((32, 32, 3), 128, np.uint8)] * n
    start = Start(backbone, make_head(1), [], nothing, "regression", None, 0, 0, None, None, None, items)
    return PRETEXTS[name](start)


def seen_of(batch, run, progress=0.0):
    nothing = torch.empty(0)
    other = Other([batch], nothing, nothing, torch.arange(len(batch)))
    return Seen(0, [], nothing, nothing, nothing, None, False, other, progress, run)


# Every pretext


@pytest.mark.parametrize("name", list(PRETEXTS))
def test_every_pretext_says_what_it_does_and_where_it_is_from(name):
    assert PRETEXTS.describe(name).endswith(".") and len(PRETEXTS.describe(name)) > 40
    assert any(year in PRETEXTS.sources[name] for year in map(str, range(1990, 2030)))
    assert PRETEXTS[name].modalities


@pytest.mark.parametrize("name", NAMES)
def test_its_loss_falls_and_the_network_moves_the_same_way_each_time(name):
    items = make_data("image", 48)[0]
    events, backbone = played(name, items, epochs=8)
    again, other = played(name, items, epochs=8)
    assert events[-1].loss < events[0].loss
    assert numbers(events) == numbers(again)
    assert_same(weights(backbone), weights(other))
    moved = [not torch.equal(one, two) for one, two in zip(backbone.parameters(), load("image").parameters(), strict=True)]
    assert all(moved)


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_where_a_killed_run_left_it(name, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_SHARE_OF_TIME", math.inf)
    items = make_data("image", 30)[0]
    whole, backbone = played(name, items, 3)
    killed, _ = playing(name, items, 3, checkpoints=Checkpoints(tmp_path))
    first = next(killed)
    events, fresh = played(name, items, 3, checkpoints=Checkpoints(tmp_path))
    assert numbers([first]) == numbers(whole[:1]) and events[0].seconds == first.seconds
    assert numbers(events) == numbers(whole)
    assert_same(weights(fresh), weights(backbone))


@pytest.mark.parametrize("n", [1, 2, 17])
@pytest.mark.parametrize("name", NAMES)
def test_small_batches_give_finite_numbers(name, n):
    """17 items are a batch of 16 and one of a single item."""
    events, backbone = played(name, make_data("image", n)[0])
    assert all(math.isfinite(event.loss) for event in events)
    assert all(tensor.isfinite().all() for tensor in backbone.state_dict().values())


@pytest.mark.parametrize("name", SIAMESE)
def test_it_is_given_two_different_views_of_each_image(name):
    given = []

    def run(state, stop):
        given.append(state)
        return state.flatten(1)[:, :32]

    pretext = started(name, load("image"))
    batch = images()
    pretext(seen_of(batch, run))
    first, second = given[0].chunk(2)
    assert first.shape == second.shape == batch.shape
    for one, other, image in zip(first, second, batch, strict=True):
        assert (one - other).abs().max() > 0.05 and (one - image).abs().max() > 0.05


@pytest.mark.parametrize("name", ["simclr", "vicreg"])
def test_a_collapsed_network_is_worse_off_than_one_that_spreads(name):
    """Spread: each image has a direction of its own, the same in both views."""
    pretext = started(name, load("image"))
    spread = 3 * torch.eye(32)[torch.arange(8).repeat(2)]
    losses = [pretext(seen_of(images(8), lambda state, stop, rows=rows: rows)) for rows in (torch.ones(16, 32), spread)]
    assert losses[0] > losses[1] + 0.1


# Views


def test_a_view_without_changes_is_the_image():
    torch.testing.assert_close(PLAIN(images()), images(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("side_px", [32, 96])
@pytest.mark.parametrize("channels", [1, 3])
def test_views_are_repeatable_new_each_time_and_as_large_as_the_image(side_px, channels):
    draw = Views((0.5,) * channels, (0.5,) * channels, solarise=0.5)
    batch = images(8, side_px, channels)
    torch.manual_seed(1)
    first, second = draw(batch), draw(batch)
    torch.manual_seed(1)
    assert torch.equal(draw(batch), first) and first.shape == batch.shape
    assert ((first - second).abs().amax((1, 2, 3)) > 0.05).all()
    # Pixels stay in [0, 1].
    assert first.min() >= -1 - 1e-6 and first.max() <= 1 + 1e-6


def test_crops_keep_the_share_and_the_side_ratio_that_were_asked_for():
    """Truth: of an image whose values are its coordinates, a step of one pixel in the crop is the crop's side as a share of the image's."""
    n, side = 400, 32
    line = torch.arange(side).float()
    coordinates = torch.stack([line.expand(side, side), line[:, None].expand(side, side)]).expand(n, 2, side, side)
    torch.manual_seed(0)
    crops = cropped(coordinates, (0.3, 0.6), (3 / 4, 4 / 3), 0.5)
    wide = crops[:, 0, 16, 17] - crops[:, 0, 16, 16]
    high = crops[:, 1, 17, 16] - crops[:, 1, 16, 16]
    share, ratio = (wide * high).abs(), (wide / high).abs()
    assert 0.3 - 1e-3 < share.min() < 0.31 and 0.59 < share.max() < 0.6 + 1e-3
    assert 3 / 4 - 1e-3 < ratio.min() < 0.77 and 1.3 < ratio.max() < 4 / 3 + 1e-3
    # Five standard errors of 400 draws.
    assert abs((wide < 0).float().mean() - 0.5) < 0.125 and (high > 0).all()
    # Pixel centres are at 0 to 31, so the image ends at -0.5 and 31.5; crops lie inside, and reach all four edges.
    for axis, extent in ((0, wide.abs()), (1, high)):
        centre = crops[:, axis, 15:17, 15:17].mean((1, 2))
        low, high_end = centre - extent * side / 2, centre + extent * side / 2
        assert -0.5 - 1e-3 < low.min() < 0 and side - 1 < high_end.max() < side - 0.5 + 1e-3


def test_colours_change_as_in_torchvision(monkeypatch):
    """Truth: torchvision's functions one after the other, where nothing is clipped; its luma has four digits."""
    torchvision_ops.ensure()
    from torchvision.transforms import functional as reference

    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.full(shape, 0.75))
    pixels = images() + 0.5
    expected = reference.adjust_saturation(reference.adjust_contrast(reference.adjust_brightness(pixels, 1.1), 1.2), 1.3)
    draw = Views((0.0,) * 3, (1.0,) * 3, jitter=1, brightness=0.2, contrast=0.4, saturation=0.6, hue=0, grey=0)
    torch.testing.assert_close(draw.recoloured(pixels), expected, atol=1e-3, rtol=0)
    grey = Views((0.0,) * 3, (1.0,) * 3, jitter=0, grey=1).recoloured(pixels)
    torch.testing.assert_close(grey, reference.rgb_to_grayscale(pixels, 3), atol=1e-3, rtol=0)
    one = Views((0.0,), (1.0,), jitter=1, brightness=0.2, contrast=0.4).recoloured(pixels[:, :1])
    expected = reference.adjust_contrast(reference.adjust_brightness(pixels[:, :1], 1.1), 1.2)
    torch.testing.assert_close(one, expected, atol=1e-5, rtol=0)


def test_turning_the_hue_keeps_greys_and_brightness_and_can_be_undone():
    angle = torch.tensor([0.3, -1.2, 2.5])[:, None, None]
    matrix = views.turned(angle)
    torch.testing.assert_close(matrix.sum(2), torch.ones(3, 3), atol=1e-5, rtol=0)
    luma = torch.tensor(views._LUMA)
    torch.testing.assert_close(luma @ matrix, luma.expand(3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(matrix @ views.turned(-angle), torch.eye(3).expand(3, 3, 3), atol=1e-5, rtol=0)


def test_blur_is_torchvisions_and_small_images_have_none(monkeypatch):
    torchvision_ops.ensure()
    from torchvision.transforms.functional import gaussian_blur

    pixels = images(3, 80)
    torch.manual_seed(3)
    deviations = torch.empty(3, 1).uniform_(0.1, 2)
    torch.manual_seed(3)
    expected = torch.stack([gaussian_blur(image, 9, float(sigma)) for image, sigma in zip(pixels, deviations, strict=True)])
    torch.testing.assert_close(views.blurred(pixels), expected, atol=1e-5, rtol=0)
    asked = []
    monkeypatch.setattr(views, "blurred", lambda pixels: asked.append(pixels.shape[-1]) or pixels)
    for side in (64, 65):
        Views((0.5,) * 3, (0.5,) * 3)(images(2, side))
    assert asked == [65]


def test_solarising_turns_bright_pixels_over():
    """Truth: Pillow's `ImageOps.solarize` at the middle."""
    draw = Views((0.0,), (1.0,), (1.0, 1.0), (1.0, 1.0), mirror=0, jitter=0, grey=0, solarise=1.0)
    batch = torch.tensor([0.1, 0.4, 0.6, 0.9]).view(1, 1, 2, 2)
    torch.testing.assert_close(draw(batch).flatten(), torch.tensor([0.1, 0.4, 0.4, 0.1]), atol=1e-5, rtol=0)


def test_views_undo_the_normalisation_of_the_backbone():
    plain, colour = load("image"), {"mean": [0.2, 0.4, 0.6], "std": [0.1, 0.2, 0.3]}
    assert views_of(plain).mean == (0.5,) * 3
    made = views_of(SimpleNamespace(preprocessing=colour), area=(0.5, 1.0))
    assert (made.mean, made.std, made.area) == ((0.2, 0.4, 0.6), (0.1, 0.2, 0.3), (0.5, 1.0))
    grey = views_of(SimpleNamespace(preprocessing={"grey": True, "mean": [0.5] * 3, "std": [0.25] * 3}))
    assert grey.mean == pytest.approx((0.5,)) and grey.std == pytest.approx((0.25,))


# Losses


def test_nt_xent_is_the_papers_equation():
    """Truth: Chen et al. 2020, equation 1, summed over both members of every pair as in algorithm 1."""
    rows = torch.randn(10, 7, generator=torch.Generator().manual_seed(0))

    def alike(i, j):
        return float(rows[i] @ rows[j] / rows[i].norm() / rows[j].norm())

    def of_pair(i, j):
        return -math.log(math.exp(alike(i, j) / 0.3) / sum(math.exp(alike(i, k) / 0.3) for k in range(10) if k != i))

    expected = sum(of_pair(k, k + 5) + of_pair(k + 5, k) for k in range(5)) / 10
    assert contrastive.nt_xent(rows, 0.3).item() == pytest.approx(expected, abs=1e-5)
    assert contrastive.nt_xent(rows[:2], 0.3) == 0


def test_vicreg_is_the_papers_equations():
    """Truth: Bardes et al. 2022, equations 1 to 6, entry by entry; the two differences that the docstring names are undone."""
    first, second = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0)).numpy().astype(float) * 0.8
    invariance = np.mean(((first - second) ** 2).sum(1)) / 4
    variance = covariance = 0.0
    for rows in (first, second):
        variance += np.mean([max(0.0, 1 - math.sqrt(np.var(column, ddof=1) + 1e-4)) for column in rows.T]) / 2
        matrix = sum(np.outer(row - rows.mean(0), row - rows.mean(0)) for row in rows) / 5
        covariance += sum(matrix[i, j] ** 2 for i in range(4) for j in range(4) if i != j) / 4
    told = contrastive.vicreg_loss(torch.from_numpy(first), torch.from_numpy(second)).item()
    assert variance > 0.01 and covariance > 0.01
    assert told == pytest.approx(25 * invariance + 25 * variance + covariance, rel=1e-6)


def test_byol_is_the_papers_equation():
    """Truth: Grill et al. 2020, equation 2, in both directions."""
    said, taught = torch.randn(2, 8, 5, generator=torch.Generator().manual_seed(0))
    unit_said, unit_taught = (rows / rows.norm(dim=1, keepdim=True) for rows in (said, taught))
    expected = np.mean(
        [float((unit_said[i] - unit_taught[i + 4]).norm() ** 2 + (unit_said[i + 4] - unit_taught[i]).norm() ** 2) for i in range(4)]
    )
    assert siamese.byol_loss(said, taught).item() == pytest.approx(expected, rel=1e-5)


def test_dino_is_the_papers_equations():
    """Truth: Caron et al. 2021, equations 1 and 3, for two global and one local view."""
    generator = torch.Generator().manual_seed(0)
    said, taught, centre = torch.randn(3, 4, 6, generator=generator), torch.randn(2, 4, 6, generator=generator), torch.randn(6) * 0.1
    terms = []
    for i, j in ((0, 1), (0, 2), (1, 0), (1, 2)):
        for target, row in zip(taught[i], said[j], strict=True):
            p = np.exp((target - centre).numpy() / 0.04)
            q = np.exp(row.numpy() / 0.1)
            terms.append(-np.sum(p / p.sum() * np.log(q / q.sum())))
    assert siamese.dino_loss(list(said), list(taught), centre).item() == pytest.approx(np.mean(terms), rel=1e-4)


def test_dino_keeps_a_running_centre_and_reads_local_views():
    """Truth: Caron et al. 2021, equation 4, from the first batch's mean."""
    pretext, shapes, taught = started("dino", load("image")), [], []
    pretext.local_views = 3
    pretext.follower.twin.register_forward_hook(lambda network, inputs, output: taught.append(output.detach()))

    def run(state, stop):
        shapes.append(tuple(state.shape))
        return load("image")(state)

    for _ in range(2):
        pretext(seen_of(images(), run))
    assert shapes == 2 * [(12, 3, 32, 32), (18, 3, 16, 16)]
    one, other = (rows.mean(0) for rows in taught)
    torch.testing.assert_close(pretext.centre, 0.9 * one + 0.1 * other)


@pytest.mark.parametrize(("progress", "decay"), [(0.0, 0.99), (0.5, 0.995), (1.0, 1.0)])
def test_the_follower_slows_down_along_a_cosine(progress, decay):
    """Truth: Grill et al. 2020, section 3.2; and it uses the statistics of batch normalisation that the network uses."""
    network = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    follower = Follower(network)
    kept = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight.fill_(5.0)
    network[1].eval()
    siamese.follow(follower, network, 0.99, progress)
    torch.testing.assert_close(follower.twin[0].weight, decay * kept + (1 - decay) * 5)
    assert follower.twin[0].training and not follower.twin[1].training


def test_the_masked_loss_is_that_of_masked_autoencoders():
    """Truth: the authors' code of He et al. 2022, `forward_loss` with normalised pixels, on patches cut by hand."""
    generator = torch.Generator().manual_seed(0)
    drawn, truth = torch.randn(2, 3, 3, 8, 8, generator=generator)
    hidden = masked_images.hide(3, 4, truth.device)
    assert (hidden.sum((1, 2)) == 10).all()
    errors = []
    for n, row, column in hidden.nonzero().tolist():
        one, other = (image[n, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].double() for image in (truth, drawn))
        errors.append(((other - (one - one.mean()) / (one.var() + 1e-6).sqrt()) ** 2).mean().item())
    assert masked_images.masked_loss(drawn, truth, hidden).item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_what_is_hidden_reaches_neither_the_network_nor_escapes_the_loss():
    given = []
    pretext, backbone = started("masked_patches", load("image")), load("image")
    with torch.no_grad():
        pretext.paint.fill_(7.0)

    def run(state, stop):
        given.append(state)
        return backbone(state, 0, stop)

    pretext(seen_of(images(), run))
    painted = (given[0] == 7.0).all(1)
    assert pretext.patch_px == 4 and (painted.float().mean((1, 2)) == round(0.6 * 64) / 64).all()
    patches = painted.unfold(1, 4, 4).unfold(2, 4, 4).flatten(3)
    assert torch.equal(patches.any(3), patches.all(3))


@pytest.mark.parametrize(("side_px", "patch_px"), [(28, 4), (32, 4), (96, 12), (128, 16), (160, 20), (224, 28), (30, 3), (33, 3)])
def test_patches_are_an_eighth_of_the_side(side_px, patch_px):
    assert masked_images.patch_side(side_px, "net") == patch_px


def test_what_no_patches_can_be_drawn_from_is_refused():
    with pytest.raises(GraftError, match=r"masked_patches with net, which reads images of 31 px.*Take net@32px"):
        masked_images.patch_side(31, "net")
    with pytest.raises(GraftError, match=r"gives a tensor of 2 axes, expected maps .* Take simclr"):
        masked_images.maps_of(torch.ones(2, 3), "net")
    with pytest.raises(GraftError, match="gives a dict of hidden"):
        masked_images.maps_of({"hidden": torch.ones(2)}, "net")


def test_patches_are_drawn_from_tokens_and_from_channels_last_too():
    tokens = torch.arange(2 * 17 * 3).view(2, 17, 3).float()
    maps = masked_images.maps_of(tokens, "net")
    assert maps.shape == (2, 3, 4, 4) and torch.equal(maps[0, :, 1, 2], tokens[0, 1 + 6])
    assert masked_images.maps_of(torch.ones(2, 4, 4, 5), "net").shape == (2, 5, 4, 4)


def test_rotation_turns_each_image_and_asks_by_how_much():
    """Truth: before anything is learned the four are as likely, log 4; a network that knows is told it is right."""
    given = []
    pretext = started("rotation", load("image"))

    def run(state, stop):
        given.append(state)
        return torch.eye(32)[torch.arange(4).repeat_interleave(len(state) // 4)]

    batch = images(3)
    assert pretext(seen_of(batch, run)).item() == pytest.approx(math.log(4))
    for turns in range(4):
        expected = np.rot90(batch.numpy(), turns, (2, 3))
        assert np.array_equal(given[0][3 * turns : 3 * turns + 3].numpy(), expected)
    with torch.no_grad():
        pretext.classifier.weight[:, :4] = 20 * torch.eye(4)
    assert pretext(seen_of(batch, run)) < 1e-6
