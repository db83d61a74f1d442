"""Strategies: which layer group learns when, and at what rate. Pure functions to a Plan; no libraries, no weights, no data.

`lr` is the head's rate. Pretrained layer groups learn at a tenth of it unless a strategy says otherwise: their weights
are already good, the head's are not.
"""

import math
from collections.abc import Callable, Sequence

from graft.errors import GraftError, near_miss, raise_all
from graft.records import ENDS, LORA_ON, ONLY, LoraOn, Phase, Plan
from graft.registry import Registry

Strategy = Callable[[int, int, float], Plan]

STRATEGIES = Registry("strategy")


@STRATEGIES.add("Sharif Razavian et al. 2014, arXiv:1403.6382")
def feature_extraction(depth: int, epochs: int, lr: float) -> Plan:
    """Nothing is trained: a closed-form or convex head on frozen features."""
    return Plan(())


@STRATEGIES.add("Evci et al. 2022, arXiv:2201.03529")
def head2toe(depth: int, epochs: int, lr: float) -> Plan:
    """Nothing is trained: a head on the averaged output of every stage, not of the last alone.

    What early stages see (colour, texture) is lost to the last one, and may be what a far domain needs. Differs: the head's
    penalty weighs the stages, where the paper selects features by a group lasso.
    """
    return Plan((), tap="stages")


@STRATEGIES.add("Peters et al. 2018, arXiv:1802.05365; Tenney et al. 2019, arXiv:1905.05950")
def late_stages(depth: int, epochs: int, lr: float) -> Plan:
    """Nothing is trained: a head on the averaged output of each stage in the later half, not of the last alone.

    What the last stage was trained to tell (what a sentence is about) may leave out what the layers below it still know (its form).
    Differs: the head weighs every feature, where the papers learn one weight for each layer.
    """
    return Plan((), tap="late")


@STRATEGIES.add("Simard et al. 2003, doi:10.1109/ICDAR.2003.1227801, on frozen features")
def views(depth: int, epochs: int, lr: float, number: int = 4) -> Plan:
    """Nothing is trained: a head on the features of several random views of each image.

    number: of views, the plain one among them. Texts have a single view.
    """
    return Plan((), views=number)


@STRATEGIES.add("Alain & Bengio 2016, arXiv:1610.01644")
def linear_probe(depth: int, epochs: int, lr: float) -> Plan:
    """Only the head learns, by gradient steps on frozen features."""
    return Plan((Phase(epochs, (0.0,) * depth, lr),))


@STRATEGIES.add("Yosinski et al. 2014, arXiv:1411.1792")
def partial(depth: int, epochs: int, lr: float, share: float = 1 / 3) -> Plan:
    """The last third of the layer groups and the head learn; what lies below stays frozen.

    share: part of the layer groups that learns, counted from the head, rounded up.
    """
    frozen = depth - math.ceil(share * depth)
    return Plan((Phase(epochs, tuple(0.0 if group < frozen else lr / 10 for group in range(depth)), lr),))


@STRATEGIES.add("Howard & Ruder 2018, arXiv:1801.06146, section 3.3")
def gradual_unfreeze(depth: int, epochs: int, lr: float) -> Plan:
    """The head learns first; each epoch opens the next layer group below, until all are open.

    With fewer epochs than groups several open at once; epochs left over are spent with all open.
    Raises GraftError for fewer than two epochs.
    Differs: one rate for all open groups, where the paper adds the rates of `discriminative`.
    """
    _needs_two_epochs("gradual_unfreeze", epochs)
    steps = min(depth + 1, epochs)
    phases = []
    for step in range(steps):
        frozen = depth - math.ceil(step * depth / (steps - 1))
        rates = tuple(0.0 if group < frozen else lr / 10 for group in range(depth))
        phases.append(Phase(1 if step < steps - 1 else epochs - step, rates, lr))
    return Plan(tuple(phases))


