"""Numbers, times and terms as a reader meets them on the page and the model card. Standard library only,
but for the markup that lets a long name break."""

import math
import re
from collections.abc import Sequence

from markupsafe import Markup, escape

# name -> (in words, what it says). A name that is not here, such as a user's own metric, is shown as it is.
METRICS = {
    "accuracy": ("accuracy", "share of items given the right answer; 1 is perfect"),
    "balanced_accuracy": (
        "balanced accuracy",
        "mean over the classes of the share found, so that rare classes count as much; 1 is perfect",
    ),
    "macro_f1": ("macro F1", "mean over the classes of F1, the balance of precision and recall; 1 is perfect"),
    "micro_f1": ("micro F1", "balance of precision and recall over all labels together; 1 is perfect"),
    "log_loss": ("log loss", "how surprised the probabilities were by the truth; 0 is perfect"),
    "calibration_error": ("calibration error", "how far stated probabilities lie from observed frequencies; 0 is perfect"),
    "r2": ("R²", "share of the target's variation explained; 1 is perfect, 0 is no better than always saying the mean"),
    "mae": ("mean absolute error", "how far off a prediction is on average, in the target's unit; 0 is perfect"),
    "rmse": ("root mean squared error", "like the mean absolute error, but large misses weigh more; 0 is perfect"),
}

LOWER_IS_BETTER = {"log_loss", "calibration_error", "mae", "rmse"}

STRATEGIES = {
    "feature_extraction": "the pretrained network stays as it is; a head is fitted on its features",
    "linear_probe": "the pretrained network stays as it is; a linear head is trained on it",
    "partial": "only the layers nearest the output are retrained",
    "gradual_unfreeze": "layers are released one group after another, from the output down",
    "discriminative": "all layers are retrained, the early ones more slowly",
    "full": "all layers are retrained at one rate",
    "lp_ft": "first the head alone, then all layers",
    "l2_sp": "all layers are retrained, each pulled back towards its pretrained weights",
    "delta": "all layers are retrained, while what they give is held near what the pretrained ones gave",
    "replay": "all layers are retrained, while features of replayed items of the source task are held where they were",
    "bss": "all layers are retrained, and what varies least in the features is shrunk",
    "cotuning": "all layers are retrained, and the pretrained classifier along with the new one",
    "bituning": "all layers are retrained, drawing items of a class together and those of others apart",
    "lora": "small low-rank corrections are learned beside the pretrained weights",
    "lora_attention": "small low-rank corrections are learned beside the pretrained weights of attention",
    "lora_convolutions": "small low-rank corrections are learned beside the pretrained weights of convolutions",
    "adapters": "small bottlenecks are learned between the pretrained layers",
    "bitfit": "only the biases are retrained",
    "surgical": "one group of layers is retrained",
    "stochnorm": "all layers are retrained; batch normalisation draws which statistics it uses",
    "wise_ft": "first the head alone, then all layers; in the end a mean of the weights before and after",
    "soup": "all layers are retrained several times at different rates, and the weights averaged",
    "scratch": "the same network from random weights",
}

# What one item of a modality is called.
ITEMS = {"image": "image", "text": "text", "table": "row", "signal": "signal"}


def metric_name(metric: str) -> str:
    return METRICS[metric][0] if metric in METRICS else metric.replace("_", " ")


def metric_meaning(metric: str) -> str:
    """What the metric says, in one line; "" for one we have no words for."""
    if metric not in METRICS:
        return ""
    return METRICS[metric][1] + ("; lower is better" if metric in LOWER_IS_BETTER else "")


def strategy_meaning(strategy: str) -> str:
    """What the strategy does, in one line; "" for a user's own."""
    return STRATEGIES.get(strategy, "")


def items_name(modality: str) -> str:
    """ "images"; "items" for a modality we have no word for."""
    return ITEMS.get(modality, "item") + "s"


def items(n: int, modality: str) -> str:
    """ "1 image", "1,240 texts"."""
    return plural(n, ITEMS.get(modality, "item"))


def opening(phrase: str) -> str:
    """The phrase as a sentence opens: "Macro F1"."""
    return phrase[:1].upper() + phrase[1:]


def plural(n: int, singular: str) -> str:
    """ "1 item", "1,240 items"."""
    return f"{n:,} {singular}{'' if n == 1 else 's'}"


def number(value: float | None) -> str:
    """A score to three decimals, a large one to the digits that matter; an en dash for what was not measured."""
    if value is None or not math.isfinite(value):
        return "–"
    digits = 3 if abs(value) < 10 else 1 if abs(value) < 1000 else 0
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def share(value: float | None) -> str:
    """A part of a whole, in percent: "12.5 %"; an en dash for what was not measured."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def signed(value: float | None) -> str:
    """As `number`, with its sign shown."""
    text = number(value)
    return f"+{text}" if value is not None and math.isfinite(value) and value > 0 and text.strip("0.,") else text


def span(interval: Sequence[float], sign: bool = False) -> str:
    """ "0.943 to 0.996"; "no interval" where an end was not measured."""
    if not all(math.isfinite(end) for end in interval):
        return "no interval"
    write = signed if sign else number
    low, high = interval
    return f"{write(low)} to {write(high)}"


def interval_of(interval: Sequence[float]) -> str:
    """ "with a 95 % interval of +0.124 to +0.261", for a difference in a sentence."""
    text = span(interval, sign=True)
    return text if text == "no interval" else f"with a 95 % interval of {text}"


def duration(seconds: float | None) -> str:
    """ "0.4 s", "42 s", "3 min 10 s", "1 h 5 min"."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        minutes, rest = divmod(whole, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def parameters(count: int | None) -> str:
    """ "2.2 million", "840 thousand"."""
    if count is None:
        return "–"
    for unit, name in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)


def shorten(text: str, at_most: int) -> str:
    """The text, cut at a word with an ellipsis where it is longer than at_most characters."""
    text = " ".join(text.split())
    if len(text) <= at_most:
        return text
    cut = text[:at_most]
    return (cut.rpartition(" ")[0] or cut) + "…"


def breakable(name: str) -> Markup:
    """A path or a backbone's name, escaped, that may be broken into lines behind its separators and not within its words."""
    return Markup("<wbr>").join(escape(part) for part in re.split(r"(?<=[/_:@=])(?=.)", name))
