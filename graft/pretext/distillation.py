"""Distillation: a network learns to say of the same views what larger ones say of them. Heavy: torch."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from graft.backbones.base import Backbone
from graft.device import seeded
from graft.features import extract, to_device
from graft.items import open_image
from graft.losses import Seen, Start
from graft.losses.base import other_of
from graft.pretext.base import PRETEXTS, Pretext, features_of
from graft.records import Step

# Views of all items together that the teachers are asked for, and of one item at least and at most.
_VIEWS, _LEAST_VIEWS, _MOST_VIEWS = 200_000, 4, 50
# Decoded images and the student's views are kept while they fit; what is over is made each time.
_KEPT_BYTES = 2 * 1024**3
# Views that are held in memory at once while the teachers are asked, and those that one of them is given at a time.
_CHUNK, _TEACHER_BATCH = 1024, 16
# Of the class outputs, T in equation 1 of Hinton et al. 2015: what is told of unlikely classes counts too.
_TEMPERATURE = 2.0
# Szegedy et al. 2015, arXiv:1409.4842, section 6.
_AREA, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
# Chances of a view to be changed in colour, to be blended with another item's, and to have a small one of that pasted in.
_COLOUR, _BLENDED, _PASTED = 0.5, 0.3, 0.3
# Standard deviations, on a logarithmic scale, of what a colour change multiplies: the exponent of all channels, the strength of each.
_GAMMA, _GAIN = 0.3, 0.15


@PRETEXTS.add(
    "Hinton et al. 2015, arXiv:1503.02531, section 2; Romero et al. 2015, arXiv:1412.6550, equation 3; Beyer et al. 2022, arXiv:2106.05237",
    name="distillation",
)
class Distillation(Pretext):
    """Features and, where a teacher kept its classifier, class outputs of one or several larger networks on the same views.

    Features: the mean squared error between a linear projection of the student's features (n, d) and each teacher's, each of these
    standardised. Class outputs: the teacher's own classifier reads that projection too, and what it says is drawn to what it says of the
    teacher's features, by T^2 times the Kullback-Leibler divergence at temperature T = 2. The two are added; teachers are averaged.
    An image is seen in 4 to 50 random views (crops of 8 to 100 % of its area, mirrored, half of them changed in colour, 30 % blended with a
    view of another item, as many with a small one pasted in), drawn once and taken in turn, so that teachers are asked once for each and
    their answers kept on disk; student and teacher see the same view, each at its own size. Texts have one view.
    Differs: Romero et al. match feature maps inside the network, here the pooled features; the classifier that reads the projection is the
    teacher's own, as in Chen et al. 2022, arXiv:2203.14001, so that nothing but the projection is new.
    """

    needs_teachers = True
    prepares = True
    modalities = ("image", "text")
    highest_rate = 2e-3
    batch_size = 32
    epochs: torch.Tensor

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        assert start.teachers, "checked_loss has refused a run without teachers"
        self.student, self.start = (start.backbone,), start
        self.views = KeptViews(start.others, start.backbone.modality, start.seed)
        self.taught: dict[int, list[np.ndarray]] = {}
        device = start.target.device
        with seeded(start.seed):
            self.projectors = nn.ModuleList(nn.Linear(start.backbone.width, teacher.width) for teacher in start.teachers).to(device)
        classifiers = [teacher.classifier() for teacher in start.teachers]
        # In a tuple: as submodules they would learn.
        self.classifiers = tuple(layer and layer.to(device).eval().requires_grad_(False) for layer in classifiers)
        for number, told in enumerate(self.answers(0)):
            mean, spread = standard(torch.from_numpy(told))
            self.register_buffer(f"mean{number}", mean.to(device), persistent=False)
            self.register_buffer(f"spread{number}", spread.to(device), persistent=False)
        # A buffer, so that a resumed run goes on with the view whose turn it is.
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long, device=device))

    @property
    def view(self) -> int:
        """The number of the view whose turn it is."""
        return (int(self.epochs) - 1) % self.views.count

    def begin_epoch(self, look: Callable[[], tuple[torch.Tensor, torch.Tensor]]) -> None:
        self.epochs.add_(1)
        self.answers(self.view)

    def answers(self, view: int) -> list[np.ndarray]:
        """(n, d) features of every item in a view, one array a teacher; computed once, and kept on disk by content."""
        if view not in self.taught:
            n, teachers = len(self.start.others), self.start.teachers
            # Halves: they are compared with a student that is further off than their last digits.
            told = [np.empty((n, teacher.width), np.float16) for teacher in teachers]
            for begin in range(0, n, _CHUNK):
                places = range(begin, min(n, begin + _CHUNK))
                # Teachers of one size share what is dear to make.
                shown = {side: self.views.of(places, view, side) for side in {self.views.side_px(teacher) for teacher in teachers}}
                for array, teacher in zip(told, teachers, strict=True):
                    array[begin : begin + _CHUNK] = extract(teacher, shown[self.views.side_px(teacher)], batch_size=_TEACHER_BATCH)
                self.start.progress(Step(f"asking {len(teachers)} teachers", places[-1] + 1, n))
            self.taught[view] = told
        return self.taught[view]

    def forward(self, seen: Seen) -> torch.Tensor:
        places = other_of(seen).places
        student = self.student[0]
        batch = student.prepare(self.views.of(places.tolist(), self.view, self.views.side_px(student), keep=True))
        features = features_of(seen, to_device(batch, places.device))
        total = features.new_zeros(())
        parts = zip(self.answers(self.view), self.projectors, self.classifiers, strict=True)
        for number, (array, projector, classifier) in enumerate(parts):
            told = torch.from_numpy(array[places.cpu().numpy()]).to(features)
            mean, spread = getattr(self, f"mean{number}"), getattr(self, f"spread{number}")
            said = projector(features)
            total = total + functional.mse_loss(said, (told - mean) / spread)
            if classifier is not None:
                total = total + divergence(classifier(said * spread + mean), classifier(told), _TEMPERATURE)
        return total / len(self.projectors)


def standard(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation of each of (n, d) features; none of the latter below a tenth of their mean, which would only be noise."""
    features = features.float()
    spread = features.std(0, correction=0)
    least = float(spread.mean()) / 10 or 1.0
    return features.mean(0), spread.clamp(min=least)


