"""Several processes: the same values everywhere, sums over all, and nothing at all where there is only one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from graft import processes
from graft.backbones.tiny import load
from graft.errors import GraftError
from graft.features import extract

TOGETHER = """
import json, sys, torch
from graft import processes
from graft.backbones.tiny import load
here = processes.place()
tensors = [torch.full((2, 3), float(here + 1)), torch.tensor([10.0 * (here + 1)])]
processes.add_up(tensors)
said = {
    "count": processes.count(),
    "first": processes.first(),
    "share": list(processes.share([0, 1, 2, 3, 4])),
    "from_first": processes.from_first({"place": here}),
    "gathered": processes.gathered(f"p{here}"),
    "sums": [tensor.flatten().tolist() for tensor in tensors],
}
with open(f"{sys.argv[1]}/{here}.json", "w") as file:
    json.dump(said, file)
"""


def launch(script, *arguments, n=2, timeout=240):
    """Run a script in n processes that work together; returns what they printed. They talk over this machine's loopback."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n), str(script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_values_are_shared_and_sums_go_over_all_processes(tmp_path):
    pytest.importorskip("accelerate")
    script = tmp_path / "together.py"
    script.write_text(TOGETHER)
    launch(script, tmp_path)
    one, other = (json.loads((tmp_path / f"{place}.json").read_text()) for place in range(2))
    assert (one.pop("first"), other.pop("first")) == (True, False)
    assert (one.pop("share"), other.pop("share")) == ([0, 2, 4], [1, 3])
    assert (
        one
        == other
        == {
            "count": 2,
            "from_first": {"place": 0},
            "gathered": ["p0", "p1"],
            "sums": [[3.0] * 6, [30.0]],
        }
    )


def test_a_single_process_keeps_everything_to_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    tensor, value = torch.ones(3), object()
    processes.add_up([tensor])
    assert (processes.count(), processes.place(), processes.first()) == (1, 0, True)
    assert processes.share([1, 2, 3]) == [1, 2, 3] and processes.from_first(value) is value and processes.gathered(value) == [value]
    assert tensor.tolist() == [1.0, 1.0, 1.0]