@STRATEGIES.add("Howard & Ruder 2018, arXiv:1801.06146, section 3.2")
def discriminative(depth: int, epochs: int, lr: float, factor: float = 2.6) -> Plan:
    """Every layer group learns, each 2.6 times slower than the one above it.

    factor: by which the rate falls from a group to the one below.
    """
    return Plan((Phase(epochs, tuple(lr / 10 / factor ** (depth - 1 - group) for group in range(depth)), lr),))


@STRATEGIES.add("Girshick et al. 2014, arXiv:1311.2524, section 2.3")
def full(depth: int, epochs: int, lr: float) -> Plan:
    """Every layer group learns, at a tenth of the head's rate."""
    return Plan((Phase(epochs, (lr / 10,) * depth, lr),))


@STRATEGIES.add("Kumar et al. 2022, arXiv:2202.10054")
def lp_ft(depth: int, epochs: int, lr: float) -> Plan:
    """First the head alone, then everything at one low rate, so that a random head does not distort good features.

    Half the epochs each, the odd one to the second half. Raises GraftError for fewer than two epochs.
    """
    _needs_two_epochs("lp_ft", epochs)
    probe = epochs // 2
    return Plan((Phase(probe, (0.0,) * depth, lr), Phase(epochs - probe, (lr / 10,) * depth, lr / 10)))


@STRATEGIES.add("Li et al. 2018, arXiv:1802.01483, section 3")
def l2_sp(depth: int, epochs: int, lr: float, anchor: float = 0.1) -> Plan:
    """Every layer group learns, pulled back towards the pretrained weights.

    anchor: alpha of the penalty alpha / 2 * |w - w_start|^2 on the backbone's weights.
    Differs: the loop's AdamW takes the penalty's gradient, where the paper's SGD does; the head has plain weight decay.
    """
    return Plan((Phase(epochs, (lr / 10,) * depth, lr, anchor),))


@STRATEGIES.add("Buzzega et al. 2020, arXiv:2004.07211")
def replay(depth: int, epochs: int, lr: float, alpha: float = 1.0) -> Plan:
    """Every layer group learns, while features of replayed items of the source task are held where they were.

    alpha: of the squared distance, in units of the features' variance. Needs items of the source: `graft run --keep SOURCE`, or
    `others` of `Transfer.fit`.
    """
    return Plan((Phase(epochs, (lr / 10,) * depth, lr),), losses=(("replay", alpha),))


@STRATEGIES.add("Li et al. 2019, arXiv:1901.09229")
def delta(depth: int, epochs: int, lr: float, alpha: float = 0.64, beta: float = 0.01) -> Plan:
    """Every layer group learns, while what the stages give is held near what they gave, channel by channel as it matters.

    alpha: of the distance, beta: of the head's squared norm / 2. The authors' 0.01 of a sum over 64 items is 0.64 of their mean.
    """
    return Plan((Phase(epochs, (lr / 10,) * depth, lr),), losses=(("delta", alpha), ("head_norm", beta)))


@STRATEGIES.add("Chen et al. 2019, NeurIPS: Catastrophic Forgetting Meets Negative Transfer")
def bss(depth: int, epochs: int, lr: float, eta: float = 1e-3) -> Plan:
    """Every layer group learns, and what varies least in the features is shrunk: such features transfer badly.

    eta: of the smallest squared singular value of each batch's features.
    """
    return Plan((Phase(epochs, (lr / 10,) * depth, lr),), losses=(("bss", eta),))


@STRATEGIES.add("You et al. 2020, NeurIPS: Co-Tuning for Transfer Learning")
def cotuning(depth: int, epochs: int, lr: float, strength: float = 2.3) -> Plan:
    """Every layer group learns, and the pretrained classifier with it, from what it used to say of each class's items.

    strength: lambda of the classifier's cross-entropy. Needs classes, and weights that come with their classifier.
    """
    return Plan((Phase(epochs, (lr / 10,) * depth, lr),), losses=(("cotuning", strength),))


