"""The classical baseline of each modality: what a careful person would fit without any pretrained network. scikit-learn, never torch."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_bool_dtype, is_datetime64_any_dtype, is_numeric_dtype
from PIL import Image
from scipy import sparse
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from graft.data.split import draw, holdout
from graft.errors import GraftError, near_miss
from graft.evaluate import log_loss, rmse
from graft.items import open_image
from graft.optional import require
from graft.records import Step, Task

NAMES = {
    "text": "TF-IDF + logistic regression",
    "image": "HOG + colour histogram + logistic regression",
    "table": "gradient boosting",
}

# The strength is chosen on at most this many items: the best one changes slowly with n, the cost does not.
_MOST_TO_CHOOSE_ON = 3000
_IMAGE_PX, _CELL_PX = 128, 16
_N_GRADIENTS = 7 * 7 * 2 * 2 * 9  # blocks of 2 x 2 cells, 9 directions each
_COLOUR_BINS = (8, 4, 4)  # of hue, saturation, value
_CHUNK = 64
_MOST_CATEGORIES = 254  # scikit-learn's boosting takes 255 values of a column, one of which means "any other"


class Baseline:
    """A fitted baseline. name: in words, as on the report. strength: what was chosen inside the training items."""

    def __init__(self, name: str, model: Any, reader: Callable[[Any], Any], task: Task, n_classes: int, strength: float) -> None:
        self.name, self.strength = name, strength
        self._model, self._reader, self._task, self._n_classes = model, reader, task, n_classes

    def outputs(self, inputs: Any) -> np.ndarray:
        """Inputs as `baseline_features` gives them -> probabilities (n, c), or values (n,) for regression."""
        features = self._reader(inputs)
        if self._task == "regression":
            return np.asarray(self._model.predict(features), float)
        probability = np.zeros((features.shape[0], self._n_classes))
        probability[:, self._model.classes_] = self._model.predict_proba(features)
        return probability


def baseline_features(modality: str, items: Any, progress: Callable[[Step], None] | None = None) -> Any:
    """What a baseline reads, computed once so that folds share it: image features (n, 1892) float32, a list of texts, or the table.

    items: images as `items.open_image` takes them, texts, or a DataFrame. Raises GraftError for another modality.
    """
    if modality not in NAMES:
        raise GraftError(f"modality {modality!r}, expected one of {', '.join(NAMES)}.{near_miss(modality, NAMES)}")
    if modality == "table":
        return items
    if modality == "text":
        return [str(item) for item in items]
    rows: list[np.ndarray] = []
    with ThreadPoolExecutor() as pool:
        # Chunks, since a pool reads all its items at once, and they may be bytes that do not fit in memory together.
        for start in range(0, len(items), _CHUNK):
            rows += pool.map(_describe_image, [items[i] for i in range(start, min(start + _CHUNK, len(items)))])
            if progress is not None:
                progress(Step(f"baseline: {NAMES[modality]}", len(rows), len(items)))
    return np.stack(rows)


def fit_baseline(
    modality: str,
    task: Task,
    inputs: Any,
    y: np.ndarray,
    *,
    seed: int,
    class_weight: str | None = None,
    n_classes: int | None = None,
    blocks: np.ndarray | None = None,
) -> Baseline:
    """The modality's baseline, its strength chosen on a held-out fifth of these items.

    inputs: as `baseline_features` gives them. y: as in `evaluate`. class_weight: None or "balanced".
    n_classes: c, where y need not hold every class. blocks: (n,) items of one block stay on one side.
    Raises GraftError for an unknown modality, or fewer than two classes.
    """
    if modality not in NAMES:
        raise GraftError(f"modality {modality!r}, expected one of {', '.join(NAMES)}.{near_miss(modality, NAMES)}")
    y = np.asarray(y)
    if task == "classification" and len(np.unique(y)) < 2:
        raise GraftError(f"{NAMES[modality]}: {len(y)} items of {len(np.unique(y))} class, expected at least 2 classes to fit on")
    c = 1 if task == "regression" else y.shape[1] if task == "multilabel" else n_classes or int(y.max()) + 1
    build = {"text": _text_model, "image": _image_model, "table": _table_model}[modality]
    reader = {"text": _TextReader, "image": _ImageReader, "table": _TableReader}[modality]

    def fit(index: np.ndarray, strength: float) -> Baseline:
        taken = take(inputs, index)
        read = reader(taken)
        model = build(task, strength, seed, class_weight, y[index]).fit(read(taken), y[index])
        return Baseline(NAMES[modality], model, read, task, c, strength)

    strength = _choose(fit, inputs, y, task, _STRENGTHS[modality], seed, blocks)
    return fit(np.arange(len(y)), strength)


# Weakest regularisation last. C of logistic regression, 1 / alpha of ridge, smallest leaf of the trees.
_STRENGTHS: dict[str, tuple[float, ...]] = {"text": (1.0, 10.0, 100.0), "image": (0.1, 1.0, 10.0, 100.0), "table": (40, 20, 5)}


def _choose(
    fit: Callable[[np.ndarray, float], Baseline],
    inputs: Any,
    y: np.ndarray,
    task: Task,
    strengths: Sequence[float],
    seed: int,
    blocks: np.ndarray | None,
) -> float:
    """The strength with the least loss on a held-out fifth; the middle one where nothing can be held out."""
    index = draw(y, task, min(len(y), _MOST_TO_CHOOSE_ON), seed)
    try:
        train, test = holdout(y[index], task, 0.2, seed, None if blocks is None else np.asarray(blocks)[index])
    except GraftError:
        # Too few items, or all of them in one block: there is nothing to choose by.
        return strengths[len(strengths) // 2]
    train, test = index[train], index[test]
    if task == "classification":
        test = test[np.isin(y[test], y[train])]
    if not len(test) or (task == "classification" and len(np.unique(y[train])) < 2):
        return strengths[len(strengths) // 2]
    loss = rmse if task == "regression" else log_loss
    return min(strengths, key=lambda strength: loss(y[test], fit(train, strength).outputs(take(inputs, test))))


def _text_model(task: Task, strength: float, seed: int, class_weight: str | None, y: np.ndarray) -> Any:
    if task == "regression":
        return Ridge(alpha=1 / strength, solver="sparse_cg", random_state=seed)
    # One class against the rest by liblinear's dual: on 10,000 texts and 77 classes 9 s on a core, a multinomial fit minutes.
    # tol: ten times the default costs 0.001 of accuracy there and halves the time.
    logistic = LogisticRegression(
        C=strength, solver="liblinear", dual=True, tol=0.1, max_iter=1000, class_weight=class_weight, random_state=seed
    )
    return _OneVsRest(logistic)


def _image_model(task: Task, strength: float, seed: int, class_weight: str | None, y: np.ndarray) -> Any:
    if task == "regression":
        return Ridge(alpha=1 / strength, random_state=seed)
    logistic = LogisticRegression(C=strength, max_iter=300, class_weight=class_weight, random_state=seed)
    return _OneVsRest(logistic) if task == "multilabel" else logistic


def _table_model(task: Task, strength: float, seed: int, class_weight: str | None, y: np.ndarray) -> Any:
    settings: Any = {"min_samples_leaf": int(strength), "learning_rate": 0.1, "random_state": seed, "categorical_features": "from_dtype"}
    # Early stopping holds out a tenth of each class, so it needs enough items of the rarest.
    rarest = 0 if task != "classification" else np.bincount(y)[np.unique(y)].min()
    settings["early_stopping"] = len(y) >= 500 and (task == "regression" or rarest >= 20)
    if task == "regression":
        return HistGradientBoostingRegressor(**settings)
    boosting = HistGradientBoostingClassifier(class_weight=class_weight, **settings)
    return _OneVsRest(boosting) if task == "multilabel" else boosting


class _OneVsRest:
    """One binary model a class or label. Where all training items agree it gives their share, held off 0 and 1."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def fit(self, features: Any, y: np.ndarray) -> "_OneVsRest":
        self.classes_ = np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])
        target = y[:, None] == self.classes_ if y.ndim == 1 else y > 0
        self._exclusive = y.ndim == 1
        self._parts = [
            clone(self._model).fit(features, column) if column.any() and not column.all() else (column.sum() + 1) / (len(column) + 2)
            for column in target.T
        ]
        return self

    def predict_proba(self, features: Any) -> np.ndarray:
        n = features.shape[0]
        columns = [np.full(n, part) if isinstance(part, float) else part.predict_proba(features)[:, 1] for part in self._parts]
        probability = np.stack(columns, axis=1)
        return probability / probability.sum(axis=1, keepdims=True) if self._exclusive else probability


