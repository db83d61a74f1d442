"""The run folder: every file that a study leaves behind, each written under a temporary name and renamed."""

import csv
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from graft.errors import GraftError
from graft.files import replacing
from graft.records import Result
from graft.report import Mistake, model_card, write_report
from graft.transfer import Transfer


def prepare(out: str | Path) -> Path:
    """The folder, made and known to be writable before any time is spent."""
    out = Path(out).expanduser()
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise GraftError(
            f"{out} cannot be written to ({error.strerror}), expected a folder for the results. Name another with --out."
        ) from error
    return out


def write(
    out: Path,
    result: Result,
    model: Transfer,
    header: list[str],
    predictions: list[list[Any]],
    config: dict[str, Any],
    mistakes: list[Mistake],
    fold_scores: dict[str, list[float]],
) -> None:
    """Everything DESIGN promises but log.txt, which is written as the study goes."""
    with replacing(out / "predictions.csv") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *predictions])
    with replacing(out / "config.yaml") as file:
        yaml.safe_dump(config, file, sort_keys=False, allow_unicode=True)
    _write_model(out / "model", model, model_card(result))
    write_report(result, out / "report.html", mistakes=mistakes, fold_scores=fold_scores)
    # Last: where result.json is, the rest is too.
    with replacing(out / "result.json") as file:
        json.dump(result.to_dict(), file, indent=1, ensure_ascii=False)


def _write_model(folder: Path, model: Transfer, card: str) -> None:
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".model."))
    try:
        model.save(unfinished)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        unfinished.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        unfinished.replace(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