@STRATEGIES.add("Zhong et al. 2020, arXiv:2011.06182")
def bituning(depth: int, epochs: int, lr: float, strength: float = 1.0) -> Plan:
    """Every layer group learns, and items are drawn to remembered items of their class and away from others.

    strength: of the two contrastive losses. Needs classes.
    """
    return Plan((Phase(epochs, (lr / 10,) * depth, lr),), losses=(("bituning", strength),))


@STRATEGIES.add("Hu et al. 2021, arXiv:2106.09685")
def lora(depth: int, epochs: int, lr: float, rank: int = 8, on: LoraOn = "all") -> Plan:
    """Low-rank updates of the weights learn instead of the weights.

    rank: of each update. They start at zero and are few, so they bear the head's rate. on: the layers that get one, "all",
    "attention" or "convolutions".
    """
    return Plan((Phase(epochs, (lr,) * depth, lr),), lora_rank=rank, lora_on=on)


@STRATEGIES.add("Hu et al. 2021, arXiv:2106.09685, section 4.2")
def lora_attention(depth: int, epochs: int, lr: float, rank: int = 8) -> Plan:
    """Low-rank updates of the weights of attention learn instead of the weights.

    rank: as of `lora`. A backbone without attention is refused.
    """
    return lora(depth, epochs, lr, rank, "attention")


@STRATEGIES.add("Hu et al. 2021, arXiv:2106.09685, equation 3, on convolutions")
def lora_convolutions(depth: int, epochs: int, lr: float, rank: int = 8) -> Plan:
    """Low-rank updates of the weights of ungrouped convolutions learn instead of the weights.

    rank: as of `lora`. A backbone without such convolutions is refused.
    """
    return lora(depth, epochs, lr, rank, "convolutions")


@STRATEGIES.add("Rebuffi et al. 2018, arXiv:1803.10082; Houlsby et al. 2019, arXiv:1902.00751")
def adapters(depth: int, epochs: int, lr: float, width: int = 64) -> Plan:
    """Bottlenecks learn: beside each convolution, behind each linear layer; the weights in between stay.

    width: of each bottleneck, Houlsby et al.'s for BERT. They start as the identity and are few, so they bear the head's rate; the
    normalisation layers learn with them. Differs: linear, so that they are merged into the weights at the end.
    """
    return Plan((Phase(epochs, (lr,) * depth, lr),), adapter_width=width)


@STRATEGIES.add("Ben Zaken et al. 2022, arXiv:2106.10199")
def bitfit(depth: int, epochs: int, lr: float) -> Plan:
    """Only the biases and the head learn.

    Biases are few and bear the head's rate. Differs: in a convolutional network, which the paper has none of, the shifts of batch
    normalisation count as biases; its scales and moving statistics stay.
    """
    return Plan((Phase(epochs, (lr,) * depth, lr),), only="biases")


@STRATEGIES.add("Lee et al. 2023, arXiv:2210.11466")
def surgical(depth: int, epochs: int, lr: float, group: int = 0) -> Plan:
    """Only one layer group and the head learn: the first, unless told otherwise.

    group: which, 0 = the first, -1 = the last. The paper tunes the first where inputs differ from those pretrained on, one in the
    middle where features do, the last where labels do; its rule that chooses by gradients needs data, which a strategy never sees.
    Raises GraftError for a group that the backbone does not have.
    """
    if not -depth <= group < depth:
        raise GraftError(f"strategy surgical: group is {group}, expected {-depth} to {depth - 1}: the backbone has {depth} layer groups.")
    return Plan((Phase(epochs, tuple(lr / 10 if place == group % depth else 0.0 for place in range(depth)), lr),))


@STRATEGIES.add("Kou et al. 2020, Stochastic Normalization, NeurIPS 33")
def stochnorm(depth: int, epochs: int, lr: float, p: float = 0.5) -> Plan:
    """Every layer group learns; batch normalisation draws each channel's statistics: the batch's, or the moving ones.

    p: chance that a channel uses the batch's. A backbone without batch normalisation is refused.
    """
    return Plan((Phase(epochs, (lr / 10,) * depth, lr),), stochnorm=p)


