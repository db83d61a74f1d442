"""Runtimes: each says what PyTorch says in float32, the soonest done is chosen, and what disagrees is refused."""

import re
import shutil
import warnings
from contextlib import nullcontext

import numpy as np
import pytest
import torch

from graft.backbones.tiny import load
from graft.errors import GraftError
from graft.features import RUNTIMES, extract, has_bfloat16, runtimes
from graft.features.runtimes import REFERENCE, choose
from graft.features.store import cache_folder, recalled
from graft.features.taps import TAPS, Tapped

BFLOAT16 = [name for name in RUNTIMES if RUNTIMES[name].precision == "bfloat16"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(kind, n, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "image":
        return [rng.integers(0, 256, (20, 24, 3), dtype=np.uint8) for _ in range(n)]
    return [f"number {i} " + "word " * int(rng.integers(1, 30)) for i in range(n)]


def has(name):
    if RUNTIMES[name].precision == "bfloat16" and not has_bfloat16(torch.device("cpu")):
        pytest.skip("this processor has no bfloat16")
    if name.startswith("openvino"):
        pytest.importorskip("openvino")
    if name == "compile" and not shutil.which("g++"):
        pytest.skip("no C++ compiler")
    if "cpu" not in RUNTIMES[name].devices:
        pytest.skip("it runs on a GPU alone, see test_gpu.py")


@pytest.fixture
def fakes(monkeypatch):
    """Three runtimes that all answer as PyTorch does, at speeds of the test's choice. Yields (seconds, built)."""
    seconds, built = {}, []

    def fake(name, setup, gain, precision="float32"):
        def make(network, sample, folder):
            built.append(name)
            run = runtimes.plain(network)

            def answer(state):
                return run(state)

            answer.name = name
            return answer

        return runtimes.costs(setup, gain, precision)(make)

    members = {REFERENCE: fake(REFERENCE, 0.0, 1.0), "swift": fake("swift", 2.0, 3.0), "slow": fake("slow", 0.0, 0.1)}
    monkeypatch.setattr(runtimes.RUNTIMES, "_members", members)
    monkeypatch.setattr(runtimes, "_seconds", lambda run, state: seconds[run.name])
    return seconds, built


def chosen(n_items, keep="print", kind="image"):
    backbone = load(kind)
    return choose(Tapped(backbone, "pooled").eval(), backbone.prepare(make(kind, 16)), n_items, keep=keep)[0]


@pytest.mark.parametrize("kind", ["image", "text"])
@pytest.mark.parametrize("tap", TAPS)
@pytest.mark.parametrize("name", [name for name in RUNTIMES if name != "compile"])
def test_every_runtime_says_what_pytorch_says(name, kind, tap):
    """Truth: float32 rounds to 1e-5 on features of order 1; bfloat16 keeps 8 bits, a cosine above 0.999."""
    has(name)
    items = make(kind, 70)
    wanted = extract(load(kind), items, tap=tap, runtime=REFERENCE, cache=False)
    got = extract(load(kind), items, tap=tap, runtime=name, cache=False, batch_size=32)
    if RUNTIMES[name].precision == "float32":
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    cosine = (got * wanted).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosine.min() >= 0.999


def test_a_compiled_network_says_what_pytorch_says_for_batches_of_any_size():
    has("compile")
    items = make("image", 40)
    wanted = extract(load("image"), items, runtime=REFERENCE, cache=False)
    np.testing.assert_allclose(extract(load("image"), items, runtime="compile", cache=False, batch_size=24), wanted, atol=1e-5)


def test_little_work_is_done_in_pytorch_without_measuring(fakes, cache):
    seconds, built = fakes
    assert extract(load("image"), make("image", 30)).shape == (30, 32)
    assert built == [] and not (cache / "measured").exists()
    seconds[REFERENCE] = 0.01
    assert chosen(1000) == REFERENCE and built == [REFERENCE]


def test_a_conversion_is_made_only_where_the_items_pay_for_it(fakes):
    seconds, built = fakes
    seconds.update({REFERENCE: 1.6, "swift": 0.4})
    # 10 items a second. 30 items: 3 s against 2 s of setting up and half as long, so promised, with doubt.
    assert chosen(30) == REFERENCE and "swift" not in built
    assert chosen(300) == "swift"


def test_speeds_are_measured_once_and_remembered(fakes):
    seconds, built = fakes
    seconds.update({REFERENCE: 1.6, "swift": 0.4})
    assert chosen(300) == "swift"
    built.clear()
    seconds.clear()
    assert chosen(300) == "swift" and built == ["swift"]


def test_a_runtime_that_disappoints_is_left_for_a_faster_one(fakes):
    seconds, built = fakes
    seconds.update({REFERENCE: 1.6, "swift": 3.2})
    assert chosen(300) == REFERENCE and built == [REFERENCE, "swift"]


def test_what_cannot_be_remembered_is_still_measured_once(fakes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAFT_CACHE", str(tmp_path / "file"))
    seconds, _ = fakes
    seconds.update({REFERENCE: 1.6, "swift": 0.4})
    with pytest.warns(UserWarning, match="the cache cannot be written"):
        assert chosen(300) == "swift"


@pytest.mark.parametrize(("damage", "cosine"), [(lambda features: features + 0.2, "0.8"), (lambda features: features * np.nan, "nan")])
def test_a_runtime_that_disagrees_is_refused_and_all_of_its_precision(fakes, monkeypatch, damage, cosine):
    seconds, built = fakes
    seconds.update({REFERENCE: 1.6})

    def wrong(network, sample, folder):
        built.append("wrong")
        return lambda state: damage(network(state))

    members = runtimes.RUNTIMES._members
    members["wrong"] = runtimes.costs(0.0, 9.0, "float16")(wrong)
    members["wrong too"] = runtimes.costs(0.0, 8.0, "float16")(wrong)
    members.pop("swift")
    with pytest.warns(UserWarning, match=rf"runtime wrong: features of tiny:image have cosine {cosine}.*at least 0.999.*passed over"):
        assert chosen(300) == REFERENCE
    assert built == [REFERENCE, "wrong"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert chosen(300) == REFERENCE
    backbone = load("image")
    with pytest.raises(GraftError, match=r"cosine .*expected at least 0\.999\. Use runtime='torch'"):
        choose(Tapped(backbone, "pooled").eval(), backbone.prepare(make("image", 16)), 300, name="wrong")


def test_a_runtime_that_fails_is_named_and_passed_over(fakes):
    seconds, _ = fakes
    seconds.update({REFERENCE: 1.6})

    def fails(network, sample, folder):
        raise RuntimeError("no rule for aten::strange\nand more")

    runtimes.RUNTIMES._members["swift"] = runtimes.costs(0.0, 9.0)(fails)
    with pytest.warns(
        UserWarning, match=r"runtime swift cannot run tiny:image \(RuntimeError: no rule for aten::strange and more\).*passed over"
    ):
        assert chosen(300) == REFERENCE


def test_what_is_no_number_is_computed_again_in_float32(monkeypatch):
    items = make("image", 50)
    wanted = extract(load("image"), items, cache=False, batch_size=10)

    def late(network, sample, folder):
        calls = []

        def run(state):
            calls.append(1)
            return runtimes.plain(network)(state) * (float("nan") if len(calls) > 3 else 1.0)

        return run

    members = {REFERENCE: runtimes.plain, "late": runtimes.costs(0.0, 1.0)(late)}
    monkeypatch.setattr(runtimes.RUNTIMES, "_members", members)
    with pytest.warns(UserWarning, match="tiny:image: runtime late gave what is no number; from here on in float32"):
        got = extract(load("image"), items, cache=False, batch_size=10, runtime="late")
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_an_unknown_runtime_and_one_that_is_not_installed_are_explained(monkeypatch):
    with pytest.raises(GraftError, match=r"unknown runtime 'openvina'.*[Dd]id you mean.*openvino"):
        extract(load("image"), make("image", 2), runtime="openvina")
    monkeypatch.setattr(runtimes, "_version", lambda package: "absent")
    with pytest.raises(GraftError, match=r"OpenVINO is not installed.*pip install 'graft\[fast\]'"):
        extract(load("image"), make("image", 2), runtime="openvino")
    monkeypatch.setattr(runtimes, "has_bfloat16", lambda device: False)
    for name in BFLOAT16:
        with pytest.raises(GraftError, match=r"has no bfloat16 in hardware"):
            extract(load("image"), make("image", 2), runtime=name)


def test_a_converted_network_is_kept_for_pretrained_weights_and_opened_again(monkeypatch):
    openvino = pytest.importorskip("openvino")
    items = make("text", 40)
    first = extract(load("text"), items, runtime="openvino")
    (folder,) = (cache_folder() / "models").glob("*/*")
    assert sorted(path.name for path in folder.iterdir()) == ["model.bin", "model.xml"]
    monkeypatch.setattr(openvino, "convert_model", lambda *_, **__: pytest.fail("converted again"))
    other = make("text", 45)
    np.testing.assert_allclose(extract(load("text"), other, runtime="openvino")[:40], first, atol=1e-6)


@pytest.mark.parametrize("part", ["model.bin", "model.xml"])
@pytest.mark.parametrize("keeps", [0.5, 0.0, None])
def test_a_converted_network_that_cannot_be_read_is_named_and_converted_again(part, keeps):
    pytest.importorskip("openvino")
    items = make("image", 40)
    extract(load("image"), items, runtime="openvino")
    (folder,) = (cache_folder() / "models").glob("*/*")
    whole = (folder / part).read_bytes()
    (folder / part).unlink()
    if keeps is not None:
        (folder / part).write_bytes(whole[: int(keeps * len(whole))])
    other = make("image", 40, seed=1)
    with pytest.warns(
        UserWarning, match=rf"{re.escape(str(folder))}: the converted network cannot be read \(.+\); it is converted again\."
    ):
        found = extract(load("image"), other, runtime="openvino")
    np.testing.assert_allclose(found, extract(load("image"), other, runtime=REFERENCE, cache=False), atol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        extract(load("image"), make("image", 40, seed=2), runtime="openvino")


def test_a_network_that_is_not_cached_leaves_nothing_behind(cache):
    pytest.importorskip("openvino")
    extract(load("image"), make("image", 40), runtime="openvino", cache=False)
    assert not (cache / "models").exists()


def test_a_setting_up_that_was_timed_is_remembered(fakes):
    seconds, _ = fakes
    seconds.update({REFERENCE: 1.6, "swift": 0.4})
    chosen(300)
    backbone = load("image")
    bench = runtimes._Bench(Tapped(backbone, "pooled").eval(), backbone.prepare(make("image", 16)), "print")
    assert 0 < recalled(bench._setup("swift")) < 2.0


def test_tf32_is_refused_where_the_device_has_none(monkeypatch):
    bench = runtimes._Bench(Tapped(load("image"), "pooled"), torch.zeros(2, 3, 32, 32), None)
    assert re.search(r"torch-tf32 does not run on cpu, expected cuda", bench.obstacle("torch-tf32"))
    bench.device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert re.search(r"cuda:0 has no TF32, expected an NVIDIA GPU as new as A100", bench.obstacle("torch-tf32"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert bench.obstacle("torch-tf32") == ""


def test_what_others_are_checked_against_is_computed_in_all_digits(monkeypatch):
    asked = []
    monkeypatch.setattr(runtimes, "tf32", lambda device, allowed: asked.append(allowed) or nullcontext())
    bench = runtimes._Bench(Tapped(load("image"), "pooled"), torch.zeros(2, 3, 32, 32), None)
    bench.built(REFERENCE)(bench.sample)
    bench._check("same", lambda state: bench.network(state))
    assert asked == [False, False]
    runtimes._torch_tf32(bench.network, bench.sample, bench.folder)(bench.sample)
    assert asked[2:] == [True]