def test_a_launch_without_accelerate_names_the_extra_to_install(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    processes._tools.cache_clear()
    with pytest.raises(GraftError, match=r"pip install 'graft\[scale\]'"):
        processes.from_first(1)


EXTRACTION = """
import sys, numpy as np
from graft import processes
from graft.backbones.tiny import load
from graft.backbones.tiny import load
from graft.features import extract, remembered
backbone = load("text")
prepare, prepared = backbone._prepare, []
backbone._prepare = lambda items, rng: (prepared.extend(items), prepare(items, rng))[1]
items = [f"number {i} " + "word " * (i % 7) for i in range(23)]
features = extract(backbone, items, batch_size=5)
count = len(prepared)
again = extract(backbone, items[:9], batch_size=5)
number = remembered("told by the clock", lambda: 1.0 + processes.place())
np.savez(f"{sys.argv[1]}/{processes.place()}.npz", features=features, again=again, prepared=[count, len(prepared)], number=number)
"""


def test_processes_share_an_extraction_and_all_have_all_of_it(tmp_path):
    pytest.importorskip("accelerate")
    script = tmp_path / "extraction.py"
    script.write_text(EXTRACTION)
    launch(script, tmp_path)
    one, other = (np.load(tmp_path / f"{place}.npz") for place in range(2))
    expected = extract(load("text"), [f"number {i} " + "word " * (i % 7) for i in range(23)], cache=False)
    for told in (one, other):
        np.testing.assert_allclose(told["features"], expected, atol=1e-6)
        np.testing.assert_array_equal(told["again"], told["features"][:9])
        # What a clock said is the first process's word.
        assert told["number"] == 1.0
    # Batches of 5, 5, 5, 5 and 3: three for the first process and two for the other; what is on disk is not computed again.
    assert (one["prepared"].tolist(), other["prepared"].tolist()) == ([13, 13], [10, 10])


TRAINING = """
import json, sys
import numpy as np, torch
from graft import processes
from graft.backbones.tiny import load
from graft.records import Epoch, Phase, Plan, Recipe
from graft.strategies import make_plan
from graft.train import train
rng = np.random.default_rng(0)
y = np.arange(41) % 3
items = [" ".join(rng.choice([f"w{label}{i}" for i in range(8)], rng.integers(1, 9))) for label in y]
told = {}
pictures = [rng.integers(0, 80 * label + 60, (32, 32, 3), dtype=np.uint8) for label in y]
for name, strategy, recipe in (
    ("pictures", "full", Recipe(batch_size=8, precision="fp32")),
    ("pictures as they are", "full", Recipe(batch_size=8, augment=False, precision="fp32")),
    ("full", "full", Recipe(batch_size=8, augment=False, precision="fp32")),
    ("weighted", "partial", Recipe(batch_size=8, class_weight="balanced", accumulate=2, clip_norm=0.5, precision="fp32")),
    ("single", "lora", Recipe(batch_size=1, items_per_epoch=5, precision="fp32")),
):
    backbone, some = (load("image"), pictures) if name.startswith("pictures") else (load("text"), items)
    torch.manual_seed(0)
    head = torch.nn.Linear(32, 3)
    plan = make_plan(strategy, 4, 3, 1e-2)
    events = train(backbone, head, plan, some, y, task="classification", recipe=recipe, validation=(some[:11], y[:11]))
    told[name] = [(event.loss, event.score) for event in events if isinstance(event, Epoch)]
    told[name].append(float(sum(tensor.double().abs().sum() for tensor in backbone.state_dict().values())))
# Unlabelled items of another domain beside the labelled ones, and alone; the losses are means over items.
others = [" ".join(rng.choice([f"w{label}{i}" for i in range(4, 12)], rng.integers(1, 9))) for label in np.arange(29) % 3]
for name, loss, supervised, rest in (
    ("beside", "entropy_minimisation", True, {"class_weight": "balanced"}),
    ("alone", "pseudo", False, {}),
):
    backbone = load("text")
    torch.manual_seed(0)
    head = torch.nn.Linear(32, 3)
    plan = Plan((Phase(3, (0.0, 1e-2, 1e-2, 1e-2), 1e-2),), losses=((loss, 0.5),), supervised=supervised)
    recipe = Recipe(batch_size=8, augment=False, precision="fp32", **rest)
    events = train(backbone, head, plan, items[:41], y, task="classification", recipe=recipe, others=others, validation=(items[:9], y[:9]))
    told[name] = [(event.loss, event.score) for event in events if isinstance(event, Epoch)]
    told[name].append(float(sum(tensor.double().abs().sum() for tensor in backbone.state_dict().values())))
with open(f"{sys.argv[1]}/{processes.place()}.json", "w") as file:
    json.dump(told, file)
"""


def test_two_processes_train_to_the_same_losses_scores_and_weights_as_one(tmp_path):
    """Truth: one process; sums in another order round differently, by far less than 1e-5."""
    pytest.importorskip("accelerate")
    script = tmp_path / "training.py"
    script.write_text(TRAINING)
    for n in (1, 2):
        (tmp_path / str(n)).mkdir()
        launch(script, tmp_path / str(n), n=n)
    expected, one, other = (json.loads((tmp_path / path).read_text()) for path in ("1/0.json", "2/0.json", "2/1.json"))
    # Random views are other draws in each process; the processes agree all the same.
    assert one == other
    expected.pop("pictures")
    for name, events in expected.items():
        assert len(events) == 4 and (name == "alone" or events[0][0] > events[2][0]), name
        np.testing.assert_allclose(np.ravel(one[name][:3]), np.ravel(events[:3]), atol=1e-5, err_msg=name)
        assert one[name][3] == pytest.approx(events[3], abs=1e-3)


STUDY = """
import json, sys
from pathlib import Path
import numpy as np, pandas as pd
import graft
from graft import processes
from graft.study import times
times._LEAST_SCRATCH, times._PAGE = 0.3, 0.5
rng = np.random.default_rng(0)
y = np.arange(60) % 3
texts = [" ".join(rng.choice([f"w{label}{i}" for i in range(8)], 6)) + f" n{place}" for place, label in enumerate(y)]
frame = pd.DataFrame({"text": texts, "label": [f"c{label}" for label in y], "split": ["train"] * 45 + ["test"] * 15})
folder = Path(sys.argv[1])
study = graft.run(frame, backbone="tiny:text", strategy=["partial"], out=folder / "run")
(folder / f"{processes.place()}.json").write_text(json.dumps([study.result.score, study.result.verdict, study.result.controls]))
"""


def test_processes_come_to_one_study_which_the_first_one_writes(tmp_path):
    pytest.importorskip("accelerate")
    script = tmp_path / "study.py"
    script.write_text(STUDY)
    launch(script, tmp_path)
    (score, verdict, controls), (other_score, other_verdict, other_controls) = (
        json.loads((tmp_path / f"{place}.json").read_text()) for place in range(2)
    )
    assert (score, verdict) == (other_score, other_verdict)
    assert [row["score"] for row in controls.values()] == [row["score"] for row in other_controls.values()]
    assert json.loads((tmp_path / "run" / "result.json").read_text())["score"] == score
    assert (tmp_path / "run" / "report.html").is_file() and not (tmp_path / "run" / "unfinished").exists()
    # One process wrote the log.
    assert (tmp_path / "run" / "log.txt").read_text().count("chosen: tiny:text, partial") == 1