@STRATEGIES.add("Wortsman et al. 2022, arXiv:2109.01903")
def wise_ft(depth: int, epochs: int, lr: float) -> Plan:
    """LP-FT, and in the end a mean of the weights, head too, before and after everything learned.

    The share of the later weights is the best of 0, 0.1, ..., 1 on the validation part, of equals the nearest to the paper's 0.5;
    without such a part it is 0.5. Raises GraftError for fewer than two epochs.
    Differs: the paper's start is a zero-shot head; ours is the one that the first half of the epochs, or `Transfer`, comes to.
    """
    _needs_two_epochs("wise_ft", epochs)
    return Plan(lp_ft(depth, epochs, lr).phases, end="interpolate")


@STRATEGIES.add("Wortsman et al. 2022, arXiv:2203.05482, recipe 1")
def soup(depth: int, epochs: int, lr: float, factors: tuple[float, ...] = (1.0, 0.3, 3.0)) -> Plan:
    """LP-FT, its second step three times from the same start at different rates; in the end the average of their weights.

    factors: of the second step's rates, one a fine-tuning; each also draws batches of its own. The average is greedy where there is
    a validation part: the best fine-tuning, then each that does not make it worse. Without one all are averaged.
    Each step takes half of the epochs, so that with three factors twice as many are played.
    Raises GraftError for fewer than two epochs.
    """
    _needs_two_epochs("soup", epochs)
    probe, tuning = lp_ft(depth, epochs, lr).phases
    tunings = (Phase(tuning.epochs, tuple(factor * rate for rate in tuning.lr), factor * tuning.head_lr) for factor in factors)
    return Plan((probe, *tunings), end="soup")


@STRATEGIES.add("the control: He et al. 2018, arXiv:1811.08883")
def scratch(depth: int, epochs: int, lr: float) -> Plan:
    """The same network from random weights: what the pretrained weights are judged against."""
    return Plan((Phase(epochs, (lr,) * depth, lr),), reset=True)


def make_plan(strategy: str | Strategy, depth: int, epochs: int, lr: float) -> Plan:
    """What a strategy will do on a backbone of `depth` layer groups, checked.

    strategy: a name of STRATEGIES or a function (depth, epochs, lr) -> Plan. epochs: at least 1. lr: the head's rate, above 0.
    Raises GraftError naming every argument out of range, and every phase that does not fit the depth.
    """
    problems = []
    if depth < 1:
        problems.append(f"depth is {depth}, expected at least one layer group.")
    if epochs < 1:
        problems.append(f"epochs is {epochs}, expected at least 1. For a head without any training use 'feature_extraction'.")
    if not (math.isfinite(lr) and lr > 0):
        problems.append(f"lr is {lr}, expected a finite rate above 0, e.g. 1e-3.")
    raise_all(problems)
    plan = STRATEGIES.resolve(strategy)(depth, epochs, lr)
    name = strategy if isinstance(strategy, str) else getattr(strategy, "__name__", repr(strategy))
    if not isinstance(plan, Plan):
        raise GraftError(
            f"strategy {name}: returned {type(plan).__name__}, expected a Plan. Return Plan((Phase(epochs, rates, head_lr), ...))."
        )
    check_plan(plan, depth, f"strategy {name}")
    return plan


