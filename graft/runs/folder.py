"""The run folder: every file that a run leaves behind, each written under a temporary name and renamed."""

import csv
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from graft import processes
from graft.errors import GraftError
from graft.files import replacing, to_disk
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


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Within, no other run can have this folder. The system lets go of it when the process ends, however it ends.

    Of several processes that share one run the first holds it for all. Raises GraftError naming the process that has it.
    """
    lock, holder = FileLock(out / ".lock"), out / ".holder"

    def refusal() -> str:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            who = holder.read_text(encoding="utf-8") if holder.exists() else "a process"
            return (
                f"{out} is being written by another run ({who}), expected a folder that no other run has. "
                "Wait until that run ends, stop it, or name another folder with --out."
            )
        # Not in the locked file itself, which some systems let nobody else read.
        holder.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        return ""

    refused = processes.from_first(refusal() if processes.first() else "")
    if refused:
        raise GraftError(refused)
    try:
        yield
    finally:
        if processes.first():
            holder.unlink(missing_ok=True)
            lock.release()


UNFINISHED = "unfinished"


def begin(out: Path, config: dict[str, Any]) -> bool:
    """Write config.yaml, or know it again. Returns whether this goes on with a run that was interrupted.

    config: all that decides the numbers. Raises GraftError with each difference where the folder holds a run of other settings.
    """
    path = out / "config.yaml"
    if path.exists():
        try:
            known = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            known = None
        known = known if isinstance(known, dict) else {}
        differences = [
            f"\n  {name}: {known.get(name, 'not told')} there, {value} now" for name, value in config.items() if known.get(name) != value
        ]
        if differences:
            raise GraftError(
                f"{out} holds a run with other settings, expected a new folder or the same settings:{''.join(differences)}\n"
                "Name another folder with --out, or delete this one."
            )
    with writing(out):
        # What a killed run was writing.
        for leftover in (one for name in ("*.csv", "*.yaml", "*.html", "*.json", "model") for one in out.glob(f".{name}.*")):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        # Without settings, what is left is of a run that was refused, see `taken_back`.
        goes_on = path.exists() and (out / UNFINISHED).is_dir()
        (out / UNFINISHED).mkdir(exist_ok=True)
        for leftover in (out / UNFINISHED).glob(".*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        if not path.exists():
            with replacing(path) as file:
                yaml.safe_dump(config, file, sort_keys=False, allow_unicode=True)
    return goes_on


@contextmanager
def taken_back(out: Path | None, *, fits: bool = True) -> Iterator[None]:
    """Within, a GraftError ends a run that has left nothing yet: its settings are forgotten, so that a mended one may follow.

    fits: whether what training would go on from is forgotten too; `Checkpoints` never takes it for another run's.
    """
    try:
        yield
    except GraftError:
        if out is not None and not (out / "result.json").exists():
            (out / "config.yaml").unlink(missing_ok=True)
            if fits:
                shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        raise


def finish(out: Path) -> None:
    """Nothing is left to go on from."""
    shutil.rmtree(out / UNFINISHED)


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Within, what cannot be written is said as a GraftError that names the folder and what to do."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise GraftError(
            f"{out}: the results cannot be written ({error}), expected room for them. Free some space and give the same command again: "
            f"it goes on from {out / UNFINISHED}. Nothing there is half-written."
        ) from error


def write(
    out: Path,
    result: dict[str, Any],
    model: Transfer,
    card: str,
    header: list[str],
    predictions: Iterable[list[Any]],
    config: dict[str, Any],
    page: Callable[[Path], None],
) -> None:
    """Everything DESIGN promises but log.txt, which is written as the run goes. card: of the model. page: writes it to a path."""
    with writing(out):
        with replacing(out / "predictions.csv") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *predictions])
        with replacing(out / "config.yaml") as file:
            yaml.safe_dump(config, file, sort_keys=False, allow_unicode=True)
        with replacing_folder(out / "model") as unfinished:
            model.save(unfinished)
            (unfinished / "README.md").write_text(card, encoding="utf-8")
        page(out / "report.html")
        # Last: where result.json is, the rest is too.
        with replacing(out / "result.json") as file:
            json.dump(result, file, indent=1, ensure_ascii=False)


def write_backbone(out: Path, result: dict[str, Any], save: Callable[[Path], None], page: Callable[[Path], None]) -> None:
    """The folder as a backbone that `checkpoint:` loads, with the page and the numbers beside it. save: writes it into an empty folder."""
    with writing(out):
        unfinished = Path(tempfile.mkdtemp(dir=out, prefix=".model."))
        try:
            save(unfinished)
            to_disk(unfinished)
            for made in sorted(path for path in unfinished.rglob("*") if path.is_file()):
                place = out / made.relative_to(unfinished)
                place.parent.mkdir(parents=True, exist_ok=True)
                made.replace(place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        page(out / "report.html")
        with replacing(out / "result.json") as file:
            json.dump(result, file, indent=1, ensure_ascii=False)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write into, which takes the place of `folder` at the end, whole or not at all."""
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield unfinished
        unfinished.chmod(0o755)
        to_disk(unfinished)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        if folder.exists():
            # Moved aside: deleting takes long enough to be killed in.
            folder.replace(aside / folder.name)
        unfinished.replace(folder)
        shutil.rmtree(aside)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
