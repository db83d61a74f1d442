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


Only = Literal["all", "biases", "norms"]
ONLY: tuple[Only, ...] = ("all", "biases", "norms")
LoraOn = Literal["all", "attention", "convolutions"]
LORA_ON: tuple[LoraOn, ...] = ("all", "attention", "convolutions")
End = Literal["keep", "interpolate", "soup"]
ENDS: tuple[End, ...] = ("keep", "interpolate", "soup")


@dataclass(frozen=True)
class Plan:
    """What a strategy will do: phases in order. No phases: only a closed-form head on frozen features.

    reset: start from random weights. lora_rank: rank of the low-rank updates trained instead of the weights, 0 = none.
    lora_on: the layers that get one: "all", those of "attention", or "convolutions".
    adapter_width: of the bottlenecks trained instead of the weights, 0 = none. only: which parameters of a layer group that learns
    do: "all", "biases", or "norms", the scales and shifts of normalisation layers. stochnorm: chance that a channel of batch
    normalisation uses the batch's own statistics, 0 = plain. At most one of lora_rank, adapter_width, stochnorm and such a part.
    end: "keep", the weights that the phases come to; "interpolate", a mean of them and of those that the first phase in which a
    layer group learns began with; "soup", each such phase begins with those, and the ends of all are averaged.
    tap: what a head without phases reads: "pooled", the backbone's features, "late", the averaged output of each stage in the
    later half, or "stages", of every stage.
    views: of each image that it reads, the one that is judged and random ones; 1 where there are phases.
    losses: what is added to the task's loss in every phase: (name, strength) of members of `graft.losses.LOSSES`.
    supervised: whether labels are learned from. False: the task's loss is left out, and the losses alone are learned from, on items of
    another domain without labels; see `others` of `graft.train.train`.
    """

    phases: tuple[Phase, ...]
    reset: bool = False
    lora_rank: int = 0
    tap: str = "pooled"
    views: int = 1
    lora_on: LoraOn = "all"
    adapter_width: int = 0
    only: Only = "all"
    stochnorm: float = 0.0
    end: End = "keep"
    losses: tuple[tuple[str, float], ...] = ()
    supervised: bool = True