def check_plan(plan: Plan, depth: int, where: str = "plan") -> None:
    """Raise one GraftError that lists all in which a plan does not fit a backbone of `depth` layer groups.

    where: begins the message.
    """
    problems = []
    if plan.views < 1:
        problems.append(f"{where}: views is {plan.views}, expected at least 1, the view that is judged.")
    elif plan.views > 1 and plan.phases:
        problems.append(f"{where}: views is {plan.views} with phases, expected 1: the loop draws its own. Leave one of them out.")
    problems += _misfits(plan, where)
    for name, strength in plan.losses:
        if not (math.isfinite(strength) and strength > 0):
            problems.append(f"{where}: the strength of the loss {name} is {strength}, expected a finite number above 0. Or leave it out.")
    names = ", ".join(name for name, _ in plan.losses)
    if names and not plan.phases:
        problems.append(f"{where}: losses ({names}) without phases, expected one: nothing would learn from them. Leave them out.")
    if not plan.supervised and not names:
        problems.append(
            f"{where}: supervised is False without losses, expected one: nothing is learned from. Name one, or learn from labels."
        )
    if names and plan.reset:
        problems.append(f"{where}: losses ({names}) with reset, expected pretrained weights: these losses use or keep what they know.")
        problems[-1] += " Leave one of them out."
    for number, phase in enumerate(plan.phases, 1):
        here = f"{where}, phase {number}"
        rates = (*phase.lr, phase.head_lr)
        if len(phase.lr) != depth:
            problems.append(f"{here}: {len(phase.lr)} rates, expected {depth}, one for each layer group. Use range(depth) to make them.")
        if not all(math.isfinite(rate) and rate >= 0 for rate in rates):
            problems.append(f"{here}: rates {rates}, expected finite numbers, 0 (frozen) or more.")
        elif not any(rates):
            problems.append(f"{here}: every rate is 0, expected something to learn. Leave the phase out, or give the head a rate.")
        if phase.epochs < 1:
            problems.append(f"{here}: {phase.epochs} epochs, expected at least 1. Leave the phase out.")
        if not (math.isfinite(phase.anchor) and phase.anchor >= 0):
            problems.append(f"{here}: anchor is {phase.anchor}, expected a finite number, 0 (none) or more.")
        elif phase.anchor and (plan.lora_rank or plan.adapter_width):
            problems.append(f"{here}: anchor {phase.anchor} together with {' and '.join(_inlays(plan))}; updates and adapters leave the")
            problems[-1] += " weights they start from in place, so there is nothing to pull on. Choose one of the two."
    raise_all(problems)


def _inlays(plan: Plan) -> list[str]:
    """What of a plan changes which parameters of a layer learn, or how the layer works; each with its value."""
    said = {"lora_rank": plan.lora_rank, "adapter_width": plan.adapter_width, "stochnorm": plan.stochnorm}
    return [f"{name} {value}" for name, value in said.items() if value] + ([f"only {plan.only!r}"] if plan.only != "all" else [])


def _misfits(plan: Plan, where: str) -> list[str]:
    """What is wrong with the fields of a plan beside its phases and views."""
    problems = []
    for name in ("lora_rank", "adapter_width"):
        if getattr(plan, name) < 0:
            problems.append(f"{where}: {name} is {getattr(plan, name)}, expected 0 (none) or more.")
    if not 0 <= plan.stochnorm <= 1:
        problems.append(f"{where}: stochnorm is {plan.stochnorm}, expected a chance from 0 (plain) to 1.")
    for name, value, known in (("lora_on", plan.lora_on, LORA_ON), ("only", plan.only, ONLY), ("end", plan.end, ENDS)):
        if value not in known:
            problems.append(f"{where}: {name} is {value!r}, expected one of {', '.join(known)}.{near_miss(value, known)}")
    if plan.lora_on != "all" and not plan.lora_rank:
        problems.append(f"{where}: lora_on is {plan.lora_on!r} without updates, expected a lora_rank above 0, e.g. 8.")
    inlays = _inlays(plan)
    if len(inlays) > 1:
        problems.append(f"{where}: {' and '.join(inlays)} together, expected at most one of them. Choose one.")
    if plan.end != "keep":
        if plan.lora_rank or plan.adapter_width:
            problems.append(f"{where}: end {plan.end!r} together with {inlays[0]}, whose factors cannot be averaged. Choose one.")
        if plan.reset:
            problems.append(f"{where}: end {plan.end!r} from random weights, whose averages are of no use. Leave one of them out.")
        if plan.phases and not any(any(phase.lr) for phase in plan.phases):
            problems.append(f"{where}: end {plan.end!r}, but no layer group learns in any phase. Give one a rate, or use end 'keep'.")
    return problems