class _TextReader:
    """Texts -> TF-IDF of words, word pairs and the letters inside words, sparse (n, terms)."""

    def __init__(self, texts: Sequence[str]) -> None:
        rare = 2 if len(texts) >= 200 else 1
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
        letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 4), sublinear_tf=True, min_df=rare)
        self._vectorizers = []
        for vectorizer in (words, letters):
            try:
                self._vectorizers.append(vectorizer.fit(texts))
            except ValueError as error:
                # Texts without a letter have no words, but still have characters.
                if "vocabulary" not in str(error) and "no terms remain" not in str(error):
                    raise
        if not self._vectorizers:
            raise GraftError(f"{NAMES['text']}: none of {len(texts)} texts holds a character, expected texts. Which column holds them?")

    def __call__(self, texts: Sequence[str]) -> sparse.csr_matrix:
        return sparse.hstack([vectorizer.transform(texts) for vectorizer in self._vectorizers]).tocsr()


class _ImageReader:
    """Image features centred, gradients and colours scaled to the same total variance over the training items.

    Standardising each feature instead lets 1764 gradients drown 128 colours: 0.64 for 0.70 on 800 tiles of EuroSAT.
    """

    def __init__(self, features: np.ndarray) -> None:
        self._mean = features.mean(axis=0)
        spread = np.sqrt([part.var(axis=0).sum() or 1.0 for part in np.split(features, [_N_GRADIENTS], axis=1)])
        self._scale = np.repeat(spread, [_N_GRADIENTS, features.shape[1] - _N_GRADIENTS])

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return (features - self._mean) / self._scale