Precision = Literal["auto", "fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("auto", "fp32", "bf16")


Schedule = Literal["cosine", "one_cycle", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("cosine", "one_cycle", "constant")
Sampler = Literal["shuffled", "balanced"]
SAMPLERS: tuple[Sampler, ...] = ("shuffled", "balanced")
BatchNorm = Literal["moving", "batch"]
BATCH_NORMS: tuple[BatchNorm, ...] = ("moving", "batch")


@dataclass(frozen=True)
class Recipe:
    """How a plan is played, whatever the plan.

    batch_size: items of a batch. class_weight: None, "balanced", or one weight a class. patience: epochs of a phase without a better
    score on the validation part after which the phase ends, None = never. items_per_epoch: an epoch ends after about so many, so that
    large data is scored more often than once a pass; None = all of them. batch_norm: the statistics that batch normalisation uses where a
    layer group learns: the "moving" ones that it came with and keeps, or each "batch"'s, which the moving ones follow; random weights
    and `stochnorm` always take the batch's. precision: "fp32"; "bf16", in which the backbone computes while
    weights, head, loss and optimiser stay float32; "auto": bf16 where the processor has it and a step is at least 1.2 times as fast, and
    TF32 for what is float32 on a GPU that has that; "fp32" has all digits there too.

    Steps. schedule: how rates run through a phase: "cosine", up over a tenth of it, then down; "one_cycle"; "constant".
    clip_norm: the gradient's length at most, None = any. accumulate: batches of a step. averaging: decay of the moving average of the
    weights that is judged and kept in their place, in [0, 1), 0 = none; sampler: "shuffled", each item once an epoch, or "balanced",
    each class equally often. smoothing: share of the target that is spread over all classes, in [0, 1). dropout: share of the features
    that the head does not see in training, in [0, 1).

    What training sees. augment: in phases in which a layer group learns, images are seen in random views, and what the next four
    ask for is done; "auto": measured on the validation part, with and without, and the better is kept. rand_augment: magnitude of two
    random changes of each image, up to 10, 0 = none. word_deletion, word_swap, token_dropout: share of a text's words left out or
    moved, or of its tokens hidden, in [0, 1).
    mixup, cutmix: alpha of the Beta distribution by which two items of a batch are mixed, 0 = none; with both, one of them each batch.
    """

    batch_size: int = 32
    class_weight: str | Sequence[float] | None = None
    patience: int | None = None
    augment: bool | Literal["auto"] = True
    items_per_epoch: int | None = None
    batch_norm: BatchNorm = "moving"
    precision: Precision = "auto"
    schedule: Schedule = "cosine"
    clip_norm: float | None = None
    accumulate: int = 1
    averaging: float = 0.0
    sampler: Sampler = "shuffled"
    smoothing: float = 0.0
    dropout: float = 0.0
    rand_augment: float = 0.0
    word_deletion: float = 0.0
    word_swap: float = 0.0
    token_dropout: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0


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
class Difference:
    """What one is worth more than the other on the same items.

    effect: in the metric's unit, turned so that above zero is better for the first. interval: 95 %, (low, high). p: two-sided, that so
    large a difference comes up where there is none. n: items judged. test: name of the statistical test.
    """

    effect: float
    interval: tuple[float, float]
    p: float
    n: int
    test: str


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
    """One epoch of the loop is over. phase, epoch: from 0. loss: mean over the items, with the losses that the plan adds.

    score: on the validation part, None without one.
    """

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
    judged_on: str = ""  # "given test split", "5-fold cross-validation, 2 repeats", "one part held out"
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)  # metric -> {"score", "interval"} of the chosen model
    per_class: list[dict[str, Any]] = field(default_factory=list)  # {"class", "precision", "recall", "f1", "n"}
    confusion: list[list[int]] = field(default_factory=list)  # rows: true class, columns: predicted, in the order of classes
    label_curve: dict[str, Any] = field(default_factory=dict)  # {"sentence", "curves": {name: [{"n", "score", "interval"}]}}
    weights: list[dict[str, Any]] = field(default_factory=list)  # {"backbone", "licence", "pretrained_on", "parameters", "fingerprint"}
    plan: dict[str, Any] = field(default_factory=dict)  # of the chosen model: {"groups": names, input side first, ...fields of Plan}
    keep: dict[str, Any] = field(default_factory=dict)  # what was forgotten of the source task; see `study.keep.forgetting`
    pretraining: dict[str, Any] = field(default_factory=dict)  # what the backbone's pretraining gave; see `study.start.gain`
    compared: str = ""  # strategies that were named, beside each other, in a sentence; comparison.json has the numbers
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


@dataclass
class Adaptation:
    """Every number of an adaptation to a domain without labels: what the `result.json` of `graft adapt` holds.

    outcome: "adapted" or "source only". method, settings: of the model that is handed over; "source_only" where that is as it was.
    reasons: what the guard weighed, the weightiest first: dicts of evidence (a name), value, words (a sentence), speaks ("for", "against"
    or "neither"). estimate: of the expected score on the target: {"score", "interval", "interval_share", "source_only": {"score",
    "interval"}, "gain": {"value", "interval"}}.
    """

    task: str
    metric: str
    source: str  # what was loaded, as the user named it
    target: str
    n_source: int
    n_target: int
    backbone: str
    modality: str
    classes: list[str]
    outcome: str
    method: str
    settings: dict[str, Any]
    reasons: list[dict[str, Any]]
    estimate: dict[str, Any]
    # dicts of method, settings, score (predicted on the target), interval, validators {name: value}, seconds, note ("" or why it fell out)
    candidates: list[dict[str, Any]]
    # name ("mmd", "proxy_a") -> {"before", "after", "interval" of before, or None}
    distances: dict[str, dict[str, Any]]
    # "covariate", "label", "concept" -> {"value" in [0, 1], "words"}, and "sentence": what it looks like
    shift: dict[str, Any]
    # dicts of class, source_share, target_share (estimated), moved (of its mean, in its own spread), n_source, n_target (predicted)
    moved: list[dict[str, Any]]
    # "before", "after" -> {"source": [[x, y, class index], ...], "target": [[x, y, predicted class index], ...]}, at most 400 points a side
    map: dict[str, dict[str, list[list[float]]]]
    # dicts of id, predicted, probability, why: what to label next, the item that would settle most first
    label_next: list[dict[str, Any]]
    seeds: list[int]
    seconds: float
    versions: dict[str, str]
    findings: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    domains: list[str] = field(default_factory=list)  # names of the source's domains, where there are several
    # where some target labels were given: {"n", "score", "interval", "source_only": {"score", "interval"}, "verdict": fields of Verdict}
    checked: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    interrupted: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Pretraining:
    """Every number of a pretraining: what the `result.json` of `graft pretrain` holds.

    method: a pretext, or "supervised". start: the backbone that it began with; teachers: those that it learned from. rate: the highest
    of the layer groups. epochs: played, of planned. seconds: of all it took; training_seconds: of the epochs alone.
    """

    data: str
    modality: str
    n_items: int  # learned from
    method: str
    source: str  # of the method
    start: str
    teachers: list[str]
    licence: str  # of the start's weights, "" where none was found or they were random
    pretrained_on: str  # what the result saw, the start's data with it
    parameters: int
    width: int
    epochs: int
    planned_epochs: int
    batch_size: int
    rate: float
    seconds: float
    training_seconds: float
    # dicts of epoch (0: the start), seconds (of training until then), loss (None at the start), effective_rank, spread (in [0, 1]) and
    # knn (a share of n_seen items); the last three are None where nobody looked
    watched: list[dict[str, Any]]
    n_seen: int
    # {} or {"epoch" (the first), "words", "at_the_end"}
    collapse: dict[str, Any]
    # where there were labels: {"data", "metric", "why", "n", "n_fitted", "start": {"score", "interval"}, "result": {"score", "interval"},
    # "verdict": fields of Verdict}
    helped: dict[str, Any]
    fingerprint: str  # of the result's weights and preprocessing
    seeds: list[int]
    versions: dict[str, str]
    findings: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    command: str = ""
    interrupted: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