def table(plan: Plan, stage_names: Sequence[str]) -> list[dict[str, str | float]]:
    """The rates of a plan as rows for people: one a layer group, input side first, then the head.

    Returns dicts with "layer group" and one column a phase, e.g. "epochs 1-5": rate, 0.0 = frozen.
    A plan without phases has no such column.
    """
    columns, first = [], 1
    for phase in plan.phases:
        last = first + phase.epochs - 1
        columns.append(f"epoch {first}" if last == first else f"epochs {first}-{last}")
        first = last + 1
    rows: list[dict[str, str | float]] = []
    for group, name in enumerate((*stage_names, "head")):
        rates = ((*phase.lr, phase.head_lr)[group] for phase in plan.phases)
        rows.append({"layer group": name, **dict(zip(columns, rates, strict=True))})
    return rows


def remarks(plan: Plan) -> list[str]:
    """What a plan does besides its rates, one sentence each."""
    said = []
    if not plan.phases:
        what = {
            "pooled": "frozen features",
            "late": "the averaged output of each frozen stage in the later half",
            "stages": "the averaged output of every frozen stage",
        }[plan.tap]
        of = f", of {plan.views} views of each image" if plan.views > 1 else ""
        said.append(f"No gradient steps: a closed-form or convex head is fitted on {what}{of}.")
    if plan.reset:
        said.append("Starts from random weights.")
    if plan.lora_rank:
        on = {"all": "", "attention": " of attention", "convolutions": " of convolutions"}[plan.lora_on]
        said.append(f"Learns updates of rank {plan.lora_rank} instead of the weights{on}, added to them at the end.")
    if plan.adapter_width:
        said.append(f"Learns adapters of width {plan.adapter_width} and normalisation instead of the weights, merged into them at the end.")
    if plan.only == "biases":
        said.append("Of the layer groups that learn only the biases do.")
    if plan.only == "norms":
        said.append("Of the layer groups that learn only the scales and shifts of normalisation do.")
    if plan.stochnorm:
        said.append(f"Batch normalisation uses a batch's own statistics with chance {plan.stochnorm:g} for each channel, else moving ones.")
    if not plan.supervised:
        said.append("Reads no label: learns on unlabelled items of the other domain alone.")
    for name, strength in plan.losses:
        said.append(
            f"Adds {strength:g} times the loss {name} to the task's own."
            if plan.supervised
            else f"Minimises {strength:g} times the loss {name}."
        )
    for number, phase in enumerate(plan.phases, 1):
        frozen = next((group for group, rate in enumerate(phase.lr) if rate), len(phase.lr))
        if 0 < frozen < len(phase.lr):
            groups = "the first layer group" if frozen == 1 else f"the first {frozen} layer groups"
            said.append(
                f"Phase {number} runs {groups} once for each item, or for a few random views of each image, and keeps what they give."
            )
        if phase.anchor:
            said.append(f"Phase {number} pulls the weights back to where they started, with strength {phase.anchor:g}.")
    if plan.end == "interpolate":
        said.append("Ends with a mean of the weights before and after layer groups learned: the best on held-out items, else half each.")
    if plan.end == "soup":
        tunings = sum(any(phase.lr) for phase in plan.phases)
        said.append(f"Ends with an average of {tunings} fine-tunings from the same start: those that held-out items support, else all.")
    return said


def _needs_two_epochs(name: str, epochs: int) -> None:
    if epochs < 2:
        raise GraftError(f"strategy {name}: epochs is {epochs}, expected at least 2, as it has two steps. Give more epochs, or use 'full'.")
