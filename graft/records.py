"""The words graft's rooms speak to each other in: plans, scores, verdicts, findings, events, results. Data only."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Task = Literal["classification", "multilabel", "regression"]
TASKS: tuple[Task, ...] = ("classification", "multilabel", "regression")


@dataclass(frozen=True)
class Phase:
    """Some epochs of training at fixed rates.

    epochs: passes over the training items. lr: one rate per layer group, input side first, 0.0 = frozen.
    head_lr: the head's rate. anchor: strength of the pull towards the starting weights (L2-SP), 0.0 = none.
    """

    epochs: int
    lr: tuple[float, ...]
    head_lr: float
    anchor: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What a strategy will do: phases in order. No phases: only a closed-form head on frozen features.

    reset: start from random weights. lora_rank: rank of the low-rank updates trained instead of the weights, 0 = none.
    tap: what a head without phases reads: "pooled", the backbone's features, "late", the averaged output of each stage in the
    later half, or "stages", of every stage.
    views: of each image that it reads, the one that is judged and random ones; 1 where there are phases.
    """

    phases: tuple[Phase, ...]
    reset: bool = False
    lora_rank: int = 0
    tap: str = "pooled"
    views: int = 1


Precision = Literal["auto", "fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16")


@dataclass(frozen=True)
class Recipe:
    """How a plan is played, whatever the plan.

    batch_size: items of a step. class_weight: None, "balanced", or one weight a class. patience: epochs of a phase without a better
    score on the validation part after which the phase ends, None = never. augment: images are seen in random views in phases in
    which a layer group learns. items_per_epoch: an epoch ends after about so many, so that large data is scored more often than once
    a pass; None = all of them. precision: "fp32"; "bf16", in which the backbone computes while weights, head, loss and optimiser stay
    float32; "auto": bf16 where the processor has it and a step is at least 1.2 times as fast.
    """

    batch_size: int = 32
    class_weight: str | Sequence[float] | None = None
    patience: int | None = None
    augment: bool = True
    items_per_epoch: int | None = None
    precision: Precision = "auto"


@dataclass(frozen=True)
class Score:
    """A number with its doubt. interval: 95 %, (low, high). n: items it was measured on. seeds: of the splits or draws."""

    value: float
    interval: tuple[float, float]
    n: int
    seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """Whether transfer helped, against the better control.

    effect: transfer's score minus the control's, in the metric's unit, turned so that above zero is better for transfer.
    interval: 95 %, (low, high). against: the control's name. n: items judged. test: name of the statistical test.
    """

    outcome: Literal["helps", "no difference shown", "hurts"]
    effect: float
    interval: tuple[float, float]
    against: str
    n: int
    test: str

    def __str__(self) -> str:
        low, high = self.interval
        words = {"helps": "Transfer helps", "hurts": "Transfer hurts", "no difference shown": "No difference shown"}[self.outcome]
        return f"{words}: {self.effect:+.3f} against {self.against} (95 % interval {low:+.3f} to {high:+.3f}, n = {self.n}, {self.test})"


@dataclass(frozen=True)
class Finding:
    """Something about the data that its owner should know.

    kind: short name, e.g. "unreadable", "duplicates", "leak". severity: "problem" is acted on (items set aside),
    "warning" may spoil results, "note" is only told. message: one sentence. items: what it is about, by name.
    """

    kind: str
    severity: Literal["problem", "warning", "note"]
    message: str
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Epoch:
    """One epoch of the loop is over. phase, epoch: from 0. loss: mean over the items. score: on the validation part, None without one."""

    phase: int
    epoch: int
    loss: float
    score: float | None
    seconds: float


@dataclass(frozen=True)
class Note:
    """Something to read while one waits. text: a sentence."""

    text: str


@dataclass(frozen=True)
class Step:
    """Progress of something long. what: e.g. "extracting timm:resnet18". done, total: items."""

    what: str
    done: int
    total: int


# What is told while something runs.
Event = Step | Epoch | Note


@dataclass
class Result:
    """Every number of a study: what `result.json` holds. Keys are a promise; more may be added.

    score and controls are in the unit of `metric`; intervals are 95 %.
    controls: name -> {"score", "interval", ...}. candidates: dicts of backbone, strategy, score, interval, seconds.
    ranking: dicts of backbone, score, interval, seconds. findings: dicts of Finding's fields.
    extra sections (each may be empty): see the field comments.
    """

    task: str
    metric: str
    n_train: int
    n_test: int
    score: float
    interval: tuple[float, float]
    backbone: str
    strategy: str
    seeds: list[int]
    seconds: float
    controls: dict[str, dict[str, Any]]
    verdict: dict[str, Any]
    candidates: list[dict[str, Any]]
    ranking: list[dict[str, Any]]
    findings: list[dict[str, Any]]
    versions: dict[str, str]
    data: str = ""  # what was loaded, as the user named it
    modality: str = ""
    classes: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # choices made for the user, in words: columns, splits, metric, budget
    judged_on: str = ""  # "given test split", "5-fold cross-validation, 2 repeats"
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # metric -> {"score", "interval"} of the chosen model
    per_class: list[dict[str, Any]] = field(default_factory=list)  # {"class", "precision", "recall", "f1", "n"}
    confusion: list[list[int]] = field(default_factory=list)  # rows: true class, columns: predicted, in the order of classes
    label_curve: dict[str, Any] = field(default_factory=dict)  # {"sentence", "curves": {name: [{"n", "score", "interval"}]}}
    weights: list[dict[str, Any]] = field(default_factory=list)  # {"backbone", "licence", "pretrained_on", "parameters", "fingerprint"}
    command: str = ""  # repeats this run
    interrupted: str = ""  # what Ctrl-C left out, in a sentence

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Mistake:
    """A held-out item the model was wrong about, for the page.

    id: the item's name. true, predicted: in the target's words ("bee"; "wet, cold"; "21.5"). probability: what the model gave
    its prediction, None in regression. text, image: the item itself (a str, a PIL image), whichever the modality has.
    """

    id: str
    true: str
    predicted: str
    probability: float | None = None
    text: str | None = None
    image: Any = None