def divergence(logits: torch.Tensor, told: torch.Tensor, temperature: float) -> torch.Tensor:
    """T^2 times the Kullback-Leibler divergence of softmax(logits / T) from softmax(told / T), the mean over items: a scalar.

    logits, told: (n, c). Source: Hinton et al. 2015, equation 1 and section 2.1; the entropy of what is told, a constant, is taken off.
    """
    said, true = (functional.log_softmax(either / temperature, 1) for either in (logits, told))
    return temperature**2 * functional.kl_div(said, true, reduction="batchmean", log_target=True)


class KeptViews:
    """The items in the kept views: view v of an item hangs on (seed, its place, v) alone.

    items: n of a modality. count: how many there are of each item.
    """

    def __init__(self, items: Sequence[Any], modality: str, seed: int) -> None:
        self.items, self.modality, self.seed = items, modality, seed
        self.count = min(_MOST_VIEWS, max(_LEAST_VIEWS, _VIEWS // len(items))) if modality == "image" else 1
        self.kept: dict[tuple[int, ...], Image.Image] = {}
        self.kept_bytes = 0

    def side_px(self, network: Backbone) -> int:
        """The side that this network resizes an image to before it cuts its edges off; 0 where items are no images."""
        return int(np.max(network.preprocessing.get("resize_px", network.preprocessing["size_px"]))) if self.modality == "image" else 0

    def of(self, places: Sequence[int], view: int, side_px: int, keep: bool = False) -> list[Any]:
        """These items in a view; images are side_px x side_px. keep: they will be asked for again."""
        if self.modality != "image":
            return [self.items[place] for place in places]
        if not keep:
            return [self.shown(place, view, side_px) for place in places]
        return [self.recalled((place, view, side_px), partial(self.shown, place, view, side_px)) for place in places]

    def recalled(self, key: tuple[int, ...], make: Callable[[], Image.Image]) -> Image.Image:
        """What was kept under a key, else what `make` gives, which is kept where there is room."""
        image = self.kept.get(key) or make()
        # Pillow holds a pixel in four bytes.
        size = 4 * image.width * image.height
        if key not in self.kept and self.kept_bytes + size <= _KEPT_BYTES:
            self.kept[key] = image
            self.kept_bytes += size
        return image

    def shown(self, place: int, view: int, side_px: int) -> Image.Image:
        """One item in a view, side_px x side_px."""
        rng = np.random.default_rng([self.seed, place, view])
        image = self.crop(place, side_px, rng)
        if rng.random() < _COLOUR:
            image = image.point(colour_table(rng))
        mixing = rng.random()
        if mixing < _BLENDED + _PASTED:
            other, share = int(rng.integers(len(self.items))), rng.uniform()
            if mixing < _BLENDED:
                return Image.blend(image, self.crop(other, side_px, rng), share)
            left, top = (round(side_px * (1 - share) * edge) for edge in rng.random(2))
            image.paste(self.crop(other, max(1, round(side_px * share)), rng), (left, top))
        return image

    def crop(self, place: int, side_px: int, rng: np.random.Generator) -> Image.Image:
        # Not the crop of `backbones/_images`, of whole pixels: this box may end within one, so that teachers of any size see the same part.
        image = self.image(place)
        area = rng.uniform(*_AREA) * image.width * image.height
        ratio = math.exp(rng.uniform(*np.log(_RATIO)))
        width, height = min(image.width, math.sqrt(area * ratio)), min(image.height, math.sqrt(area / ratio))
        left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
        crop = image.resize((side_px, side_px), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop

    def image(self, place: int) -> Image.Image:
        """The decoded item."""
        item = self.items[place]
        return item if isinstance(item, Image.Image) and item.mode == "RGB" else self.recalled((place,), lambda: open_image(item))


def colour_table(rng: np.random.Generator) -> list[int]:
    """What each of 256 values becomes in each of 3 channels, one after the other: 768 integers in [0, 255]."""
    values = (np.arange(256) / 255) ** np.exp(rng.normal(0, _GAMMA))
    gains = np.exp(rng.normal(0, _GAIN, 3))
    return np.clip(np.round(255 * gains[:, None] * values), 0, 255).astype(int).ravel().tolist()