class _TableReader:
    """Raw columns -> numbers, dates as seconds, categories with a fixed list of values; one not met in training counts as missing."""

    def __init__(self, table: pd.DataFrame) -> None:
        self._categories: dict[Any, pd.Index | None] = {}
        for name in table.columns:
            column = table[name]
            plain = (is_numeric_dtype(column) and not is_bool_dtype(column)) or is_datetime64_any_dtype(column)
            self._categories[name] = None if plain else column.dropna().astype(str).value_counts().index[:_MOST_CATEGORIES]

    def __call__(self, table: pd.DataFrame) -> pd.DataFrame:
        if missing := [str(name) for name in self._categories if name not in table.columns]:
            raise GraftError(f"the table lacks the columns {', '.join(missing)}, expected all columns that the model was fitted on")
        return pd.DataFrame({str(name): self._read(table[name], known) for name, known in self._categories.items()}, index=table.index)

    @staticmethod
    def _read(column: pd.Series, known: pd.Index | None) -> pd.Series:
        if known is not None:
            words = column.astype(str)
            return words.where(words.isin(known) & column.notna()).astype(pd.CategoricalDtype(known))
        if is_datetime64_any_dtype(column):
            return (column - pd.Timestamp(0, tz=column.dt.tz)).dt.total_seconds()
        return pd.to_numeric(column).astype(float)


def _describe_image(item: Any) -> np.ndarray:
    """(1892,) float32: histogram of oriented gradients (Dalal & Triggs 2005, doi:10.1109/CVPR.2005.177), then one of colours."""
    hog = require("skimage.feature", "image").hog
    image = open_image(item, _IMAGE_PX).resize((_IMAGE_PX, _IMAGE_PX), Image.Resampling.BILINEAR)
    gradients = hog(np.asarray(image.convert("L"), float) / 255, 9, (_CELL_PX, _CELL_PX), (2, 2))
    colours = np.asarray(image.convert("HSV"), np.int64).reshape(-1, 3) * _COLOUR_BINS // 256
    counts = np.bincount(np.ravel_multi_index(tuple(colours.T), _COLOUR_BINS), minlength=int(np.prod(_COLOUR_BINS)))
    # The root makes rare colours count beside the background (Hellinger's distance).
    return np.concatenate([gradients, np.sqrt(counts / counts.sum())]).astype(np.float32)


def take(inputs: Any, index: np.ndarray) -> Any:
    """Some of what `baseline_features` gives: rows of a table or matrix, or items of a list."""
    if isinstance(inputs, pd.DataFrame):
        return inputs.iloc[index]
    return inputs[index] if isinstance(inputs, np.ndarray) else [inputs[i] for i in index]
